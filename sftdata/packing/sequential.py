"""Sequential packing: examples in the order they came; a bin closes when the next example does not fit.

What must not live here: any reordering. 5 5 3 3 2 at capacity 8 gives (5) (5 3) (3 2).
"""

from __future__ import annotations

import numpy as np

from sftdata.records import Bins, Int32Array

__all__ = ["sequential"]

_BLOCK = 1 << 16


def sequential(lengths: Int32Array, capacity: int, seed: tuple[int, int]) -> Bins:  # noqa: ARG001 - one signature
    """Pack in input order; `seed` changes nothing."""
    count = len(lengths)
    ends = np.zeros(count + 1, np.int64)
    np.cumsum(lengths, dtype=np.int64, out=ends[1:])
    starts = [0]
    position = 0
    for first in range(0, count, _BLOCK):
        stop = min(first + _BLOCK, count)
        # For every example of the block: the first example that a bin beginning with it does not hold.
        reach = int(np.searchsorted(ends, ends[stop] + capacity, "right"))
        window = ends[first:reach]
        following = np.searchsorted(window, window[: stop - first] + capacity, "right") - 1 + first
        hops = following.data
        while position < stop:
            position = hops[position - first]
            starts.append(position)
    return Bins(order=np.arange(count, dtype=np.int64), offsets=np.array(starts, np.int64))
