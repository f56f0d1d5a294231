"""Law 8: no flipped bit, no truncated, missing, swapped or foreign file goes unnoticed by verifier or reader."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sftdata.rules import RULES
from sftdata.shards import DamageError, Rows, join, open_dataset, verify
from tests.shards.sealing import EVAL, TRAIN, base, rows_of, seal

WANTED = rows_of([*TRAIN, *EVAL])


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seal(tmp_path_factory.mktemp("sealed"))


def read_all(folder: Path) -> Rows:
    dataset = open_dataset(folder)
    return join([dataset.read_row_group(file, at) for file in dataset.files for at in range(len(file.row_groups))])


def must_be_noticed(folder: Path, name: str, data: bytes | None, *, by_reader: bool) -> None:
    """Put `data` (None: nothing) in the place of a file, look, and put the file back."""
    path = folder / name
    sound = path.read_bytes()
    assert sound != data
    try:
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        problems = verify(folder).problems
        assert name in {one.file for one in problems}, f"verify passes {name}"
        assert all(one.fix or RULES[one.code].remedy for one in problems)
        if by_reader:
            with pytest.raises(DamageError) as caught:
                read_all(folder)
            # a sound manifest beside sound shards of another run: which of them is foreign nobody can tell
            assert f"{folder}/{name}" in str(caught.value) or (
                name == "manifest.json" and ".parquet" in str(caught.value)
            )
        else:
            assert read_all(folder) == WANTED
    finally:
        path.write_bytes(sound)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_the_sound_one_passes(sealed: Path) -> None:
    assert verify(sealed).problems == []
    assert read_all(sealed) == WANTED


FILES = sorted([*(f"train-{n:05d}-of-00002.parquet" for n in (0, 1)), "eval-00000-of-00001.parquet", "manifest.json"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True))
def test_a_flipped_bit_is_noticed(sealed: Path, name: str, place: float) -> None:
    data = (sealed / name).read_bytes()
    bit = int(place * len(data) * 8)
    must_be_noticed(sealed, name, flipped(data, bit), by_reader=True)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_noticed_in_every_region(sealed: Path, name: str) -> None:
    """Bits at even distances, one after another in their bytes, and more of the first and last bytes."""
    data = (sealed / name).read_bytes()
    edges = [*range(0, 48, 3), *range((len(data) - 9) * 8, len(data) * 8, 3)]
    for bit in (*edges, *range(48, len(data) * 8, 8 * (len(data) // 40) + 1)):
        must_be_noticed(sealed, name, flipped(data, bit), by_reader=True)


@pytest.mark.parametrize("name", ["rejected.jsonl", "partial.jsonl"])
def test_a_flipped_bit_in_a_reject_file_is_noticed_by_verify(sealed: Path, name: str) -> None:
    data = (sealed / name).read_bytes()
    for bit in range(0, len(data) * 8, 45):
        must_be_noticed(sealed, name, flipped(data, bit), by_reader=False)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_or_grown_is_noticed(sealed: Path, name: str) -> None:
    data = (sealed / name).read_bytes()
    for size in (0, 1, 4, 100, len(data) // 2, len(data) - 8, len(data) - 1):
        must_be_noticed(sealed, name, data[:size], by_reader=True)
    must_be_noticed(sealed, name, data + b"\x00", by_reader=True)
    must_be_noticed(sealed, name, data + data, by_reader=True)


@pytest.mark.parametrize("name", [*FILES, "rejected.jsonl", "partial.jsonl"])
def test_a_missing_file_is_noticed(sealed: Path, name: str) -> None:
    must_be_noticed(sealed, name, None, by_reader=not name.endswith(".jsonl"))


def test_swapped_files_are_noticed(sealed: Path) -> None:
    for name in FILES:
        for other in FILES:
            if name != other:
                must_be_noticed(sealed, name, (sealed / other).read_bytes(), by_reader=True)


def test_files_of_another_run_are_noticed(sealed: Path, tmp_path: Path) -> None:
    """Each file alone, of a run with the same rows and another fingerprint: of the same size, byte for byte alike but
    for the fingerprint."""
    draft = base()
    draft.footer = {"fingerprint": "e" * 64}
    draft.manifest["fingerprint"] = "e" * 64
    other = seal(tmp_path, draft)
    assert verify(other).problems == []
    for name in FILES:
        data = (other / name).read_bytes()
        if name != "manifest.json":
            assert len(data) == len((sealed / name).read_bytes())
        must_be_noticed(sealed, name, data, by_reader=True)


def test_row_groups_that_trade_places_are_noticed(sealed: Path) -> None:
    """The same bytes, reordered within one file."""
    name = "train-00000-of-00002.parquet"
    data = (sealed / name).read_bytes()
    first, second = (group for group in open_dataset(sealed).files[0].row_groups)
    a = data[first.offset : first.offset + first.bytes]
    b = data[second.offset : second.offset + second.bytes]
    must_be_noticed(sealed, name, data[:4] + b + a + data[second.offset + second.bytes :], by_reader=True)
