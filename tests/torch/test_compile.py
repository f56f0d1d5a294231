"""Compiled layers: one compilation for all of them, none for any later batch, and the loss of the layers as written."""

from __future__ import annotations

import json

import pytest
import torch

from sftdata_torch.head import LossModel
from sftdata_torch.loop import train
from sftdata_torch.modes import SteadyCollator, compile_layers, not_compiled
from sftdata_torch.optim import make_optimizer
from sftdata_torch.step import train_step
from tests.torch.models import causal
from tests.torch.packs import many
from tests.torch.runs import losses, model_folder, settings


class Compilations:
    """A backend that counts what it is asked to compile, and compiles nothing."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return graph.forward


def curve(model, bins):
    collate = SteadyCollator(micro_batch=2, capacity=48)
    optimizer, loss_model = make_optimizer(model, lr=1e-3), LossModel(model)
    parts = [[collate(bins[at : at + 2])] for at in range(0, len(bins), 2)]
    return [train_step(loss_model, optimizer, part, device=torch.device("cpu")).loss for part in parts]


@pytest.mark.parametrize("family", ["qwen2", "gemma"])
def test_equal_layers_are_compiled_once_and_no_later_batch_compiles_again(family):
    torch.compiler.reset()
    bins = many(6)
    expected = curve(causal(family, num_hidden_layers=3).train(), bins)
    counts = []
    for layers, steps in ((1, 1), (3, 3)):
        torch.compiler.reset()
        counter, model = Compilations(), causal(family, num_hidden_layers=layers).train()
        compile_layers(model, backend=counter)
        found = curve(model, bins[: 2 * steps])
        counts.append(counter.count)
    assert counts[0] >= 1
    assert counts[1] == counts[0], "more layers and more batches need no further compilation"
    assert found == pytest.approx(expected, rel=1e-5)
    with not_compiled(), torch.no_grad():
        LossModel(model)(SteadyCollator(micro_batch=1, capacity=24)(bins[:1]))
    assert counter.count == counts[1], "an evaluation of another shape compiles nothing"


def test_a_compiled_run_trains_and_evaluates_as_any_other(tmp_path, monkeypatch):
    torch.compiler.reset()
    monkeypatch.setattr("sftdata_torch.assemble.compile_layers", lambda model: compile_layers(model, "eager"))
    model_folder(tmp_path / "gemma", "gemma", num_hidden_layers=1)
    options = {"max_steps": 2, "eval_shards": str(tmp_path / "shards"), "model": str(tmp_path / "gemma")}
    for name, more in (("plain", {}), ("compiled", {"compile": True})):
        train(settings(tmp_path, name, **options, **more))
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)
    last = [
        json.loads((tmp_path / name / "metrics.jsonl").read_text("utf-8").splitlines()[-1])
        for name in ("plain", "compiled")
    ]
    assert last[1]["eval/loss"] == pytest.approx(last[0]["eval/loss"], rel=1e-4)
