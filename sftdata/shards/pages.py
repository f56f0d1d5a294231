"""Row groups as our own writer lays them out, decoded at about the speed of zstd alone.

What lives here: the one layout that `write` produces, and nothing more of Parquet. What must not: judging what the
values mean. Whatever is laid out otherwise is left to pyarrow (`decode.decode_group`), which reads every layout, at
half the speed; what both can read they read alike.

A row group is its columns one after another, each a single page:

    header   Thrift compact: a data page of version 1, values PLAIN, levels RLE, sizes before and after zstd
    body     zstd of: for a list, u32 size and bits of the repetition levels (0 where a row begins), u32 size and
             bits of the definition levels (all 1: no list is empty, nothing is null); then the values, little-endian

(https://parquet.apache.org/docs/file-format/data-pages; zstd frames: RFC 8878, section 3.1.1.1.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sftdata.records import Int32Array
from sftdata.shards.decode import Columns
from sftdata.shards.layout import SCHEMA
from sftdata.shards.manifest import RowGroupEntry

__all__ = ["decode_pages"]

_ZSTD = pa.Codec("zstd")
_MEMORY = pa.system_memory_pool()
"""Row groups come and go all the time: the default pool gives the memory of each back to the kernel, which clears it
for the next, and that costs up to a third of the reading."""
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_COLUMNS = [
    (np.dtype(str(field.type.value_type if pa.types.is_list(field.type) else field.type)), pa.types.is_list(field.type))
    for field in SCHEMA
]
"""For each column the type of its values, and whether it is a list."""


_MOST_ROWS = 1024
"""Of a row group of 2^18 tokens: there the loop over runs of levels costs what is won by the rest."""


class _OtherwiseError(Exception):
    """Not laid out as we write it."""


def decode_pages(footer: pq.FileMetaData, index: int, group: RowGroupEntry, data: bytes) -> Columns | None:
    """Decode row group `index`, whose bytes are `data`.

    None where it is not laid out as our writer does it, and where its rows are so many, and so short, that pyarrow
    reads their bounds faster.
    """
    if group.rows > _MOST_ROWS:
        return None
    try:
        return _decoded(footer.row_group(index), group, data)
    except (_OtherwiseError, IndexError, OSError, pa.ArrowException):
        return None


def _decoded(chunks: pq.RowGroupMetaData, group: RowGroupEntry, data: bytes) -> Columns:
    values: dict[str, npt.NDArray[Any]] = {}
    offsets: dict[str, Int32Array] = {}
    known: dict[bytes, Int32Array] = {}  # labels have the levels of input_ids, and so on: read each but once
    at = 0
    for place, (name, (dtype, is_list)) in enumerate(zip(SCHEMA.names, _COLUMNS, strict=True)):
        chunk = chunks.column(place)
        _demand(chunk.compression == "ZSTD" and chunk.data_page_offset == group.offset + at)
        page = _Page.at(data, at)
        at += chunk.total_compressed_size
        _demand(page.end == at <= len(data) and page.num_values == chunk.num_values)
        body = page.body(data)
        levels = len(body) - page.num_values * dtype.itemsize
        _demand(levels >= 0)
        told = body[:levels].to_pybytes()
        if is_list:
            if told not in known:
                known[told] = _row_offsets(told, page.num_values)
            offsets[name] = known[told]
        rows = len(offsets[name]) - 1 if is_list else page.num_values
        _demand(rows == chunks.num_rows and (is_list or not told))
        values[name] = _aligned(np.frombuffer(body, dtype, page.num_values, levels))
    _demand(at == len(data))
    return Columns(values=values, offsets=offsets)


def _demand(holds: bool) -> None:
    if not holds:
        raise _OtherwiseError


def _aligned(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The values, read-only, at an address that is a multiple of their size."""
    if not values.flags.aligned:
        values = values.copy()
    values.flags.writeable = False
    return values


