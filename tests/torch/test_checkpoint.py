"""A checkpoint is whole or not there, holds no pickle, and gives back what it was given."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from sftdata.errors import ConfigError, OutputError, ShardError
from sftdata_torch.checkpoint import (
    STATE_FILE,
    ModelFiles,
    assert_can_be_saved,
    latest_checkpoint,
    load_optimizer,
    load_state,
    optimizer_state,
    prune_checkpoints,
    save_optimizer,
    seed_step,
    write_whole,
)
from sftdata_torch.collate import PackedCollator
from sftdata_torch.head import LossModel
from sftdata_torch.loop import train
from sftdata_torch.optim import make_optimizer
from sftdata_torch.step import train_step
from tests.torch.models import causal
from tests.torch.packs import row
from tests.torch.runs import Killer, model_folder, settings, weights

BATCH = [PackedCollator()([row([7, 5], seed=3)])]


def checkpoint(out, step):
    return write_whole(out / f"checkpoint-{step}", lambda part: (part / STATE_FILE).write_text("{}"))


def stepped(release=False, family="gemma"):
    """A model and its optimizer after one step."""
    model = causal(family)
    optimizer = make_optimizer(model, lr=1e-2, weight_decay=0.1, release=release)
    train_step(LossModel(model), optimizer, BATCH, device=torch.device("cpu"))
    return model, optimizer


@pytest.mark.parametrize("release", [False, True])
def test_optimizer_goes_on_as_if_it_had_never_been_saved(tmp_path, release):
    model, optimizer = stepped(release)
    save_optimizer(tmp_path, optimizer_state(model, optimizer))
    again = causal("gemma")
    again.load_state_dict(model.state_dict())
    restored = make_optimizer(again, lr=1e-2, weight_decay=0.1, release=release)
    load_optimizer(tmp_path, again, restored)
    for each, its in ((model, optimizer), (again, restored)):
        train_step(LossModel(each), its, BATCH, device=torch.device("cpu"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_eight_bit_states_are_saved_and_go_on_bit_for_bit(tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    options = {"optimizer": "adamw8bit", "model": str(model_folder(tmp_path / "wide", hidden_size=128))}
    whole = train(settings(tmp_path, "whole", **options))
    train(settings(tmp_path, "cut", save_every=2, **options), watch=Killer(after=3))
    ours, theirs = (
        weights(train(settings(tmp_path, "cut", save_every=2, **options)).checkpoint),
        weights(whole.checkpoint),
    )
    assert any(value.dtype == torch.uint8 for value in theirs.values())
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


class Held:
    """A momentum as an optimizer may keep it: not as a tensor."""

    def __init__(self, value):
        self.value = value


class Wrapping(torch.optim.Optimizer):
    """Momentum in objects, and in tensors in the state dict: the manner of FlashAdamW, which needs a GPU."""

    def __init__(self, weights):
        super().__init__(weights, {"lr": 1e-2})

    @torch.no_grad()
    def step(self):
        for weight in (each for group in self.param_groups for each in group["params"] if each.grad is not None):
            held = self.state[weight].setdefault("momentum", Held(torch.zeros_like(weight)))
            held.value.mul_(0.9).add_(weight.grad)
            weight.sub_(held.value, alpha=1e-2)

    def state_dict(self):
        out = super().state_dict()
        state = {at: {"momentum::raw": each["momentum"].value} for at, each in out["state"].items()}
        return {**out, "state": state}

    def __setstate__(self, state):
        wrapped = {weight: {"momentum": Held(each["momentum::raw"])} for weight, each in state["state"].items()}
        super().__setstate__({**state, "state": wrapped})


def test_states_in_objects_are_saved_as_the_tensors_of_the_state_dict(tmp_path):
    model = causal("gemma")
    optimizer = Wrapping(list(model.parameters()))
    train_step(LossModel(model), optimizer, BATCH, device=torch.device("cpu"))
    assert_can_be_saved(optimizer)
    save_optimizer(tmp_path, optimizer_state(model, optimizer))
    again = causal("gemma")
    again.load_state_dict(model.state_dict())
    restored = Wrapping(list(again.parameters()))
    load_optimizer(tmp_path, again, restored)
    for each, its in ((model, optimizer), (again, restored)):
        train_step(LossModel(each), its, BATCH, device=torch.device("cpu"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_an_optimizer_whose_package_is_missing_says_which(monkeypatch):
    for name, module in (("flashadamw", "flashoptim"), ("adamw8bit", "bitsandbytes.optim")):
        monkeypatch.setitem(sys.modules, module, None)
        package = module.partition(".")[0]
        with pytest.raises(ConfigError, match=f"needs {package}: .*pip install {package}"):
            make_optimizer(causal("llama"), name, lr=1e-3)


def test_an_optimizer_that_its_package_refuses_to_make_is_named(monkeypatch):
    def refuse(groups, **options):
        raise NotImplementedError("Quantization requires a CUDA device.")

    monkeypatch.setitem(sys.modules, "flashoptim", SimpleNamespace(FlashAdamW=refuse))
    with pytest.raises(ConfigError, match=r"FlashAdamW cannot be used here: Quantization requires .* Use adamw\."):
        make_optimizer(causal("llama"), "flashadamw", lr=1e-3)


def test_optimizer_of_other_weights_is_refused(tmp_path):
    model, optimizer = stepped()
    save_optimizer(tmp_path, optimizer_state(model, optimizer))
    other = causal("qwen2")
    with pytest.raises(ShardError, match=r"Resume with the optimizer and the trained weights of the run"):
        load_optimizer(tmp_path, other, torch.optim.SGD(other.parameters(), lr=1.0))
    (tmp_path / "optimizer.safetensors").write_bytes(b"damaged")
    with pytest.raises(ShardError, match="the optimizer's state cannot be read"):
        load_optimizer(tmp_path, model, optimizer)


def test_state_that_only_a_pickle_could_hold_is_refused_at_once():
    model, optimizer = stepped()
    assert_can_be_saved(optimizer)
    optimizer.state[next(model.parameters())]["extra"] = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ConfigError, match="its state 'extra' is a Parameter, which is saved by pickle only"):
        assert_can_be_saved(optimizer)


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path):
    outcome = train(settings(tmp_path, max_steps=1))
    suffixes = {path.suffix for path in outcome.checkpoint.iterdir()}
    assert suffixes <= {".safetensors", ".json", ".jinja"}
    state = load_state(outcome.checkpoint)
    assert (state["global_step"], state["data"]["consumed"]) == (1, 4)


def test_a_checkpoint_that_was_cut_short_is_not_there(tmp_path):
    checkpoint(tmp_path, 4)

    def cut(part):
        (part / STATE_FILE).write_text("{}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "checkpoint-8", cut)
    assert latest_checkpoint(tmp_path).name == "checkpoint-4"
    prune_checkpoints(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_the_last_checkpoints_are_kept_in_the_order_of_their_steps(tmp_path):
    for step in (2, 10, 9):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-99").mkdir()  # of someone else: without a state
    assert latest_checkpoint(tmp_path).name == "checkpoint-10"
    prune_checkpoints(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9", "checkpoint-99"]
    prune_checkpoints(tmp_path, 5)
    assert len(list(tmp_path.iterdir())) == 3


def test_what_cannot_be_written_is_an_error_with_its_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="it cannot be written"):
        write_whole(tmp_path / "file" / "checkpoint-1", lambda part: None)
    with pytest.raises(ShardError, match="not a checkpoint"):
        load_state(tmp_path)


def test_the_template_that_trained_is_saved_with_the_model(tmp_path):
    ModelFiles(None, "{{ messages }}").write(causal("llama"), tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == "{{ messages }}"
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "llama"


def test_tied_weights_are_stored_once_in_every_dtype(tmp_path):
    model = causal("gemma")
    for dtype in (None, torch.bfloat16):
        ModelFiles(None, None).write(model, tmp_path / str(dtype), dtype)
        names = weights(tmp_path / str(dtype))
        assert [name for name in names if "embed" in name or "head" in name] == [
            "model.safetensors:model.embed_tokens.weight"
        ]
        assert {value.dtype for value in names.values()} == {dtype or torch.float32}


def test_a_generation_config_that_transformers_loads_and_does_not_save_is_mended(tmp_path):
    """Llama 2's: a temperature without sampling. It would end the run at its first checkpoint."""
    options = settings(tmp_path, max_steps=1)
    path = tmp_path / "llama" / "generation_config.json"
    kept = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**kept, "temperature": 0.6, "top_p": 0.9, "do_sample": False}), encoding="utf-8")
    saved = json.loads((train(options).model / "generation_config.json").read_text(encoding="utf-8"))
    assert (saved["temperature"], saved["do_sample"], saved["eos_token_id"]) == (0.6, True, [1])


def test_the_seed_of_a_step_is_that_of_its_step_and_rank_alone():
    drawn = {}
    for key in ((0, 7, 0), (0, 7, 1), (0, 8, 0), (1, 7, 0), (0, 7, 0)):
        seed_step(*key)
        value = torch.rand(1).item()
        assert drawn.setdefault(key, value) == value
    assert len(set(drawn.values())) == 4
