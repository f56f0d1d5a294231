"""The reader: what it gives, what it refuses, and that it keeps nothing open."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from sftdata.errors import ConfigError, ShardError
from sftdata.shards import DamageError, join, open_dataset, read_manifest, verify
from tests.shards.sealing import EVAL, TRAIN, rows_of, seal, spell


def handles() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_rows_come_back_by_split_and_row_group(tmp_path: Path) -> None:
    dataset = open_dataset(seal(tmp_path))
    groups = [dataset.read_row_group(file, at) for file in dataset.files for at in range(len(file.row_groups))]
    assert join(groups) == rows_of([*TRAIN, *EVAL])
    assert [file.name for file in dataset.files] == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
        "eval-00000-of-00001.parquet",
    ]
    assert [row["input_ids"].tolist() for row in dataset.iter_rows("eval")] == [[5, 40, 2]]
    assert list(dataset.iter_rows("other")) == []


def test_a_row_is_a_dict_of_read_only_arrays(tmp_path: Path) -> None:
    first, *_ = open_dataset(seal(tmp_path)).iter_rows()
    assert {name: (str(values.dtype), values.tolist()) for name, values in first.items()} == {
        "input_ids": ("int32", [5, 6, 7, 2, 5, 6, 2, 5, 6, 2, 8, 9, 2]),
        "labels": ("int32", [-100, -100, 7, 2, -100, 6, 2, -100, -100, -100, -100, 9, 2]),
        "seq_lengths": ("int32", [4, 3, 6]),
        "record_ids": ("int64", [0, 2, 2]),
        "doc_flags": ("int32", [0, 8, 8]),
    }
    assert not any(values.flags.writeable for values in first.values())


def test_nothing_stays_open_and_a_dataset_can_be_pickled_and_forked(tmp_path: Path) -> None:
    before = handles()
    dataset = open_dataset(seal(tmp_path))
    wanted = list(dataset.iter_rows())
    assert handles() == before
    again = pickle.loads(pickle.dumps(dataset))
    assert [row["input_ids"].tolist() for row in again.iter_rows()] == [row["input_ids"].tolist() for row in wanted]
    child = os.fork()
    if not child:
        same = [row["labels"].tolist() for row in dataset.iter_rows()] == [row["labels"].tolist() for row in wanted]
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_opening_reads_the_manifest_alone(tmp_path: Path) -> None:
    seal(tmp_path)
    for path in tmp_path.glob("*.parquet"):
        path.unlink()
    dataset = open_dataset(tmp_path)
    with pytest.raises(DamageError, match=r"SFT806.*missing"):
        next(dataset.iter_rows())


def test_an_fsspec_address_is_read_and_verified_like_a_folder(tmp_path: Path) -> None:
    seal(tmp_path)
    filesystem = fsspec.filesystem("memory")
    try:
        for path in tmp_path.iterdir():
            filesystem.pipe_file(f"/bucket/set/{path.name}", path.read_bytes())
        address = "memory://bucket/set"
        assert verify(address).problems == []
        local = list(open_dataset(tmp_path).iter_rows())
        for ours, theirs in zip(local, open_dataset(address + "/").iter_rows(), strict=True):
            assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
        filesystem.pipe_file("/bucket/set/train-00002-of-00003.parquet", b"")
        filesystem.rm("/bucket/set/train-00000-of-00002.parquet")
        assert {one.code for one in verify(address).problems} == {"SFT806", "SFT811"}
        with pytest.raises(DamageError, match="SFT807"):
            open_dataset("memory://bucket/elsewhere")
        filesystem.pipe_file("/bucket/unsealed/.work/plan.json", b"{}")
        with pytest.raises(DamageError, match="SFT812"):
            open_dataset("memory://bucket/unsealed")
    finally:
        filesystem.rm("/bucket", recursive=True)


def test_a_remote_store_that_fails_is_asked_again_and_then_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal(tmp_path)
    memory = fsspec.filesystem("memory")
    faults: list[Exception] = []
    cat_file = type(memory).cat_file

    def failing(system: object, *given: object, **asked: object) -> bytes:
        if faults:
            raise faults.pop()
        return bytes(cat_file(system, *given, **asked))

    monkeypatch.setattr(type(memory), "cat_file", failing)
    monkeypatch.setattr("time.sleep", lambda _: None)
    try:
        for path in tmp_path.iterdir():
            memory.pipe_file(f"/faulty/set/{path.name}", path.read_bytes())
        faults[:] = [RuntimeError("reset"), TimeoutError("slow")]
        dataset = open_dataset("memory://faulty/set")
        faults[:] = [RuntimeError("reset"), TimeoutError("slow")]
        assert dataset.read_row_group(dataset.files[0], 0) == rows_of(TRAIN[: dataset.files[0].row_groups[0].rows])
        faults[:] = [RuntimeError("no route")] * 99
        with pytest.raises(DamageError, match=r"train-00001\S*: SFT806: the file cannot be read: Runtime.*no route"):
            dataset.read_row_group(dataset.files[1], 0)
        with pytest.raises(DamageError, match=r"manifest\.json: SFT807: it cannot be read: RuntimeError: no route"):
            open_dataset("memory://faulty/set")
        assert [one.code for one in verify("memory://faulty/set").problems] == ["SFT807"]
        with pytest.raises(ConfigError, match=r"^nothere://bucket/set: .*nothere.*\. Install the package"):
            open_dataset("nothere://bucket/set")
    finally:
        memory.rm("/faulty", recursive=True)


def test_an_error_names_file_place_and_remedy(tmp_path: Path) -> None:
    seal(tmp_path)
    path = tmp_path / "train-00001-of-00002.parquet"
    data = bytearray(path.read_bytes())
    data[10] ^= 4
    path.write_bytes(data)
    with pytest.raises(ShardError) as caught:
        list(open_dataset(tmp_path).iter_rows())
    assert str(caught.value) == (
        f"{tmp_path}/train-00001-of-00002.parquet, row group 0: SFT802: its bytes are not those that were sealed. "
        "Copy the dataset again from a sound copy, or run prepare again; `sftdata verify` lists all that is wrong."
    )
    same = pickle.loads(pickle.dumps(caught.value))
    assert str(same) == str(caught.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "SFT807"),
        (b"[]", "SFT807"),
        (b"{}", "SFT807"),
        (b"\xff\xfe", "SFT807"),
        (b"[" * 100_000, "SFT807"),
        (spell({"format_version": 2}), "SFT803.*format version 2.*this version of sftdata reads 1"),
        (spell({"format_version": 1, "x": float("nan")}), "SFT807.*damaged, or edited by hand"),
        (spell({"format_version": 1}), "SFT807.*missing required field"),
    ],
)
def test_what_is_no_manifest_is_refused_by_name(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(DamageError, match=words):
        read_manifest(tmp_path)
    assert len(verify(tmp_path).problems) == 1


def test_importing_shards_brings_in_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "datasets", "polars", "fsspec", "jsonschema_rs", "orjson", "tokenizers", "jinja2"}
    code = f"import sys, sftdata.shards; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_want_of_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seal(tmp_path)

    def starved(*_: object) -> None:
        raise pa.lib.ArrowMemoryError("malloc of size 64 failed")

    for name in ("decode_group", "parse_footer"):
        for module in ("read", "verify"):
            monkeypatch.setattr(importlib.import_module(f"sftdata.shards.{module}"), name, starved)
        monkeypatch.setattr("sftdata.shards.read.decode_pages", lambda *_: None)
        with pytest.raises(MemoryError):
            list(open_dataset(tmp_path).iter_rows())
        with pytest.raises(MemoryError):
            verify(tmp_path)
