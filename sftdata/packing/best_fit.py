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

from sftdata.packing.scatter import grouped_order, permutation, shuffle_within, stream
from sftdata.records import Bins, Int32Array, Int64Array

__all__ = ["best_fit"]

_DEAL, _BINS, _DOCUMENTS = 1, 2, 3  # purposes of the three hashed orders


def best_fit(lengths: Int32Array, capacity: int, seed: tuple[int, int]) -> Bins:
    """Pack by best-fit decreasing; bins, and the examples within each, in an order that (seed, unit) decides.

    Every example goes, longest first, into the open bin with the least room that still holds it. Which examples
    of one length go where is drawn by hash too, so that neighbours in the input are not neighbours in a bin.
    """
    longest = int(lengths.max(initial=0))
    first, stop, each, held = _plan(np.bincount(lengths, minlength=longest + 1), capacity)
    num_bins = int(stop.max(initial=0))
    # A step gives `each` examples, the longest not yet dealt, to every bin of [first, stop): to each a hand.
    #     steps    bins [0, 2) take 1, held 0; bins [0, 2) take 1, held 1; bins [2, 3) take 2, held 0
    #     hands    bins 0 1 0 1 2, taken 1 1 1 1 2, before 0 0 1 1 0
    steps = stop - first
    bins = np.repeat(first - np.cumsum(steps) + steps, steps) + np.arange(int(steps.sum()))
    taken = np.repeat(each, steps)
    sizes = np.bincount(bins, weights=taken, minlength=num_bins).astype(np.int64)

    bin_order = permutation(num_bins, stream(seed, _BINS))
    offsets = np.zeros(num_bins + 1, np.int64)
    np.cumsum(sizes[bin_order], out=offsets[1:])
    starts = np.empty(num_bins, np.int64)
    starts[bin_order] = offsets[:-1]
    # where a hand's first example goes, less the number of examples dealt before it
    shifts = starts[bins] + np.repeat(held, steps) - (np.cumsum(taken) - taken)
    places = np.repeat(shifts, taken) + np.arange(len(lengths))
    order = np.empty(len(lengths), np.uint32)
    order[places] = grouped_order(longest - lengths, stream(seed, _DEAL))
    shuffle_within(order, offsets, stream(seed, _DOCUMENTS))
    return Bins(order=order.astype(np.int64), offsets=offsets)


def _plan(counts: Int64Array, capacity: int) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array]:
    """Steps that deal out `counts[length]` longest first: (first bin, bin behind the last, examples a bin, held).

    `held` is how many examples each of the bins has already.
    """
    present = np.flatnonzero(counts)
    shortest = int(present[0]) if len(present) else 1
    open_bins = _OpenBins(shortest)
    steps: list[tuple[int, int, int, int]] = []
    num_bins = 0
    for length, count in zip(present[::-1].tolist(), counts[present[::-1]].tolist(), strict=True):
        count = open_bins.fill(length, count, steps)
        each = capacity // length
        full, rest = divmod(count, each)
        for bins, taken in ((full, each), (int(rest > 0), rest)):
            if bins:
                steps.append((num_bins, num_bins + bins, taken, 0))
                open_bins.add(capacity - taken * length, num_bins, num_bins + bins, taken)
                num_bins += bins
    table = np.array(steps, np.int64).reshape(-1, 4)
    return table[:, 0], table[:, 1], table[:, 2], table[:, 3]


class _OpenBins:
    """Bins that can take more: ranges of bins (first, stop, examples that each holds) grouped by the room left."""

    def __init__(self, shortest: int) -> None:
        self._shortest = shortest
        self._rooms: list[int] = []  # ascending, the keys of _ranges
        self._ranges: dict[int, list[tuple[int, int, int]]] = {}

    def add(self, room: int, first: int, stop: int, held: int) -> None:
        """Open the bins [first, stop), all with `room` left and `held` examples; forget them if no length fits."""
        if room < self._shortest:
            return
        if room not in self._ranges:
            self._ranges[room] = []
            insort(self._rooms, room)
        self._ranges[room].append((first, stop, held))

    def fill(self, length: int, count: int, steps: list[tuple[int, int, int, int]]) -> int:
        """Put up to `count` examples into open bins, tightest first, and say how many are left over."""
        low = used = bisect_left(self._rooms, length)
        moved: list[tuple[int, int, int, int]] = []
        while count and used < len(self._rooms):
            room = self._rooms[used]
            ranges = self._ranges[room]
            each = room // length
            while ranges and count:
                first, stop, held = ranges.pop()
                # All bins but the last take as many as fit; the last of all takes what is left.
                full = min(stop - first, count // each)
                taken = each if full else count
                middle = first + (full or 1)
                steps.append((first, middle, taken, held))
                moved.append((room - taken * length, first, middle, held + taken))
                count -= (middle - first) * taken
                if middle < stop:
                    ranges.append((middle, stop, held))
            if ranges:
                break
            del self._ranges[room]
            used += 1
        del self._rooms[low:used]
        for one in moved:
            self.add(*one)
        return count
