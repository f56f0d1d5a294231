"""The order in which an epoch visits the bins: a pure function of (seed, epoch, fingerprint).

What lives here: permutations, and nothing that reads or counts. What must not: world sizes, workers, past resumes;
whoever asks for positions 8 to 15 gets the same bins whatever came before.

The row groups are permuted and cut into windows of `window` groups, and the bins of a window are shuffled. So a
reader that keeps one window of row groups decodes each once an epoch, and no list is ever longer than the number of
row groups or the bins of a window. Keys come from a fixed 64-bit mix and not from a library's generator, whose
stream may change between versions.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from sftdata.records import Int64Array

__all__ = ["WINDOW", "BinOrder", "FileOrder", "Order", "digest64", "permutation"]

_Uint64Array = npt.NDArray[np.uint64]
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

WINDOW = 32
"""Row groups a window, of about 2^18 tokens each: some 70 MB of ids and labels, and bins from 32 places of the set.
A constant, because the order of a sealed set must not depend on a reader's settings."""


class Order(Protocol):
    """Which bin stands at which position of an epoch."""

    @property
    def length(self) -> int:
        """Bins in an epoch."""

    def bins(self, epoch: int, positions: Int64Array) -> Int64Array:
        """int64 positions in [0, length) to the bins that stand there in this epoch."""


def digest64(*parts: object) -> int:
    """64 bits of the sha256 of the parts' text: `digest64(0, 1, "ab")` differs from `digest64(0, 1, "ac")`."""
    text = "\x00".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def permutation(length: int, key: int) -> Int64Array:
    """A permutation of range(length) that depends on (length, key) alone, in every version of everything.

    Sorts by the finaliser of splitmix64 over `key + i · golden`, which is a bijection, so no two keys are equal.
    """
    golden, first, second = (np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
    with np.errstate(over="ignore"):
        keys: _Uint64Array = np.arange(length, dtype=np.uint64) * golden + np.uint64(key)
        keys = (keys ^ (keys >> np.uint64(30))) * first
        keys = (keys ^ (keys >> np.uint64(27))) * second
        keys ^= keys >> np.uint64(31)
    return np.argsort(keys)


class FileOrder:
    """The bins as they lie on disk, in every epoch."""

    def __init__(self, length: int) -> None:
        self.length = length

    def bins(self, epoch: int, positions: Int64Array) -> Int64Array:  # noqa: ARG002
        """The positions themselves."""
        return positions


class BinOrder:
    """Row groups permuted, windows of them shuffled.

    `BinOrder([2, 3], seed=0, fingerprint="ab").bins(0, np.arange(5))` is a permutation of 0 to 4, and another one
    in epoch 1.
    """

    _KEPT_EPOCHS = 2
    """Plans kept: an epoch's end and the next one's beginning are asked for in turn."""
    _KEPT_WINDOWS = 4

    def __init__(self, group_rows: npt.ArrayLike, *, seed: int, fingerprint: str, window: int = WINDOW) -> None:
        self.group_rows = np.asarray(group_rows, dtype=np.int64)
        """int64 `[R]`, bins of each row group in the order of the files."""
        self.seed = seed
        self.fingerprint = fingerprint
        self.window = window
        self.length = int(self.group_rows.sum())
        self._group_starts: Int64Array = np.cumsum(self.group_rows) - self.group_rows
        self._plans: OrderedDict[int, tuple[Int64Array, Int64Array]] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], Int64Array] = OrderedDict()

    def bins(self, epoch: int, positions: Int64Array) -> Int64Array:
        """int64 positions in [0, length) to the bins that stand there in this epoch."""
        _, window_starts = self._plan(epoch)
        windows = np.searchsorted(window_starts, positions, side="right") - 1
        out = np.empty(len(positions), dtype=np.int64)
        for window in set(windows.tolist()):  # most often one
            here = windows == window
            out[here] = self._window(epoch, window)[positions[here] - window_starts[window]]
        return out

    def _plan(self, epoch: int) -> tuple[Int64Array, Int64Array]:
        """The groups as permuted, int64 `[R]`, and the position at which each window begins, int64 `[windows]`."""
        if epoch not in self._plans:
            groups = permutation(len(self.group_rows), digest64("groups", self.seed, epoch, self.fingerprint))
            rows = self.group_rows[groups]
            starts: Int64Array = (np.cumsum(rows) - rows)[:: self.window]
            self._plans[epoch] = (groups, starts)
            _trim(self._plans, self._KEPT_EPOCHS)
        return self._plans[epoch]

    def _window(self, epoch: int, window: int) -> Int64Array:
        """The bins of a window in the order of the epoch."""
        key = (epoch, window)
        if key not in self._windows:
            groups = self._plan(epoch)[0][window * self.window : (window + 1) * self.window]
            rows = self.group_rows[groups]
            inside = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows)
            bins = np.repeat(self._group_starts[groups], rows) + inside
            shuffled = permutation(len(bins), digest64("window", window, self.seed, epoch, self.fingerprint))
            self._windows[key] = bins[shuffled]
            _trim(self._windows, self._KEPT_WINDOWS)
        return self._windows[key]


def _trim(kept: OrderedDict[_Key, _Value], most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)
