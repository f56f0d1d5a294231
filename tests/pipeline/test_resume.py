"""Whatever a run dies of, and at whichever step: the same command again gives the same bytes."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.torture import VICTIMS, torture
from sftdata.config import build_config
from sftdata.errors import OutputError
from sftdata.pipeline.folder import Folder
from sftdata.pipeline.run import run_prepare
from sftdata.shards import verify
from tests.pipeline.runs import HOLD, ROOT, chat, contents, go, held, parts, until, write_lines


class Dead(BaseException):
    """The process is gone: nothing that it would still do happens."""


@contextmanager
def dying_at(step: int) -> Iterator[list[str]]:
    """Every step that changes the disk for good is counted; from number `step` on none happens any more."""
    steps: list[str] = []
    patched: list[tuple[Any, str, Any]] = []

    def counted(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def act(*args: Any, **kwargs: Any) -> Any:
            if len(steps) >= step:
                raise Dead(name)
            steps.append(name)
            return None if name == "fsync" else original(*args, **kwargs)  # nobody pulls the plug here

        patched.append((owner, name, original))
        setattr(owner, name, act)

    for owner, name in ((Path, "replace"), (Path, "unlink"), (Path, "mkdir"), (os, "fsync"), (shutil, "rmtree")):
        counted(owner, name)
    try:
        yield steps
    finally:
        for owner, name, original in patched:
            setattr(owner, name, original)


def test_a_run_that_dies_at_any_step_is_resumed_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folder, "was_begun", lambda self, index: False)  # it would be right, and a process each time
    for name in ("run.settle_serving", "engines.local.open_workshop", "run.choose_engine"):
        module, _, function = f"sftdata.pipeline.{name}".rpartition(".")
        monkeypatch.setattr(f"{module}.{function}", once(getattr(importlib.import_module(module), function)))
    inputs = parts(tmp_path, 2, records=4)
    write_lines(inputs[0], [chat("Hi", "Hello."), {"messages": []}, chat("Why?", "Because.")])
    options: dict[str, Any] = {"unit_bytes": 1, "eval": "0.3", "max_reject_rate": 0.5}
    with dying_at(10_000) as steps:
        go(inputs, tmp_path / "whole", **options)
    expected, total = contents(tmp_path / "whole"), len(steps)
    assert total > 30
    for step in range(total):
        out = tmp_path / f"dead-{step}"
        with pytest.raises(Dead), dying_at(step):
            go(inputs, out, **options)
        assert not (out / "manifest.json").exists() or not verify(str(out)).problems
        assert go(inputs, out, **options).sealed
        assert contents(out) == expected, f"died at step {step} of {total}"


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its first result for ever: what is served is the same in all these runs."""
    results: list[Any] = []

    def act(*args: Any, **kwargs: Any) -> Any:
        if not results:
            results.append(function(*args, **kwargs))
        return results[0]

    return act


def test_random_kills_change_no_byte(tmp_path: Path) -> None:
    counts = torture(10, tmp_path, seed=int(time.time()), kills_a_run=10, workers=1, victims=VICTIMS[:2])
    assert sum(counts.values()) == 10


@pytest.mark.parametrize(
    ("pattern", "harm"),
    [
        ("unit-00001-train-00.parquet", lambda path: path.unlink()),
        ("unit-00001-train-00.parquet", lambda path: path.write_bytes(path.read_bytes()[:-1])),
        ("unit-00001-train-00.parquet", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?")),
        ("unit-00001-rejected.jsonl", lambda path: path.write_bytes(b"?")),
        ("unit-00001.json", lambda path: path.write_bytes(path.read_bytes()[:-9])),
    ],
    ids=["gone", "short", "flipped", "longer", "half-record"],
)
def test_a_commit_record_is_believed_only_with_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, harm: Callable[[Path], None]
) -> None:
    inputs = parts(tmp_path, 3)
    go(inputs, tmp_path / "whole", unit_bytes=1)
    out = tmp_path / "out"
    unsealed(inputs, out, monkeypatch)
    harm(out / ".work" / pattern)
    done = units_run(monkeypatch)
    go(inputs, out, unit_bytes=1)
    assert done == [1]
    assert contents(out) == contents(tmp_path / "whole")


