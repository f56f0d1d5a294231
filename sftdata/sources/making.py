"""Texts become raw records.

What lives here: joining parsed values, lines, ids and findings. What must not: files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sftdata.records import Finding, RawRecord
from sftdata.rules import RULES
from sftdata.sources.items import MAX_LINE
from sftdata.sources.lines import BOM, Block, is_blank
from sftdata.sources.parsing import parse_all

__all__ = ["line_records", "lines_of", "to_records", "too_long"]


def too_long(length: int, what: str = "line") -> Finding:
    """The finding on a line (element, row) of `length` bytes."""
    return Finding("SFT017", f"a {what} of {length:,} bytes; the longest that is read has {MAX_LINE:,}")


def lines_of(block: Block) -> tuple[Sequence[int], list[bytes]]:
    """The lines of a block that are records, and their numbers."""
    lines = block.text.split(b"\n")
    if not lines[-1]:
        lines.pop()
    numbers = range(block.first_line, block.first_line + len(lines))
    if BOM not in block.text and all(map(bytes.strip, lines)):
        return numbers, lines
    kept = [(number, line) for number, line in zip(numbers, lines, strict=True) if not is_blank(line)]
    return [number for number, _ in kept], [line for _, line in kept]


def line_records(address: str, first_record: int, block: Block) -> list[RawRecord]:
    """The records of a block of JSON Lines."""
    if block.length:
        findings = (too_long(block.length),)
        return [RawRecord(first_record, address, block.first_line, None, block.text, findings)]
    numbers, lines = lines_of(block)
    return to_records(address, first_record, numbers, lines, {})


def to_records(
    address: str, first_record: int, lines: Sequence[int], texts: Sequence[bytes], known: Mapping[int, Finding]
) -> list[RawRecord]:
    """One record a text, ids counted up from `first_record`.

    `known` holds what the source found, by index. The text of a record with an error is kept, and not parsed where the
    error is the source's.
    """
    spoiled = {index for index, finding in known.items() if RULES[finding.code].severity == "error"}
    if spoiled:
        texts = list(texts)
        parsed, found = parse_all([b"null" if index in spoiled else text for index, text in enumerate(texts)])
    else:
        parsed, found = parse_all(texts)
    made = [
        RawRecord(record, address, line, value)
        for record, line, value in zip(range(first_record, first_record + len(texts)), lines, parsed, strict=True)
    ]
    for index in sorted(found.keys() | known.keys()):
        findings = (*((known[index],) if index in known else ()), *found.get(index, ()))
        bad = any(RULES[finding.code].severity == "error" for finding in findings)
        raw = texts[index].removesuffix(b"\r") if bad else None
        made[index] = RawRecord(first_record + index, address, lines[index], parsed[index], raw, findings)
    return made
