"""A run from settings to a model on disk: exact resume, what is trained and what is not, how it ends."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from sftdata.errors import ConfigError, ShardError
from sftdata_torch.checkpoint import latest_checkpoint
from sftdata_torch.loop import train
from sftdata_torch.settings import build_settings
from sftdata_torch.step import NonFiniteError
from tests.torch.models import causal
from tests.torch.packs import many, row, sealed
from tests.torch.runs import Killer, losses, model_folder, settings, weights

MODES = {
    "full": {},
    "lean": {"mode": "lean", "micro_batch_size": 2},
    "released": {"mode": "min", "max_grad_norm": 0.0, "micro_batch_size": 4},
    "lora": {"lora_rank": 2, "lora_dropout": 0.2},
    "frozen": {"freeze_layers": 1},
}


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_a_run_that_is_killed_and_started_again_is_bit_for_bit_the_same(tmp_path, options):
    whole = train(settings(tmp_path, "whole", **options))
    assert (whole.steps, whole.finished) == (6, True)
    cut = settings(tmp_path, "cut", save_every=2, **options)
    stopped = train(cut, watch=Killer(after=3))
    assert (stopped.steps, stopped.finished, stopped.model) == (3, False, None)
    assert latest_checkpoint(Path(cut.out)).name == "checkpoint-3"
    finished = train(cut)
    assert finished.finished
    assert losses(cut.out) == losses(tmp_path / "whole")
    for name, value in weights(whole.checkpoint).items():
        assert torch.equal(value, weights(finished.checkpoint)[name]), name
    assert {path.name for path in Path(cut.out).glob("*checkpoint*")} == {"checkpoint-4", "checkpoint-6"}


def test_a_crash_behind_a_checkpoint_loses_only_the_steps_behind_it(tmp_path):
    class Crash(Killer):
        def step(self, done, total, values):
            if done == 5:
                raise KeyboardInterrupt

    whole = train(settings(tmp_path, "whole"))
    cut = settings(tmp_path, "cut", save_every=2)
    with pytest.raises(KeyboardInterrupt):
        train(cut, watch=Crash())
    assert len(losses(cut.out)) == 5
    train(cut)
    assert losses(cut.out) == losses(whole.checkpoint.parent)


def test_a_finished_run_is_left_as_it_is(tmp_path):
    first = train(settings(tmp_path))
    before = losses(tmp_path / "out")
    again = train(settings(tmp_path))
    assert (again.steps, again.finished, again.loss) == (6, True, None)
    assert again.checkpoint == first.checkpoint
    assert losses(tmp_path / "out") == before


def test_the_model_loads_as_it_was_trained_and_stops_where_it_was_trained_to(tmp_path):
    outcome = train(settings(tmp_path, max_steps=2))
    trained = weights(outcome.checkpoint)
    model = AutoModelForCausalLM.from_pretrained(outcome.model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, trained[f"model.safetensors:{name}"])
    assert model.generation_config.eos_token_id == [1]
    assert any(not torch.equal(value, causal("llama").state_dict()[name]) for name, value in model.state_dict().items())


def test_the_final_model_has_the_dtype_it_came_in_and_checkpoints_stay_float32(tmp_path):
    stored = causal("qwen2").bfloat16()
    stored.config.dtype = torch.bfloat16
    stored.save_pretrained(tmp_path / "qwen2")
    outcome = train(settings(tmp_path, model=str(tmp_path / "qwen2"), max_steps=1))
    assert {value.dtype for value in weights(outcome.model).values()} == {torch.bfloat16}
    assert not (outcome.model / "tokenizer.json").exists(), "none is made up where there was none"
    assert json.loads((outcome.model / "config.json").read_text())["dtype"] == "bfloat16"
    assert {value.dtype for name, value in weights(outcome.checkpoint).items() if "model" in name} == {torch.float32}


def test_adapters_alone_are_trained_and_saved(tmp_path):
    outcome = train(settings(tmp_path, lora_rank=2, max_steps=2, learning_rate=0.01))
    assert (outcome.model / "adapter_model.safetensors").exists()
    assert not (outcome.model / "model.safetensors").exists()
    changed = {name: value for name, value in weights(outcome.model).items() if "lora_B" in name}
    assert changed
    assert any(value.any() for value in changed.values())


def test_frozen_layers_stay_as_they_are(tmp_path):
    outcome = train(settings(tmp_path, freeze_layers=1, max_steps=2))
    before, after = causal("llama", attention_dropout=0.1).state_dict(), weights(outcome.checkpoint)
    moved = {name for name, value in before.items() if not torch.equal(value, after[f"model.safetensors:{name}"])}
    assert not [name for name in moved if "layers.0." in name or "embed_tokens" in name]
    assert "model.layers.1.self_attn.q_proj.weight" in moved
    with pytest.raises(ConfigError, match="at most 2"):
        train(settings(tmp_path, "more", freeze_layers=3))


def test_a_loss_that_is_not_finite_stops_with_the_records_and_leaves_the_checkpoint(tmp_path):
    model = causal("llama")
    shards = sealed(tmp_path / "bad", many(8), files=1)
    poison = 200
    with torch.no_grad():
        model.get_input_embeddings().weight[3] = math.nan  # bin 2 begins with token 3
    model.save_pretrained(tmp_path / "bad-model")
    bins = many(8)
    documents = np.cumsum([0, *(len(each["seq_lengths"]) for each in bins)])
    guilty = {
        record
        for at, each in enumerate(bins)
        if 3 in each["input_ids"]
        for record in range(documents[at], documents[at + 1])
    }
    options = settings(tmp_path, model=str(tmp_path / "bad-model"), shards=str(shards), global_batch_size=1)
    with pytest.raises(NonFiniteError, match=r"step \d: the (loss|gradient).* is not finite.*Record ids") as caught:
        train(options)
    named = {int(each) for each in str(caught.value).partition("Record ids: ")[2].rstrip(".").split(", ")}
    assert named <= guilty
    assert poison not in named
    assert latest_checkpoint(tmp_path / "out") is None


def test_a_full_gpu_is_said_with_what_needs_less(tmp_path, monkeypatch):
    def full(*given, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.28 GiB. GPU 0 has a total ...")

    monkeypatch.setattr("sftdata_torch.loop.train_step", full)
    with pytest.raises(
        ConfigError, match=r"step 1: the GPU has not enough memory: CUDA out of memory\. Take --mode lean"
    ):
        train(settings(tmp_path))


def test_held_out_losses_are_logged_and_a_rise_is_said_with_its_reason(tmp_path):
    watch = Killer()
    options = settings(tmp_path, eval_shards=str(tmp_path / "shards"), eval_every=1, epochs=4, learning_rate=0.05)
    train(options, watch=watch)
    assert all({"eval/loss", "eval/perplexity", "eval/mean_token_accuracy"} <= set(each) for each in watch.values)
    assert any(note.startswith("4 epochs: from about 3 on") for note in watch.notes)
    assert any(note.startswith("the held-out loss rises") for note in watch.notes)


def test_mixed_precision_on_the_cpu_follows_float32(tmp_path):
    for precision in ("fp32", "bf16"):
        train(settings(tmp_path, precision, precision=precision, max_steps=4))
    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "fp32"), rel=2e-2)
    assert losses(tmp_path / "bf16") != losses(tmp_path / "fp32")


def test_bins_and_whole_steps_without_a_trained_token_change_no_other_step(tmp_path):
    bins = many(4)
    blank = {**row([6, 5], trained=0.0)}
    options = {"global_batch_size": 1, "epochs": 1, "max_grad_norm": 0.0}
    shards = sealed(tmp_path / "some", [*bins, blank, blank], files=1, run="some")
    watch = Killer()
    outcome = train(settings(tmp_path, shards=str(shards), **options), watch=watch)
    assert outcome.steps == 6
    untrained = [each for each in watch.values if each["train/target_tokens"] == 0]
    assert [(each["train/loss"], each["train/grad_norm"]) for each in untrained] == [(0.0, 0.0)] * 2
    assert all(value.isfinite().all() for value in weights(outcome.model).values())


def test_the_last_batch_of_an_epoch_may_be_small(tmp_path):
    watch = Killer()
    train(settings(tmp_path, epochs=1), watch=watch)
    targets = sum(int((each["labels"] != -100).sum()) for each in many(10))
    assert len(watch.values) == 3
    assert sum(each["train/target_tokens"] for each in watch.values) == targets


def test_realised_shares_of_a_mixture_are_logged(tmp_path):
    options = settings(tmp_path)
    text = sealed(tmp_path / "text", many(6, seed=3), run="b")
    mixed = settings(tmp_path, shards=[f"{options.shards[0]}=3", f"{text}=1"], global_batch_size=8)
    watch = Killer()
    train(mixed, watch=watch)
    last = watch.values[-1]
    shares = {name: value for name, value in last.items() if name.startswith("data/share/")}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[f"data/share/{options.shards[0]}"] > shares[f"data/share/{text}"]


def test_a_resume_with_other_data_is_refused_and_other_settings_are_said(tmp_path):
    train(settings(tmp_path, max_steps=2))
    watch = Killer()
    train(settings(tmp_path, max_steps=3, learning_rate=1e-4), watch=watch)
    assert "resumed with another learning_rate: 0.0001, was 0.001" in watch.notes
    other = sealed(tmp_path / "other", many(10), run="c")
    with pytest.raises(ShardError, match="the state belongs to the dataset"):
        train(settings(tmp_path, shards=str(other), max_steps=4))


def test_choices_that_exclude_each_other_are_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(ConfigError, match="mode min has one micro-batch a step"):
        train(settings(tmp_path, mode="min", max_grad_norm=0.0))
    with pytest.raises(ConfigError, match="mode min cannot clip"):
        train(settings(tmp_path, mode="min", micro_batch_size=4))
    with pytest.raises(ConfigError, match="parallel fsdp needs several processes: start it with torchrun"):
        train(settings(tmp_path, parallel="fsdp"))
    with pytest.raises(ConfigError, match="adapters are on all layers: leave out freeze_layers or lora_rank"):
        train(settings(tmp_path, lora_rank=2, freeze_layers=1))
    small = model_folder(tmp_path / "small", vocab_size=50)
    with pytest.raises(ConfigError, match="the model has embeddings for 50"):
        train(settings(tmp_path, model=str(small)))


def test_settings_refuse_what_they_do_not_know():
    given = {"model": "m", "shards": "s", "out": "o"}
    assert build_settings({**given, "epochs": 2}).epochs == 2.0
    assert build_settings({**given, "learning_rate": "2e-5"}).learning_rate == 2e-5, "as YAML hands it over"
    for wrong, message in (
        ({"learning_rat": 1.0}, "did you mean learning_rate"),
        ({"epochs": "2"}, "expected float"),
        ({"compile": 1}, "expected bool"),
        ({"epochs": 0}, "expected a positive number"),
        ({"mode": "slow"}, "expected fast or lean or min"),
        ({"warmup_ratio": 3}, "expected a share"),
        ({"model": ""}, "model is missing"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_settings({**given, **wrong})
