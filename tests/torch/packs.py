"""Small rows and tiny models for the tests of `sftdata_torch`; a module of its own, so that tests may import it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from sftdata.shards import FINGERPRINT_KEY, FORMAT_VERSION, Manifest, Rows, ShardWriter, dump_manifest

VOCAB = 97
_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "use_cache": False,
}
MODELS = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}


def tiny(family: str, attention: str = "sdpa", seed: int = 0, **sizes: Any) -> PreTrainedModel:
    """A random two-layer model, float32, the same for the same seed."""
    config, model = MODELS[family]
    torch.manual_seed(seed)
    made: PreTrainedModel = model(config(**{**_SIZES, **sizes}))
    made.set_attn_implementation(attention)
    return made


def row(lengths: Sequence[int], seed: int = 0, trained: float = 0.6) -> dict[str, np.ndarray]:
    """A bin of documents of these lengths: random ids, about `trained` of the labels kept."""
    random = np.random.default_rng(seed)
    total = sum(lengths)
    ids = random.integers(1, VOCAB, total).astype(np.int32)
    labels = np.where(random.random(total) < trained, ids, -100).astype(np.int32)
    starts = np.cumsum([0, *lengths[:-1]])
    labels[starts] = -100
    return {"input_ids": ids, "labels": labels, "seq_lengths": np.array(lengths, dtype=np.int32)}


@st.composite
def rows(draw: st.DrawFn, most_rows: int = 4, most_documents: int = 5, longest: int = 12) -> list[dict[str, Any]]:
    """One to `most_rows` bins of random documents."""
    lengths = st.lists(st.integers(1, longest), min_size=1, max_size=most_documents)
    bins = draw(st.lists(lengths, min_size=1, max_size=most_rows))
    return [row(documents, seed=draw(st.integers(0, 1000))) for documents in bins]


def flat(bins: Sequence[dict[str, np.ndarray]]) -> Rows:
    """Bins as the shard writer takes them; document k comes from record k."""
    documents = np.cumsum([0, *(len(each["seq_lengths"]) for each in bins)], dtype=np.int64)
    joined = {name: np.concatenate([each[name] for each in bins]) for name in ("input_ids", "labels", "seq_lengths")}
    count = int(documents[-1])
    return Rows(**joined, record_ids=np.arange(count), doc_flags=np.zeros(count, np.int32), bins=documents)


def sealed(
    folder: Path,
    bins: Sequence[dict[str, np.ndarray]],
    *,
    files: int = 2,
    group_tokens: int = 60,
    run: str = "a",
    **splits: Sequence[dict[str, np.ndarray]],
) -> Path:
    """A sealed set of these bins in `folder`: `files` shards of row groups of about `group_tokens` tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    fingerprint = hashlib.sha256(run.encode()).hexdigest()
    entries: dict[str, tuple[Any, ...]] = {}
    for split, rows_of_split in {"train": bins, **splits}.items():
        cut = np.array_split(np.arange(len(rows_of_split)), min(files, len(rows_of_split)))
        written: list[Any] = []
        for at, members in enumerate(cut):
            path = folder / f"{split}-{at:05d}-of-{len(cut):05d}.parquet"
            metadata = {FINGERPRINT_KEY: fingerprint}
            writer = ShardWriter(_always(path), metadata=metadata, max_group_tokens=group_tokens)
            writer.write(flat([rows_of_split[member] for member in members]))
            written += writer.close()
        entries[split] = tuple(written)
    (folder / "manifest.json").write_bytes(dump_manifest(_manifest(entries, fingerprint)))
    return folder


def _manifest(files: dict[str, tuple[Any, ...]], fingerprint: str) -> Manifest:
    every = [entry for entries in files.values() for entry in entries]
    tokens, documents = sum(entry.tokens for entry in every), sum(entry.documents for entry in every)
    none = "0" * 64
    return Manifest(
        format_version=FORMAT_VERSION,
        fingerprint=fingerprint,
        files=files,
        inputs=[{"address": "chats.jsonl", "size": 1, "sha256": none, "records": documents}],
        tokenizer={
            "sha256": none,
            "vocab_size": VOCAB,
            "largest_id": VOCAB - 1,
            "stop_token_ids": [1],
            "bos_token_id": None,
            "eos_token_id": 1,
            "pad_token_id": None,
        },
        template={"sources": {"default": ""}, "sha256": {"default": none}, "kwargs": {}, "clock": "2026-01-01"},
        config={"max_length": 4096, "train_on": "replies"},
        ledger={
            "records": {"read": documents, "written": documents, "rejected": 0, "duplicate": 0},
            "examples": {"written": documents, "rejected": 0},
            "tokens": {
                "rendered": tokens,
                "written": tokens,
                "dropped": 0,
                "trained": sum(entry.loss_tokens for entry in every),
            },
            "rejections": {},
        },
    )


def many(count: int, seed: int = 0, longest: int = 12) -> list[dict[str, np.ndarray]]:
    """`count` bins of one to four documents; the first id of bin k is 1 + k % 90, so that bins can be told apart."""
    random = np.random.default_rng(seed)
    out = []
    for number in range(count):
        each = row(random.integers(2, longest, random.integers(1, 5)).tolist(), seed=seed * 1000 + number)
        each["input_ids"][0] = 1 + number % 90
        out.append(each)
    return out


def _always(path: Path) -> Callable[[int], Path]:
    """The name of every part: there is but one."""
    return lambda _: path
