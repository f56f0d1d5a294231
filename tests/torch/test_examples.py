"""The examples run as their users run them, and a killed run goes on where it was."""

from __future__ import annotations

import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torch.packs import many, sealed
from tests.torch.test_adapters import tokenizer

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
STEPS = 8
pytestmark = [pytest.mark.filterwarnings("ignore:.*gradient_checkpointing. is deprecated")]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return sealed(tmp_path_factory.mktemp("shards") / "set", many(11, seed=3))


def ran(name, monkeypatch, capsys, *arguments):
    """What an example prints, run in this process."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


def losses(text):
    """`{step: loss}` as plain_torch.py prints them."""
    return {int(step): float(loss) for step, loss in re.findall(r"step (\d+) loss ([0-9.]+)", text)}


HELD = """
import builtins, runpy, sys, time
say, sys.argv = builtins.print, sys.argv[1:]
def told(text, **options):
    say(text, **options)
    if text.startswith("step 4 "):
        time.sleep(100_000)
builtins.print = told
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs an example and holds it at its fourth step until it is killed."""


def test_killed_run_resumes_from_its_last_checkpoint_with_exactly_the_same_losses(
    shards, tmp_path, monkeypatch, capsys
):
    checkpoint = tmp_path / "checkpoint.pt"
    arguments = [str(shards), "--steps", str(STEPS), "--checkpoint"]
    process = subprocess.Popen(
        [sys.executable, "-c", HELD, str(EXAMPLES / "plain_torch.py"), *arguments, str(checkpoint)],
        stdout=subprocess.PIPE,
        text=True,
    )
    printed = ""
    for line in process.stdout:
        printed += line
        if line.startswith("step 4 "):
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    resumed = losses(ran("plain_torch.py", monkeypatch, capsys, *arguments, checkpoint))
    whole = losses(ran("plain_torch.py", monkeypatch, capsys, *arguments, tmp_path / "other.pt"))
    assert list(whole) == list(range(1, STEPS + 1))
    assert list(resumed)[-1] == STEPS
    assert len(resumed) <= STEPS - 3
    # the sums of float32 kernels depend on where their arrays lie; another batch would differ in the third digit
    assert {**losses(printed), **resumed} == pytest.approx(whole, abs=3e-6)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("accelerate_loop.py", [], r"step 3 loss \d"),
        ("lightning_module.py", [], r"loss \d\S* after 3 steps"),
        ("torchtitan_loader.py", [], r"'input': \(\d+,\), 'positions': \(\d+,\)} labels \(\d+,\), \d+ valid"),
        ("hf_trainer.py", [], r"'train_loss'"),
    ],
)
def test_example_runs(name, arguments, expected, shards, tmp_path, monkeypatch, capsys):
    if name.startswith("lightning"):
        pytest.importorskip("lightning", reason="lightning is not installed")
    monkeypatch.chdir(tmp_path)
    assert re.search(expected, ran(name, monkeypatch, capsys, shards, *arguments))


def test_trl_example_runs(shards, tmp_path, monkeypatch, capsys):
    tokenizer().save_pretrained(str(tmp_path / "tokenizer"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    out = ran("trl_sft.py", monkeypatch, capsys, shards, "--tokenizer", tmp_path / "tokenizer")
    assert "'train_loss'" in out
