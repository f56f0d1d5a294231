"""A sealed set of any size, written in seconds, for measuring readers: ids with the skew of text, and no text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sftdata.records import IGNORE_INDEX
from sftdata.shards import FINGERPRINT_KEY, FORMAT_VERSION, FileEntry, Manifest, Rows, ShardWriter, dump_manifest
from sftdata.shards.layout import GROUP_TOKENS

__all__ = ["CAPACITY", "VOCAB", "write_set"]

CAPACITY = 4096
"""Tokens a bin, all of them full."""
DOCUMENTS = 14
"""Documents a bin: some 290 tokens each, the later half of each trained."""
VOCAB = 150_000
_FILE_TOKENS = 1 << 24


def write_set(
    folder: Path, tokens: int, *, group_tokens: int = GROUP_TOKENS, capacity: int = CAPACITY, vocab: int = VOCAB
) -> Path:
    """Write about `tokens` tokens into `folder` and seal them; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    fingerprint = hashlib.sha256(f"{tokens}:{group_tokens}:{capacity}:{vocab}".encode()).hexdigest()
    bins = max(tokens // capacity, 1)
    a_file = _FILE_TOKENS // capacity
    counts = [min(a_file, bins - start) for start in range(0, bins, a_file)]
    entries: list[FileEntry] = []
    for number, count in enumerate(counts):
        path = folder / f"train-{number:05d}-of-{len(counts):05d}.parquet"
        metadata = {FINGERPRINT_KEY: fingerprint}
        with ShardWriter(_always(path), metadata=metadata, max_group_tokens=group_tokens) as writer:
            for rows in _rows(count, number, capacity, vocab):
                writer.write(rows)
        entries += writer.entries
    (folder / "manifest.json").write_bytes(dump_manifest(_manifest(entries, fingerprint, capacity, vocab)))
    return folder


def _rows(count: int, seed: int, capacity: int, vocab: int) -> Iterator[Rows]:
    """`count` full bins, 64 at a time."""
    random = np.random.default_rng(seed)
    for start in range(0, count, 64):
        bins = min(64, count - start)
        inner = np.argpartition(random.random((bins, capacity - 1)), DOCUMENTS - 1)[:, : DOCUMENTS - 1] + 1
        edges = np.hstack([np.zeros((bins, 1), np.int64), np.sort(inner), np.full((bins, 1), capacity)])
        lengths = np.diff(edges).reshape(-1).astype(np.int32)
        ids = np.minimum(random.zipf(1.2, bins * capacity), vocab - 1).astype(np.int32)
        place = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        trained = place > np.repeat(lengths // 2, lengths)
        yield Rows(
            input_ids=ids,
            labels=np.where(trained, ids, np.int32(IGNORE_INDEX)),
            seq_lengths=lengths,
            record_ids=np.arange(len(lengths)),
            doc_flags=np.zeros(len(lengths), np.int32),
            bins=np.arange(bins + 1) * DOCUMENTS,
        )


def _manifest(entries: list[FileEntry], fingerprint: str, capacity: int, vocab: int) -> Manifest:
    tokens, documents = sum(entry.tokens for entry in entries), sum(entry.documents for entry in entries)
    trained, no_hash = sum(entry.loss_tokens for entry in entries), "0" * 64
    ids: dict[str, Any] = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": None, "stop_token_ids": [1]}
    return Manifest(
        format_version=FORMAT_VERSION,
        fingerprint=fingerprint,
        files={"train": tuple(entries)},
        inputs=[{"address": "synthetic", "size": 0, "sha256": no_hash, "records": documents}],
        tokenizer={"sha256": no_hash, "vocab_size": vocab, "largest_id": vocab - 1, **ids},
        template={"sources": {}, "sha256": {}, "kwargs": {}, "clock": "2026-01-01"},
        config={"max_length": capacity, "train_on": "replies"},
        ledger={
            "records": {"read": documents, "written": documents, "rejected": 0, "duplicate": 0},
            "examples": {"written": documents, "rejected": 0},
            "tokens": {"rendered": tokens, "written": tokens, "dropped": 0, "trained": trained},
            "rejections": {},
        },
    )


def _always(path: Path) -> Callable[[int], Path]:
    """The name of every part: there is but one."""
    return lambda _: path
