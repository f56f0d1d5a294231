"""Tiny random models of many families for the tests of training: plain heads, tied, capped, scaled, with a bias."""

from __future__ import annotations

from typing import Any

import torch
import transformers
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


def of_family(name: str, **sizes: Any) -> PreTrainedModel:
    """A random two-layer model of any family of `ZOO`, with packed attention."""
    kind, own = ZOO[name]
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "num_key_value_heads": 2}
    names = _SIZES if kind != "GPT2" else {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4}
    config = getattr(transformers, f"{kind}TextConfig" if kind == "Gemma3" else f"{kind}Config")
    made: PreTrainedModel = getattr(transformers, f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")(
        config(**{**names, **ids, **own, **sizes})
    )
    made.set_attn_implementation(register_attention())
    return made


ZOO: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
    "qwen3, tied": ("Qwen3", {"tie_word_embeddings": True}),
    "gemma": ("Gemma", {}),
    "gemma, untied": ("Gemma", {"tie_word_embeddings": False}),
    "gemma2": ("Gemma2", _CAPPED),
    "gemma2, capped attention": ("Gemma2", {"query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3", {"query_pre_attn_scalar": 8, "sliding_window": 4, "final_logit_softcapping": 2.0}),
    "mistral": ("Mistral", {"sliding_window": 4}),
    "phi": ("Phi", {}),
    "phi3": ("Phi3", {}),
    "olmo2": ("Olmo2", {}),
    "gpt2": ("GPT2", {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "cohere": ("Cohere", {"logit_scale": 0.3}),
    "granite": ("Granite", {"logits_scaling": 4.0}),
    "gpt-neox": ("GPTNeoX", {}),
}
"""Phi's head has a bias; gemma's, gemma2's, gpt2's and cohere's are tied; gemma2's and gemma3's are capped."""
