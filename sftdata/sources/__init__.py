"""Sources: files and streams of any kind become raw records, each with its file and line.

    resolve(addresses) ─► Input ─► scan ─► chunks ─► read ─► lists of RawRecord

What lives here: the three functions and the table of kinds. What must not: what a record means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from sftdata.records import RawRecord
from sftdata.sources import hub, plain, streams, tables
from sftdata.sources import spool as spooled
from sftdata.sources.items import Chunk, Input, Scan
from sftdata.sources.opening import is_remote, state_of
from sftdata.sources.resolve import resolve

__all__ = ["Chunk", "Input", "Scan", "read", "resolve", "scan", "state"]


def scan(item: Input, spool: Path) -> Scan:
    """One pass over an input: its hash, its records counted, and where it can be cut, about every decoded MiB.

    What cannot be entered in the middle is decoded on the way into a file in the folder `spool`. Raises InputError
    where the input as a whole cannot be read.
    """
    for old in (spooled.spool_path(spool, item), tables.copy_path(spool, item)):
        old.unlink(missing_ok=True)
    return _SCANS.get(_way_in(item), streams.scan)(item, spool)


def read(
    item: Input, start: int, stop: int, *, first_record: int, first_line: int, spool: Path
) -> Iterator[list[RawRecord]]:
    """The records of a stretch of an input that `scan` cut, in lists of about 1 MiB, ids counted from `first_record`.

    `start` and `first_line` are those of the stretch's first chunk, `stop` that of its last. The same records, ids,
    lines and findings come however chunks are merged. Raises InputError where the input changed since it was scanned.
    """
    copy = tables.copy_path(spool, item)
    way = _way_in(item)
    if way == "lines":
        return plain.read(item, start, stop, first_record=first_record, first_line=first_line)
    if way == "rows" or copy.exists():
        location = item.location if way == "rows" else str(copy)
        return tables.read(item, start, stop, first_record=first_record, first_line=first_line, location=location)
    return spooled.read(item, start, stop, first_record=first_record, spool=spool)


def state(item: Input, spool: Path) -> str:
    """What changes when an input does that is read where it lies; "" for one that `scan` decoded or copied.

    Compared before and after a stretch is read, so that no two contents are mixed. Raises InputError where it is gone.
    """
    if _way_in(item) not in {"lines", "rows"} or tables.copy_path(spool, item).exists():
        return ""
    return state_of(item)


def _way_in(item: Input) -> str:
    """How an input is entered: `lines` by byte offset, `rows` by row, everything else through its kind's spool."""
    if item.compression == "none" and item.kind == "jsonl":
        return "lines"
    if item.compression == "none" and (
        item.kind == "parquet" or (item.kind == "arrow" and not is_remote(item.location))
    ):
        return "rows"
    return item.kind


_SCANS: dict[str, Callable[[Input, Path], Scan]] = {
    "lines": plain.scan,
    "rows": tables.scan,
    "hub": hub.scan,
    "saved": hub.scan,
}
"""The scans of what is not decoded from one stream of bytes."""
