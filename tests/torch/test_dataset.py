"""Bins come back as they were sealed, by any road, and law 11 holds through real files and worker processes."""

from __future__ import annotations

import json
import pickle

import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from sftdata.errors import ConfigError, ShardError
from sftdata_torch.cache import ShardCache
from sftdata_torch.dataset import PackedDataset
from sftdata_torch.order import WINDOW
from sftdata_torch.sampler import Bin, ElasticSampler
from sftdata_torch.stream import PackedStream
from tests.torch.packs import many, sealed

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
BINS = many(70)
COLUMNS = ["input_ids", "labels", "seq_lengths", "record_ids", "doc_flags", "num_tokens", "num_loss_tokens"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return sealed(tmp_path_factory.mktemp("shards") / "set", BINS, files=3, eval=many(5, seed=7))


def same(row, expected):
    for name, column in expected.items():
        assert np.array_equal(row[name], column), name
        assert row[name].dtype == column.dtype


def test_bins_stand_as_in_the_files_without_a_seed(shards):
    dataset = PackedDataset(shards, seed=None)
    assert len(dataset) == len(BINS)
    for place, expected in enumerate(BINS):
        row = dataset[place]
        same(row, expected)
        same(dataset[Bin(place)], expected)
        assert list(row) == COLUMNS
        assert row["num_tokens"] == len(expected["input_ids"])
        assert row["num_loss_tokens"] == (expected["labels"] != -100).sum()
        assert len(row["record_ids"]) == len(row["doc_flags"]) == len(expected["seq_lengths"])
    same(dataset[-1], BINS[-1])


def test_positions_follow_the_order_of_the_epoch(shards):
    dataset = PackedDataset(shards, seed=3)
    seen = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        places = dataset.order.bins(epoch, np.arange(len(dataset))).tolist()
        assert sorted(places) == list(range(len(BINS)))
        for row, place in zip(dataset.__getitems__(list(range(len(dataset)))), places, strict=True):
            same(row, BINS[place])
        seen.append(places)
    assert seen[0] != seen[1]


@pytest.mark.parametrize("key", [len(BINS), -len(BINS) - 1, Bin(len(BINS)), Bin(-1)])
def test_key_outside_of_the_set_is_refused(shards, key):
    with pytest.raises(IndexError):
        PackedDataset(shards)[key]


def test_blank_bin_keeps_its_tokens_and_trains_none(shards):
    dataset = PackedDataset(shards)
    row = dataset[Bin(4, blank=True)]
    assert np.array_equal(row["input_ids"], BINS[4]["input_ids"])
    assert (row["labels"] == -100).all()
    assert row["num_loss_tokens"] == 0
    same(dataset[Bin(4)], BINS[4])


def test_rows_cannot_be_written_to(shards):
    row = PackedDataset(shards)[0]
    with pytest.raises(ValueError, match="read-only"):
        row["input_ids"][0] = 1


def test_other_split_is_read_by_name_and_a_missing_one_refused(shards, tmp_path):
    assert len(PackedDataset(shards, split="eval")) == 5
    with pytest.raises(ShardError, match=r"the set has no split 'eval' \(expected train\)"):
        PackedDataset(sealed(tmp_path / "set", BINS[:3]), split="eval")


def test_what_is_not_a_sealed_set_is_refused(shards, tmp_path):
    with pytest.raises(ShardError, match="there is no manifest"):
        PackedDataset(tmp_path)
    (tmp_path / ".work").mkdir()
    with pytest.raises(ShardError, match="was not sealed"):
        PackedDataset(tmp_path)


def test_no_more_row_groups_are_kept_than_asked_for(shards):
    dataset = PackedDataset(shards, seed=None, cache_groups=3)
    for place in [*range(len(BINS)), *range(len(BINS))]:
        same(dataset[place], BINS[place])
        assert len(dataset._cached) <= 3
    assert PackedDataset(shards)._cache_groups == WINDOW


def test_order_decodes_every_row_group_once_an_epoch(shards, monkeypatch):
    dataset = PackedDataset(shards, seed=1)
    dataset._order.window = dataset._cache_groups = 4
    read = []
    original = dataset._read
    monkeypatch.setattr(dataset, "_read", lambda file, at: read.append((file.name, at)) or original(file, at))
    for position in range(len(dataset)):
        dataset[position]
    assert len(read) == len(set(read)) == len(dataset._groups) > 8


def test_pickle_leaves_the_cache_behind_and_reads_on(shards):
    dataset = PackedDataset(shards)
    expected = dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(dataset._cached) == 1
    assert len(copy._cached) == 0
    same(copy[0], {name: expected[name] for name in ("input_ids", "labels")})


def names(batches):
    """Batches as plain lists, to compare."""
    return [(batch["input_ids"].tolist(), batch["labels"].tolist()) for batch in batches]


def stream(path, *, workers=0, micro=2, **world):
    dataset = PackedDataset(path, seed=0)
    sampler = ElasticSampler(dataset, global_batch=12, micro_batch=micro, **world)
    return PackedStream(dataset, sampler, workers=workers)


@pytest.mark.parametrize("workers", [1, 3, 4])
def test_workers_change_neither_batches_nor_state(shards, workers):
    ours, alone = stream(shards, workers=workers), stream(shards)
    for _ in range(2):  # epochs
        for batch, expected in zip(ours, alone, strict=True):
            assert names([batch]) == names([expected])
            assert ours.state_dict() == alone.state_dict()


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_worker_processes_of_every_kind_read_the_same_batches(shards, context):
    dataset = PackedDataset(shards, seed=0)
    dataset[0]  # a cache from before the fork
    loader = PackedStream(
        dataset,
        ElasticSampler(dataset, global_batch=12, micro_batch=12),
        workers=1,
        multiprocessing_context=context,
    )
    assert names(loader) == names(stream(shards, micro=12))


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.sampled_from([1, 2, 3, 4, 8]), st.sampled_from([0, 0, 0, 1, 3]), st.integers(0, 4)),
        max_size=4,
    )
)
def test_global_batches_are_the_same_through_any_chain_of_worlds_workers_and_resumes(shards, chain):
    dataset = PackedDataset(shards, seed=0)
    order = [dataset.order.bins(epoch, np.arange(len(BINS))) for epoch in range(2)]
    expected = [epoch[start : start + 12].tolist() for epoch in order for start in range(0, len(BINS), 12)]
    state, seen = None, []
    for world, workers, steps in [*chain, (1, 0, len(expected))]:
        ranks = [stream(shards, rank=rank, world_size=world, workers=workers * (rank == 0)) for rank in range(world)]
        for each in ranks:
            if state is not None:
                each.load_state_dict(json.loads(json.dumps(state)))
        taken = 0
        while taken < steps and len(seen) < len(expected):
            for parts in zip(*[each.steps() for each in ranks], strict=True):
                seen.append(places_of(parts))
                taken += 1
                if taken == steps or len(seen) == len(expected):
                    break
        states = [each.state_dict() for each in ranks]
        assert all(each == states[0] for each in states)
        state = states[0]
    assert seen == expected


