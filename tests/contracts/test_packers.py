"""The contract of packers: whatever the method, every example lands in one bin, whole, and the result is a function."""

from __future__ import annotations

import numpy as np
import pytest

from sftdata.packing import METHODS, lower_bound, pack

LENGTHS = np.array([5, 5, 3, 3, 2, 8, 1], np.int32)


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_methods_are_those_that_the_command_line_offers() -> None:
    assert set(METHODS) == {"best-fit", "sequential", "none"}


def test_types_and_shapes(method: str) -> None:
    bins = pack(LENGTHS, 8, method, seed=(0, 0))
    assert bins.order.dtype == bins.offsets.dtype == np.dtype(np.int64)
    assert bins.order.shape == LENGTHS.shape
    assert (bins.offsets[0], bins.offsets[-1]) == (0, len(LENGTHS))


def test_no_examples_make_no_bins(method: str) -> None:
    bins = pack(np.zeros(0, np.int32), 8, method, seed=(0, 0))
    assert (bins.order.tolist(), bins.offsets.tolist()) == ([], [0])


def test_one_example_makes_one_bin(method: str) -> None:
    bins = pack(np.array([8], np.int32), 8, method, seed=(0, 0))
    assert (bins.order.tolist(), bins.offsets.tolist()) == ([0], [0, 1])


def test_the_result_is_a_function_of_the_arguments(method: str) -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 5000).astype(np.int32)
    kept = lengths.copy()
    one, two = (pack(lengths, 128, method, seed=(3, 4)) for _ in range(2))
    assert np.array_equal(one.order, two.order)
    assert np.array_equal(one.offsets, two.offsets)
    assert np.array_equal(lengths, kept)


@pytest.mark.parametrize("length", [0, -1, 9])
def test_a_length_that_no_bin_can_hold_is_a_bug_of_the_caller(method: str, length: int) -> None:
    with pytest.raises(ValueError, match=f"an example of {length} tokens cannot be packed into bins of 8"):
        pack(np.array([3, length, 4], np.int32), 8, method, seed=(0, 0))


def test_a_capacity_below_one_is_a_bug_of_the_caller(method: str) -> None:
    with pytest.raises(ValueError, match="capacity is 0"):
        pack(LENGTHS, 0, method, seed=(0, 0))


def test_lengths_that_sum_beyond_32_bits_are_packed(method: str) -> None:
    lengths = np.full(2**12, 2**20, np.int32)
    capacity = 2**31 - 1
    bins = pack(lengths, capacity, method, seed=(0, 0))
    assert len(bins.offsets) - 1 == {"none": 2**12}.get(method, 3)
    assert lower_bound(lengths, capacity) == 3


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean best-fit"):
        pack(LENGTHS, 8, "bestfit", seed=(0, 0))


def test_sequential_and_none_keep_the_order() -> None:
    sequential = pack(LENGTHS, 8, "sequential", seed=(0, 0))
    assert sequential.order.tolist() == list(range(7))
    assert sequential.offsets.tolist() == [0, 1, 3, 5, 6, 7]
    assert pack(LENGTHS, 8, "none", seed=(0, 0)).offsets.tolist() == list(range(8))
