"""Parquet and Arrow tables: entered at any row, read a piece at a time.

A table is a row of segments (row groups, record batches), each read from its beginning in pieces of a fixed number of
rows, about 1 MiB. What lives here: cutting and reading them, and what to do where a piece cannot be decoded. What must
not: how an Arrow value becomes a plain one.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pyarrow as pa

from sftdata.errors import InputError, describe
from sftdata.records import Finding, RawRecord
from sftdata.sources.arrow_values import Row, rows_of
from sftdata.sources.items import BLOCK, MAX_CHUNKS, Chunk, Input, Scan, halved
from sftdata.sources.opening import Hashed, Steady, is_remote, unreadable, windows
from sftdata.sources.spool import spool_path

__all__ = ["copy_path", "cut", "read", "scan"]

_MAX_ROWS = 16384
_ERRORS = (pa.ArrowException, OSError, ValueError)
_SPAN = 1 << 32
_ABSURD = 1 << 40
"""Bytes of memory in one piece."""


class _Segment(msgspec.Struct, frozen=True):
    """A row group or a record batch."""

    index: int
    rows: int
    size: int
    """Decoded bytes."""
    batches: Callable[[], Iterator[pa.RecordBatch]]
    """Its rows from the first, in whatever portions they come; raises one of `_ERRORS` where they cannot be read."""

    @property
    def step(self) -> int:
        """Rows a piece."""
        return min(max(BLOCK * self.rows // max(self.size, 1), 1), _MAX_ROWS)


class _Table(Protocol):
    schema: pa.Schema

    def segments(self, first: int) -> Iterator[_Segment]:
        """The table's parts from the one with index `first`; raises one of `_ERRORS` where it breaks off."""
        ...


class _Parquet:
    """A Parquet file, local or remote."""

    def __init__(self, source: Any) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(source, pre_buffer=False, page_checksum_verification=True)
        self.schema = self._file.schema_arrow

    def segments(self, first: int) -> Iterator[_Segment]:
        metadata = self._file.metadata
        for index in range(first, metadata.num_row_groups):
            group = metadata.row_group(index)
            yield _Segment(index, group.num_rows, group.total_byte_size, functools.partial(self._batches, index))

    def _batches(self, index: int) -> Iterator[pa.RecordBatch]:
        group = self._file.metadata.row_group(index)
        step = _Segment(index, group.num_rows, group.total_byte_size, lambda: iter(())).step
        yield from self._file.iter_batches(step, row_groups=[index], use_threads=False)


class _ArrowFile:
    """An Arrow IPC file (Feather V2)."""

    def __init__(self, source: Any) -> None:
        self._reader = pa.ipc.open_file(source)
        self.schema = self._reader.schema

    def segments(self, first: int) -> Iterator[_Segment]:
        for index in range(first, self._reader.num_record_batches):
            yield _segment(index, self._reader.get_batch(index))


class _ArrowStream:
    """An Arrow IPC stream, such as the files of a saved dataset: earlier batches are skipped without being touched."""

    def __init__(self, source: Any) -> None:
        self._reader = pa.ipc.open_stream(source)
        self.schema = self._reader.schema

    def segments(self, first: int) -> Iterator[_Segment]:
        for index, batch in enumerate(self._reader):
            if index >= first:
                yield _segment(index, batch)


def _segment(index: int, batch: pa.RecordBatch) -> _Segment:
    """A record batch that may be touched: one whose offsets point outside of it would end the process.

    Text that is not UTF-8 is no such damage: it is the affair of its row.
    """
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):
            raise
    return _Segment(index, batch.num_rows, batch.get_total_buffer_size(), lambda: iter((batch,)))


def copy_path(spool: Path, item: Input) -> Path:
    """Where the plain copy of a table lies that cannot be entered where it is."""
    return spool_path(spool, item, "table")


@contextlib.contextmanager
def _open(location: str, item: Input) -> Iterator[_Table]:
    """Open a table by its magic. Raises InputError where it is none or its metadata is damaged."""
    with contextlib.ExitStack() as stack:
        try:
            table = _opened(location, stack)
        except _ERRORS as error:
            _must_be_damage(error, item)
            raise InputError(
                describe(
                    f"SFT015: cannot be opened as a Parquet or Arrow table: {error}",
                    where=item.address,
                    fix="Copy the file again; a Feather V1 file has to be converted to V2.",
                )
            ) from error
        try:
            yield table
        except (pa.ArrowException, OSError) as error:
            _must_be_damage(error, item)
            raise InputError(
                describe(
                    f"cannot be read as it was before: {error}",
                    where=item.address,
                    fix="It changed since the run began: start over with --fresh.",
                )
            ) from error


def _must_be_damage(error: Exception, item: Input) -> None:
    """Raises InputError where the system or a store failed to give the bytes: then nothing is known about them."""
    if _is_of_system(error):
        raise unreadable(item, error) if isinstance(error, OSError) else error


