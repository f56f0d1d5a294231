"""Replies to held-out prompts, taken from shards: what a server would be asked, and what it should say.

What lives here: prompts and references out of packed bins, and generation until a stop. What must not: text, scores.
In a shard the ids before a trained span are the prompt exactly as it is served, so nothing is rendered here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from sftdata.records import IGNORE_INDEX, DocFlag, Int32Array
from sftdata_torch.collate import Row
from sftdata_torch.dataset import PackedDataset

__all__ = ["Prompt", "Reply", "Sampling", "generate_replies", "held_out_prompts"]


class Prompt(NamedTuple):
    """One trained span of a shard, with what stands before it."""

    record_id: int
    ids: Int32Array
    """int32 `[P]`, the prompt as served."""
    reference: Int32Array
    """int32 `[R]`, the reply of the data, its stop included."""


class Sampling(NamedTuple):
    """How replies are drawn."""

    max_new_tokens: int = 256
    temperature: float = 0.7
    """0 takes the likeliest token every time."""
    top_p: float = 0.9
    seed: int = 0


class Reply(NamedTuple):
    """What the model said."""

    ids: list[int]
    """Without the stop."""
    stopped: bool
    """It ended by itself, with a stop token, before the limit."""


def held_out_prompts(bins: PackedDataset, *, limit: int | None = None) -> list[Prompt]:
    """The first `limit` trained spans of `bins` in its order, those of texts and of cut documents left out.

    A chat of two turns gives two prompts, the second with the first reply in it.
    """
    found: list[Prompt] = []
    for at in range(len(bins)):
        found += _prompts(bins[at])
        if limit is not None and len(found) >= limit:
            return found[:limit]
    return found


def _prompts(row: Row) -> Iterator[Prompt]:
    ends = np.cumsum(row["seq_lengths"])
    for end, length, record, flags in zip(ends, row["seq_lengths"], row["record_ids"], row["doc_flags"], strict=True):
        if flags & (DocFlag.TEXT | DocFlag.CONTINUES | DocFlag.NO_STOP):
            continue
        ids, labels = row["input_ids"][end - length : end], row["labels"][end - length : end]
        edges = np.diff(np.concatenate([[0], labels != IGNORE_INDEX, [0]]).astype(np.int8))
        for start, stop in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
            yield Prompt(int(record), ids[:start], ids[start:stop])


@torch.no_grad()
def generate_replies(
    model: Any,
    prompts: Sequence[Prompt],
    stops: Sequence[int],
    sampling: Sampling = Sampling(),  # noqa: B008  # an immutable constant
    *,
    autocast: torch.dtype | None = None,
    batch_size: int = 8,
) -> list[Reply]:
    """A reply to every prompt, in their order: to `[5, 6]` with the stop 1 for example `Reply([7, 8], True)`.

    `model` is a transformers model, adapted or not; its mode and attention are the same afterwards. The same seed and
    batch size give the same replies.
    """
    from transformers import GenerationConfig

    device = model.get_input_embeddings().weight.device
    greedy = sampling.temperature == 0
    drawn = {} if greedy else {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=not greedy,
        eos_token_id=list(stops),
        pad_token_id=stops[0],
        use_cache=True,
        **drawn,
    )
    replies: dict[int, Reply] = {}
    by_length = sorted(range(len(prompts)), key=lambda at: len(prompts[at].ids))
    with _generating(model), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(sampling.seed)
        for low in range(0, len(by_length), batch_size):
            chosen = by_length[low : low + batch_size]
            ids, mask = _left_padded([prompts[at].ids for at in chosen], stops[0])
            with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                out = model.generate(input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config)
            for at, row in zip(chosen, out[:, ids.shape[1] :].tolist(), strict=True):
                replies[at] = _until_stop(row, stops)
    return [replies[at] for at in range(len(prompts))]


def _left_padded(prompts: Sequence[Int32Array], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`[[5], [6, 7]]` with pad 0 to `[[0, 5], [6, 7]]` and the mask `[[0, 1], [1, 1]]`, int64."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


def _until_stop(ids: Sequence[int], stops: Sequence[int]) -> Reply:
    """`[7, 8, 1, 0]` with the stop 1 to `Reply([7, 8], True)`."""
    end = next((at for at, token in enumerate(ids) if token in stops), None)
    return Reply(list(ids[:end]), end is not None)


@contextmanager
def _generating(model: Any) -> Iterator[None]:
    """Eval mode, and an attention that can use a cache, inside; everything as it was afterwards.

    transformers fills what a generation config leaves open from the model's own (the repetition penalty of an
    instruction model changes greedy replies, too), so that one stands aside meanwhile: base and tuned model are drawn
    from alike.
    """
    from transformers import GenerationConfig

    training, attention = model.training, model.config._attn_implementation  # there is no other name
    own = model.get_base_model() if hasattr(model, "peft_config") else model
    kept = [(each, each.generation_config) for each in (own, model)]  # peft hands its own to the model inside
    model.eval()
    if attention.startswith("packed_"):
        model.set_attn_implementation("sdpa")
    for each, _ in kept:
        each.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for each, config in kept:
            each.generation_config = config
        model.set_attn_implementation(attention)
        model.train(training)
