"""Best-fit: as few bins as the textbook's algorithm, and an order that tells nothing of lengths or input."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftdata.packing import lower_bound, pack
from sftdata.packing.scatter import stream
from sftdata.records import Int32Array
from tests.packing.oracle import textbook_bins


def log_normal(count: int, capacity: int, seed: int = 0) -> Int32Array:
    """Lengths as instruction sets have them: median 90, most below 1,000."""
    lengths = np.exp(np.random.default_rng(seed).normal(4.5, 1.0, count))
    return np.clip(lengths, 1, capacity).astype(np.int32)


@given(st.integers(1, 60).flatmap(lambda top: st.tuples(st.just(top), st.lists(st.integers(1, top), max_size=80))))
def test_bins_are_as_many_as_the_textbook_needs(case: tuple[int, list[int]]) -> None:
    capacity, lengths = case
    bins = pack(np.array(lengths, np.int32), capacity, "best-fit", seed=(0, 0))
    assert len(bins.offsets) - 1 == textbook_bins(lengths, capacity)


@pytest.mark.parametrize("capacity", [128, 1000, 2048, 32_768])
def test_bins_of_real_lengths_are_as_many_as_the_textbook_needs(capacity: int) -> None:
    lengths = log_normal(20_000, capacity)
    bins = pack(lengths, capacity, "best-fit", seed=(3, 1))
    assert len(bins.offsets) - 1 == textbook_bins(lengths.tolist(), capacity)


@pytest.mark.parametrize("capacity", [2048, 8192])
def test_bins_are_within_a_thousandth_of_the_bound(capacity: int) -> None:
    lengths = log_normal(300_000, capacity)
    bound = lower_bound(lengths, capacity)
    assert bound <= len(pack(lengths, capacity, "best-fit", seed=(0, 0)).offsets) - 1 <= 1.001 * bound


def test_length_shows_neither_in_the_order_of_bins_nor_within_one() -> None:
    """Four shapes of bin; each quarter of the order holds about as many of each, and no place within a bin is that of
    the longest."""
    lengths = np.repeat(np.array([90, 60, 40, 10], np.int32), 2000)
    bins = pack(lengths, 100, "best-fit", seed=(1, 1))
    packed = lengths[bins.order]
    longest = np.maximum.reduceat(packed, bins.offsets[:-1])
    for part in np.array_split(longest, 4):
        assert abs((part == 90).mean() - (longest == 90).mean()) < 0.05
    pairs = np.flatnonzero(np.diff(bins.offsets) == 2)
    first, second = packed[bins.offsets[pairs]], packed[bins.offsets[pairs] + 1]
    assert 0.45 < (first > second).mean() < 0.55


def test_neighbours_in_the_input_are_not_neighbours_in_a_bin() -> None:
    bins = pack(np.full(10_000, 25, np.int32), 100, "best-fit", seed=(0, 0))
    distances = np.abs(np.diff(bins.order.reshape(-1, 4), axis=1))
    assert np.median(distances) > 1000


def test_seed_and_unit_change_the_order_and_not_the_number_of_bins() -> None:
    lengths = log_normal(5000, 1024)
    orders = [pack(lengths, 1024, "best-fit", seed=seed) for seed in ((0, 0), (0, 1), (1, 0))]
    assert len({bins.order.tobytes() for bins in orders}) == 3
    assert len({len(bins.offsets) for bins in orders}) == 1


def test_the_order_is_pinned_for_ever() -> None:
    """Any platform and any numpy: shards of one version must come out again, byte for byte."""
    lengths = (np.arange(1000) * 7919 % 97 + 1).astype(np.int32)
    bins = pack(lengths, 128, "best-fit", seed=(42, 7))
    digest = hashlib.sha256(bins.order.astype("<i8").tobytes() + bins.offsets.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "4ed590f8a06ad0f7"
    assert stream((42, 7), 1) == 0x383D308626EFA9F0
