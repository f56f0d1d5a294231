"""Best-fit decreasing as the textbook has it, one example at a time: a second opinion."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable


def textbook_bins(lengths: Iterable[int], capacity: int) -> int:
    """How many bins: each example, longest first, goes where the least room is left that holds it."""
    rooms: list[int] = []
    bins = 0
    for length in sorted(lengths, reverse=True):
        place = bisect_left(rooms, length)
        if place == len(rooms):
            bins += 1
            room = capacity
        else:
            room = rooms.pop(place)
        insort(rooms, room - length)
    return bins
