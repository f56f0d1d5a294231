"""How the tests of the sources read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sftdata import sources
from sftdata.records import RawRecord
from sftdata.sources import Chunk, Input, Scan

Whole = tuple[Scan, list[RawRecord]]
ReadWhole = Callable[[str | Path], Whole]


def read_stretch(item: Input, chunks: Sequence[Chunk], first_record: int, folder: Path) -> list[RawRecord]:
    """The records of neighbouring chunks, merged as the planner merges them."""
    begin, end = chunks[0], chunks[-1]
    blocks = sources.read(
        item, begin.start, end.stop, first_record=first_record, first_line=begin.first_line, spool=folder
    )
    return [record for block in blocks for record in block]


def codes(records: Sequence[RawRecord]) -> list[tuple[int, str]]:
    """(line, code) of every finding."""
    return [(record.line, finding.code) for record in records for finding in record.findings]
