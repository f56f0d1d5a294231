"""Lengths in, bins out.

What lives here: the table of packers and the one function in front of them. What must not: tokens, records, files.
A new packer is a small file beside these and a line in METHODS; the contract tests pick it up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sftdata.errors import nearest
from sftdata.packing.best_fit import best_fit
from sftdata.packing.sequential import sequential
from sftdata.packing.unpacked import unpacked
from sftdata.records import Bins, Int32Array

__all__ = ["METHODS", "lower_bound", "pack"]

Packer = Callable[[Int32Array, int, tuple[int, int]], Bins]


def pack(lengths: Int32Array, capacity: int, method: str, *, seed: tuple[int, int]) -> Bins:
    """Assign every example to exactly one bin of at most `capacity` tokens.

    `pack(np.array([5, 5, 3, 3, 2], np.int32), 8, "sequential", seed=(0, 0))` gives the bins (5), (5, 3), (3, 2):
    order `[0, 1, 2, 3, 4]`, offsets `[0, 1, 3, 5]`. `lengths` is int32 `[E]`; `seed` is (seed, unit), read by
    `best-fit` alone, and the result is a function of the arguments: the same on every machine.

    Raises ValueError for a length that is not in [1, capacity] and for an unknown method: the caller's bugs,
    since the configuration and the length policy come before packing.
    """
    if method not in METHODS:
        raise ValueError(f"no packing method {method!r}: {nearest(method, METHODS)}")
    _check(lengths, capacity)
    return METHODS[method](lengths, capacity, seed)


def lower_bound(lengths: Int32Array, capacity: int) -> int:
    """The number of bins that no packing of these lengths can go below: `ceil(sum / capacity)`.

    >>> import numpy as np
    >>> lower_bound(np.array([5, 5, 3, 3, 2], np.int32), 8)
    3
    """
    _check(lengths, capacity)
    return -(-int(lengths.sum(dtype="int64")) // capacity)


def _check(lengths: Int32Array, capacity: int) -> None:
    if capacity < 1:
        raise ValueError(f"capacity is {capacity}, and must be at least 1")
    if not len(lengths):
        return
    for length in (int(lengths.min()), int(lengths.max())):
        if not 1 <= length <= capacity:
            raise ValueError(f"an example of {length} tokens cannot be packed into bins of {capacity}")


METHODS: Mapping[str, Packer] = {"best-fit": best_fit, "sequential": sequential, "none": unpacked}
"""The packers by the name that `--packing` takes."""
