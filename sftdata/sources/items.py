"""The types that the planner and the sources share: an input, the chunks it was cut into, and what a scan found.

What lives here: these types and the sizes that all sources agree on. What must not: opening anything.
"""

from __future__ import annotations

import msgspec

from sftdata.records import Finding

__all__ = ["BLOCK", "KEPT", "MAX_CHUNKS", "MAX_LINE", "Chunk", "Input", "Scan", "halved"]

BLOCK = 1 << 20
"""Decoded bytes that are held at once, and the size of a chunk: large enough to be worth a call, small for a cache."""

MAX_LINE = 64 << 20
"""The longest line, list element or CSV row that is read; anything longer is SFT017."""

KEPT = 4096
"""How many bytes of an over-long line are kept for the reject file."""

MAX_CHUNKS = 1 << 16
"""More chunks than this are merged in pairs, so that a plan stays small however large its inputs are."""


class Input(msgspec.Struct, frozen=True):
    """One file or stream."""

    index: int
    """Position among all inputs, from 0."""
    address: str
    """As the user would recognise it: the path as given, or a full address such as `s3://bucket/a.jsonl`."""
    kind: str
    """How its records are found: `jsonl`, `json`, `csv`, `parquet`, `arrow`, `saved`, `hub` or `stream`."""
    compression: str
    """`none`, `gzip`, `bzip2`, `zstd` or `xz`."""
    location: str = ""
    """Where a worker with another working directory finds it: an absolute path or a full address."""


class Chunk(msgspec.Struct, frozen=True):
    """A stretch of one input that begins and ends between two records. Neighbours may be merged."""

    start: int
    """A position that only this input's reader understands: a byte offset, a row or a batch."""
    stop: int
    first_line: int
    """The line (or row) that stands at `start`, from 1."""
    records: int
    size: int
    """Decoded bytes."""


class Scan(msgspec.Struct, frozen=True):
    """What one pass over an input found."""

    size: int
    """Bytes of the input as it lies there (decoded bytes where there is no file)."""
    sha256: str
    records: int
    chunks: tuple[Chunk, ...]
    findings: tuple[tuple[int, Finding], ...] = ()
    """(line, what is wrong) of the container as a whole; what is wrong with a record goes with the record."""


def halved(chunks: list[Chunk]) -> list[Chunk]:
    """Half as many chunks, each two neighbours made one; an odd last one stays as it is."""
    pairs = zip(chunks[::2], chunks[1::2], strict=False)
    merged = [
        Chunk(one.start, two.stop, one.first_line, one.records + two.records, one.size + two.size) for one, two in pairs
    ]
    return merged + chunks[len(merged) * 2 :]
