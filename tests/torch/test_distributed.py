"""Two processes are one: losses, gradients and weights of a run do not depend on how many ranks make it, nor on
whether each has all weights or a shard of them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from sftdata_torch.checkpoint import load_state
from sftdata_torch.loop import train
from tests.torch.models import causal
from tests.torch.packs import many, sealed
from tests.torch.runs import losses, model_folder, settings, weights

ROOT = Path(__file__).resolve().parents[2]
STEPS = 4
GEMMA = {"global_batch_size": 3, "max_steps": STEPS, "eval_every": 2}
"""A batch of three on two ranks: in the second micro-batch one rank has a blank bin."""
RUNS = {
    "ddp": {},
    "fsdp": {"parallel": "fsdp"},
    "fsdp-lean": {"parallel": "fsdp", "mode": "lean", "micro_batch_size": 2},
    "fsdp-lora": {"parallel": "fsdp", "lora_rank": 2},
}


def options(folder, name):
    model = "gemma" if name.startswith("fsdp") else "no-dropout"
    return {**GEMMA, "model": str(folder / model), "eval_shards": str(folder / "held"), **RUNS[name]}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folder in which two ranks made all runs, and how each ended on each rank."""
    folder = tmp_path_factory.mktemp("ranks")
    settings(folder)  # makes the shards
    model_folder(folder / "no-dropout")
    model_folder(folder / "gemma", "gemma")
    sealed(folder / "held", many(3, seed=9), files=1, run="held")  # two for one rank, one for the other
    poison(folder)
    runs = [{"out": name, **options(folder, name)} for name in RUNS]
    runs.append({**runs[1], "out": "resumed", "max_steps": 2})
    runs.append({**runs[1], "out": "resumed"})
    bad = {"model": str(folder / "bad-model"), "shards": str(folder / "bad"), "parallel": "ddp"}
    runs.append({**runs[0], "out": "poisoned", **bad, "global_batch_size": 8})
    runs.append({**runs[-1], "out": "poisoned-shards", "parallel": "fsdp"})
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run(
        [*command, "-m", "tests.torch.ranks", str(folder), json.dumps(runs)],
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ends = [json.loads((folder / f"ended-{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    return folder, [dict(zip((run["out"] for run in runs), each, strict=True)) for each in ends]


def poison(folder):
    """Eight bins, one of which holds a token whose embedding is not a number; so has one rank of two."""
    bins = many(8)
    held = [set(each["input_ids"].tolist()) for each in bins]
    token = next(iter(held[5] - set().union(*held[:5], *held[6:])))
    model = causal("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = math.nan
    model.save_pretrained(folder / "bad-model")
    sealed(folder / "bad", bins, files=1, run="bad")


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_as_one_does(ended, name, tmp_path):
    folder, ends = ended
    assert [each[name] for each in ends] == [STEPS, STEPS]
    alone = train(settings(folder, f"{name}-alone", **{**options(folder, name), "parallel": "ddp"}))
    assert losses(folder / name) == pytest.approx(losses(folder / f"{name}-alone"), rel=1e-5)
    lines = [(folder / out / "metrics.jsonl").read_text("utf-8").splitlines()[-1] for out in (name, f"{name}-alone")]
    ours, theirs = map(json.loads, lines)
    for key in ("eval/loss", "train/grad_norm", "train/mean_token_accuracy"):
        assert ours[key] == pytest.approx(theirs[key], rel=1e-4), key
    for part in (f"checkpoint-{STEPS}", "model"):
        mine, others = weights(folder / name / part), weights(alone.checkpoint.parent / part)
        assert mine.keys() == others.keys()
        for key, value in others.items():
            torch.testing.assert_close(mine[key], value, rtol=1e-3, atol=2e-5, msg=key)


def test_a_run_in_shards_is_resumed_and_its_files_are_those_of_any_other(ended):
    folder, ends = ended
    assert [each["resumed"] for each in ends] == [STEPS, STEPS]
    expected = weights(folder / "fsdp" / f"checkpoint-{STEPS}")
    assert load_state(folder / "resumed" / f"checkpoint-{STEPS}")["global_step"] == STEPS
    assert weights(folder / "resumed" / f"checkpoint-{STEPS}").keys() == expected.keys()
    model = AutoModelForCausalLM.from_pretrained(folder / "resumed" / "model")
    assert all(value.isfinite().all() for value in model.state_dict().values())
    again = train(settings(folder, "resumed", **{**options(folder, "fsdp"), "parallel": "ddp", "max_steps": STEPS + 1}))
    assert (again.steps, again.finished) == (STEPS + 1, True)


@pytest.mark.parametrize("name", ["poisoned", "poisoned-shards"])
def test_what_is_not_finite_on_one_rank_stops_all_of_them_with_its_records(ended, name):
    folder, ends = ended
    documents = np.cumsum([0, *(len(each["seq_lengths"]) for each in many(8))])
    guilty = set(range(documents[5], documents[6]))
    said = [each[name] for each in ends]
    assert all(text.startswith("NonFiniteError: step 1: the loss of ") for text in said)
    assert {int(each) for each in said[0].partition("Record ids: ")[2].rstrip(".").split(", ")} == guilty
    assert said[0].partition("Record ids")[2] == said[1].partition("Record ids")[2]
    assert sum("the loss of another process is not finite" in text for text in said) == 1
    assert not list((folder / name).glob("checkpoint-*"))
