"""Tiny random models of three families for the tests of training: a plain head, tied embeddings, a capped head."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GemmaConfig, GemmaForCausalLM, PreTrainedModel

from sftdata_torch.attention import register_attention
from tests.torch.packs import VOCAB, tiny

FAMILIES = ("llama", "qwen2", "gemma", "gemma2")


def causal(family: str, seed: int = 0, **sizes: Any) -> PreTrainedModel:
    """A random two-layer model with packed attention, float32: llama has its own head, gemma's is tied to its
    embeddings, gemma2's is tied and capped. The same for the same seed."""
    if family not in _GEMMAS:
        return tiny(family, register_attention(), seed, **sizes)
    config, model, own = _GEMMAS[family]
    torch.manual_seed(seed)
    made: PreTrainedModel = model(config(**{**_SIZES, **own, **sizes}))
    made.set_attn_implementation(register_attention())
    return made


_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "use_cache": False,
}
_CAPPED = {"final_logit_softcapping": 0.5, "attn_logit_softcapping": None, "query_pre_attn_scalar": 8}
_GEMMAS: dict[str, Any] = {
    "gemma": (GemmaConfig, GemmaForCausalLM, {}),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM, _CAPPED),
}