FIRST = {each["input_ids"].tobytes(): place for place, each in enumerate(BINS)}


def places_of(parts):
    """The bins of one global batch, from the micro-batches of all ranks, in the order of the chunks."""
    places = []
    for micro_batches in zip(*parts, strict=True):
        for batch in micro_batches:
            if batch["num_target_tokens"] or (batch["labels"] != -100).any():
                places += bins_in(batch)
            else:
                places += [place for place in bins_in(batch) if not (BINS[place]["labels"] != -100).any()]
    return places


def bins_in(batch):
    """Which bins were flattened into this batch."""
    ids, places, start = batch["input_ids"][0].numpy().astype(np.int32), [], 0
    while start < len(ids):
        place = next(
            FIRST[ids[start:stop].tobytes()]
            for stop in batch["cu_seq_lens_q"].tolist()
            if stop > start and ids[start:stop].tobytes() in FIRST
        )
        places.append(place)
        start += len(BINS[place]["input_ids"])
    return places


def test_state_counts_what_was_delivered_not_what_workers_fetched(shards):
    reader = stream(shards, workers=3)
    steps = reader.steps()
    next(steps)
    next(steps)
    assert reader.state_dict()["consumed"] == 24


@pytest.mark.parametrize("workers", [0, 2])
def test_a_look_at_the_first_batch_loses_nothing(shards, workers):
    reader, expected = stream(shards, workers=workers), names(stream(shards))
    for _ in range(2):
        assert names([next(iter(reader))]) == expected[:1]
    assert names(reader) == expected
    assert reader.state_dict()["epoch"] == 1


def test_stream_inside_a_worker_is_refused(shards, monkeypatch):
    assert names(DataLoader(stream(shards), batch_size=None)) == names(stream(shards))
    monkeypatch.setattr("sftdata_torch.stream.get_worker_info", object)
    with pytest.raises(ConfigError, match="would lose count of what was trained"):
        next(iter(stream(shards)))


def test_sampler_works_in_a_loader_of_the_users_own(shards):
    from sftdata_torch.collate import PackedCollator

    dataset = PackedDataset(shards, seed=0)
    sampler = ElasticSampler(dataset, global_batch=12, micro_batch=2)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=PackedCollator(), num_workers=2)
    assert names(loader) == names(stream(shards))


@pytest.fixture
def remote(shards):
    files = fsspec.filesystem("memory")
    for path in shards.iterdir():
        files.pipe(f"/of-test-dataset/set/{path.name}", path.read_bytes())
    return "memory://of-test-dataset/set"


@pytest.mark.parametrize("limit", [None, 1])
def test_remote_set_reads_as_the_local_one_through_a_bounded_mirror(remote, tmp_path, limit):
    dataset = PackedDataset(remote, seed=None, cache_dir=tmp_path, cache_bytes=limit, cache_groups=1)
    for place in [*range(len(BINS)), 0, 30, 69, 1]:
        same(dataset[place], BINS[place])
    kept = sorted(path.name for path in ShardCache(remote, tmp_path).folder.glob("*.parquet"))
    assert len(kept) == (3 if limit is None else 1)


def test_remote_set_without_a_mirror_is_read_by_ranges(remote):
    dataset = PackedDataset(remote, seed=None)
    same(dataset[33], BINS[33])


def test_mirrored_file_that_others_keep_evicting_ends_in_the_remedy(remote, tmp_path, monkeypatch):
    dataset = PackedDataset(remote, seed=None, cache_dir=tmp_path)
    original = ShardCache.fetch

    def fetch(cache, name, **known):
        path = original(cache, name, **known)
        path.unlink()
        return path

    monkeypatch.setattr(ShardCache, "fetch", fetch)
    with pytest.raises(ShardError, match="Raise cache_bytes"):
        dataset[0]


def test_mirrored_file_that_went_bad_on_this_disk_comes_anew(remote, tmp_path):
    def dataset():
        return PackedDataset(remote, seed=None, cache_dir=tmp_path, cache_groups=1)

    same(dataset()[0], BINS[0])
    (path,) = ShardCache(remote, tmp_path).folder.glob("*.parquet")
    sound = path.read_bytes()
    for place in (1, 100, len(sound) - 20):  # header, the first row group, footer
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        same(dataset()[0], BINS[0])
        assert path.read_bytes() == sound
