"""An order that a hash decides: the same on every platform and with every version of numpy.

What lives here: splitmix64 over counters, and a grouped order made of it. What must not: lengths and bins.
`numpy.random.Generator.permutation` is not used because numpy keeps the right to change what it returns.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sftdata.records import Int64Array

__all__ = ["grouped_order", "stream"]

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_BLOCK = 1 << 16  # 512 KiB of keys: the passes below stay in the cache


def stream(seed: tuple[int, int], purpose: int) -> int:
    """A 64-bit starting point for one purpose of one (seed, unit); other purposes are independent of it.

    >>> stream((0, 0), 1) == stream((0, 0), 1), stream((0, 0), 1) == stream((0, 1), 1)
    (True, False)
    """
    state = 0
    for part in (*seed, purpose):
        state = _splitmix64((state ^ (part & _MASK)) & _MASK)
    return state


def grouped_order(groups: npt.NDArray[np.integer], num_groups: int, start: int) -> Int64Array:
    """The indices of `groups` by ascending group, each group's own in an order that the hash of the index decides.

    `grouped_order(np.array([1, 0, 1]), 2, start)` is `[1, 0, 2]` or `[1, 2, 0]`. Group numbers lie in
    `[0, num_groups)`. One sort of 64-bit keys (group, hash, index): since the index is part of the key no two
    are equal, and the result does not depend on the sorting algorithm. 10 million indices take about 0.3 s.
    """
    count = len(groups)
    index_bits = max(count - 1, 0).bit_length()
    hash_bits = 64 - index_bits - max(num_groups - 1, 0).bit_length()
    if hash_bits < 0:
        raise ValueError(f"{count} items in {num_groups} groups do not fit into 64-bit keys")
    keys = np.empty(count, np.uint64)
    for first in range(0, count, _BLOCK):
        stop = min(first + _BLOCK, count)
        index = np.arange(first, stop, dtype=np.uint64)
        # A shift by 64 is undefined in C; without hash bits the group alone stands above the index.
        high = groups[first:stop].astype(np.uint64)
        if hash_bits:
            high <<= np.uint64(hash_bits)
            high |= _hashes(index, start) >> np.uint64(64 - hash_bits)
        high <<= np.uint64(index_bits)
        np.bitwise_or(high, index, out=keys[first:stop])
    keys.sort()
    keys &= np.uint64((1 << index_bits) - 1)
    return keys.view(np.int64)


def _hashes(index: npt.NDArray[np.uint64], start: int) -> npt.NDArray[np.uint64]:
    """splitmix64's outputs number `index` from `start`: distinct for distinct indices."""
    values: npt.NDArray[np.uint64] = index * np.uint64(_GAMMA)
    values += np.uint64(start)
    for shift, factor in _MIX:
        values ^= values >> np.uint64(shift)
        values *= np.uint64(factor)
    values ^= values >> np.uint64(31)
    return values


def _splitmix64(state: int) -> int:
    value = (state + _GAMMA) & _MASK
    for shift, factor in _MIX:
        value = ((value ^ (value >> shift)) * factor) & _MASK
    return value ^ (value >> 31)