class _Page(NamedTuple):
    """A data page by what its header says."""

    begin: int
    """Where its body begins in the row group's bytes."""
    zstd_bytes: int
    plain_bytes: int
    num_values: int

    @classmethod
    def at(cls, data: bytes, at: int) -> _Page:
        """Its header is at `at`."""
        header, begin = _struct(data, at)
        page = header.get(_DATA_PAGE, {})
        _demand(header.get(_TYPE) == 0 and isinstance(page, dict))
        _demand([page.get(field) for field in (_ENCODING, *_LEVELS)] == [_PLAIN, _RLE, _RLE])
        zstd, plain, count = (header.get(_ZSTD_BYTES), header.get(_PLAIN_BYTES), page.get(_NUM_VALUES))
        if not (isinstance(zstd, int) and isinstance(plain, int) and isinstance(count, int)):
            raise _OtherwiseError
        _demand(min(zstd, plain, count) >= 0)
        return cls(begin, zstd, plain, count)

    @property
    def end(self) -> int:
        """Where its body ends."""
        return self.begin + self.zstd_bytes

    def body(self, data: bytes) -> pa.Buffer:
        """Levels and values, decompressed: one zstd frame that names its size, which is what the header says.

        zstd refuses a frame that holds other than it names, but pyarrow returns a buffer of the size asked for even
        if less was written to it.
        """
        _demand(_frame_bytes(data, self.begin) == self.plain_bytes)
        return _ZSTD.decompress(
            memoryview(data)[self.begin : self.end], decompressed_size=self.plain_bytes, memory_pool=_MEMORY
        )


_TYPE, _PLAIN_BYTES, _ZSTD_BYTES, _DATA_PAGE = 1, 2, 3, 5
"""Fields of a page header."""
_NUM_VALUES, _ENCODING, _LEVELS = 1, 2, (3, 4)
"""Fields of its data page."""
_PLAIN, _RLE = 0, 3
_DEEPEST = 4
"""Structs within structs: a header holds a page, and that its statistics."""


def _frame_bytes(data: bytes, at: int) -> int:
    """How many bytes the zstd frame at `at` says that it holds."""
    descriptor = data[at + 4]
    single, size_of = descriptor >> 5 & 1, (1, 2, 4, 8)[descriptor >> 6]
    _demand(data[at : at + 4] == _ZSTD_MAGIC and descriptor & 3 == 0 and (single == 1 or descriptor >> 6 > 0))
    begin = at + 5 + (1 - single)  # a frame of several segments has a byte for its window
    return int.from_bytes(data[begin : begin + size_of], "little") + (256 if size_of == 2 else 0)


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """The fields of the Thrift struct at `at` (compact protocol) by their ids, and where it ends.

    Ids go up by the upper half of a field's first byte; the lower half is its type, 0 at the struct's end.
    """
    _demand(depth < _DEEPEST)
    fields: dict[int, Any] = {}
    field = 0
    while data[at]:
        step, kind = divmod(data[at], 16)
        field += step
        _demand(step > 0)
        if kind in (1, 2):  # a boolean is its own type
            fields[field], at = kind == 1, at + 1
        elif kind in (5, 6):
            zigzag, at = _varint(data, at + 1)
            fields[field] = zigzag >> 1 ^ -(zigzag & 1)
        elif kind == 8:
            size, begin = _varint(data, at + 1)
            fields[field], at = data[begin : begin + size], begin + size
        else:
            _demand(kind == 12)
            fields[field], at = _struct(data, at + 1, depth + 1)
    return fields, at + 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while data[at] & 0x80:
        _demand(shift < 64)
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1


def _row_offsets(levels: bytes, num_values: int) -> Int32Array:
    """int32 `[B + 1]`, where rows begin among the values: `[0, 1, 1, 0, 1]` gives `[0, 3, 5]`."""
    middle = 4 + int.from_bytes(levels[:4], "little")
    repetition, rest = levels[4:middle], levels[middle:]
    present = _varint_bytes(num_values << 1) + b"\x01"  # one run of ones: no list is empty
    _demand(rest == len(present).to_bytes(4, "little") + present)
    begins = _zeros(repetition, num_values)
    _demand(begins[:1] == [0])
    offsets = np.array([*begins, num_values], np.int32)
    offsets.flags.writeable = False
    return offsets


def _zeros(runs: bytes, count: int) -> list[int]:
    """Where the `count` levels of one bit are 0. A run is a number `n` and what it says of the next levels:

    even: n / 2 times the bit that follows in a byte of its own; odd: (n - 1) / 2 bytes of 8 levels each, lowest first.
    """
    found: list[int] = []
    at = seen = 0
    while at < len(runs):
        head, at = _varint(runs, at)
        size = head >> 1
        _demand(seen + size * (8 if head & 1 else 1) < count + 8)
        if head & 1:
            for byte in runs[at : at + size]:
                found.extend([seen + bit for bit in _ZEROS[byte]])
                seen += 8
            at += size
        else:
            if not runs[at]:
                found.extend(range(seen, seen + size))
            at, seen = at + 1, seen + size
    _demand(at == len(runs) and seen >= count)
    while found and found[-1] >= count:  # the last byte is filled up
        found.pop()
    return found


_ZEROS = [tuple(bit for bit in range(8) if not byte >> bit & 1) for byte in range(256)]
"""For each byte the places of its zeros."""


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
