"""Bins on disk: layout, writer, reader, manifest, verifier.

What must not live here: how bins came about. Imports pyarrow, numpy and msgspec only, so that `sftdata_torch`
needs nothing else.
"""

from __future__ import annotations

from sftdata.shards.layout import FINGERPRINT_KEY, FORMAT_VERSION, SCHEMA
from sftdata.shards.manifest import FileEntry, RowGroupEntry
from sftdata.shards.rows import Rows, arrange, join, split
from sftdata.shards.write import ShardWriter

__all__ = [
    "FINGERPRINT_KEY",
    "FORMAT_VERSION",
    "SCHEMA",
    "FileEntry",
    "RowGroupEntry",
    "Rows",
    "ShardWriter",
    "arrange",
    "join",
    "split",
]
