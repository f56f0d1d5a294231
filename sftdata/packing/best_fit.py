"""Best-fit decreasing over the histogram of lengths: the fewest bins, at a cost that hardly grows with the examples.

What lives here: the plan (which lengths go into which bins) and the assignment of examples to it. What must not:
tokens, files. Examples of one length are alike, and so are bins with the same room left: the plan moves whole
ranges of bins at a time, one Python step for each, and numpy deals the examples out.

    lengths  5 5 3 3 2 2   capacity 8
    bin 0    5 3           bins with equal room move together: "two bins of room 3 take one 3 each"
    bin 1    5 3           is one step
    bin 2    2 2
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np

from sftdata.packing.scatter import grouped_order, stream
from sftdata.records import Bins, Int32Array, Int64Array

__all__ = ["best_fit"]

_DEAL, _BINS, _DOCUMENTS = 1, 2, 3  # purposes of the three hashed orders


def best_fit(lengths: Int32Array, capacity: int, seed: tuple[int, int]) -> Bins:
    """Pack by best-fit decreasing; bins, and the examples within each, in an order that (seed, unit) decides.

    Every example goes, longest first, into the open bin with the least room that still holds it. Which examples
    of one length go where is drawn by hash too, so that neighbours in the input are not neighbours in a bin.
    """
    num_lengths = int(lengths.max(initial=0)) + 1
    counts = np.bincount(lengths, minlength=num_lengths)
    first, stop, each = _plan(counts, capacity)
    # The plan deals the examples longest first: a step's bins [first, stop) take `each` examples apiece.
    num_bins = int(stop.max(initial=0))
    steps = stop - first
    dealt_bins = np.repeat(first - np.cumsum(steps) + steps, steps) + np.arange(int(steps.sum()))
    taken = np.repeat(each, steps)
    sizes = np.bincount(dealt_bins, weights=taken, minlength=num_bins).astype(np.int64)

    bin_order = grouped_order(np.zeros(num_bins, np.uint8), 1, stream(seed, _BINS))
    place = np.empty(num_bins, np.int64)
    place[bin_order] = np.arange(num_bins)
    dealt = grouped_order(num_lengths - 1 - lengths, num_lengths, stream(seed, _DEAL))
    within = grouped_order(np.repeat(place[dealt_bins], taken), num_bins, stream(seed, _DOCUMENTS))
    offsets = np.zeros(num_bins + 1, np.int64)
    np.cumsum(sizes[bin_order], out=offsets[1:])
    return Bins(order=dealt[within], offsets=offsets)


def _plan(counts: Int64Array, capacity: int) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Steps (first bin, bin behind the last, examples a bin), which deal out `counts[length]` longest first."""
    present = np.flatnonzero(counts)
    shortest = int(present[0]) if len(present) else 1
    open_bins = _OpenBins(shortest)
    steps: list[tuple[int, int, int]] = []
    num_bins = 0
    for length, count in zip(present[::-1].tolist(), counts[present[::-1]].tolist(), strict=True):
        count = open_bins.fill(length, count, steps)
        each = capacity // length
        full, rest = divmod(count, each)
        for bins, held in ((full, each), (int(rest > 0), rest)):
            if bins:
                steps.append((num_bins, num_bins + bins, held))
                open_bins.add(capacity - held * length, num_bins, num_bins + bins)
                num_bins += bins
    table = np.array(steps, np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


class _OpenBins:
    """Bins that can take more, as ranges of bin numbers grouped by the room left."""

    def __init__(self, shortest: int) -> None:
        self._shortest = shortest
        self._rooms: list[int] = []  # ascending, the keys of _ranges
        self._ranges: dict[int, list[tuple[int, int]]] = {}

    def add(self, room: int, first: int, stop: int) -> None:
        """Open the bins [first, stop), all with `room` left; those that no length fits any more are forgotten."""
        if room < self._shortest:
            return
        if room not in self._ranges:
            self._ranges[room] = []
            insort(self._rooms, room)
        self._ranges[room].append((first, stop))

    def fill(self, length: int, count: int, steps: list[tuple[int, int, int]]) -> int:
        """Put up to `count` examples into open bins, tightest first, and say how many are left over."""
        low = used = bisect_left(self._rooms, length)
        moved: list[tuple[int, int, int]] = []
        while count and used < len(self._rooms):
            room = self._rooms[used]
            ranges = self._ranges[room]
            each = room // length
            while ranges and count:
                first, stop = ranges.pop()
                # All bins but the last take as many as fit; the last of all takes what is left.
                full = min(stop - first, count // each)
                held = each if full else count
                middle = first + (full or 1)
                steps.append((first, middle, held))
                moved.append((room - held * length, first, middle))
                count -= (middle - first) * held
                if middle < stop:
                    ranges.append((middle, stop))
            if ranges:
                break
            del self._ranges[room]
            used += 1
        del self._rooms[low:used]
        for room, first, stop in moved:
            self.add(room, first, stop)
        return count