def unsealed(inputs: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run all units of `inputs` and die before sealing."""
    with monkeypatch.context() as patch:
        patch.setattr("sftdata.pipeline.run.seal", die)
        with pytest.raises(Dead):
            go(inputs, out, unit_bytes=1)


def die(*args: Any) -> None:
    raise Dead


def units_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The units that runs from now on have to do."""
    from sftdata.pipeline import run as module
    from sftdata.pipeline.engines.local import run_units

    done: list[int] = []
    original = run_units

    def spy(plan: Any, todo: list[int], *rest: Any) -> None:
        done.extend(todo)
        original(plan, todo, *rest)

    monkeypatch.setattr(module, "run_units", spy)
    return done


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, "1"), (signal.SIGTERM, "2")])
def test_a_signal_ends_a_run_cleanly_and_the_same_command_resumes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, workers: str
) -> None:
    signs = held(tmp_path, monkeypatch)
    lines = [chat(f"What is {n} times 3?", f"It is {3 * n}. " * 9) for n in range(9000)]  # several blocks
    inputs, out = write_lines(tmp_path / "in.jsonl", [*lines, HOLD]), tmp_path / "out"
    command = [sys.executable, "-m", "sftdata_cli", "prepare", str(inputs), "--out", str(out), "--workers", workers]
    command += ["--tokenizer", "builtin", "--template", "chatml", "--max-length", "256", "--clock", "2026-01-01"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        until(lambda: (signs / "held").exists() or process.poll() is not None)
        os.killpg(process.pid, number)
        _, told = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert "run the same command to resume" in told
    assert "Traceback" not in told
    # what a worker was writing when it was killed goes when all is sealed
    assert workers == "2" or not list((out / ".work").glob(".*.tmp"))
    assert not list((out / ".work").glob("*.begun"))
    (signs / "free").touch()
    go(inputs, tmp_path / "whole")
    assert go(inputs, out).sealed
    assert not (out / ".work").exists()
    assert contents(out) == contents(tmp_path / "whole")


def test_a_changed_input_is_not_mixed_into_an_unfinished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, out = parts(tmp_path, 2), tmp_path / "out"
    unsealed(inputs, out, monkeypatch)
    write_lines(inputs[1], [chat("Something", "else.")])
    with pytest.raises(OutputError, match="inputs changed"):
        go(inputs, out, unit_bytes=1)
    assert go(inputs, out, unit_bytes=1, fresh=True).sealed


def test_a_resumed_run_keeps_the_clock_of_its_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, out = parts(tmp_path, 2), tmp_path / "out"
    monkeypatch.setattr("sftdata.pipeline.run._today", lambda: "2026-01-01")
    unsealed(inputs, out, monkeypatch)
    monkeypatch.setattr("sftdata.pipeline.run._today", lambda: "2026-01-02")
    go(inputs, out, unit_bytes=1, clock=None)
    assert json.loads((out / "manifest.json").read_bytes())["template"]["clock"] == "2026-01-01"


def test_what_a_run_may_remove_is_what_runs_write(tmp_path: Path) -> None:
    inputs, out = parts(tmp_path, 2), tmp_path / "out"
    go(inputs, out, unit_bytes=1)
    (out / "train-notes.txt").write_text("mine", encoding="utf-8")
    Folder(out).clear()
    assert sorted(path.name for path in out.iterdir()) == [".work", "train-notes.txt"]


class Told:
    """What a run says while it works."""

    def __init__(self) -> None:
        self.stages: dict[str, int | None] = {}
        self.done: dict[str, int] = {}
        self.notes: list[str] = []

    def stage(self, name: str, total: int | None) -> None:
        self.stages[name], self.done[name] = total, 0

    def advance(self, records: int) -> None:
        self.done[list(self.stages)[-1]] += records

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_counts_every_record_that_is_left_to_do_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    inputs, out = parts(tmp_path, 3), tmp_path / "out"
    packed = inputs[2].with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(inputs[2].read_bytes(), mtime=0))
    inputs[2] = packed
    unsealed(inputs, out, monkeypatch)
    (out / ".work" / "unit-00001.json").unlink()
    monkeypatch.setattr("sftdata.pipeline.run._MUCH", 1)
    told = Told()
    paths = tuple(map(str, inputs))
    options = {"tokenizer": "builtin", "template": "chatml", "max_length": 256, "clock": "2026-01-01"}
    run_prepare(build_config({"inputs": paths, "out": str(out), "workers": workers, **options}), told, unit_bytes=1)
    assert told.stages == {"reading inputs": None, "preparing": 50, "sealing": None}
    assert told.done == {"reading inputs": 150, "preparing": 50, "sealing": 0}
    assert re.fullmatch(r"0\.0 MiB of decoded inputs lie in \S+/out/\.work until all is sealed", told.notes[0])
    assert told.notes[1:] == ["2 of 3 units are done already"]
    assert not (out / ".work").exists()
