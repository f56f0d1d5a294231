"""Runs of the pipeline for tests: small chats, `prepare` with small units, and what lies in the output after it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sftdata.config import build_config
from sftdata.pipeline.run import run_prepare
from sftdata.pipeline.seal import Outcome

__all__ = ["HOLD", "ROOT", "chat", "child", "contents", "go", "held", "long_chat", "parts", "until", "write_lines"]

ROOT = Path(__file__).resolve().parents[2]


def chat(user: str, reply: str, **extra: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": reply}], **extra}


def long_chat(turns: int) -> dict[str, Any]:
    messages: list[dict[str, str]] = [{"role": "system", "content": "Be brief."}]
    for turn in range(turns):
        messages.append({"role": "user", "content": f"Question number {turn}, in a few words?"})
        messages.append({"role": "assistant", "content": f"Answer number {turn}."})
    return {"messages": messages}


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return path


def go(inputs: str | Path | list[Path], out: str | Path, *, unit_bytes: int | None = None, **options: Any) -> Outcome:
    paths = tuple(map(str, inputs if isinstance(inputs, list) else [inputs]))
    settings = {"tokenizer": "builtin", "template": "chatml", "max_length": 256, "clock": "2026-01-01", **options}
    return run_prepare(build_config({"inputs": paths, "out": str(out), **settings}), unit_bytes=unit_bytes)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a dataset but its report, which holds times and addresses."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith("report.")}


def parts(folder: Path, count: int, records: int = 50) -> list[Path]:
    """`count` files of `records` different chats; with `unit_bytes=1` each is a unit."""
    made = []
    for part in range(count):
        lines = [chat(f"What is {part} times {n}?", f"It is {part * n}. " * (1 + n % 5)) for n in range(records)]
        made.append(write_lines(folder / f"part-{part}.jsonl", lines))
    return made


_SITE = """
import json, os, signal, time
from pathlib import Path
from sftdata import formats
normalise, signs = formats.normalise, Path(os.environ["SIGNS"])
def act(value, options):
    text = json.dumps(value)
    if "wait for the signal" in text and not (signs / "free").exists():
        (signs / "part").write_text(str(os.getpid()))
        (signs / "part").replace(signs / "held")
        time.sleep(100_000)
    if "kill the worker" in text:
        os.kill(os.getpid(), signal.SIGKILL)
    return normalise(value, options)
formats.normalise = act
"""
HOLD = chat("Please wait for the signal", "Yes.")
"""A record that holds the process that reads it, so that a run is still under way when the signal comes."""


def held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """From now on processes that are started are held by HOLD, until the file `free` is in the folder returned.

    The file `held` in it is the id of the process that is.
    """
    signs = folder / "signs"
    signs.mkdir()
    (signs / "sitecustomize.py").write_text(_SITE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(signs), str(ROOT)]))
    monkeypatch.setenv("SIGNS", str(signs))
    return signs


def until(holds: Callable[[], bool]) -> None:
    """Wait for what is sure to come, on however slow a machine."""
    end = time.monotonic() + 600
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def child(inputs: list[Path], out: str | Path, **options: Any) -> subprocess.Popen[str]:
    """`go` in a process of its own, which may die."""
    job = json.dumps({"inputs": [str(path) for path in inputs], "out": str(out), **options})
    command = [sys.executable, "-m", "tests.pipeline.runs", job]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    go([Path(path) for path in asked.pop("inputs")], asked.pop("out"), **asked)
