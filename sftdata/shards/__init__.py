"""Bins on disk: layout, writer, reader, manifest, verifier.

What must not live here: how bins came about. Imports pyarrow, numpy and msgspec only, so that `sftdata_torch`
needs nothing else.
"""

from __future__ import annotations

from sftdata.shards.drift import folder_drift, refuse_drift, template_drift, tokenizer_drift
from sftdata.shards.faults import DamageError, Problem
from sftdata.shards.layout import FINGERPRINT_KEY, FORMAT_VERSION, SCHEMA
from sftdata.shards.manifest import (
    FileEntry,
    Manifest,
    RowGroupEntry,
    SidecarEntry,
    dump_manifest,
    load_manifest,
    read_manifest,
)
from sftdata.shards.read import Dataset, open_dataset
from sftdata.shards.rows import Rows, arrange, join, split
from sftdata.shards.verify import Verification, verify
from sftdata.shards.write import ShardWriter

__all__ = [
    "FINGERPRINT_KEY",
    "FORMAT_VERSION",
    "SCHEMA",
    "DamageError",
    "Dataset",
    "FileEntry",
    "Manifest",
    "Problem",
    "RowGroupEntry",
    "Rows",
    "ShardWriter",
    "SidecarEntry",
    "Verification",
    "arrange",
    "dump_manifest",
    "folder_drift",
    "join",
    "load_manifest",
    "open_dataset",
    "read_manifest",
    "refuse_drift",
    "split",
    "template_drift",
    "tokenizer_drift",
    "verify",
]
