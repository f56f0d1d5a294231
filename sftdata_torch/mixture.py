"""Several sealed sets as one, mixed by weight, with the same order, state and resume as a single set.

What lives here: the arithmetic that says which bin of which set stands at a position. What must not: reading (each
set reads itself).

The run is one endless line of positions, cut into blocks of `BLOCK`. Every block holds the same number of bins of
each set, the weights rounded to 1 / BLOCK, in an order of its own; and each set is gone through in its own epochs,
without replacement, whatever the other weights are. So what stands at a position is found without counting up to it:

    block b, set k with n_k bins a block: its bins number b · n_k to (b + 1) · n_k of its own line of epochs
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.utils import data

from sftdata.errors import ConfigError, describe
from sftdata.records import Int64Array
from sftdata_torch.collate import Row
from sftdata_torch.dataset import PackedDataset, resolved
from sftdata_torch.order import Order, digest64, permutation
from sftdata_torch.sampler import Bin

__all__ = ["BLOCK", "MixedDataset", "MixedOrder"]

BLOCK = 1024
"""Positions a block; the finest weight is one in so many."""


class MixedOrder:
    """The order of a mixture: see the head of this file.

    With counts (768, 256) a block holds 768 bins of the first set and 256 of the second; an epoch is `length`
    positions of the one endless line. Bins of set k are numbered from `starts[k]`.
    """

    def __init__(self, orders: Sequence[Order], counts: Sequence[int], *, length: int, key: int) -> None:
        self.length = length
        self._orders = orders
        self._key = key
        lengths = np.array([order.length for order in orders], dtype=np.int64)
        self.starts: Int64Array = np.cumsum(lengths) - lengths
        """int64 `[K]`, the number of each set's first bin."""
        self._sources = np.repeat(np.arange(len(counts)), counts)
        self._ordinals = np.concatenate([np.arange(count) for count in counts])
        self._counts = np.array(counts, dtype=np.int64)

    def bins(self, epoch: int, positions: Int64Array) -> Int64Array:
        """int64 positions in [0, length) to the bins that stand there in this epoch."""
        blocks, inside = np.divmod(positions + epoch * self.length, BLOCK)
        slots = np.empty(len(positions), dtype=np.int64)
        for block in np.unique(blocks):
            here = blocks == block
            slots[here] = permutation(BLOCK, digest64("block", int(block), self._key))[inside[here]]
        sources = self._sources[slots]
        ordinals = blocks * self._counts[sources] + self._ordinals[slots]
        out = np.empty(len(positions), dtype=np.int64)
        for source in np.unique(sources):
            own = self._orders[source]
            epochs, places = np.divmod(ordinals[sources == source], own.length)
            found = np.empty(len(places), dtype=np.int64)
            for each in np.unique(epochs):
                found[epochs == each] = own.bins(int(each), places[epochs == each])
            out[sources == source] = self.starts[source] + found
        return out


class MixedDataset(data.Dataset[Row]):
    """`MixedDataset([(chat, 3.0), (text, 1.0)])`: three bins of `chat` to one of `text`, exactly, in every 1,024.

    `chat` and `text` are `PackedDataset`s, opened with their seeds; the fingerprint is of all fingerprints, seeds and
    rounded weights, so a state fits this very mixture only. An epoch has `bins` bins (default: as many as all sets
    hold together); where a set has fewer it begins its next epoch, and no set is ever cut short.

    Raises ConfigError for weights that are not positive or too small to be met, and for sets of several tokenizers.
    """

    def __init__(self, parts: Sequence[tuple[PackedDataset, float]], *, bins: int | None = None) -> None:
        self.datasets = [dataset for dataset, _ in parts]
        counts = _counts([weight for _, weight in parts])
        _same_tokenizer(self.datasets)
        identity = [
            f"{each.fingerprint}:{each.seed}:{count}" for each, count in zip(self.datasets, counts, strict=True)
        ]
        self.seed = self.datasets[0].seed
        self.fingerprint = f"mix-{digest64(*identity):016x}"
        length = sum(map(len, self.datasets)) if bins is None else bins
        self._order = MixedOrder([each.order for each in self.datasets], counts, length=length, key=digest64(*identity))
        self.epoch = 0

    @property
    def order(self) -> MixedOrder:
        """The order of its epochs."""
        return self._order

    def __len__(self) -> int:
        """Bins in an epoch."""
        return self._order.length

    def __getitem__(self, key: int | Bin) -> Row:
        """As `PackedDataset`: a position of the present epoch, or a `Bin` by its number."""
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | Bin]) -> list[Row]:
        """The rows of several keys, in their order."""
        return [self._row(wanted) for wanted in resolved(keys, self._order, self.epoch)]

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's order plain positions mean."""
        self.epoch = epoch

    def _row(self, wanted: Bin) -> Row:
        starts = self._order.starts
        source = int(np.searchsorted(starts, wanted.place, side="right")) - 1
        return self.datasets[source][Bin(wanted.place - int(starts[source]), wanted.blank)]


def _same_tokenizer(datasets: Sequence[PackedDataset]) -> None:
    """Ids of two tokenizers mean different things: refuse to mix them."""
    hashes = [str(dataset.manifest.tokenizer["sha256"]) for dataset in datasets]
    if len(set(hashes)) > 1:
        listed = ", ".join(f"{value[:12]} in set {place}" for place, value in enumerate(hashes))
        raise ConfigError(
            describe(
                f"the sets were made with different tokenizers: {listed}",
                where="MixedDataset",
                fix="Run prepare again with one tokenizer.",
            )
        )


def _counts(weights: Sequence[float]) -> list[int]:
    """Bins of each set in a block: the weights' shares of BLOCK, rounded so that they sum to it (largest rests up)."""
    if not weights or min(weights) <= 0:
        raise ConfigError(describe(f"weights {list(weights)}", where="MixedDataset", expected="positive numbers"))
    exact = np.array(weights, dtype=np.float64) / sum(weights) * BLOCK
    counts = np.floor(exact).astype(np.int64)
    rest = BLOCK - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:rest]] += 1
    if counts.min() == 0:
        raise ConfigError(
            describe(
                f"weight {weights[int(counts.argmin())]} of {sum(weights)}",
                where="MixedDataset",
                expected=f"at least one bin in {BLOCK}",
                fix="Raise the weight, or leave the set out.",
            )
        )
    return [int(count) for count in counts]
