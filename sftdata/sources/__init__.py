"""Sources: files and streams of any kind become raw records, each with its file and line.

    resolve(addresses) ─► Input ─► scan ─► chunks ─► read ─► lists of RawRecord

What lives here: the three functions and the table of kinds. What must not: what a record means.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sftdata.records import RawRecord
from sftdata.sources import plain
from sftdata.sources.items import Chunk, Input, Scan
from sftdata.sources.resolve import resolve

__all__ = ["Chunk", "Input", "Scan", "read", "resolve", "scan"]


def scan(item: Input, spool: Path) -> Scan:
    """One pass over an input: its hash, its records counted, and where it can be cut, about every decoded MiB.

    What cannot be entered in the middle is decoded on the way into a file in the folder `spool`.
    """
    return plain.scan(item, spool)


def read(
    item: Input, start: int, stop: int, *, first_record: int, first_line: int, spool: Path
) -> Iterator[list[RawRecord]]:
    """The records of a stretch of an input that `scan` cut, in lists of about 1 MiB, ids counted from `first_record`.

    `start` and `first_line` are those of the stretch's first chunk, `stop` that of its last.
    """
    return plain.read(item, start, stop, first_record=first_record, first_line=first_line, spool=spool)
