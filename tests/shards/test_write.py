"""The writer: the layout of the files, the same bytes for the same bins, whole files or none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sftdata.records import Bins, TokenBlock
from sftdata.shards import SCHEMA, Rows, ShardWriter, arrange, join, open_dataset
from tests.shards.sealing import FOOTER, TRAIN, describe, rows_of, seal


def names(folder: Path) -> Callable[[int], Path]:
    return lambda part: folder / f"unit-{part}.parquet"


def many(bins: int = 60) -> Rows:
    """Bins of one document of 5 to 9 tokens."""
    return rows_of([[(k, [*range(1 + k % 5, 9), 2], [0, *[1] * (8 - k % 5)], 0)] for k in range(bins)])


def test_an_entry_says_what_the_bytes_say(tmp_path: Path) -> None:
    with ShardWriter(names(tmp_path), metadata=FOOTER, max_group_tokens=40) as writer:
        writer.write(many())
    (entry,) = writer.entries
    path = tmp_path / "unit-0.parquet"
    assert entry == describe(path, pq.read_table(path))
    assert len(entry.row_groups) > 5
    assert max(group.tokens for group in entry.row_groups) <= 40


def test_the_layout_is_that_of_the_design(tmp_path: Path) -> None:
    with ShardWriter(names(tmp_path), metadata={**FOOTER, "unit": "7"}) as writer:
        writer.write(rows_of(TRAIN))
    file = pq.ParquetFile(tmp_path / "unit-0.parquet")
    assert file.schema_arrow.equals(SCHEMA)
    metadata = {key.decode(): value.decode() for key, value in file.metadata.metadata.items()}
    assert metadata == {
        "sftdata.fingerprint": FOOTER["fingerprint"],
        "sftdata.format_version": "1",
        "sftdata.unit": "7",
    }
    group = file.metadata.row_group(0)
    for column in map(group.column, range(group.num_columns)):
        assert column.compression == "ZSTD"
        assert not column.has_dictionary_page
        assert set(column.encodings) <= {"PLAIN", "RLE"}
        assert column.is_stats_set == (column.path_in_schema in {"num_tokens", "num_loss_tokens"})


def test_pages_carry_checksums(tmp_path: Path) -> None:
    with ShardWriter(names(tmp_path), metadata=FOOTER) as writer:
        writer.write(many())
    path = tmp_path / "unit-0.parquet"
    data = bytearray(path.read_bytes())
    last = pq.read_metadata(path).row_group(0).column(0)
    data[last.data_page_offset + last.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(path, page_checksum_verification=True)


def test_a_row_group_takes_as_many_bins_as_fit_and_at_least_one(tmp_path: Path) -> None:
    with ShardWriter(names(tmp_path), metadata=FOOTER, max_group_tokens=11) as writer:
        writer.write(rows_of(TRAIN))
    assert [(group.rows, group.tokens) for group in writer.entries[0].row_groups] == [(1, 13), (1, 5), (1, 7), (1, 6)]
    with ShardWriter(names(tmp_path), metadata=FOOTER, max_group_tokens=18) as writer:
        writer.write(rows_of(TRAIN))
    assert [(group.rows, group.tokens) for group in writer.entries[0].row_groups] == [(2, 18), (2, 13)]


def test_a_file_above_the_limit_goes_on_in_the_next(tmp_path: Path) -> None:
    with ShardWriter(names(tmp_path), metadata=FOOTER, max_group_tokens=40, max_file_bytes=2000) as writer:
        writer.write(many())
    assert [entry.name for entry in writer.entries] == [f"unit-{part}.parquet" for part in range(len(writer.entries))]
    assert len(writer.entries) > 2
    whole = pq.read_table([tmp_path / entry.name for entry in writer.entries])
    assert whole["record_ids"].combine_chunks().flatten().to_pylist() == list(range(60))


def test_no_bins_make_no_file(tmp_path: Path) -> None:
    with ShardWriter(names(tmp_path), metadata=FOOTER) as writer:
        writer.write(rows_of([]))
    assert writer.entries == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("group_tokens", [20, 1000])
def test_what_was_handed_in_may_be_changed_afterwards(tmp_path: Path, group_tokens: int) -> None:
    rows = many(4)
    wanted = rows.copy()
    with ShardWriter(names(tmp_path), metadata=FOOTER, max_group_tokens=group_tokens) as writer:
        writer.write(rows)
        rows.input_ids[:] = 0
    table = pq.read_table(tmp_path / "unit-0.parquet")
    assert table["input_ids"].combine_chunks().flatten().to_pylist() == wanted.input_ids.tolist()


def test_nothing_has_its_name_before_close_and_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    seen: list[str] = []

    class Stop(Exception):
        pass

    def broken_off() -> None:
        with ShardWriter(names(tmp_path), metadata=FOOTER, max_group_tokens=20, max_file_bytes=1) as writer:
            writer.write(many())
            seen.extend(path.name for path in tmp_path.iterdir())
            raise Stop

    with pytest.raises(Stop):
        broken_off()
    assert len(seen) > 2
    assert all(name.startswith(".") and name.endswith(".tmp") for name in seen)
    assert list(tmp_path.iterdir()) == []


def test_files_are_flushed_before_they_get_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    sync, replace = os.fsync, Path.replace

    def noted_sync(handle: int) -> None:
        steps.append("sync")
        sync(handle)

    def noted_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    with ShardWriter(names(tmp_path), metadata=FOOTER) as writer:
        writer.write(many())
    assert steps == ["sync", "rename", "sync"]


def test_a_disk_that_refuses_to_flush_leaves_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with (
        pytest.raises(OSError, match="No space left"),
        ShardWriter(names(tmp_path), metadata=FOOTER) as writer,
    ):
        writer.write(many())
    assert list(tmp_path.iterdir()) == []


_FULL = """
import resource, signal, sys
from pathlib import Path
from tests.shards.sealing import FOOTER
from tests.shards.test_write import many, names
from sftdata.shards import ShardWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    with ShardWriter(names(Path(sys.argv[1])), metadata=FOOTER, max_group_tokens=40) as writer:
        writer.write(many())
