"""What a model thinks of held-out replies: loss, perplexity, bits per byte and token accuracy, by source.

What lives here: one pass over packed bins with the true tokens as context. What must not: generation, files, training.
All numbers are sums over tokens divided by sums, never means of means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.distributed as dist

from sftdata.records import Int64Array
from sftdata.shards import Manifest
from sftdata_torch.accumulation import on_device
from sftdata_torch.collate import PackedCollator, Row
from sftdata_torch.dataset import PackedDataset
from sftdata_torch.head import LossModel

__all__ = ["ALL", "Scores", "Sources", "Tokenizer", "evaluate_loss"]

ALL = "all"
"""The name of the whole set among the sources."""


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer to count bytes."""

    all_special_ids: list[int]

    def decode(self, token_ids: Any, **options: Any) -> Any: ...


class Scores(NamedTuple):
    """Of all trained tokens of a source."""

    loss: float
    """Mean, in nats a token."""
    perplexity: float
    accuracy: float
    """Share of tokens that were the likeliest."""
    bits_per_byte: float | None
    """Of the replies' text, whatever the tokenizer: without special tokens, which have no bytes. None without a
    tokenizer, or without text."""
    targets: int


@torch.no_grad()
def evaluate_loss(
    model: LossModel,
    bins: PackedDataset,
    *,
    device: torch.device,
    autocast: torch.dtype | None = None,
    tokenizer: Tokenizer | None = None,
    micro_batch: int = 1,
) -> dict[str, Scores]:
    """Scores of all `bins` under `"all"`, and of every input that has trained tokens under its address.

    `bins` is a split opened with `seed=None`. Every rank takes its share of it and gets the same answer. The model is
    in eval mode meanwhile.
    """
    sources = Sources(bins.manifest)
    sums = np.zeros((len(sources.names), _COLUMNS))
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    mine = range(rank, len(bins), world)
    training = model.training
    model.eval()
    try:
        for at in range(0, -(-len(bins) // world), micro_batch):  # as often on every rank: weights may be in shards
            places = mine[at : at + micro_batch]
            rows = [bins[place] for place in places or [0]]
            batch = on_device(PackedCollator()(rows), device)
            with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                losses, hits = model.token_losses(batch)
            if places:
                _add(sums, rows, batch, losses.double().cpu().numpy(), hits.cpu().numpy(), sources, tokenizer)
    finally:
        model.train(training)
    if world > 1:
        shared = torch.from_numpy(sums).to(device)
        dist.all_reduce(shared)
        sums = shared.cpu().numpy()
    parts = {name: _scores(row) for name, row in zip(sources.names, sums, strict=True) if row[_TARGETS]}
    return {ALL: _scores(sums.sum(axis=0)), **parts}


_NLL, _TARGETS, _HITS, _TEXT_NLL, _BYTES = range(5)
_COLUMNS = 5


class Sources:
    """Which input a record came from, by its id: inputs of 3 and 2 records hold 0 to 2, and 3 and 4."""

    def __init__(self, manifest: Manifest) -> None:
        self.names = [str(entry["address"]) for entry in manifest.inputs]
        self._ends: Int64Array = np.cumsum([int(entry["records"]) for entry in manifest.inputs])

    def of(self, record_id: int) -> str:
        """Its address."""
        return self.names[int(self.numbers(np.array([record_id]))[0])]

    def numbers(self, record_ids: Int64Array) -> Int64Array:
        """Positions in `names`."""
        return np.searchsorted(self._ends, record_ids, side="right").astype(np.int64)


def _add(
    sums: Any, rows: Sequence[Row], batch: Any, losses: Any, hits: Any, sources: Sources, tokenizer: Tokenizer | None
) -> None:
    """Add one batch to the sums `[S, 5]`."""
    records = np.concatenate([row["record_ids"] for row in rows])
    positions = batch["target_idx"].cpu().numpy()
    documents = batch["seq_idx"][0].cpu().numpy()[positions]
    where = sources.numbers(records)[documents]
    for column, values in ((_NLL, losses), (_TARGETS, np.ones_like(losses)), (_HITS, hits)):
        np.add.at(sums[:, column], where, values)
    if tokenizer is not None:
        targets = batch["labels"][0].cpu().numpy()[positions + 1]
        text = ~np.isin(targets, tokenizer.all_special_ids)
        np.add.at(sums[:, _TEXT_NLL], where[text], losses[text])
        for reply in np.split(np.arange(len(positions)), np.flatnonzero(np.diff(positions) != 1) + 1):
            if len(reply):
                ids = targets[reply][text[reply]].tolist()
                sums[where[reply[0]], _BYTES] += len(tokenizer.decode(ids).encode("utf-8", "replace"))


def _scores(row: Any) -> Scores:
    nll, targets, hits, text_nll, size = (float(value) for value in row)
    loss = nll / targets if targets else math.nan
    bits = text_nll / math.log(2) / size if size else None
    return Scores(
        loss,
        math.exp(min(loss, 700.0)) if targets else math.nan,
        hits / targets if targets else math.nan,
        bits,
        int(targets),
    )
