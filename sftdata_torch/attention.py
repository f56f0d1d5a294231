"""Attention that stays inside its document, for any transformers model, with no dependency but torch.

What lives here: two functions of transformers' attention interface and their registration. What must not: any
model's name. Under a name without an entry among transformers' mask functions no mask is built at all, so these
functions read `cu_seq_lens_q` and its kin from the batch, and raise where they are missing: silence would mean
attention across documents.

    packed_varlen   torch.nn.attention.varlen on CUDA in half precision, autocast's included; exact blocks through
                    SDPA elsewhere
    packed_blocks   exact blocks through SDPA everywhere: the slow reference, and the way round a broken kernel
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from sftdata.errors import ConfigError, describe

__all__ = ["ATTENTION", "block_attention", "register_attention", "varlen_attention"]

_UNSUPPORTED = ("position_bias",)
"""What some models ask of their attention and neither path computes."""
_PLAIN_ONLY = ("softcap", "s_aux")
"""What no kernel of torch computes: a cap on the scores, and a score that every query has beside its keys."""
_KERNEL_DEVICE = "cuda"
_LAYERS = ("full_attention", "sliding_attention", "attention", "hybrid", "hybrid_sliding")
"""The layer types whose mask is said by causality and `sliding_window` alone."""


def register_attention() -> str:
    """Make the names of `ATTENTION` known to transformers; returns "packed_varlen". May be called again.

    >>> AutoModelForCausalLM.from_pretrained(name, attn_implementation=register_attention())  # doctest: +SKIP
    """
    from transformers import AttentionInterface

    for name, function in ATTENTION.items():
        AttentionInterface.register(name, function)
    return "packed_varlen"


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **asked: Any,
) -> tuple[torch.Tensor, None]:
    """q `[1, heads, T, dim]` and k, v `[1, kv_heads, T, dim]` to `[1, T, heads, dim]`, causal within a document.

    Reads `cu_seq_lens_q` int32 `[N + 1]` and `max_length_q` from the batch; `sliding_window` and `dropout` from the
    model. Raises ConfigError where a length is missing, a cache or a mask is in use, or the model asks for more.
    """
    dtype = _kernel_dtype(query, value)
    if dtype is None or any(asked.get(name) is not None for name in _PLAIN_ONLY):
        return _EXACT["blocks"](module, query, key, value, attention_mask, scaling, **asked)
    bounds = _bounds(module, query, key, attention_mask, asked)
    longest = asked.get("max_length_q")
    if longest is None:
        raise _refusal("max_length_q is missing", "Pass the whole batch of PackedCollator to the model.")
    if module.training and asked.get("dropout"):
        raise _refusal(
            "the varlen kernel has no dropout",
            'Set attention_dropout (or attn_pdrop) to 0 in config.json, or use "packed_blocks".',
        )
    window = asked.get("sliding_window")
    if _KERNEL is None:
        raise _refusal(
            f"torch {torch.__version__} has no varlen attention with window_size and scale",
            'Use torch 2.11 on, or "packed_blocks".',
        )
    out = _KERNEL(
        query[0].transpose(0, 1).to(dtype),
        key[0].transpose(0, 1).to(dtype),
        value[0].transpose(0, 1).to(dtype),
        bounds,
        longest,
        scaling,
        -1 if window is None else window - 1,
    )
    return out[None], None


def _kernel_dtype(query: torch.Tensor, value: torch.Tensor) -> torch.dtype | None:
    """The half precision in which the kernel is to compute; None where it cannot.

    Under autocast that is autocast's, whatever comes in: rotated queries and keys are float32 there, as the weights
    are, and values are not. The kernel takes heads of one width, a multiple of 8 up to 256.
    """
    kind, width = query.device.type, query.shape[-1]
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    takes = kind == _KERNEL_DEVICE and dtype in (torch.bfloat16, torch.float16)
    return dtype if takes and width % 8 == 0 and width <= 256 and value.shape[-1] == width else None


def block_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **asked: Any,
) -> tuple[torch.Tensor, None]:
    """The same document by document: exact on every device and in every dtype. Needs no `max_length_q`.

    A document is one SDPA call, or where the model caps its scores (`softcap`) or has sinks (`s_aux`) the product
    written out. Costs a device-to-host copy of `cu_seq_lens_q` a batch where that lies on a device.
    """
    cuts = _read_once(_bounds(module, query, key, attention_mask, asked))
    tokens = query.shape[2]
    if cuts[0] != 0 or cuts[-1] != tokens:
        raise _refusal(
            f"cu_seq_lens_q runs from {cuts[0]} to {cuts[-1]} over {tokens} tokens",
            "It must begin with 0 and end with the number of tokens.",
        )
    dropout = float(asked.get("dropout") or 0.0) if module.training else 0.0
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    capped = {name: asked.get(name) for name in _PLAIN_ONLY}
    parts = []
    for start, stop in itertools.pairwise(cuts):
        if stop > start:
            mask = _window(stop - start, asked.get("sliding_window"), query.device)
            q, k, v = (part[:, :, start:stop] for part in (query, key, value))
            if any(value is not None for value in capped.values()):
                part = _written_out(q, k, v, mask, scaling, dropout, **capped)
            else:
                part = scaled_dot_product_attention(
                    q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling
                )
            parts.append(part)
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _read_once(bounds: torch.Tensor) -> list[int]:
    """The bounds as numbers, kept with the tensor: all layers are given the same one, and each would wait for it."""
    if not hasattr(bounds, "_as_numbers"):
        bounds._as_numbers = bounds.tolist()  # type: ignore[attr-defined]
    numbers: list[int] = bounds._as_numbers  # type: ignore[attr-defined]
    return numbers


ATTENTION: dict[str, Callable[..., tuple[torch.Tensor, None]]] = {
    "packed_varlen": varlen_attention,
    "packed_blocks": block_attention,
}


_EXACT: dict[str, Callable[..., tuple[torch.Tensor, None]]] = {"blocks": block_attention}


def leave_blocks_uncompiled() -> None:
    """Keep the exact blocks out of compiled layers: their cuts are numbers that differ from batch to batch, and every
    batch would be compiled anew."""
    from transformers import AttentionInterface

    _EXACT["blocks"] = torch.compiler.disable(block_attention)  # type: ignore[no-untyped-call]
    AttentionInterface.register("packed_blocks", _EXACT["blocks"])


def note_layer_types(model: torch.nn.Module) -> None:
    """Write the layer's type into attention layers that do not keep it: they would be asked for their number, and a
    compiled layer is compiled anew for every number."""
    for module in model.modules():
        kinds, at = getattr(getattr(module, "config", None), "layer_types", None), getattr(module, "layer_idx", None)
        if kinds and isinstance(at, int) and at < len(kinds) and not hasattr(module, "layer_type"):
            module.layer_type = kinds[at]


def _bounds(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    attention_mask: torch.Tensor | None,
    asked: dict[str, Any],
) -> torch.Tensor:
    """`cu_seq_lens_q`, once everything that would make it meaningless is ruled out."""
    bounds = asked.get("cu_seq_lens_q")
    if not isinstance(bounds, torch.Tensor):
        raise _refusal(
            "cu_seq_lens_q is missing",
            "Pass the whole batch of PackedCollator to the model; to generate, and for a model that does not hand it "
            'on to its layers, switch to "sdpa".',
        )
    if query.shape[0] != 1:
        raise _refusal(f"a batch of {query.shape[0]} rows", "Flatten the rows into one, as PackedCollator does.")
    if key.shape[2] != query.shape[2]:
        raise _refusal("a cache holds earlier keys", "Call the model with use_cache=False.")
    if attention_mask is not None:
        raise _refusal("an attention_mask was given", "Leave it out: the documents' bounds say everything.")
    for name in _UNSUPPORTED:
        if asked.get(name) is not None:
            raise _refusal(f"this model's attention needs {name}", _USE_ANOTHER)
    unknown = _mask_of_its_own(module, asked)
    if unknown is not None:
        raise _refusal(f"{unknown}, whose mask only transformers knows", _USE_ANOTHER)
    return bounds


_USE_ANOTHER = 'Use "sdpa", "eager" or "flex_attention", and assert_packing_isolated.'


def _mask_of_its_own(module: torch.nn.Module, asked: dict[str, Any]) -> str | None:
    """What this layer's mask has beside causality and `sliding_window`, in words; None for most layers.

    Without layer types in the configuration, its chunks or its window are those of all layers.
    """
    config = getattr(module, "config", None)
    kinds, own = getattr(config, "layer_types", None), getattr(module, "layer_type", None)
    if isinstance(own, str):
        kind = own
    elif kinds and all(each == kinds[0] for each in kinds):
        kind = str(kinds[0])
    elif kinds and hasattr(module, "layer_idx"):
        kind = str(kinds[module.layer_idx])  # see note_layer_types
    elif getattr(config, "attention_chunk_size", None):
        kind = "chunked_attention"
    else:
        kind = "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"
    if kind not in _LAYERS:
        return f"a layer of type {kind}"
    if "sliding" in kind and not asked.get("sliding_window"):
        return "a layer with a sliding window that it does not hand on"
    if asked.get("is_causal", getattr(module, "is_causal", True)) is False:
        return "a layer that also looks ahead"
    return None


def _written_out(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    dropout: float,
    *,
    softcap: float | None,
    s_aux: torch.Tensor | None,
) -> torch.Tensor:
    """Causal attention `[1, heads, L, dim]` with scores `softcap · tanh(score / softcap)`, and with a score `s_aux`
    `[heads]` of which every query's softmax has one more term."""
    length = query.shape[2]
    scores = query @ key.transpose(2, 3) * (query.shape[3] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    allowed = mask if mask is not None else torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    if s_aux is not None:
        scores = torch.cat([scores, s_aux.to(scores.dtype).view(1, -1, 1, 1).expand(1, -1, length, 1)], dim=-1)
    shares = scores.softmax(-1, dtype=torch.float32)[..., :length].to(value.dtype)
    return torch.nn.functional.dropout(shares, dropout) @ value


def _window(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """The bool mask of a sliding window over one document, None where causality alone says it."""
    if window is None or window >= length:
        return None
    at = torch.arange(length, device=device)
    distance = at[:, None] - at[None]
    return (distance >= 0) & (distance < window)


def _refusal(what: str, fix: str) -> ConfigError:
    return ConfigError(describe(what, where="packed attention", fix=fix))


def adapt_varlen(varlen_attn: Callable[..., Any]) -> Callable[..., torch.Tensor] | None:
    """One face for a signature that moved: `(q, k, v, bounds, longest, scale, left) -> out`, all `[T, heads, dim]`.

    From torch 2.11 on causality is `window_size=(-1, 0)`; `enable_gqa` came in 2.12, and before it the kernel took
    fewer key heads without being told (pytorch/torchtitan#2259). None for torch 2.10, which had neither a window
    nor a scale.
    """
    known = inspect.signature(varlen_attn).parameters
    if "window_size" not in known or "scale" not in known:
        return None
    takes_gqa = "enable_gqa" in known

    def attend(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bounds: torch.Tensor,
        longest: int,
        scale: float | None,
        left: int,
    ) -> torch.Tensor:
        extra = {"enable_gqa": query.shape[1] != key.shape[1]} if takes_gqa else {}
        out: torch.Tensor = varlen_attn(
            query, key, value, bounds, bounds, longest, longest, scale=scale, window_size=(left, 0), **extra
        )
        return out

    return attend


def _varlen_kernel() -> Callable[..., torch.Tensor] | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # before torch 2.10
        return None
    return adapt_varlen(varlen_attn)


_KERNEL = _varlen_kernel()
"""Resolved once, so that a compiled model never sees the look-up."""
