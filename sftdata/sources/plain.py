"""Plain JSON Lines, local or remote: entered at any line by its byte offset.

What lives here: the scan and the reader of uncompressed lines. What must not: decoding, or parsing of a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sftdata.records import RawRecord
from sftdata.sources.items import BLOCK, Input, Scan
from sftdata.sources.lines import blocks, cut_lines
from sftdata.sources.making import line_records
from sftdata.sources.opening import Hashed, windows

__all__ = ["read", "scan"]

_WINDOW = BLOCK // 4  # what is parsed at once stays in the processor's cache: 3.4 µs a record and not 4.2


def scan(item: Input, spool: Path) -> Scan:  # noqa: ARG001 - what can be entered in the middle needs no spool
    """Hash, count and cut in one pass; cost: the hash and one search for line ends."""
    hashed = Hashed(windows(item))
    chunks = cut_lines(hashed, BLOCK)
    return Scan(hashed.size, hashed.sha256, sum(chunk.records for chunk in chunks), tuple(chunks))


def read(
    item: Input,
    start: int,
    stop: int,
    *,
    first_record: int,
    first_line: int,
) -> Iterator[list[RawRecord]]:
    """The records of the lines that begin in `[start, stop)`, a list for about 1 MiB of them."""
    made: list[RawRecord] = []
    held = 0
    for block in blocks(windows(item, start, stop, size=_WINDOW), first_line):
        made += line_records(item.address, first_record + len(made), block)
        held += len(block.text)
        if held >= BLOCK:
            first_record += len(made)
            yield made
            made, held = [], 0
    if made:
        yield made
