"""Look at bins of a sealed dataset, and from every token back to the record that it came from.

What lives here: finding bins by number, by record or at random, naming the record of each document, and reading that
record again where the inputs still lie where they lay. What must not: printing, raw inputs (`look`).
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from sftdata.errors import ConfigError, SftdataError, ShardError, describe
from sftdata.pipeline.look import Looked
from sftdata.pipeline.plan import read_extent, read_inputs
from sftdata.records import DocFlag
from sftdata.report.view import ShownDocument
from sftdata.shards import Dataset, Rows, open_dataset
from sftdata.tokenizers import load_files, load_vocabulary

__all__ = ["WantedBins", "look_at_bins", "names_of", "shown_document"]

Names = list[tuple[str, int, int]]
"""(name, first record id, records) of every input."""


class WantedBins(msgspec.Struct, frozen=True, kw_only=True):
    """Which bins to look at: one of these is set."""

    bin: int | None = None
    record: int | None = None
    """The documents of this record, wherever they are."""
    random: int | None = None
    """So many bins at random."""
    split: str = "train"
    seed: int = 0
    raw: bool = False
    """Read the records of the documents as well."""


def look_at_bins(path: str, wanted: WantedBins, tokenizer: str | None) -> Iterator[Looked]:
    """The documents of the wanted bins, one bin after another; of a record its own documents only.

    `tokenizer` defaults to the one that the run's report names; either must be the very tokenizer of the manifest.
    Raises ShardError for a damaged dataset, a bin or a record that is not there, ConfigError for another tokenizer.
    """
    dataset = open_dataset(path)
    vocabulary = _own_tokenizer(path, tokenizer, dataset.manifest.tokenizer["sha256"])
    names = names_of(dataset.manifest.inputs)
    originals = _Originals(path, dataset.manifest.inputs) if wanted.raw else None
    for rows, number, documents in _chosen(dataset, wanted):
        shown = [shown_document(rows, place, names, f"bin {number}, ") for place in documents]
        raw, problems = originals.of(rows.record_ids[documents].tolist()) if originals is not None else (None, [])
        yield Looked(shown, problems, raw, vocabulary)


def _chosen(dataset: Dataset, wanted: WantedBins) -> Iterator[tuple[Rows, int, list[int]]]:
    """(row group, number of the bin, its documents in the row group)."""
    files = dataset.manifest.files.get(wanted.split, ())
    total = sum(file.rows for file in files)
    if wanted.record is not None:
        yield from _of_record(dataset, wanted.record)
        return
    if wanted.random is not None:
        numbers = sorted(random.Random(wanted.seed).sample(range(total), min(wanted.random, total)))  # noqa: S311
    else:
        numbers = [wanted.bin or 0]
    for number in numbers:
        if not 0 <= number < total:
            told = f"there is no bin {number} in {wanted.split}"
            raise ShardError(describe(told, where=dataset.path, expected=f"a number from 0 to {total - 1}"))
        first = 0
        for file in files:
            for index, group in enumerate(file.row_groups):
                if first <= number < first + group.rows:
                    rows = dataset.read_row_group(file, index)
                    begin, end = rows.bins[number - first : number - first + 2].tolist()
                    yield rows, number, list(range(begin, end))
                first += group.rows


def _of_record(dataset: Dataset, record: int) -> Iterator[tuple[Rows, int, list[int]]]:
    found = False
    for files in dataset.manifest.files.values():
        first = 0
        for file in files:
            for index, group in enumerate(file.row_groups):
                rows = dataset.read_row_group(file, index)
                mine = np.flatnonzero(rows.record_ids == record)
                bins = np.searchsorted(rows.bins, mine, side="right") - 1
                for one in np.unique(bins).tolist():
                    found = True
                    yield rows, first + one, mine[bins == one].tolist()
                first += group.rows
    if not found:
        total = sum(int(one["records"]) for one in dataset.manifest.inputs)
        fix = f"Look into {dataset.path}/rejected.jsonl." if 0 <= record < total else f"Ids go from 0 to {total - 1}."
        raise ShardError(describe(f"no row holds record {record}", where=dataset.path, fix=fix))


def shown_document(rows: Rows, place: int, names: Names, where: str = "") -> ShownDocument:
    """Document `place` of a row group, to be shown."""
    begin = int(rows.seq_lengths[:place].sum(dtype=np.int64))
    length = int(rows.seq_lengths[place])
    ids = rows.input_ids[begin : begin + length].tolist()
    labels = rows.labels[begin : begin + length].tolist()
    trained = sum(label != -100 for label in labels)
    title = f"{where}{_origin(names, int(rows.record_ids[place]))}: {length:,} tokens, {trained:,} trained"
    return ShownDocument(title, ids, labels, tuple(_flag_words(int(rows.doc_flags[place]))))


def names_of(inputs: Sequence[dict[str, Any]]) -> Names:
    """The inputs of a manifest with the record ids that each holds."""
    first, out = 0, []
    for one in inputs:
        out.append((str(one["address"]), first, int(one["records"])))
        first += int(one["records"])
    return out


def _origin(names: Names, record: int) -> str:
    for name, first, records in names:
        if first <= record < first + records:
            return f"record {record} ({name}, number {record - first + 1})"
    return f"record {record}"


def _flag_words(flags: int) -> Iterator[str]:
    words = {
        DocFlag.NO_STOP: "ends without a stop (cut)",
        DocFlag.CONTINUES: "continues a split text",
        DocFlag.TEXT: "text without roles",
        DocFlag.ONE_OF_SEVERAL: "one of several documents of its record",
    }
    return (text for bit, text in words.items() if flags & bit)


def _own_tokenizer(path: str, tokenizer: str | None, expected: str) -> Any:
    address = tokenizer or _report(path).get("tokenizer")
    if address is None:
        raise ConfigError(describe("the dataset's tokenizer is not known", where=path, fix="Name it: --tokenizer T."))
    files = load_files(address)
    if files.sha256 != expected:
        raise ConfigError(
            describe("not the tokenizer of this dataset", where=address, expected=f"sha256 {expected[:16]}…")
        )
    return load_vocabulary(files)


def _report(path: str) -> dict[str, Any]:
    """The run's report, which knows where things lay; empty where it is gone."""
    report = Path(path) / "report.json"
    try:
        return msgspec.json.decode(report.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError):
        return {}


class _Originals:
    """The raw records of a dataset, while its inputs lie where they lay and hold what they held."""

    def __init__(self, path: str, inputs: Sequence[dict[str, Any]]) -> None:
        self._addresses = [str(one["address"]) for one in _report(path).get("inputs", [])]
        self._hashes = [str(one["sha256"]) for one in inputs]

    def of(self, records: Sequence[int]) -> tuple[Any, list[str]]:
        """The raw values of these records by id, and why there are none."""
        try:
            with tempfile.TemporaryDirectory(prefix="sftdata-") as spool:
                inputs, units = read_inputs(tuple(self._addresses), Path(spool))
                if [one.sha256 for one in inputs] != self._hashes:
                    return None, ["the inputs are not those that the dataset was made from: no raw records"]
                wanted = set(records)
                out: dict[int, Any] = {}
                for extent in (extent for unit in units for extent in unit.extents):
                    if wanted.isdisjoint(range(extent.first_record, extent.first_record + extent.records)):
                        continue
                    for block in read_extent(inputs, extent, Path(spool)):
                        out |= {raw.record_id: raw.value for raw in block if raw.record_id in wanted}
                return out, []
        except SftdataError as error:
            return None, [f"the inputs cannot be read, so there are no raw records: {error}"]
