"""Tiny random models of a stranger's choice: most public families, each with what is its own (windows, caps, sinks,
experts, absolute positions, recurrence). A module of its own, so that tests may import it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import transformers
from transformers import PreTrainedModel

from tests.torch.packs import VOCAB

__all__ = ["ZOO", "Family", "made"]


class Family(NamedTuple):
    """One architecture of transformers."""

    config: str
    model: str
    sizes: dict[str, Any]
    own: tuple[str, ...] = ("sdpa", "eager")
    """Its own attention implementations that keep packed documents apart, of those that run on a CPU."""
    packed: bool = True
    """Ours does, and it is what the model computes by itself."""


def made(name: str, attention: str, seed: int = 0, **sizes: Any) -> PreTrainedModel:
    """The model of this name, float32, with weights large enough that everything in it has a say."""
    family = ZOO[name]
    torch.manual_seed(seed)
    config = getattr(transformers, family.config)(**{**family.sizes, **sizes})
    model: PreTrainedModel = getattr(transformers, family.model)(config)
    model = model.float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 or not parameter.any():
                parameter.normal_(0, 0.2)
    model.set_attn_implementation(attention)
    return model


_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SIZES = {
    **_COMMON,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
_HEAD = {"head_dim": 8}
_WINDOW = {"sliding_window": 4}
_MAMBA = {**_COMMON, "state_size": 8}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
_OPT = {"ffn_dim": 48, "num_attention_heads": 4, "max_position_embeddings": 256, "word_embed_proj_dim": 32}
_TWO_KINDS = {"layer_types": ["sliding_attention", "full_attention"]}

ZOO = {
    "llama": Family("LlamaConfig", "LlamaForCausalLM", _SIZES),
    "qwen2": Family("Qwen2Config", "Qwen2ForCausalLM", _SIZES),
    "qwen3": Family("Qwen3Config", "Qwen3ForCausalLM", {**_SIZES, **_HEAD}),
    "gemma": Family("GemmaConfig", "GemmaForCausalLM", {**_SIZES, **_HEAD}),
    "gemma2": Family("Gemma2Config", "Gemma2ForCausalLM", {**_SIZES, **_HEAD, **_WINDOW}, own=("eager",)),
    "gemma3": Family("Gemma3TextConfig", "Gemma3ForCausalLM", {**_SIZES, **_HEAD, **_WINDOW, **_TWO_KINDS}),
    "mistral": Family("MistralConfig", "MistralForCausalLM", {**_SIZES, **_WINDOW}),
    "phi3": Family("Phi3Config", "Phi3ForCausalLM", {**_SIZES, **_WINDOW}),
    "gpt2": Family("GPT2Config", "GPT2LMHeadModel", {**_COMMON, **_GPT2}),
    "olmo2": Family("Olmo2Config", "Olmo2ForCausalLM", _SIZES),
    "cohere2": Family("Cohere2Config", "Cohere2ForCausalLM", {**_SIZES, **_WINDOW, **_TWO_KINDS}),
    "mixtral": Family("MixtralConfig", "MixtralForCausalLM", {**_SIZES, "num_local_experts": 4}),
    "qwen2-moe": Family(
        "Qwen2MoeConfig",
        "Qwen2MoeForCausalLM",
        {**_SIZES, **_EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 16},
    ),
    "gpt-oss": Family(  # its own masks are not told the positions
        "GptOssConfig",
        "GptOssForCausalLM",
        {**_SIZES, **_HEAD, **_WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2},
        own=(),
    ),
    "llama4": Family(
        "Llama4TextConfig",
        "Llama4ForCausalLM",
        {**_SIZES, **_HEAD, "attention_chunk_size": 4, "num_local_experts": 2, "intermediate_size_mlp": 48},
        packed=False,
    ),
    "phimoe": Family("PhimoeConfig", "PhimoeForCausalLM", {**_SIZES, **_WINDOW, "num_local_experts": 4}, packed=False),
    "opt": Family("OPTConfig", "OPTForCausalLM", {**_COMMON, **_OPT}, own=()),
    "falcon": Family("FalconConfig", "FalconForCausalLM", {**_COMMON, "num_attention_heads": 4}, own=(), packed=False),
    "bloom": Family("BloomConfig", "BloomForCausalLM", {**_COMMON, "n_layer": 2, "n_head": 4}, own=(), packed=False),
    "mamba": Family("MambaConfig", "MambaForCausalLM", _MAMBA, own=(), packed=False),
    "mamba2": Family(
        "Mamba2Config",
        "Mamba2ForCausalLM",
        {**_MAMBA, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
        own=(),
        packed=False,
    ),
    "jamba": Family(
        "JambaConfig",
        "JambaForCausalLM",
        {**_SIZES, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
        own=(),
        packed=False,
    ),
    "recurrent-gemma": Family(
        "RecurrentGemmaConfig",
        "RecurrentGemmaForCausalLM",
        {**_SIZES, "attention_window_size": 8, "lru_width": 32},
        own=(),
        packed=False,
    ),
    "rwkv": Family(
        "RwkvConfig",
        "RwkvForCausalLM",
        {**_COMMON, "attention_hidden_size": 32, "intermediate_size": 48},
        own=(),
        packed=False,
    ),
}
