"""Law 10 on the CPU: a packed forward equals the documents' separate forwards, logits and gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from sftdata.errors import ConfigError
from sftdata_torch.attention import adapt_varlen, register_attention, varlen_attention
from sftdata_torch.collate import FixedShape, PackedCollator
from sftdata_torch.layouts import dense
from tests.torch.packs import row, tiny
from tests.torch.zoo import ZOO, made

PACKED = register_attention()
LENGTHS = [5, 9, 1, 7, 12]
ROWS = [row(LENGTHS[:3], seed=1), row(LENGTHS[3:], seed=2)]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: the varlen path has not run")


def alone(model: torch.nn.Module, batch: dict[str, Any]) -> list[torch.Tensor]:
    """The logits of every document in a forward of its own."""
    pieces = batch["input_ids"][0].split(LENGTHS)
    return [
        model(
            input_ids=ids[None],
            cu_seq_lens_q=torch.tensor([0, len(ids)], dtype=torch.int32, device=ids.device),
            max_length_q=len(ids),
        ).logits[0]
        for ids in pieces
    ]


def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum", ignore_index=-100)


def gradients(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


CASES = [
    ("sdpa", PackedCollator()),
    ("eager", PackedCollator()),
    (PACKED, PackedCollator()),
    ("packed_blocks", PackedCollator(targets=False)),
    ("sdpa", PackedCollator(form="dense")),
    ("eager", PackedCollator(form=partial(dense, dtype=torch.float64))),
    (PACKED, PackedCollator(fixed=FixedShape(48, 12, 12))),
    ("sdpa", PackedCollator(fixed=FixedShape(48, 12, 12))),
]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize(("attention", "collate"), CASES)
def test_packed_forward_and_gradient_equal_those_of_the_documents_alone(family, attention, collate):
    model = tiny(family, attention).double()
    batch = collate(ROWS)
    model.zero_grad()
    separate = alone(model, {"input_ids": batch["input_ids"][:, : sum(LENGTHS)]})
    labels = batch["labels"][0, : sum(LENGTHS)]
    sum(loss(each, part) for each, part in zip(separate, labels.split(LENGTHS), strict=True)).backward()
    expected = gradients(model)
    model.zero_grad()
    logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits[0]
    loss(logits, batch["labels"][0]).backward()
    # transformers' eager attention takes its softmax in float32 whatever the model's type
    near, close = (1e-6, 1e-4) if attention == "eager" else (1e-12, 1e-9)
    torch.testing.assert_close(logits[: sum(LENGTHS)], torch.cat(separate), rtol=0, atol=near)
    torch.testing.assert_close(gradients(model), expected, rtol=close, atol=near)


def uncompiled_flex_attention(*given: torch.Tensor, training: bool = False, **asked: Any) -> Any:
    return flex_attention(*given, **asked)  # type: ignore[call-overload]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_packed_logits_under_flex_equal_those_of_the_documents_alone(family, monkeypatch):
    """Forward only: flex has no backward on the CPU. Uncompiled, since what is tested is the mask."""
    monkeypatch.setattr(
        "transformers.integrations.flex_attention.compile_friendly_flex_attention", uncompiled_flex_attention
    )
    model = tiny(family, "flex_attention")
    with torch.no_grad():
        batch = PackedCollator(form="flex")(ROWS)
        logits = model(**batch).logits[0]
        model.set_attn_implementation("eager")
        expected = torch.cat(alone(model, batch))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [1, 4, 100])
def test_sliding_window_equals_that_of_eager_attention(window):
    sizes = {"use_sliding_window": True, "sliding_window": window, "max_window_layers": 0}
    batch = PackedCollator()(ROWS)
    packed = tiny("qwen2", PACKED, **sizes)(**batch).logits
    eager = tiny("qwen2", "eager", **sizes)(**batch).logits
    torch.testing.assert_close(packed, eager, rtol=0, atol=1e-6)


def refused(model: torch.nn.Module, batch: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^packed attention: {words}"):
        model(**batch)


def test_attention_without_the_lengths_is_refused():
    batch = PackedCollator()(ROWS)
    model = tiny("llama", PACKED)
    refused(model, {"input_ids": batch["input_ids"]}, r"cu_seq_lens_q is missing\. Pass the whole batch")
    short = {**batch, "cu_seq_lens_q": batch["cu_seq_lens_q"][:-1]}
    refused(model, short, "cu_seq_lens_q runs from 0 to 22 over 34 tokens")
    two = {name: torch.cat([value] * 2) for name, value in batch.items() if name in ("input_ids", "position_ids")}
    refused(model, {**batch, **two}, "a batch of 2 rows")
    mask = torch.ones(1, 1, 34, 34, dtype=torch.bool)
    states = torch.zeros(1, 2, 34, 4)
    module = torch.nn.Identity()
    with pytest.raises(ConfigError, match="an attention_mask was given"):
        varlen_attention(module, states, states, states, mask, **batch)


def test_attention_with_a_cache_or_an_unknown_request_is_refused():
    batch = PackedCollator()(ROWS)
    states, longer = torch.zeros(1, 2, 34, 4), torch.zeros(1, 2, 35, 4)
    with pytest.raises(ConfigError, match="a cache holds earlier keys"):
        varlen_attention(torch.nn.Identity(), states, longer, longer, None, **batch)
    with pytest.raises(ConfigError, match="this model's attention needs position_bias"):
        varlen_attention(torch.nn.Identity(), states, states, states, None, position_bias=longer, **batch)
    with pytest.raises(ConfigError, match="a layer that also looks ahead"):
        varlen_attention(torch.nn.Identity(), states, states, states, None, is_causal=False, **batch)


@pytest.mark.parametrize("family", [name for name, each in ZOO.items() if each.packed])
def test_packed_attention_equals_the_models_own(family):
    """On one document that is longer than windows, where a cap, a sink or a scale of the model's would be seen."""
    batch = PackedCollator(targets=False)([row([23], seed=3)])
    model = made(family, "eager")
    own = model(**batch).logits
    model.set_attn_implementation(PACKED)
    torch.testing.assert_close(model(**batch).logits, own, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "words"),
    [("llama4", "a layer of type chunked_attention"), ("phimoe", "a layer with a sliding window that it does not")],
)
def test_masks_that_only_transformers_knows_are_refused(family, words):
    """Without a word these layers would see what the model never lets them see."""
    refused(made(family, PACKED), PackedCollator(targets=False)(ROWS), words)


