"""Orders that a hash decides: the same on every platform and with every version of numpy.

What lives here: splitmix64, a permutation of `[0, n)` made of it, a grouped order, and a shuffle within bins. What
must not: lengths and how they fit. `numpy.random.Generator.permutation` is not used because numpy keeps the right to
change what it returns. Everything takes time in proportion to the number of items: no sort of them all by a key.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sftdata.records import Int64Array

__all__ = ["grouped_order", "permutation", "shuffle_within", "stream"]

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_BLOCK = 1 << 16  # items at a time: the passes below stay in the cache
_FEWEST_BITS = 16  # fewer leave too few multipliers for an order of three items to be any of six
_ROUNDS = 4


def stream(seed: tuple[int, int], purpose: int) -> int:
    """A 64-bit starting point for one purpose of one (seed, unit); other purposes are independent of it.

    >>> stream((0, 0), 1) == stream((0, 0), 1), stream((0, 0), 1) == stream((0, 1), 1)
    (True, False)
    """
    state = 0
    for part in (*seed, purpose):
        state = _splitmix64((state ^ (part & _MASK)) & _MASK)
    return state


def permutation(count: int, start: int) -> npt.NDArray[np.uint32]:
    """The numbers `[0, count)` in an order that `start` decides; uint32 `[count]`, for fewer than 2**32 items.

    Multiplying by an odd number modulo 2**k and `x ^= x >> k/2` both are one-to-one on k-bit numbers, so a few rounds
    of them take the numbers [0, 2**k) to a permutation of themselves; those below `count`, as they come, are one of
    [0, count). 10 million take about 0.15 s.
    """
    bits = max(_FEWEST_BITS, max(count - 1, 0).bit_length())
    if bits > 32:
        raise ValueError(f"{count} items are more than 2**32")
    mask, half = np.uint32((1 << bits) - 1), np.uint32(bits // 2)
    keys = [_splitmix64((start + n * _GAMMA) & _MASK) for n in range(_ROUNDS)]
    rounds = [(np.uint32(key >> 32) & mask, np.uint32(key & 0xFFFF_FFFF | 1) & mask) for key in keys]
    out = np.empty(count, np.uint32)
    filled = 0
    for first in range(0, 1 << bits, _BLOCK):
        values = np.arange(first, first + _BLOCK, dtype=np.uint32)
        for flipped, factor in rounds:
            values ^= flipped
            values *= factor  # modulo 2**32, and with the mask modulo 2**bits
            values &= mask
            values ^= values >> half
        kept = values[values < count]
        out[filled : filled + len(kept)] = kept
        filled += len(kept)
    return out


def grouped_order(groups: npt.NDArray[np.integer], start: int) -> npt.NDArray[np.uint32]:
    """The indices of `groups` by ascending group, each group's own in an order that `start` decides.

    `grouped_order(np.array([1, 0, 1]), start)` is `[1, 0, 2]` or `[1, 2, 0]`. Group numbers are not negative. A
    permutation, then a stable radix sort of it, one pass for every 16 bits of the group numbers.
    """
    order = permutation(len(groups), start)
    most = int(groups.max(initial=0))
    for shift in range(0, max(most.bit_length(), 1), 16):
        digits = (groups if shift == 0 else groups >> shift).astype(np.uint16)
        order = order.take(np.argsort(digits.take(order), kind="stable"))
    return order


def shuffle_within(items: npt.NDArray[np.uint32], offsets: Int64Array, start: int) -> None:
    """Shuffle each of the runs `items[offsets[n]:offsets[n + 1]]` in place, in an order that the items' hash decides.

    Runs of one size are the rows of a matrix whose rows are sorted by (hash, item): many short sorts at once. The
    item is part of the key, so no two keys are equal and the result does not depend on the sorting algorithm.
    """
    sizes = np.diff(offsets)
    by_size = np.argsort(sizes, kind="stable")
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(sizes[by_size])) + 1, [len(sizes)]])
    for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        size = int(sizes[by_size[low]]) if low < high else 0
        if size < 2:
            continue
        rows = max(1, _BLOCK // size)
        for first in range(low, high, rows):
            places = offsets[by_size[first : min(first + rows, high)], None] + np.arange(size)
            keys = items[places].astype(np.uint64)
            keys |= _hashes(keys, start) << np.uint64(32)
            keys.sort(axis=1)
            items[places] = keys.astype(np.uint32)


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
