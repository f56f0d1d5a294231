"""Records that kill, disks that fill, inputs that cannot be read: a named record is lost, or the error is clear."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sftdata.errors import InputError, OutputError
from sftdata.pipeline.engines import pool
from sftdata.pipeline.engines.worker import Task
from sftdata.pipeline.folder import Folder
from sftdata.pipeline.steps import plan_units, run_planned, seal_planned
from sftdata.shards import verify
from tests.pipeline.runs import ROOT, chat, child, contents, go, parts, write_lines
from tests.pipeline.test_resume_steps import config

_KILLERS = """
import json, os, signal, sys, time
from sftdata import formats
normalise = formats.normalise
def act(value, options):
    text = json.dumps(value)
    if "crash the worker" in text:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "eat all memory" in text:
        os.kill(os.getpid(), signal.SIGKILL)
    if "never come back" in text:
        open(f"{os.environ['SIGNS']}/{os.getpid()}", "w").close()
        time.sleep(100_000)
    if "raise something" in text:
        raise KeyError("a defect")
    return normalise(value, options)
formats.normalise = act
"""
"""Put where every new interpreter imports it: records that say so kill the process that reads them."""


@pytest.fixture
def killers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """From now on, processes that are started die of some records; returns an input that holds such records."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_KILLERS, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(ROOT)]))
    lines: list[Any] = [chat(f"What is {n}?", f"It is {n}.") for n in range(60)]
    lines[7] = chat("Please crash the worker", "Yes.")
    lines[31] = chat("Please raise something", "Yes.")
    lines[32] = chat("And raise something again", "Yes.")
    lines[58] = chat("Please eat all memory", "Yes.")
    return write_lines(tmp_path / "killers.jsonl", lines)


def rejected(out: Path) -> dict[int, str]:
    """Record ids and messages of SFT018."""
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    return {line["record_id"]: line["findings"][0]["message"] for line in lines}


def test_a_record_that_kills_its_worker_costs_that_record(tmp_path: Path, killers: Path) -> None:
    others = parts(tmp_path, 2)
    outcome = go([others[0], killers, others[1]], tmp_path / "out", unit_bytes=1, workers=2, max_reject_rate=0.2)
    told = rejected(tmp_path / "out")
    assert {record - 50: message.partition("(")[2] for record, message in told.items()} == {
        7: "killed by SIGSEGV)",
        31: "KeyError)",
        32: "KeyError)",
        58: "killed by SIGKILL)",
    }
    assert outcome.report["ledger"]["rejections"] == {"SFT018": 4}
    assert outcome.report["ledger"]["records"] == {"read": 160, "written": 156, "rejected": 4, "duplicate": 0}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert manifest["config"]["poison"] == [57, 81, 82, 108]
    assert verify(str(tmp_path / "out")).problems == []


def test_with_one_worker_the_same_command_finds_the_record_that_ended_the_run(tmp_path: Path, killers: Path) -> None:
    write_lines(killers, [chat("Hi", "Hello."), chat("Please crash the worker", "Yes."), chat("Why?", "Because.")])
    go(killers, tmp_path / "two", workers=2, max_reject_rate=0.5)
    first = child([killers], tmp_path / "one", max_reject_rate=0.5)
    first.communicate()
    assert first.returncode == -11
    second = child([killers], tmp_path / "one", max_reject_rate=0.5)
    _, told = second.communicate()
    assert second.returncode == 0, told
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_record_that_never_ends_is_given_up(tmp_path: Path, killers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signs = killers.parent

    def hangs(self: pool.Pool, worker: pool.Worker) -> bool:
        return (signs / str(worker.process.pid)).exists()

    monkeypatch.setenv("SIGNS", str(signs))
    monkeypatch.setattr(pool.Pool, "_is_silent", hangs)
    write_lines(killers, [chat("Hi", "Hello."), chat("Please never come back", "Yes."), chat("Why?", "Because.")])
    assert go(killers, tmp_path / "out", workers=2, max_reject_rate=0.5).sealed
    assert list(rejected(tmp_path / "out")) == [1]
    assert "no answer for 300 s" in rejected(tmp_path / "out")[1]


def test_a_worker_is_silent_for_too_long_over_a_block_and_not_over_packing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "out")
    plan = plan_units(config(parts(tmp_path, 1), out))
    watching = pool.Pool(plan, Folder(out), 1)
    worker: Any = SimpleNamespace(task=Task(0, {}), count=0, heard=1000.0)
    clock = [1000.0 + pool.HANG_SECONDS]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    assert not watching._is_silent(worker)
    clock[0] += 1
    assert watching._is_silent(worker)
    worker.count = plan.units[0].records
    assert not watching._is_silent(worker)
    worker.task, worker.count = None, 0
    assert not watching._is_silent(worker)