def test_names_avoid_what_transformers_dispatches_on():
    from sftdata_torch.attention import ATTENTION

    for name in ATTENTION:
        assert not any(part in name for part in ("sdpa", "flex_attention", "flash", "/"))


def varlen_2_11(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    return {"window_size": window_size, "scale": scale, "longest": (max_q, max_k)}


def varlen_2_13(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False):
    return {"window_size": window_size, "scale": scale, "longest": (max_q, max_k), "enable_gqa": enable_gqa}


def varlen_2_15(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, enable_gqa, scale=None, window_size=(-1, -1)):
    return {"window_size": window_size, "scale": scale, "longest": (max_q, max_k), "enable_gqa": enable_gqa}


def varlen_2_10(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
    return None


@pytest.mark.parametrize(
    ("kernel", "extra"),
    [(varlen_2_11, {}), (varlen_2_13, {"enable_gqa": True}), (varlen_2_15, {"enable_gqa": True})],
)
def test_shim_asks_every_known_signature_for_causal_attention(kernel, extra):
    query, key = torch.zeros(6, 4, 8), torch.zeros(6, 2, 8)
    attend = adapt_varlen(kernel)
    for left in (-1, 3):
        asked = attend(query, key, key, torch.tensor([0, 6]), 6, 0.5, left)
        assert asked == {"window_size": (left, 0), "scale": 0.5, "longest": (6, 6), **extra}


def test_shim_refuses_the_signature_that_could_not_say_causal_with_a_scale():
    assert adapt_varlen(varlen_2_10) is None


@needs_gpu
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_varlen_kernel_equals_the_documents_alone_in_half_precision(family):
    sizes = {"hidden_size": 128, "intermediate_size": 128}
    reference = tiny(family, "eager", **sizes)
    batch = PackedCollator()(ROWS)
    expected = torch.cat(alone(reference, batch))
    loss(expected, batch["labels"][0]).backward()
    model = tiny(family, PACKED, **sizes).to("cuda", torch.bfloat16)
    moved = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    logits = model(**{name: value for name, value in moved.items() if name != "labels"}).logits[0]
    loss(logits.float(), moved["labels"][0]).backward()
    pairs = ((logits, expected), (gradients(model), gradients(reference)))
    for ours, theirs in pairs:
        ours, theirs = ours.detach().float().cpu().flatten(), theirs.detach().flatten()
        assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.999
        assert (ours - theirs).norm() <= 2e-2 * theirs.norm()
