"""The layout of a shard: column names and types, format version, footer keys, file names.

What lives here: constants, shared by writer, reader and verifier. What must not: any reading or writing. A change
of anything here that an older reader would misread is a new FORMAT_VERSION.
"""

from __future__ import annotations

import pyarrow as pa

__all__ = [
    "FINGERPRINT_KEY",
    "FOOTER_PREFIX",
    "FORMAT_VERSION",
    "FORMAT_VERSION_KEY",
    "GROUP_TOKENS",
    "HEADER",
    "MANIFEST",
    "MAX_FILE_BYTES",
    "PARTIAL",
    "REJECTED",
    "SCHEMA",
    "SPLITS",
    "TRAILER_BYTES",
]

FORMAT_VERSION = 1

FOOTER_PREFIX = "sftdata."
"""What the names of our footer metadata begin with."""
FORMAT_VERSION_KEY = "format_version"
"""Footer metadata: FORMAT_VERSION, in decimal."""
FINGERPRINT_KEY = "fingerprint"
"""Footer metadata: the manifest's `fingerprint`, so that a shard of another run is known for one."""

MANIFEST = "manifest.json"
SPLITS = ("train", "eval")
REJECTED = "rejected.jsonl"
"""One line a rejected record."""
PARTIAL = "partial.jsonl"
"""One line a written record that lost examples; only where there is one."""

GROUP_TOKENS = 1 << 18
"""Tokens a row group: 1 MiB a column, one page; a random read takes about 1 ms, and files grow no smaller above."""
MAX_FILE_BYTES = 256 << 20

HEADER = b"PAR1"
TRAILER_BYTES = 8
"""A Parquet file ends in the footer, its length in 4 bytes, and the magic PAR1."""


def _list_of(item: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", item, nullable=False))


SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("input_ids", _list_of(pa.int32()), nullable=False),
        pa.field("labels", _list_of(pa.int32()), nullable=False),
        pa.field("seq_lengths", _list_of(pa.int32()), nullable=False),
        pa.field("record_ids", _list_of(pa.int64()), nullable=False),
        pa.field("doc_flags", _list_of(pa.int32()), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("num_loss_tokens", pa.int32(), nullable=False),
    ]
)
"""The columns of a shard, in order. A row is one bin; nothing in it is ever null."""
