"""Law 11, without shards: the order depends on (seed, epoch, fingerprint) only."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata.errors import ConfigError, ShardError
from sftdata_torch.order import BinOrder, FileOrder, permutation
from sftdata_torch.sampler import ElasticSampler

GROUPS = st.lists(st.integers(0, 7), min_size=1, max_size=12).filter(any)
WORLDS = (1, 2, 3, 4, 8)


class Bins:
    """All that a sampler asks of a dataset."""

    def __init__(self, groups, seed=0, fingerprint="ab", window=3):
        self.seed, self.fingerprint = seed, fingerprint
        self.order = BinOrder(groups, seed=seed, fingerprint=fingerprint, window=window)


@given(GROUPS, st.integers(1, 5), st.integers(0, 3), st.integers(0, 3))
def test_every_epoch_is_a_permutation_of_all_bins(groups, window, seed, epoch):
    order = BinOrder(groups, seed=seed, fingerprint="x", window=window)
    bins = order.bins(epoch, np.arange(order.length))
    assert sorted(bins.tolist()) == list(range(sum(groups)))


@given(GROUPS, st.integers(1, 5), st.data())
def test_a_position_holds_the_same_bin_whatever_was_asked_before(groups, window, data):
    asked = st.lists(st.integers(0, sum(groups) - 1), max_size=9)
    whole = BinOrder(groups, seed=1, fingerprint="x", window=window)
    order = BinOrder(groups, seed=1, fingerprint="x", window=window)
    for _ in range(4):
        epoch, positions = data.draw(st.integers(0, 5)), np.array(data.draw(asked), dtype=np.int64)
        expected = whole.bins(epoch, np.arange(whole.length))[positions]
        assert order.bins(epoch, positions).tolist() == expected.tolist()


def test_seed_epoch_and_fingerprint_each_change_the_order():
    def bins(seed, epoch, fingerprint):
        return BinOrder([50, 50], seed=seed, fingerprint=fingerprint).bins(epoch, np.arange(100)).tolist()

    assert bins(0, 0, "a") == bins(0, 0, "a")
    orders = [bins(0, 0, "a"), bins(1, 0, "a"), bins(0, 1, "a"), bins(0, 0, "b"), list(range(100))]
    assert len({tuple(order) for order in orders}) == 5


def test_order_is_the_same_in_every_release():
    """Frozen: a change here would make every saved state point at other bins."""
    assert permutation(8, 5).tolist() == [4, 5, 3, 6, 1, 0, 2, 7]
    order = BinOrder([2, 3, 0, 5, 1], seed=0, fingerprint="ab", window=2)
    assert order.bins(0, np.arange(11)).tolist() == [10, 2, 3, 4, 8, 1, 6, 5, 7, 0, 9]


def test_bins_of_a_window_come_from_its_row_groups_alone():
    order = BinOrder([10] * 20, seed=3, fingerprint="x", window=4)
    groups = order.bins(0, np.arange(200)) // 10
    windows = [set(groups[start : start + 40].tolist()) for start in range(0, 200, 40)]
    assert [len(window) for window in windows] == [4] * 5
    assert len(set.union(*windows)) == 20


@settings(deadline=None)
@given(st.integers(1, 2000), st.integers(0, 2**64 - 1))
def test_permutation_is_one(length, key):
    assert sorted(permutation(length, key).tolist()) == list(range(length))


def samplers(bins, world, **sizes):
    return [ElasticSampler(bins, rank=rank, world_size=world, **sizes) for rank in range(world)]


@settings(deadline=None, max_examples=60)
@given(
    GROUPS,
    st.integers(1, 9),
    st.integers(1, 3),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(WORLDS), st.integers(1, 3), st.integers(0, 6)), max_size=5),
)
def test_global_batches_are_the_same_for_every_world_and_every_chain_of_resumes(groups, size, epochs, drop, chain):
    bins = Bins(groups)
    length = bins.order.length
    if drop and length < size:
        return
    expected = []
    for epoch in range(epochs):
        whole = bins.order.bins(epoch, np.arange(length)).tolist()
        cut = [whole[start : start + size] for start in range(0, length, size)]
        expected += [step for step in cut if not drop or len(step) == size]
    state, seen = None, []
    for world, micro, steps in [*chain, (2, 2, 10**6)]:
        ranks = samplers(bins, world, global_batch=size, micro_batch=micro, drop_last=drop)
        for sampler in ranks:
            if state is not None:
                sampler.load_state_dict(json.loads(json.dumps(state)))
        taken = []
        while len(taken) < steps and len(seen) + len(taken) < len(expected):
            taken += steps_of_an_epoch(ranks, steps - len(taken))
        seen += taken
        state = ranks[0].state_dict()
        assert all(sampler.state_dict() == state for sampler in ranks)
        assert len(json.dumps(state)) < 1024
    assert seen == expected


def steps_of_an_epoch(ranks, most):
    """The next global batches of the present epoch, at most so many, as all ranks together saw them."""
    steps, step, before = [], [], ranks[0].reached
    for micro_batches in zip(*[iter(sampler) for sampler in ranks], strict=True):
        assert len({len(micro) > 0 for micro in micro_batches}) == 1
        step += [each.place for micro in micro_batches for each in micro if not each.blank]
        if ranks[0].reached != before:
            steps.append(step)
            step, before = [], ranks[0].reached
            if len(steps) == most:
                break
    for sampler in ranks:
        sampler.load_state_dict(sampler.state_dict())
    return steps


@given(GROUPS, st.integers(1, 9), st.integers(1, 3), st.sampled_from(WORLDS), st.booleans())
def test_every_rank_makes_as_many_micro_batches_as_its_length_says(groups, size, micro, world, drop):
    bins = Bins(groups)
    if drop and bins.order.length < size:
        return
    lengths = set()
    for sampler in samplers(bins, world, global_batch=size, micro_batch=micro, drop_last=drop):
        made = list(sampler)
        assert len(made) == len(sampler)
        assert all(1 <= len(each) <= micro for each in made)
        lengths.add(len(made))
    assert len(lengths) == 1


def test_blank_bin_stands_only_where_no_bin_is_left_for_a_rank():
    first, second = (list(sampler) for sampler in samplers(Bins([5]), 2, global_batch=5))
    assert [[each.blank for each in micro] for micro in first] == [[False]] * 3
    assert [[each.blank for each in micro] for micro in second] == [[False], [False], [True]]
    assert second[2][0].place == first[2][0].place


def test_iterating_again_begins_at_the_same_place_until_an_epoch_is_complete():
    sampler = ElasticSampler(Bins([4, 4]), global_batch=2)
    first = list(sampler)
    assert sampler.position == (1, 0)
    second = list(sampler)
    assert sorted(first) == sorted(second)
    assert first != second
    sampler.set_epoch(0)
    walk = iter(sampler)
    assert [next(walk) for _ in range(3)] == first[:3]
    assert list(sampler) == first


def test_set_epoch_keeps_the_loaded_place_within_that_epoch():
    sampler = ElasticSampler(Bins([4, 4]), global_batch=2)
    sampler.seek(5)
    assert sampler.position == (1, 2)
    rest = list(sampler)
    sampler.seek(5)
    sampler.set_epoch(1)
    assert list(sampler) == rest
    sampler.set_epoch(1)
    assert len(list(sampler)) == 8


def test_state_inside_a_global_batch_names_its_beginning():
    sampler = ElasticSampler(Bins([4, 4]), global_batch=4, micro_batch=1)
    walk = iter(sampler)
    for _ in range(6):
        next(walk)
    assert sampler.state_dict()["consumed"] == 4


def test_foreign_state_is_refused_and_another_global_batch_is_said():
    sampler = ElasticSampler(Bins([4, 4]), global_batch=2)
    sampler.seek(3)
    state = sampler.state_dict()
    with pytest.raises(ShardError, match=r"the state belongs to the dataset ab, this is cd\. Open the dataset"):
        ElasticSampler(Bins([4, 4], fingerprint="cd"), global_batch=2).load_state_dict(state)
    with pytest.raises(ConfigError, match=r"the state has seed 0, this run 7\. Use the same seed"):
        ElasticSampler(Bins([4, 4], seed=7), global_batch=2).load_state_dict(state)
    with pytest.raises(ConfigError, match="version 99, this run 1"):
        sampler.load_state_dict({**state, "version": 99})
    other = ElasticSampler(Bins([4, 4]), global_batch=3)
    with pytest.warns(UserWarning, match="global_batch changes from 2 to 3"):
        other.load_state_dict(state)
    assert [each.place for micro in other for each in micro] == other.dataset.order.bins(0, np.arange(6, 8)).tolist()


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"global_batch": 0}, "must be positive"),
        ({"global_batch": 2, "micro_batch": 0}, "must be positive"),
        ({"global_batch": 2, "rank": 2, "world_size": 2}, "rank must be in"),
        ({"global_batch": 9, "drop_last": True}, "drop_last leaves no step"),
    ],
)
def test_numbers_that_make_no_step_are_refused(sizes, words):
    with pytest.raises(ConfigError, match=words):
        ElasticSampler(Bins([4, 4]), **sizes)


def test_file_order_is_the_order_of_the_files_in_every_epoch():
    assert FileOrder(3).bins(9, np.array([2, 0])).tolist() == [2, 0]
