"""From the bytes of a row group to checked rows, for the reader and the verifier alike.

What lives here: parsing a footer, decoding one row group, and the laws that its columns obey among themselves. What
must not: files, and laws that need the manifest's facts. Bytes are untrusted, even if their hashes are right.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sftdata.records import IGNORE_INDEX, Int32Array, Int64Array
from sftdata.shards.faults import Problem
from sftdata.shards.layout import FINGERPRINT_KEY, FOOTER_PREFIX, FORMAT_VERSION, FORMAT_VERSION_KEY, HEADER, SCHEMA
from sftdata.shards.manifest import FileEntry, RowGroupEntry
from sftdata.shards.rows import Rows, offsets_of

__all__ = [
    "Columns",
    "Fault",
    "as_rows",
    "decode_group",
    "first_of",
    "footer_problems",
    "label_problems",
    "parse_footer",
    "row_of",
    "shape_problems",
]

Fault = Callable[[str, str, str], Problem]
"""(code, place, message) to a Problem of the file at hand."""


class Columns(msgspec.Struct, frozen=True, eq=False):
    """A row group as it was decoded, before anything is known to agree. Views of the decoder's buffers."""

    values: dict[str, npt.NDArray[Any]]
    """Flat values by column."""
    offsets: dict[str, Int32Array]
    """For each list column, int32 `[B + 1]` where the rows begin in its values."""


def parse_footer(tail: bytes) -> pq.FileMetaData:
    """The metadata in the last bytes of a Parquet file. Raises pyarrow's exceptions, OSError or ValueError."""
    return pq.read_metadata(pa.BufferReader(HEADER + tail))  # the offsets in it are not followed yet


def footer_problems(footer: pq.FileMetaData, file: FileEntry, fingerprint: str, fault: Fault) -> Iterator[Problem]:
    """What the footer says otherwise than layout and manifest."""
    if not footer.schema.to_arrow_schema().equals(SCHEMA):
        yield fault("SFT801", "", "its columns are not those of a shard")
    own = footer.metadata or {}
    for key, wanted in ((FORMAT_VERSION_KEY, str(FORMAT_VERSION)), (FINGERPRINT_KEY, fingerprint)):
        found = own.get((FOOTER_PREFIX + key).encode())
        if found != wanted.encode():
            yield fault(
                "SFT811", "", f"its footer has {key} {found!r}, and the manifest {wanted!r}: another run's shard"
            )
    rows = [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]
    if rows != [group.rows for group in file.row_groups]:
        yield fault("SFT803", "", f"its row groups have {rows} rows, and other numbers stand in the manifest")


def decode_group(footer: pq.FileMetaData, index: int, group: RowGroupEntry, data: bytes) -> Columns:
    """Decode row group `index`, whose bytes are `data`. Raises pyarrow's exceptions, OSError or ValueError."""
    window = pa.PythonFile(_Window(data, group.offset), mode="r")
    with pq.ParquetFile(window, metadata=footer, page_checksum_verification=True) as file:
        table = file.read_row_group(index, use_threads=False)
    values: dict[str, npt.NDArray[Any]] = {}
    offsets: dict[str, Int32Array] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        if pa.types.is_list(array.type):
            offsets[name] = _view(array.offsets)
            array = array.values
        values[name] = _view(array)
    return Columns(values=values, offsets=offsets)


def _view(array: pa.Array) -> npt.NDArray[Any]:
    """The values of an integer array, read-only: `to_numpy` gives them too, but imports pandas first (0.3 s)."""
    if array.null_count:
        raise ValueError("a value is null")
    dtype = np.dtype(str(array.type))
    values = np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)
    values.flags.writeable = False
    return values


