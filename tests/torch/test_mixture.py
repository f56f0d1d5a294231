"""Sets mixed by weight keep all that one set promises."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata.errors import ConfigError, ShardError
from sftdata_torch.dataset import PackedDataset
from sftdata_torch.mixture import BLOCK, MixedDataset, MixedOrder
from sftdata_torch.order import BinOrder
from sftdata_torch.sampler import Bin, ElasticSampler
from sftdata_torch.stream import PackedStream
from tests.torch.packs import many, sealed

CHAT, TEXT = many(30, seed=1), many(50, seed=2)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    chat, text = sealed(folder / "chat", CHAT, run="chat"), sealed(folder / "text", TEXT, run="text")
    return PackedDataset(chat, seed=0), PackedDataset(text, seed=0)


def order(counts, lengths, length):
    orders = [BinOrder([size], seed=0, fingerprint=str(at)) for at, size in enumerate(lengths)]
    return MixedOrder(orders, counts, length=length, key=5)


def sources(found, lengths):
    return np.searchsorted(np.cumsum(lengths), found, side="right")


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(20, 300), min_size=1, max_size=4), st.integers(100, 3000), st.data())
def test_every_block_holds_the_weights_exactly_and_every_set_goes_through_its_own_epochs(lengths, length, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, BLOCK - 1), min_size=len(lengths) - 1, max_size=len(lengths) - 1)))
    counts = np.diff([0, *cuts, BLOCK]).tolist()
    mixed = order(counts, lengths, length)
    line = np.concatenate([mixed.bins(epoch, np.arange(length)) for epoch in range(-(-2 * BLOCK // length))])
    for block in (line[:BLOCK], line[BLOCK : 2 * BLOCK]):
        assert Counter(sources(block, lengths).tolist()) == {at: count for at, count in enumerate(counts) if count}
    for at, size in enumerate(lengths):
        own = line[: 2 * BLOCK][sources(line[: 2 * BLOCK], lengths) == at] - mixed.starts[at]
        seen = Counter(own.tolist())
        assert max(seen.values()) - min(seen.get(place, 0) for place in range(size)) <= 1


def test_each_epoch_of_a_set_is_complete_before_its_next_one_begins():
    """The bins of a block are shuffled among themselves, so what is complete is counted by blocks."""
    mixed = order([BLOCK // 2, BLOCK // 2], [BLOCK, BLOCK // 4], 2 * BLOCK)
    line = mixed.bins(0, np.arange(2 * BLOCK))
    large = line[line < BLOCK]
    assert sorted(large.tolist()) == list(range(BLOCK))  # half of it a block
    assert set(Counter((line[line >= BLOCK]).tolist()).values()) == {4}


def test_a_position_holds_the_same_bin_whatever_was_asked_before():
    mixed = order([1000, 24], [7, 9], 100)
    whole = mixed.bins(50, np.arange(100))
    draw = np.random.default_rng(0).permutation(100)
    assert np.array_equal(order([1000, 24], [7, 9], 100).bins(50, draw), whole[draw])


def test_rows_of_a_mixture_are_those_of_its_sets(parts):
    mixed = MixedDataset([(parts[0], 3.0), (parts[1], 1.0)])
    assert len(mixed) == 80
    for place, expected in enumerate([*CHAT, *TEXT]):
        assert np.array_equal(mixed[Bin(place)]["input_ids"], expected["input_ids"])
    assert (mixed[Bin(70, blank=True)]["labels"] == -100).all()
    mixed.set_epoch(2)
    places = mixed.order.bins(2, np.arange(80))
    for position, place in enumerate(places.tolist()):
        assert np.array_equal(mixed[position]["input_ids"], [*CHAT, *TEXT][place]["input_ids"])


def stream(parts, rank=0, world=1, workers=0, bins=None):
    mixed = MixedDataset([(parts[0], 3.0), (parts[1], 1.0)], bins=bins)
    return PackedStream(mixed, ElasticSampler(mixed, global_batch=6, rank=rank, world_size=world), workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_mixture_resumes_in_another_world_at_the_same_bin(parts, workers):
    whole = [batch["input_ids"].tolist() for step in stream(parts, bins=20).steps() for batch in step]
    first = stream(parts, bins=20, workers=workers)
    steps = first.steps()
    seen = [batch["input_ids"].tolist() for _ in range(2) for batch in next(steps)]
    state = json.loads(json.dumps(first.state_dict()))
    ranks = [stream(parts, rank, 3, bins=20) for rank in range(3)]
    for rank in ranks:
        rank.load_state_dict(state)
    for micro_batches in zip(*ranks, strict=True):
        seen += [batch["input_ids"].tolist() for batch in micro_batches]
    assert seen[:20] == whole
    assert len(seen) == 21  # one blank, in the short step at the end


def test_state_of_other_weights_or_sets_is_refused(parts):
    state = stream(parts).state_dict()
    other = MixedDataset([(parts[0], 1.0), (parts[1], 1.0)])
    with pytest.raises(ShardError, match="the state belongs to the dataset mix-"):
        ElasticSampler(other, global_batch=6).load_state_dict(state)


def test_weights_that_cannot_be_met_are_refused(parts):
    for weights in ((1.0, 0.0), (1.0, -1.0)):
        with pytest.raises(ConfigError, match="positive numbers"):
            MixedDataset(list(zip(parts, weights, strict=True)))
    with pytest.raises(ConfigError, match=r"weight 1\.0 of 10001\.0 \(expected at least one bin in 1024\)"):
        MixedDataset([(parts[0], 1.0), (parts[1], 10000.0)])


def test_sets_of_different_tokenizers_are_refused(parts, monkeypatch):
    monkeypatch.setitem(parts[1].manifest.tokenizer, "sha256", "f" * 64)
    with pytest.raises(ConfigError, match=r"different tokenizers: 000000000000 in set 0, ffffffffffff in set 1"):
        MixedDataset([(parts[0], 1.0), (parts[1], 1.0)])
