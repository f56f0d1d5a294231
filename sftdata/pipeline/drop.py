"""The list of records to drop that `dedup` wrote: taken into the plan, one bit a record, so that units stay pure.

What lives here: reading and checking the list, and its bits. What must not: telling copies (`quality`).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from sftdata.errors import ConfigError, describe
from sftdata.pipeline.identity import stamp_of
from sftdata.records import Int64Array

if TYPE_CHECKING:
    from sftdata.pipeline.plan import PlannedInput

__all__ = ["DropList", "bits_of", "dropped_of", "read_drop_list"]

_AGAIN = "Make the list from these inputs, in this order: sftdata dedup INPUT... --out DROP.parquet."


class DropList(msgspec.Struct, frozen=True):
    """Records to drop, once each."""

    ids: Int64Array
    """int64 `[N]`, ascending."""
    sha256: str
    """Of the ids, for the fingerprint."""


def read_drop_list(path: str, inputs: Sequence[PlannedInput]) -> DropList:
    """The `record_id` column of the Parquet file at `path`.

    Raises ConfigError where the file cannot be read or has no such column, where `dedup` made it from other inputs than
    `inputs`, and where an id is not one of theirs. A list of another maker has no stamp; its ids alone are checked.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        stamp = stamp_of(table.schema)
        column = table["record_id"].combine_chunks().cast(pa.int64())
    except (OSError, pa.ArrowException, KeyError) as error:
        told = f"the list of records to drop cannot be read: {error}"
        raise ConfigError(describe(told, where=path, expected="a Parquet file with a column record_id")) from error
    wrong = "" if stamp is None else stamp.differs(inputs)
    if wrong:
        raise ConfigError(describe(f"the list of records to drop is of other inputs: {wrong}", where=path, fix=_AGAIN))
    total = sum(one.records for one in inputs)
    ids = np.unique(column.to_numpy(zero_copy_only=False).astype(np.int64)) if not column.null_count else None
    if ids is None or (len(ids) and (ids[0] < 0 or ids[-1] >= total)):
        found = "null" if ids is None else str(ids[0] if ids[0] < 0 else ids[-1])
        told = f"the list of records to drop holds record_id {found}"
        raise ConfigError(describe(told, where=path, expected=f"record ids from 0 to {total - 1}", fix=_AGAIN))
    return DropList(ids, hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest())


def bits_of(ids: Int64Array, first: int, records: int) -> bytes:
    """Which of `records` records from `first` on are in the ascending `ids`, packed; empty where none is."""
    begin, end = np.searchsorted(ids, [first, first + records])
    if begin == end:
        return b""
    flags = np.zeros(records, bool)
    flags[ids[begin:end] - first] = True
    return zlib.compress(np.packbits(flags).tobytes())


def dropped_of(bits: bytes, records: int) -> npt.NDArray[np.bool_]:
    """The flags that `bits_of` packed, bool `[records]`."""
    if not bits:
        return np.zeros(records, bool)
    packed = np.frombuffer(zlib.decompress(bits), np.uint8)
    return np.unpackbits(packed, count=records).astype(bool)
