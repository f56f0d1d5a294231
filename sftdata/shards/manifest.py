"""The manifest: what a sealed dataset says about itself.

What lives here: its types, its one spelling in bytes, and the reader of untrusted ones. What must not: any look
at a shard. The bytes are canonical: a manifest is read only if writing it again gives the very bytes that were
read, and its `digest` is the hash of the rest, so that no flipped bit in it goes unnoticed.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = [
    "FileEntry",
    "RowGroupEntry",
]

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class RowGroupEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row group of a shard: the unit of reading."""

    offset: Count
    """Where its bytes begin in the file."""
    bytes: Positive
    """How many there are: all column chunks with their page headers."""
    crc32: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    """zlib's crc32 over them."""
    rows: Positive
    tokens: Positive
    loss_tokens: Count
    documents: Positive


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One shard. The bytes of the file are PAR1, the row groups one after another, and the footer."""

    name: str
    """Base name, within the dataset's folder."""
    bytes: Positive
    sha256: Sha256
    footer_bytes: Positive
    """Size of the footer with the 8 bytes behind it (its length and the magic PAR1)."""
    footer_sha256: Sha256
    """Hash of the last `footer_bytes` bytes."""
    rows: Positive
    tokens: Positive
    loss_tokens: Count
    documents: Positive
    row_groups: tuple[RowGroupEntry, ...]
