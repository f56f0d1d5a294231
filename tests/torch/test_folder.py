"""A run works in its own folder, alone; what it cannot write leaves nothing that could be taken for whole."""

from __future__ import annotations

import resource
from contextlib import contextmanager

import pytest
import torch

from sftdata.errors import ConfigError, OutputError, ShardError
from sftdata_torch.checkpoint import latest_checkpoint
from sftdata_torch.folder import claimed
from sftdata_torch.loop import train
from sftdata_torch.metrics import Metrics
from sftdata_torch.weights import load_causal
from tests.torch.models import causal
from tests.torch.packs import many, row, sealed
from tests.torch.runs import losses, model_folder, settings


@contextmanager
def files_of_at_most(size):
    """Writing more into one file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "out" / "model").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"out: it holds model, and no run .*Name another --out"):
        train(settings(tmp_path))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file: it cannot be made"):
        train(settings(tmp_path, "file"))


def test_two_runs_in_one_folder_are_one_too_many(tmp_path):
    with claimed(tmp_path / "out"), pytest.raises(OutputError, match="another run is working here"):
        train(settings(tmp_path))
    train(settings(tmp_path, max_steps=1))


def test_a_full_disk_while_saving_leaves_the_checkpoint_before_and_nothing_half_written(tmp_path):
    train(settings(tmp_path, max_steps=2))
    with files_of_at_most(50_000), pytest.raises(OutputError, match=r"it cannot be written: .*Make room"):
        train(settings(tmp_path))
    assert latest_checkpoint(tmp_path / "out").name == "checkpoint-2"
    assert not list((tmp_path / "out").glob(".*"))
    assert train(settings(tmp_path)).finished
    assert len(losses(tmp_path / "out")) == 6


def test_a_full_disk_under_the_metrics_is_an_error_with_its_place(tmp_path):
    metrics = Metrics(tmp_path, after_step=0, log_to=(), settings={})
    with files_of_at_most(10), pytest.raises(OutputError, match=r"metrics\.jsonl: it cannot be written"):
        metrics.log(1, {"train/loss": 1.5})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"global_batch_size": 5}, "the run in this folder has global_batch_size 4, this command 5"),
        ({"lora_rank": 2}, "has lora_rank 0, this command 2"),
        ({"freeze_layers": 1}, "has freeze_layers 0, this command 1"),
        ({"model": "other"}, "has model .*llama, this command .*other"),
    ],
)
def test_a_checkpoint_of_another_batch_or_model_is_refused(tmp_path, option, message):
    train(settings(tmp_path, max_steps=2))
    if "model" in option:
        option = {"model": str(model_folder(tmp_path / "other", "llama"))}
    with pytest.raises(ConfigError, match=message):
        train(settings(tmp_path, max_steps=4, **option))
    assert len(losses(tmp_path / "out")) == 2


def test_a_damaged_checkpoint_is_an_error_that_names_it(tmp_path):
    weights = train(settings(tmp_path, max_steps=2)).checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])
    with pytest.raises(ShardError, match=r"checkpoint-2: .*Delete this folder to go on from the checkpoint before"):
        train(settings(tmp_path, max_steps=4))


def test_a_model_folder_that_is_not_whole_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no such folder\. Name a model folder, or a hub name"):
        train(settings(tmp_path, model=str(tmp_path / "none")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"it holds no config\.json"):
        train(settings(tmp_path, model=str(tmp_path / "empty")))
    model = causal("llama")
    some = {name: value for name, value in model.state_dict().items() if "layers.1" not in name}
    model.save_pretrained(tmp_path / "part", state_dict=some)
    with pytest.raises(ConfigError, match=r"part: 9 weights are missing, model\.layers\.1\.\S+ among them"):
        load_causal(str(tmp_path / "part"), dtype=torch.float32)


def test_shards_without_a_trained_token_are_refused(tmp_path):
    blank = sealed(tmp_path / "blank", [row([5], trained=0.0)] * 3, files=1)
    with pytest.raises(ShardError, match="blank: no token of its train split is trained"):
        train(settings(tmp_path, shards=str(blank), global_batch_size=1))
    with pytest.raises(ShardError, match="blank: no token of its train split is trained"):
        train(settings(tmp_path, "two", eval_shards=str(blank)))


def test_what_is_trained_is_never_taken_for_held_out(tmp_path):
    only = sealed(tmp_path / "only", many(6), files=1, run="only")
    with pytest.raises(ConfigError, match="it has no eval split, and its train split is what is trained"):
        train(settings(tmp_path, shards=str(only), eval_shards=str(only)))
    assert train(settings(tmp_path, "two", eval_shards=str(only), max_steps=1)).finished