def _is_of_system(error: Exception) -> bool:
    """Whether reading failed rather than decoding.

    pyarrow raises OSError for both, but only the system has numbers. And memory is wanting for want of memory, but
    where damage asks for more than any machine has.
    """
    if isinstance(error, MemoryError):
        asked = re.search(r"size (\d+)", str(error))
        return asked is None or int(asked[1]) < _ABSURD
    return isinstance(error, OSError) and error.errno is not None


def _opened(location: str, stack: contextlib.ExitStack) -> _Table:
    if is_remote(location):
        return _Parquet(stack.enter_context(Steady(location)))
    with open(location, "rb") as file:
        head = file.read(6)
    if head.startswith(b"PAR1"):
        return _Parquet(stack.enter_context(pa.OSFile(location)))
    source = stack.enter_context(pa.memory_map(location))
    return _ArrowFile(source) if head == b"ARROW1" else _ArrowStream(source)


def scan(item: Input, spool: Path) -> Scan:  # noqa: ARG001 - a table is entered where it lies
    """Hash the file, and cut it by what its metadata says."""
    hashed = Hashed(windows(item))
    for _ in hashed:
        pass
    chunks, findings = cut(item.location, item)
    return Scan(hashed.size, hashed.sha256, sum(chunk.records for chunk in chunks), tuple(chunks), tuple(findings))


def cut(location: str, item: Input) -> tuple[list[Chunk], list[tuple[int, Finding]]]:
    """The chunks of the table at `location`, and why there are no more of them, if it breaks off.

    A position is `segment * 2**32 + row in it`, so that reading finds its segment without looking at those before.
    Raises InputError where the table cannot be opened or names a column twice.
    """
    chunks: list[Chunk] = []
    position, row = 0, 1
    with _open(location, item) as table:
        _refuse_same_names(table.schema, item)
        try:
            for segment in table.segments(0):
                for begin in range(0, segment.rows, segment.step):
                    end = min(begin + segment.step, segment.rows)
                    stop = segment.index * _SPAN + end if end < segment.rows else (segment.index + 1) * _SPAN
                    size = segment.size * (end - begin) // segment.rows
                    chunks.append(Chunk(position, stop, row, end - begin, size))
                    position, row = stop, row + end - begin
                chunks = halved(chunks) if len(chunks) >= MAX_CHUNKS else chunks
        except _ERRORS as error:
            if _is_of_system(error):
                raise
            return chunks, [(row, Finding("SFT015", f"the table breaks off: {error}"))]
    return chunks, []


def _refuse_same_names(schema: pa.Schema, item: Input) -> None:
    """Raise InputError where two columns, or two keys of a struct, have one name: a record could hold only one."""
    kinds: list[Any] = [pa.struct(list(schema))]
    while kinds:
        kind = kinds.pop()
        fields = [kind.field(index) for index in range(kind.num_fields)]
        names = [field.name for field in fields]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None and pa.types.is_struct(kind):
            raise InputError(describe(f"has two columns {twice!r}", where=item.address, fix="Rename one of them."))
        kinds += [field.type for field in fields]


def read(
    item: Input, start: int, stop: int, *, first_record: int, first_line: int, location: str
) -> Iterator[list[RawRecord]]:
    """The records between two positions, lists of about 1 MiB; a row that cannot be decoded is SFT015 by itself."""
    (first, skipped), (last, until) = divmod(start, _SPAN), divmod(stop, _SPAN)
    with _open(location, item) as table:
        for segment in table.segments(first):
            begin = skipped if segment.index == first else 0
            end = until if segment.index == last else segment.rows
            for parsed in _segment_rows(segment, begin, end):
                yield [
                    RawRecord(first_record + index, item.address, first_line + index, value, raw, findings)
                    for index, (value, raw, findings) in enumerate(parsed)
                ]
                first_record += len(parsed)
                first_line += len(parsed)
            if (segment.index + 1) * _SPAN >= stop:
                break


def _segment_rows(segment: _Segment, begin: int, end: int) -> Iterator[list[Row]]:
    """The rows `[begin, end)` of a segment; from where it cannot be decoded, one finding a row."""
    at = begin
    try:
        for piece in _between(segment.batches(), begin, end, segment.step):
            yield rows_of(piece)
            at += piece.num_rows
    except _ERRORS as error:
        if _is_of_system(error):
            raise
        finding = Finding("SFT015", f"the row cannot be decoded: {error}")
        for lost in range(at, end, _MAX_ROWS):
            yield [(None, None, (finding,))] * min(_MAX_ROWS, end - lost)


def _between(batches: Iterator[pa.RecordBatch], begin: int, end: int, step: int) -> Iterator[pa.RecordBatch]:
    """The rows `[begin, end)` of what `batches` hold, at most `step` at a time."""
    at = 0
    for batch in batches:
        until = min(end - at, batch.num_rows)
        for offset in range(max(begin - at, 0), until, step):
            yield batch.slice(offset, min(step, until - offset))
        at += batch.num_rows
        if at >= end:
            return
