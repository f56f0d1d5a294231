"""Which records repeat an eval set: the same conversation, or most of an eval item's words in order (SFT704, SFT705).

What lives here: an index of eval items by hashed 8-grams, and looking records up in it, block by block. Memory holds
the eval set's n-grams only. What must not: reading records.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from sftdata.quality.shingles import shingles

__all__ = ["NGRAM", "SHARE", "EvalIndex", "Overlap"]

NGRAM = 8
SHARE = 0.5
"""An item counts as touched where one record holds at least half of its 8-grams (the measure of Tulu 3)."""


class Overlap(msgspec.Struct, frozen=True):
    """One record that touches an eval item."""

    place: int
    """Of the record among the texts that were asked for."""
    item: int
    """Of the eval set, from 0."""
    share: float
    """Of the item's n-grams that the record holds."""


class EvalIndex:
    """The eval items by their n-grams."""

    def __init__(self, items: Sequence[str], keys: Sequence[int] = ()) -> None:
        """`items`: the questions, and what else is to be looked for, one text an item; `keys`: their content keys."""
        self.items = len(items)
        self.keys = {key: index for index, key in enumerate(keys)}
        hashes, offsets = shingles(items, NGRAM)
        owners = np.repeat(np.arange(self.items), np.diff(offsets))
        pairs = np.unique(np.stack([hashes, owners.astype(np.uint64)], axis=1), axis=0)
        self._hashes, self._owners = pairs[:, 0].copy(), pairs[:, 1].astype(np.int64)
        self._sizes = np.bincount(self._owners, minlength=self.items)

    def overlaps(self, texts: Sequence[str]) -> list[Overlap]:
        """The eval items that each text touches, the most touched first; at most one a text and item."""
        if not self.items or not len(texts):
            return []
        hashes, offsets = shingles(texts, NGRAM)
        places = np.repeat(np.arange(len(texts)), np.diff(offsets))
        first = np.searchsorted(self._hashes, hashes, side="left")
        count = np.searchsorted(self._hashes, hashes, side="right") - first
        hit = count > 0
        if not hit.any():
            return []
        first, count = first[hit], count[hit]
        begins = np.cumsum(count) - count
        entry = np.arange(int(count.sum())) - np.repeat(begins, count) + np.repeat(first, count)
        # an n-gram that a text repeats counts once
        seen = np.unique(np.stack([np.repeat(places[hit], count), self._owners[entry], entry], axis=1), axis=0)
        pairs, matched = np.unique(seen[:, :2], axis=0, return_counts=True)
        share = matched / self._sizes[pairs[:, 1]]
        found = [
            Overlap(int(place), int(item), float(part))
            for (place, item), part in zip(pairs.tolist(), share.tolist(), strict=True)
            if part >= SHARE
        ]
        return sorted(found, key=lambda one: (one.place, -one.share, one.item))
