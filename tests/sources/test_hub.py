"""Datasets of the `datasets` library: saved folders and names, read without padding, refused in words."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sftdata import sources
from sftdata.errors import ConfigError, InputError
from tests.sources.reading import ReadWhole, codes
from tests.sources.test_tables import PADDED

datasets = pytest.importorskip("datasets", reason="the extra [hub] is not installed")

ROWS = [{"text": f"row {index}"} for index in range(700)]


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def test_a_saved_dataset_is_read_row_by_row(tmp_path: Path, read_whole: ReadWhole) -> None:
    datasets.Dataset.from_list(ROWS).select(range(10, 700)).save_to_disk(tmp_path / "saved")
    scan, records = read_whole(tmp_path / "saved")
    assert [record.value for record in records] == ROWS[10:]
    assert [record.line for record in records] == list(range(1, 691))
    assert {record.source for record in records} == {str(tmp_path / "saved")}
    assert scan.size == sum(len(json.dumps(row, separators=(",", ":"))) + 1 for row in ROWS[10:])


def test_the_hash_of_a_dataset_is_that_of_its_records(tmp_path: Path) -> None:
    hashes = []
    for name, rows in (("one", ROWS), ("two", ROWS), ("three", ROWS[1:])):
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / name, max_shard_size=2000 if name == "two" else None)
        hashes.append(sources.scan(sources.resolve([str(tmp_path / name)])[0], tmp_path).sha256)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_dataset_of_splits_gives_train_and_says_so_where_there_is_none(tmp_path: Path, read_whole: ReadWhole) -> None:
    one, two = (datasets.Dataset.from_list(rows) for rows in (ROWS[:5], ROWS[5:7]))
    datasets.DatasetDict({"test": two, "train": one}).save_to_disk(tmp_path / "both")
    assert [record.value for record in read_whole(tmp_path / "both")[1]] == ROWS[:5]
    assert [record.value for record in read_whole(tmp_path / "both" / "test")[1]] == ROWS[5:7]
    datasets.DatasetDict({"a": one, "b": two}).save_to_disk(tmp_path / "neither")
    with pytest.raises(InputError, match=r"has the splits a, b and none of them is `train`.*neither/a"):
        read_whole(tmp_path / "neither")


def test_a_saved_dataset_inside_a_folder_is_one_input(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "data" / "saved")
    (tmp_path / "data" / "a.jsonl").write_text("{}\n")
    assert [item.kind for item in sources.resolve([str(tmp_path / "data")])] == ["jsonl", "saved"]


def test_no_padding_reaches_a_record(tmp_path: Path, read_whole: ReadWhole) -> None:
    datasets.Dataset.from_list(PADDED).save_to_disk(tmp_path / "saved")
    _, records = read_whole(tmp_path / "saved")
    assert [record.value for record in records] == PADDED


def test_a_row_that_is_no_json_is_kept_for_the_reject_file(tmp_path: Path, read_whole: ReadWhole) -> None:
    datasets.Dataset.from_list([{"n": 1.0}, {"n": float("nan")}, {"n": 2.0}]).save_to_disk(tmp_path / "saved")
    _, records = read_whole(tmp_path / "saved")
    assert codes(records) == [(2, "SFT008")]
    assert [(record.value, record.raw) for record in records] == [
        ({"n": 1.0}, None),
        (None, b'{"n": NaN}'),
        ({"n": 2.0}, None),
    ]


def test_a_name_is_loaded_by_the_library(tmp_path: Path, read_whole: ReadWhole) -> None:
    folder = tmp_path / "named"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "test.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    for address, rows in ((f"hf:{folder}", ROWS), (f"hf:{folder}:test", ROWS[:1])):
        _, records = read_whole(address)
        assert [record.value for record in records] == rows
        assert records[0].source == address
        assert codes(records) == []


def test_columns_of_json_are_values_again(tmp_path: Path, read_whole: ReadWhole) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    rows = [{"a": {"x": 1}}, {"a": "text"}, {"a": [1, None]}]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, records = read_whole(f"hf:{folder}")
    assert [record.value for record in records] == rows


@pytest.mark.parametrize("split", ["", ":train"])
def test_what_cannot_be_loaded_is_refused_in_words(split: str, tmp_path: Path, read_whole: ReadWhole) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty.*: cannot be loaded: \S"):
        read_whole(f"hf:{tmp_path / 'empty'}{split}")


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    monkeypatch.setitem(sys.modules, "datasets", None)
    for address in ("hf:someone/something:train", str(tmp_path / "saved")):
        with pytest.raises(ConfigError, match=r"pip install 'sftdata\[hub\]'"):
            sources.resolve([address])
