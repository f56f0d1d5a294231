"""Law 8 for an epoch of reading: damage anywhere ends in an error that names file and remedy, never in other tokens."""

from __future__ import annotations

import random
import shutil

import numpy as np
import pytest

from sftdata.errors import ShardError
from sftdata_torch.collate import PackedCollator
from sftdata_torch.dataset import PackedDataset
from sftdata_torch.sampler import ElasticSampler
from sftdata_torch.stream import PackedStream
from tests.torch.packs import many, sealed

BINS = many(40)
FLIPS = 500


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return sealed(tmp_path_factory.mktemp("sound") / "set", BINS, group_tokens=200)


@pytest.fixture
def copy(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "set")


def epoch(path):
    """Everything that an epoch of training receives."""
    dataset = PackedDataset(path, seed=0)
    return list(PackedStream(dataset, ElasticSampler(dataset, global_batch=5, micro_batch=5), PackedCollator()))


def refused(path, name):
    """The epoch ends in an error that names the file and what to do about it."""
    with pytest.raises(ShardError) as caught:
        epoch(path)
    text = str(caught.value)
    assert f"{path}/{name}" in text
    assert any(word in text for word in ("Copy the dataset again", "run prepare again", "Name the folder"))


def files(path):
    return sorted(path.iterdir())


def test_sound_set_is_read(copy):
    assert sum(batch["input_ids"].shape[1] for batch in epoch(copy)) == sum(len(each["input_ids"]) for each in BINS)


def test_every_flipped_bit_ends_the_epoch_with_file_and_remedy(copy):
    draw = random.Random(0)
    sizes = {path: path.stat().st_size for path in files(copy)}
    for path in draw.choices(list(sizes), weights=list(sizes.values()), k=FLIPS):
        sound = path.read_bytes()
        damaged = bytearray(sound)
        damaged[draw.randrange(len(sound))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        refused(copy, path.name)
        path.write_bytes(sound)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_file_ends_the_epoch(copy, share):
    for path in files(copy):
        sound = path.read_bytes()
        path.write_bytes(sound[: int(len(sound) * share)])
        refused(copy, path.name)
        path.write_bytes(sound)


def test_longer_file_ends_the_epoch(copy):
    for path in files(copy):
        sound = path.read_bytes()
        path.write_bytes(sound + b"\0")
        refused(copy, path.name)
        path.write_bytes(sound)


def test_missing_file_ends_the_epoch(copy):
    for path in files(copy):
        path.rename(path.with_suffix(".gone"))
        refused(copy, path.name)
        path.with_suffix(".gone").rename(path)


def test_swapped_files_end_the_epoch(copy):
    first, second = files(copy)[1:]
    bytes_of_first = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(bytes_of_first)
    with pytest.raises(ShardError, match=r"train-0000[01]-of-00002\.parquet"):
        epoch(copy)


def test_shard_and_manifest_of_other_runs_end_the_epoch(copy, tmp_path):
    other = sealed(tmp_path / "other", many(40, seed=1), group_tokens=200, run="b")
    for path in files(copy):
        sound = path.read_bytes()
        path.write_bytes((other / path.name).read_bytes())
        with pytest.raises(ShardError, match=r"train-0000[01]-of-00002\.parquet"):
            epoch(copy)
        path.write_bytes(sound)


def test_damage_in_a_row_group_is_met_when_that_row_group_is_read_and_not_before(copy):
    path = files(copy)[-1]
    damaged = bytearray(path.read_bytes())
    entry = PackedDataset(copy).manifest.files["train"][-1].row_groups[-1]
    damaged[entry.offset + entry.bytes // 2] ^= 1
    path.write_bytes(damaged)
    dataset = PackedDataset(copy, seed=None)
    sound = len(BINS) - entry.rows
    for place in range(sound):
        assert np.array_equal(dataset[place]["input_ids"], BINS[place]["input_ids"])
    with pytest.raises(ShardError, match=rf"{path.name}.*row group"):
        dataset[sound]
