"""Plain JSON Lines, local or remote: entered at any line by its byte offset.

What lives here: the scan and the reader of uncompressed lines. What must not: decoding, or parsing of a line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from sftdata.records import Finding, RawRecord
from sftdata.sources.items import MAX_LINE, Input, Scan
from sftdata.sources.lines import BOM, Block, blocks, cut_lines, is_blank
from sftdata.sources.opening import windows
from sftdata.sources.parsing import parse_all

__all__ = ["line_too_long", "read", "scan"]


def scan(item: Input, spool: Path) -> Scan:  # noqa: ARG001 - what can be entered in the middle needs no spool
    """Hash, count and cut in one pass; cost: the hash and one search for line ends."""
    digest = hashlib.sha256()
    size = 0

    def hashed() -> Iterator[bytes]:
        nonlocal size
        for window in windows(item):
            digest.update(window)
            size += len(window)
            yield window

    chunks = cut_lines(hashed())
    return Scan(size, digest.hexdigest(), sum(chunk.records for chunk in chunks), tuple(chunks))


def read(
    item: Input,
    start: int,
    stop: int,
    *,
    first_record: int,
    first_line: int,
    spool: Path,  # noqa: ARG001
) -> Iterator[list[RawRecord]]:
    """The records of the lines that begin in `[start, stop)`, a list for about 1 MiB of them."""
    record = first_record
    for block in blocks(windows(item, start, stop), first_line):
        made = _records(item.address, block, record)
        record += len(made)
        if made:
            yield made


def line_too_long(length: int) -> Finding:
    """The finding on a line of `length` bytes."""
    return Finding("SFT017", f"a line of {length:,} bytes; the longest that is read has {MAX_LINE:,}")


def _records(address: str, block: Block, record: int) -> list[RawRecord]:
    if block.length:
        findings = (line_too_long(block.length),)
        return [RawRecord(record, address, block.first_line, None, block.text, findings)]
    lines = block.text.split(b"\n")
    if not lines[-1]:
        lines.pop()
    numbers: range | list[int] = range(block.first_line, block.first_line + len(lines))
    if BOM in block.text or not all(map(bytes.strip, lines)):
        kept = [(number, line) for number, line in zip(numbers, lines, strict=True) if not is_blank(line)]
        numbers, lines = [number for number, _ in kept], [line for _, line in kept]
    values, found = parse_all(lines)
    made = [
        RawRecord(index, address, number, value)
        for index, number, value in zip(range(record, record + len(lines)), numbers, values, strict=True)
    ]
    for index, findings in found.items():
        raw = lines[index].removesuffix(b"\r") if values[index] is None else None
        made[index] = RawRecord(record + index, address, numbers[index], values[index], raw, findings)
    return made
