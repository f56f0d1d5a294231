"""The output folder: what state it is in, the lock, atomic files, and what may be removed.

    empty ─plan─► planned ─units─► planned ─seal─► sealed

What lives here: file names and durable writing. What must not: what the files mean.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from sftdata.errors import OutputError, describe

__all__ = ["CARD", "MANIFEST", "PLAN", "WORK", "Folder", "write_durably"]

WORK = ".work"
PLAN = "plan.json"
MANIFEST = "manifest.json"
CARD = "README.md"
_OURS = ("manifest.json", "report.json", "report.html", "README.md", "rejected.jsonl", "partial.jsonl")


def write_durably(path: Path, data: bytes) -> None:
    """Write `data` so that after a crash `path` holds all of it or what it held before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames in `path` durable, where the system allows a folder to be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class Folder:
    """One output folder on a local disk."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.work = self.path / WORK

    @property
    def manifest(self) -> Path:
        """Its presence makes the folder a dataset."""
        return self.path / MANIFEST

    @property
    def plan(self) -> Path:
        """The plan of an unsealed run."""
        return self.work / PLAN

    def state(self) -> str:
        """`empty`, `planned` (a run can be resumed), `sealed` or `foreign` (somebody else's files)."""
        if self.manifest.is_file():
            return "sealed"
        if self.plan.is_file():
            return "planned"
        if not self.path.exists():
            return "empty"
        if not self.path.is_dir():
            raise OutputError(describe("the output is a file", where=str(self.path), expected="a folder"))
        names = {entry.name for entry in self.path.iterdir()}
        # a run that was refused, or killed while it planned, leaves only its report and the work folder
        return "empty" if names <= {WORK, *_OURS} else "foreign"

    def clear(self) -> None:
        """Remove what runs write, and nothing else."""
        shutil.rmtree(self.work, ignore_errors=True)
        for name in _OURS:
            (self.path / name).unlink(missing_ok=True)
        for pattern in ("train-*-of-*.parquet", "eval-*-of-*.parquet"):
            for shard in self.path.glob(pattern):
                shard.unlink()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this run; a second run is refused. The lock goes with the process, however it ends."""
        try:
            self.work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                describe(f"the output folder cannot be made: {error.strerror}", where=str(self.path))
            ) from error
        handle = _lock(self.path)
        try:
            yield
        finally:
            if handle is not None:
                os.close(handle)


def _lock(path: Path) -> int | None:
    """Lock the folder itself (no lock file is left behind); None where the system cannot (Windows)."""
    try:
        import fcntl
    except ImportError:
        return None
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise OutputError(
            describe(
                "another run is working on this folder", where=str(path), fix="Wait for it, or choose another --out."
            )
        ) from error
    return handle