def test_a_worker_that_somebody_killed_costs_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = parts(tmp_path, 3)
    go(inputs, tmp_path / "whole", unit_bytes=1)
    hear = pool.Pool._hear
    killed: list[pool.Worker] = []

    def kill_once(self: pool.Pool, worker: pool.Worker, kind: str, *rest: Any) -> None:
        if kind == "ready" and not killed:
            killed.append(worker)
            worker.process.kill()
        hear(self, worker, kind, *rest)

    monkeypatch.setattr(pool.Pool, "_hear", kill_once)
    go(inputs, tmp_path / "out", unit_bytes=1, workers=2)
    assert killed
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_poison_is_part_of_the_plan_for_whoever_reads_it(tmp_path: Path) -> None:
    from sftdata.pipeline import run as module

    folder = Folder(tmp_path / "out")
    inputs = parts(tmp_path, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "run_units", lambda *_: None)
        with pytest.raises(OutputError, match="2 of 2 units are not done"):
            go(inputs, tmp_path / "out", unit_bytes=1)
    plan = folder.read_plan()
    folder.add_poison(plan, 0, {3: "killed by SIGSEGV"})
    folder.add_poison(plan, 1, {60: "killed by SIGKILL"})
    assert folder.read_plan().poison == {3: "killed by SIGSEGV", 60: "killed by SIGKILL"}
    outcome = go(inputs, tmp_path / "out", unit_bytes=1)
    assert outcome.report["ledger"]["rejections"] == {"SFT018": 2}
    assert sorted(rejected(tmp_path / "out")) == [3, 60]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_ends_in_a_clear_error_and_a_run_that_can_be_resumed(
    tmp_path: Path, small_disk: Path, workers: int
) -> None:
    inputs = parts(tmp_path, 4, records=200)
    go(inputs, tmp_path / "whole", unit_bytes=1)
    with pytest.raises(OutputError, match=r"No space left on device.*Run the same command again: it resumes"):
        go(inputs, small_disk / "out", unit_bytes=1, workers=workers)
    assert not (small_disk / "out" / "manifest.json").exists()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert go(inputs, small_disk / "out", unit_bytes=1, workers=workers).sealed
    assert contents(small_disk / "out") == contents(tmp_path / "whole")


def test_a_limit_on_the_size_of_files_is_a_clear_error_too(tmp_path: Path) -> None:
    inputs = parts(tmp_path, 2, records=200)
    command = [sys.executable, "-m", "sftdata_cli", "prepare", *map(str, inputs), "--out", str(tmp_path / "out")]
    command += ["--tokenizer", "builtin", "--template", "chatml", "--max-length", "256"]
    process = subprocess.run(
        command,
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert process.returncode == 2
    assert "Run the same command again: it resumes" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_read_error_ends_in_a_clear_error_and_a_run_that_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = parts(tmp_path, 3)
    go(inputs, tmp_path / "whole", unit_bytes=1)

    class Failing(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    def opened(item: Any) -> Any:
        planned = (tmp_path / "out" / ".work" / "plan.json").exists()
        return Failing(item.location) if planned and item.index == 1 else open(item.location, "rb")

    monkeypatch.setattr("sftdata.sources.opening.open_input", opened)
    with pytest.raises(InputError, match=r"Input/output error.*Run the same command again: it resumes"):
        go(inputs, tmp_path / "out", unit_bytes=1)
    monkeypatch.undo()
    assert go(inputs, tmp_path / "out", unit_bytes=1).sealed
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_input_that_changes_after_the_plan_is_not_read_as_another(tmp_path: Path) -> None:
    inputs, out = parts(tmp_path, 3), str(tmp_path / "out")
    go(inputs, tmp_path / "whole", unit_bytes=1)
    plan_units(config(inputs, out), unit_bytes=1)
    run_planned(out, [0])
    before = inputs[1].read_bytes()
    inputs[1].write_bytes(before.replace(b"times 7", b"minus 7"))
    with pytest.raises(InputError, match=r"part-1.jsonl: it changed since the run was planned.*Plan again"):
        run_planned(out, [1, 2])
    with pytest.raises(OutputError, match="inputs changed"):
        plan_units(config(inputs, out), unit_bytes=1)
    inputs[1].write_bytes(before)
    with pytest.raises(InputError, match="it changed since the run was planned"):
        run_planned(out, [1])
    plan_units(config(inputs, out), unit_bytes=1)
    assert run_planned(out, [0, 1, 2]) == [1, 2]
    assert seal_planned(out).sealed
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_input_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sftdata.sources import plain

    inputs = parts(tmp_path, 2)
    read = plain.read

    def grown(item: Any, *args: Any, **kwargs: Any) -> Any:
        yield from read(item, *args, **kwargs)
        if item.index == 1:
            inputs[1].write_bytes(inputs[1].read_bytes() + b"{}\n")

    monkeypatch.setattr(plain, "read", grown)
    with pytest.raises(InputError, match=r"part-1.jsonl: it changed since the run was planned"):
        go(inputs, tmp_path / "out", unit_bytes=1)
    assert not (tmp_path / "out" / "manifest.json").exists()
