"""Orders that a hash decides: each is an order of everything, and any order is as likely as another."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftdata.packing.scatter import grouped_order, permutation, shuffle_within, stream


@given(st.integers(0, 70_000), st.integers(0, 2**64 - 1))
def test_a_permutation_holds_every_number_once(count: int, start: int) -> None:
    assert np.array_equal(np.sort(permutation(count, start)), np.arange(count))


@pytest.mark.parametrize("count", [2**16, 2**16 + 1, 2**17 - 1, 2**18 + 3, 3_000_000])
def test_a_large_permutation_holds_every_number_once_and_follows_nothing(count: int) -> None:
    order = permutation(count, stream((5, 6), 1)).astype(np.int64)
    assert (np.bincount(order, minlength=count) == 1).all()
    limit = 5 / count**0.5  # standard deviations of a correlation of independent numbers
    assert abs(np.corrcoef(order, np.arange(count))[0, 1]) < limit
    for lag in (1, 2, 3, 7, 256, 1000):
        assert abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) < limit
    steps = np.diff(order)
    assert len(np.unique(steps)) > count * 0.5  # no lattice: of random ones about 0.86 are different


def test_any_order_is_as_likely_as_another() -> None:
    """Chi-squared over the 24 orders of four items: below 49.7 in 999 of 1,000 fair draws."""
    draws = 4800
    seen = dict.fromkeys(itertools.permutations(range(4)), 0)
    for unit in range(draws):
        seen[tuple(permutation(4, stream((0, unit), 2)).tolist())] += 1
    assert sum((count - draws / 24) ** 2 / (draws / 24) for count in seen.values()) < 49.7


@pytest.mark.parametrize("num_groups", [1, 2, 1000, 2**16 - 1, 2**16, 2**36])
def test_grouped_order_sorts_by_group_and_scatters_within(num_groups: int) -> None:
    drawn = np.random.default_rng(0).integers(0, num_groups, 1000)
    drawn[0] = num_groups - 1
    groups = np.random.default_rng(1).choice(drawn, 100_000)
    order = grouped_order(groups, start=5)
    assert (np.diff(groups[order]) >= 0).all()
    assert np.array_equal(np.sort(order), np.arange(len(groups)))
    ascending = (np.diff(order.astype(np.int64))[np.diff(groups[order]) == 0] > 0).mean()
    assert 0.4 < ascending < 0.6


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(0, 2**64 - 1))
def test_a_shuffle_within_runs_moves_nothing_out_of_its_run(sizes: list[int], start: int) -> None:
    offsets = np.cumsum([0, *sizes])
    items = permutation(int(offsets[-1]), 3)
    before = items.copy()
    shuffle_within(items, offsets, start)
    for first, stop in itertools.pairwise(offsets.tolist()):
        assert sorted(items[first:stop].tolist()) == sorted(before[first:stop].tolist())


def test_a_shuffle_within_runs_does_not_care_for_the_order_before() -> None:
    """It is what makes the order of a bin independent of the order in which it was filled, longest first."""
    offsets = np.array([0, 3, 70_003, 70_003, 70_010])
    up, down = np.arange(70_010, dtype=np.uint32), np.empty(70_010, np.uint32)
    for first, stop in itertools.pairwise(offsets.tolist()):
        down[first:stop] = up[first:stop][::-1]
    shuffle_within(up, offsets, 9)
    shuffle_within(down, offsets, 9)
    assert np.array_equal(up, down)
    inner = up[3:70_003].astype(np.int64)
    assert abs(np.corrcoef(inner, np.arange(len(inner)))[0, 1]) < 0.02


def test_more_items_than_there_are_32_bit_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="more than"):
        permutation(2**32 + 1, 0)
