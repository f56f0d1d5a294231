"""A run whose processes are killed for good, as a machine that loses power does it, is the run that nobody killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.torch.runs import settings, weights

ROOT = Path(__file__).resolve().parents[2]
TIMES = ("tokens_per_second", "target_tokens_per_second", "data_wait_ms")
STEPS = 12


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of three runs of one kind, and how the processes of each ended."""
    folder = tmp_path_factory.mktemp("killed")
    settings(folder)  # makes model and shards
    first, second = random.randint(1, 6), random.randint(7, STEPS - 1)
    kills = {
        "whole": [],
        "killed": [f"SIGKILL:{first}", f"SIGKILL:{second}"],
        "asked": ["SIGTERM:4", "SIGINT:8"],
    }
    print(kills)
    shards = str(folder / "shards")
    options = {"max_steps": STEPS, "save_every": 3, "eval_shards": shards, "eval_every": 4, "workers": 1}
    command = [sys.executable, "-m", "tests.torch.killed", str(folder), json.dumps(options), json.dumps(kills)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads(done.stdout.splitlines()[-1])


def numbers(out):
    """Every line of the metrics, without what a clock measured."""
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in TIMES} for line in lines]


def is_the_undisturbed_run(folder, name):
    whole, cut = folder / "whole", folder / name
    assert [line["step"] for line in numbers(cut)] == list(range(1, STEPS + 1))
    assert numbers(cut) == numbers(whole)
    for part in ("model", f"checkpoint-{STEPS}"):
        ours, theirs = weights(cut / part), weights(whole / part)
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert torch.equal(ours[key], value), key
    assert not list(cut.glob(".*")), "nothing unfinished is left"


def test_a_run_killed_with_sigkill_at_random_steps_is_bit_for_bit_the_undisturbed_one(runs):
    folder, ends = runs
    assert (ends["whole"], ends["killed"]) == ([0], [-9, -9, 0])
    is_the_undisturbed_run(folder, "killed")


def test_a_run_that_is_asked_to_stop_saves_and_goes_on_though_its_readers_hear_the_signal_too(runs):
    folder, ends = runs
    assert ends["asked"] == [143, 130, 0]
    is_the_undisturbed_run(folder, "asked")
