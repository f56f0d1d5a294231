"""The other forms of a batch, each derived from the canonical one.

What lives here: pure functions from the batch of `collate` to what one consumer reads, and the table of their
names. They may be applied in the collator, or after the batch was moved to its device (a flex mask must be). What
must not: reading, trainers.
"""

from __future__ import annotations

from typing import Any

import torch

from sftdata.errors import ConfigError, describe, nearest
from sftdata.records import IGNORE_INDEX
from sftdata_torch.collate import Batch, Form

__all__ = ["FORMS", "block_mask", "dense", "flex", "form_named", "padded", "thd", "torchtitan"]

_BLOCK = 128
"""Tokens a side of a flex block: the size of torch's kernels."""


def padded(batch: Batch, *, pad_id: int = 0) -> Batch:
    """Every document a row of its own: `input_ids`, `labels` and `attention_mask`, int64 `[N, longest]`.

    Documents of lengths 3 and 1 give `attention_mask` `[[1, 1, 1], [1, 0, 0]]`. Exact in any model, and as dear as
    padding always was.
    """
    lengths = batch["cu_seq_lens_q"].diff()
    lengths = lengths[lengths > 0].tolist()
    fills = {"input_ids": pad_id, "labels": IGNORE_INDEX}
    out: Batch = {
        name: torch.nn.utils.rnn.pad_sequence(list(batch[name][0].split(lengths)), batch_first=True, padding_value=fill)
        for name, fill in fills.items()
    }
    columns = torch.arange(max(lengths), device=batch["input_ids"].device)
    rows = torch.tensor(lengths, device=columns.device)
    out["attention_mask"] = (columns[None] < rows[:, None]).to(torch.int64)
    return out


def dense(batch: Batch, *, dtype: torch.dtype = torch.bool) -> Batch:
    """The batch with `attention_mask` `[1, 1, T, T]`: causal, and blocked by document.

    bool (True where a query may look) is what sdpa reads; a floating `dtype` gives 0 and the type's minimum, which
    both sdpa and eager add. Costs T² elements: for tests and models that read nothing else.
    """
    document = batch["seq_idx"][0]
    allowed = (document[:, None] == document[None]).tril()
    if dtype is not torch.bool:
        allowed = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(
            ~allowed, torch.finfo(dtype).min
        )
    return {**batch, "attention_mask": allowed[None, None]}


def block_mask(batch: Batch) -> Any:
    """The flex `BlockMask` of the batch, on the batch's device: causal, and blocked by document.

    Built from the documents at the blocks' edges, so that it costs (T / 128)² and not T². A block of queries
    sees a block of keys if the last document of the keys is not before the first of the queries, and sees all
    of it if both lie in one document.
    """
    from torch.nn.attention.flex_attention import BlockMask

    document = batch["seq_idx"][0]
    tokens = document.shape[0]
    blocks = -(-tokens // _BLOCK)
    first = document[::_BLOCK]
    edges = torch.arange(1, blocks + 1, device=document.device) * _BLOCK - 1
    last = document[edges.clamp(max=tokens - 1)]
    ordinal = torch.arange(blocks, device=document.device)
    before = ordinal[:, None] > ordinal[None]
    full = before & (first[None] == last[:, None])
    if tokens % _BLOCK:
        full[-1] = False  # the last block reaches beyond the tokens
    partial = (before | (ordinal[:, None] == ordinal[None])) & (last[None] >= first[:, None]) & ~full
    inside = torch.nn.functional.pad(document, (0, blocks * _BLOCK - tokens), value=-1)

    def same_document(b: Any, h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
        return (q >= k) & (inside[q] == inside[k])

    return BlockMask.from_kv_blocks(
        *_listed(partial), *_listed(full), BLOCK_SIZE=_BLOCK, mask_mod=same_document, seq_lengths=(tokens, tokens)
    )


def _listed(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many blocks each row chose, int32 `[1, 1, R]`, and their indices first, int32 `[1, 1, R, C]`."""
    order = torch.argsort(chosen.to(torch.int8), dim=-1, descending=True, stable=True)
    return chosen.sum(-1).to(torch.int32)[None, None], order.to(torch.int32)[None, None]


def flex(batch: Batch) -> Batch:
    """The batch with a flex `BlockMask` as `attention_mask`; apply it after the batch was moved to its device."""
    return {**batch, "attention_mask": block_mask(batch)}


def thd(batch: Batch) -> Batch:
    """Flat tensors for Transformer Engine, under the names of Megatron's packed parameters: int64 `[T]`, int32 bounds.

    `labels` are shifted here (`labels[t]` is the target of position t), because a THD model computes its loss
    without shifting.
    """
    return {
        "input_ids": batch["input_ids"][0],
        "position_ids": batch["position_ids"][0],
        "labels": _shifted(batch["labels"][0]),
        "cu_seqlens_q": batch["cu_seq_lens_q"],
        "cu_seqlens_kv": batch["cu_seq_lens_k"],
        "max_seqlen_q": batch["max_length_q"],
        "max_seqlen_kv": batch["max_length_k"],
        "qkv_format": "thd",
    }


def torchtitan(batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """`({"input": ids [T], "positions": positions [T]}, labels [T])`, labels shifted, ignored at -100."""
    inputs = {"input": batch["input_ids"][0], "positions": batch["position_ids"][0]}
    return inputs, _shifted(batch["labels"][0])


def _shifted(labels: torch.Tensor) -> torch.Tensor:
    """`[-100, 6, 7]` to `[6, 7, -100]`; a document's last position predicts nothing, as its first label is -100."""
    return torch.nn.functional.pad(labels[1:], (0, 1), value=IGNORE_INDEX)


FORMS: dict[str, Form | None] = {
    "flat": None,
    "padded": padded,
    "dense": dense,
    "flex": flex,
    "thd": thd,
    "torchtitan": torchtitan,
}


def form_named(name: str) -> Form | None:
    """The form of this name; None for the canonical one. Raises ConfigError for a name that is not there."""
    if name not in FORMS:
        raise ConfigError(describe(f"no batch form {name!r}", fix=nearest(name, FORMS)))
    return FORMS[name]