def shape_problems(columns: Columns, group: RowGroupEntry, fault: Fault) -> Iterator[Problem]:
    """SFT606 for lengths that disagree: of columns, of documents, of `num_tokens`; SFT803 for the manifest's counts.

    Once one is yielded the next may mean nothing. Where none is, `as_rows` may be called.
    """
    tokens, documents = columns.offsets["input_ids"], columns.offsets["seq_lengths"]
    for offsets, name in ((tokens, "labels"), (documents, "record_ids"), (documents, "doc_flags")):
        other = np.diff(columns.offsets[name])
        for row, more in first_of(np.diff(offsets) != other):
            yield fault("SFT606", f"row {row}", f"{name} has {other[row]} values, other than its fellow column{more}")
    lengths = columns.values["seq_lengths"]
    for row, more in first_of(np.diff(documents) < 1):
        yield fault("SFT606", f"row {row}", f"it holds no document{more}")
    for document, more in first_of(lengths < 1):
        row = row_of(documents, document)
        yield fault("SFT606", f"row {row}", f"a document has length {lengths[document]}{more}")
    summed = np.diff(offsets_of(lengths)[documents])
    for name, found in (("the length of input_ids", np.diff(tokens)), ("num_tokens", columns.values["num_tokens"])):
        for row, more in first_of(found != summed):
            yield fault("SFT606", f"row {row}", f"{name} is {found[row]}, and seq_lengths sum to {summed[row]}{more}")
    seen = (len(tokens) - 1, len(columns.values["input_ids"]), len(lengths))
    if seen != (group.rows, group.tokens, group.documents):
        listed = f"{group.rows}, {group.tokens} and {group.documents}"
        yield fault("SFT803", "", f"rows, tokens and documents are {seen}, and in the manifest {listed}")


def as_rows(columns: Columns) -> Rows:
    """The rows of a group whose shapes agree."""
    values = columns.values
    return Rows(
        input_ids=values["input_ids"],
        labels=values["labels"],
        seq_lengths=values["seq_lengths"],
        record_ids=values["record_ids"],
        doc_flags=values["doc_flags"],
        bins=columns.offsets["seq_lengths"].astype(np.int64),
    )


def label_problems(rows: Rows, num_loss_tokens: Int32Array, group: RowGroupEntry, fault: Fault) -> Iterator[Problem]:
    """Labels that are no target (SFT809), first ones that are trained (SFT605), and counts that are not theirs."""
    ids, labels = rows.input_ids, rows.labels
    trained = labels != IGNORE_INDEX
    wrong = labels != ids
    wrong &= trained
    for token, more in first_of(wrong):
        place = f"row {row_of(rows.token_offsets, token)}"
        yield fault("SFT809", place, f"the label of token {ids[token]} is {labels[token]}{more}")
    for document, more in first_of(trained[offsets_of(rows.seq_lengths)[:-1]]):
        place = f"row {row_of(rows.bins, document)}"
        yield fault("SFT605", place, f"the first label of a document is trained{more}")
    found = np.add.reduceat(trained.view(np.uint8), rows.token_offsets[:-1], dtype=np.int32)
    for row, more in first_of(found != num_loss_tokens):
        message = f"num_loss_tokens is {num_loss_tokens[row]}, and {found[row]} labels are trained{more}"
        yield fault("SFT606", f"row {row}", message)
    total = int(found.sum())
    if total != group.loss_tokens:
        yield fault("SFT803", "", f"{total} tokens are trained, and {group.loss_tokens} in the manifest")


def first_of(wrong: npt.NDArray[np.bool_]) -> Iterator[tuple[int, str]]:
    """The first place that is True, once, and words for how many more there are: one problem a kind and row group."""
    if wrong.any():
        count = int(np.count_nonzero(wrong))
        yield int(np.argmax(wrong)), f", and {count - 1} more like it" if count > 1 else ""


def row_of(offsets: Int32Array | Int64Array, place: int) -> int:
    """The row that the value at `place` belongs to: offsets `[0, 3, 5]` and place 3 give row 1."""
    return int(np.searchsorted(offsets, place, "right")) - 1


class _Window(io.RawIOBase):
    """A file of which only one stretch is there; reads outside of it come back empty, and pyarrow refuses them."""

    def __init__(self, data: bytes, offset: int) -> None:
        self._data = memoryview(data)
        self._offset = offset
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._offset + len(self._data)}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> Any:
        begin = self._position - self._offset
        end = len(self._data) if size < 0 else min(begin + size, len(self._data))
        if begin < 0 or begin > end:
            return b""
        self._position += end - begin
        return self._data[begin:end]
