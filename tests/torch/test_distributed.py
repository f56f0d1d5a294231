"""Two processes are one: losses, gradients and weights of a run do not depend on how many ranks make it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sftdata_torch.loop import train
from tests.torch.runs import losses, settings, weights

ROOT = Path(__file__).resolve().parents[2]
TRAIN = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
sys.path.insert(0, {root!r})
from tests.torch.runs import settings
from sftdata_torch.loop import train
print(train(settings(Path({folder!r}), {out!r}, model={model!r}, **{options!r})).steps)
"""


def torchrun(folder: Path, out: str, model: Path, options: dict) -> None:
    code = folder / "run.py"
    code.write_text(
        TRAIN.format(root=str(ROOT), folder=str(folder), out=out, model=str(model), options=options), encoding="utf-8"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(code)]
    done = subprocess.run(
        command,
        check=False,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_train_and_resume_as_one_does(tmp_path):
    from tests.torch.runs import model_folder

    model = model_folder(tmp_path / "no-dropout")
    settings(tmp_path)  # makes the shards
    options = {"epochs": 1, "micro_batch_size": 1, "eval_shards": str(tmp_path / "shards"), "max_steps": 3}
    whole = train(settings(tmp_path, "one", model=str(model), **options))
    torchrun(tmp_path, "two", model, options)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    ours, theirs = weights(whole.checkpoint), weights(tmp_path / "two" / "checkpoint-3")
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-3, atol=2e-5)
    train(settings(tmp_path, "two", model=str(model), **{**options, "max_steps": 4}))
    assert len(losses(tmp_path / "two")) == 4