except OSError as error:
    print("refused:", type(error).__name__)
"""


@pytest.mark.parametrize("limit", [100, 9000])
def test_a_full_disk_ends_in_an_error_and_no_file(tmp_path: Path, limit: int) -> None:
    """In the middle of a row group, and in the footer."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", _FULL, str(tmp_path), str(limit)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "refused: OSError\n"
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_a_footer_without_fingerprint_is_a_bug_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fingerprint"):
        ShardWriter(names(tmp_path), metadata={})


def test_arrange_lays_whole_examples_out_in_the_order_of_the_bins() -> None:
    lengths = np.array([2, 1, 3], np.int32)
    ids = np.arange(10, 16, dtype=np.int32)
    block = TokenBlock(ids, ids, lengths, np.array([7, 8, 9]), np.array([1, 2, 4], np.int32))
    bins = Bins(order=np.array([1, 0, 2]), offsets=np.array([0, 2, 3]))
    for max_tokens, pieces in ((100, 1), (3, 2), (1, 2)):
        parts = list(arrange(block, bins, max_tokens=max_tokens))
        assert len(parts) == pieces
        rows = join(parts)
        assert rows.input_ids.tolist() == [12, 10, 11, 13, 14, 15]
        assert rows.seq_lengths.tolist() == [1, 2, 3]
        assert rows.record_ids.tolist() == [8, 7, 9]
        assert rows.doc_flags.tolist() == [2, 1, 4]
        assert rows.bins.tolist() == [0, 2, 3]
        assert rows.num_tokens.tolist() == [3, 3]
        assert rows.token_offsets.tolist() == [0, 3, 6]


def test_load_dataset_takes_the_files_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="the extra [hub] is not installed")
    seal(tmp_path / "out")
    loaded = datasets.load_dataset(
        "parquet", data_files=f"{tmp_path}/out/train-*.parquet", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert {name: str(feature) for name, feature in loaded.features.items()} == {
        **dict.fromkeys(("input_ids", "labels", "seq_lengths", "doc_flags"), "List(Value('int32'))"),
        "record_ids": "List(Value('int64'))",
        **dict.fromkeys(("num_tokens", "num_loss_tokens"), "Value('int32')"),
    }
    ours = list(open_dataset(tmp_path / "out").iter_rows())
    assert len(loaded) == len(ours) == 4
    for row, mine in zip(loaded, ours, strict=True):
        for name, values in mine.items():
            assert row[name] == values.tolist()
        assert row["num_tokens"] == len(mine["input_ids"])
        assert row["num_loss_tokens"] == int((mine["labels"] != -100).sum())
