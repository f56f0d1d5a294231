"""Small rows and tiny models for the tests of `sftdata_torch`; a module of its own, so that tests may import it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

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
