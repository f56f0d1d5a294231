"""Run a command and say what it took: wall and CPU time, and the peak memory of its first process and of the others."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

__all__ = ["Ran", "run"]

_EVERY = 0.05


class Ran(NamedTuple):
    """One finished command."""

    output: str
    seconds: float
    cpu_seconds: float
    """User and system time of all its processes."""
    parent_mib: float
    """Peak resident memory of the process that was started."""
    worker_mib: float
    """The highest peak among its descendants; 0 where there were none."""


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Ran:
    """Run `command` to its end. Raises CalledProcessError, with what it said, where it fails. Linux only (/proc)."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        began = perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=errors, env=environment)
        peaks: dict[int, float] = {}
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            for one in _tree(process.pid):
                peaks[one] = max(peaks.get(one, 0.0), _peak_mib(one))
            _pause(process.pid)
        seconds = perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, out.read(), errors.read())
        parent = peaks.pop(process.pid, 0.0)
        return Ran(out.read(), seconds, usage.ru_utime + usage.ru_stime, parent, max(peaks.values(), default=0.0))


def _pause(pid: int) -> None:
    """Wait a moment, less if the process ends in it."""
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, OSError):
        return
    try:
        import select

        select.select([handle], [], [], _EVERY)
    finally:
        os.close(handle)


def _tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for one in found:
        for task in _listed(Path(f"/proc/{one}/task")):
            found += map(int, _text(Path(f"/proc/{one}/task/{task}/children")).split())
    return found


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # it has ended
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _peak_mib(pid: int) -> float:
    """The kernel's own high-water mark, so that nothing between two looks is missed."""
    lines = _text(Path(f"/proc/{pid}/status")).splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)
