"""What was exported is what was sealed: read back by the real library, or by a reader of the documented form."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from datasets import load_from_disk

from sftdata.errors import OutputError, ShardError
from sftdata.shards.export import export_arrow, export_megatron
from sftdata_torch.dataset import PackedDataset
from tests.torch.packs import many, sealed

BINS = many(40)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return sealed(tmp_path_factory.mktemp("shards") / "set", BINS, eval=many(3, seed=5))


def documents(bins):
    """Ids and labels of every document."""
    for each in bins:
        cuts = np.cumsum(each["seq_lengths"])[:-1]
        yield from zip(np.split(each["input_ids"], cuts), np.split(each["labels"], cuts), strict=True)


def test_arrow_folder_is_read_by_datasets_with_all_columns(shards, tmp_path):
    assert export_arrow(shards, tmp_path / "out") == len(BINS)
    loaded = load_from_disk(str(tmp_path / "out"))
    assert len(loaded) == len(BINS)
    assert str(loaded.split) == "train"
    for row, expected in zip(loaded, PackedDataset(shards, seed=None).__getitems__(range(len(BINS))), strict=True):
        assert list(row) == list(expected)
        assert all(np.array_equal(row[name], expected[name]) for name in row)


def test_unpacked_arrow_folder_holds_one_document_a_row(shards, tmp_path):
    count = export_arrow(shards, tmp_path / "out", unpack=True)
    loaded = load_from_disk(str(tmp_path / "out"))
    expected = list(documents(BINS))
    assert count == len(loaded) == len(expected)
    assert loaded.column_names == ["input_ids", "attention_mask", "labels"]
    for row, (ids, labels) in zip(loaded, expected, strict=True):
        assert row["input_ids"] == ids.tolist()
        assert row["labels"] == labels.tolist()
        assert row["attention_mask"] == [1] * len(ids)


def megatron(stem):
    """The sequences of an indexed dataset, read by the description of its form alone."""
    index = stem.with_suffix(".idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, sequences, stops = struct.unpack_from("<QBQQ", index, 9)
    assert (version, code) == (1, 4)
    at = 9 + struct.calcsize("<QBQQ")
    lengths = np.frombuffer(index, "<i4", sequences, at)
    pointers = np.frombuffer(index, "<i8", sequences, at + 4 * sequences)
    first = np.frombuffer(index, "<i8", stops, at + 12 * sequences)
    assert at + 12 * sequences + 8 * stops == len(index)
    assert first.tolist() == list(range(sequences + 1))
    values = stem.with_suffix(".bin").read_bytes()
    assert int(pointers[-1]) + 4 * int(lengths[-1]) == len(values)
    return [np.frombuffer(values, "<i4", length, start) for length, start in zip(lengths, pointers, strict=True)]


@pytest.mark.parametrize(("split", "bins"), [("train", BINS), ("eval", many(3, seed=5))])
def test_megatron_files_hold_one_document_a_sequence(shards, tmp_path, split, bins):
    expected = list(documents(bins))
    assert export_megatron(shards, tmp_path / "set", split=split) == len(expected)
    for column, name in enumerate(("set_input_ids", "set_labels")):
        found = megatron(tmp_path / name)
        assert len(found) == len(expected)
        assert all(np.array_equal(ours, theirs[column]) for ours, theirs in zip(found, expected, strict=True))
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.filterwarnings("ignore")  # of packages for GPUs that are not here
def test_megatron_files_are_read_by_megatron(shards, tmp_path):
    found = pytest.importorskip("megatron.core.datasets.indexed_dataset", reason="megatron-core is not installed")
    export_megatron(shards, tmp_path / "set")
    for column, name in enumerate(("set_input_ids", "set_labels")):
        for mapped in (True, False):
            theirs = found.IndexedDataset(str(tmp_path / name), mmap=mapped)
            expected = [document[column] for document in documents(BINS)]
            assert len(theirs) == len(expected)
            assert theirs.document_indices.tolist() == list(range(len(expected) + 1))
            assert all(np.array_equal(theirs[place], ids) for place, ids in enumerate(expected))


@pytest.mark.parametrize("export", [export_arrow, export_megatron])
def test_export_makes_the_folders_above_it_and_says_what_cannot_be_written(shards, tmp_path, export):
    assert export(shards, tmp_path / "new" / "folder" / "out") > 0
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match=r"/file/out\S*: it cannot be written: .* Look at the disk"):
        export(shards, tmp_path / "file" / "out")


@pytest.mark.parametrize("export", [export_arrow, export_megatron])
def test_export_overwrites_nothing_and_leaves_nothing_half_written(shards, tmp_path, export, monkeypatch):
    export(shards, tmp_path / "out")
    made = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match=r"it is there already\. Choose another name"):
        export(shards, tmp_path / "out")
    with pytest.raises(ShardError, match=r"no split 'test' \(expected eval or train\)"):
        export(shards, tmp_path / "other", split="test")
    damaged = sealed(tmp_path / "damaged", BINS)
    shard = max(damaged.glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ShardError, match=shard.name):
        export(damaged, tmp_path / "other")
    assert sorted(tmp_path.iterdir()) == sorted([*made, damaged])
