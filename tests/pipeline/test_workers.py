"""Worker processes: what they say arrives, they never hear Ctrl-C, and they go when their parent goes."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sftdata.config import PrepareConfig, build_config
from sftdata.errors import OutputError
from sftdata.pipeline.check import check
from sftdata.pipeline.engines import worker
from tests.pipeline.runs import HOLD, ROOT, chat, held, until, write_lines

LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc")


def two_workers(inputs: list[Path]) -> PrepareConfig:
    settings = {"tokenizer": "builtin", "template": "chatml", "max_length": 256, "out": "-", "workers": 2}
    return build_config({"inputs": tuple(map(str, inputs)), **settings})


def guilty() -> None:
    raise KeyError("a defect")


def test_an_error_arrives_with_the_place_where_it_was_raised() -> None:
    ours, theirs = multiprocessing.Pipe()
    with pytest.raises(KeyError) as found:
        guilty()
    theirs.send(("error", worker.portable(found.value)))
    kind, error = ours.recv()
    assert kind == "error"
    assert isinstance(error, KeyError)
    assert error.args == ("a defect",)
    assert "in guilty" in str(error.__cause__)


class Foreign(Exception):
    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def test_an_error_that_does_not_survive_a_pipe_arrives_in_words() -> None:
    ours, theirs = multiprocessing.Pipe()
    theirs.send(worker.portable(Foreign(1, 2)))
    error = ours.recv()
    assert isinstance(error, RuntimeError)
    assert "Foreign: 1 and 2" in str(error)


def worked(monkeypatch: pytest.MonkeyPatch, workshop: Any) -> list[tuple[str, Any]]:
    """What a worker says whose stages are set up by `workshop`."""
    monkeypatch.setattr(worker, "end_with_parent", lambda: None)
    monkeypatch.setattr(worker, "one_thread", lambda: None)
    monkeypatch.setattr("sftdata.pipeline.workshop.open_workshop", workshop)
    ours, theirs = multiprocessing.Pipe()
    ours.send(worker.Job(None, "", None))  # type: ignore[arg-type]
    worker.main(theirs)
    return [ours.recv() for _ in range(2)]


@pytest.mark.parametrize("error", [EOFError("no data"), BrokenPipeError(32, "x"), ConnectionResetError(104, "x")])
def test_an_error_of_the_work_is_not_taken_for_a_parent_that_is_gone(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def workshop(*_: Any) -> None:
        raise error

    (up, _), (kind, value) = worked(monkeypatch, workshop)
    assert (up, kind, type(value)) == ("up", "error", type(error))


def test_a_worker_whose_parent_is_gone_ends_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "end_with_parent", lambda: None)
    monkeypatch.setattr(worker, "one_thread", lambda: None)
    ours, theirs = multiprocessing.Pipe()
    ours.close()
    with pytest.raises(SystemExit):
        worker.main(theirs)


def test_children_are_deaf_to_ctrl_c_from_their_first_instruction_on_and_the_parent_is_not() -> None:
    asks = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with worker.deaf_to_ctrl_c():
        inside = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
    outside = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
    assert (inside.stdout, outside.stdout) == ("True\n", "False\n")


def is_deaf(process: int) -> bool:
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    blocked = next(line for line in lines if line.startswith("SigBlk:"))
    return bool(int(blocked.split()[1], 16) >> (signal.SIGINT - 1) & 1)


@LINUX
def test_workers_of_prepare_and_of_check_are_started_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sftdata.pipeline.engines.pool import Worker

    started = Worker(worker.Job(None, "", None))  # type: ignore[arg-type]
    try:
        assert is_deaf(started.process.pid or 0)
    finally:
        started.stop()
    inputs = [write_lines(tmp_path / f"{n}.jsonl", [chat("Hi", "Hello.")]) for n in range(2)]
    heard: list[bool] = []
    monkeypatch.setattr("sftdata.pipeline.check.wait", lambda running, **_: looked(heard, running))
    with check(two_workers(inputs), unit_bytes=1):
        pass
    assert heard
    assert all(heard)


def looked(heard: list[bool], running: Any) -> Any:
    from concurrent.futures import FIRST_COMPLETED, wait

    heard += [is_deaf(child.pid or 0) for child in multiprocessing.active_children()]
    return wait(running, return_when=FIRST_COMPLETED)


@pytest.fixture
def signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return held(tmp_path, monkeypatch)


def test_a_check_whose_worker_dies_says_so(signs: Path) -> None:
    inputs = [
        write_lines(signs / "0.jsonl", [chat("kill the worker", "Yes.")]),
        write_lines(signs / "1.jsonl", [chat("a", "b")]),
    ]
    with pytest.raises(OutputError, match="a worker process died"):
        check(two_workers(inputs), unit_bytes=1)


_CHECK = """
import sys
from sftdata.config import build_config
from sftdata.pipeline.check import check
options = {"tokenizer": "builtin", "template": "chatml", "max_length": 256, "out": "-", "workers": 2}
check(build_config({**options, "inputs": tuple(sys.argv[1:])}), unit_bytes=1)
"""


@LINUX
def test_workers_of_a_check_go_when_their_parent_is_killed(signs: Path) -> None:
    inputs = [write_lines(signs / f"{n}.jsonl", [HOLD]) for n in range(2)]
    parent = subprocess.Popen([sys.executable, "-c", _CHECK, *map(str, inputs)], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        until(lambda: (signs / "held").exists() or parent.poll() is not None)
        worker_id = int((signs / "held").read_text(encoding="ascii"))
    finally:
        parent.kill()
        parent.wait()
    until(lambda: not runs(worker_id))


def runs(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return False
