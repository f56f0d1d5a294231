"""The folder of a run: that it is this run's, and that no other run is working in it.

What lives here: what may lie in such a folder, and its lock. What must not: what is written there (`checkpoint`,
`metrics`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sftdata.errors import OutputError, describe
from sftdata_torch.checkpoint import latest_checkpoint

__all__ = ["METRICS_FILE", "claimed"]

METRICS_FILE = "metrics.jsonl"


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Inside, `out` is there and this process's alone; the lock goes with the process, however it ends.

    Raises OutputError for a file, a folder that holds something but no run, and one that another run works in.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            describe(f"it cannot be made: {error}", where=str(out), fix="Name a folder that can be made.")
        ) from error
    found = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    if found and METRICS_FILE not in found and latest_checkpoint(out) is None:
        raise OutputError(
            describe(
                f"it holds {', '.join(found[:3])}{' and more' if len(found) > 3 else ''}, and no run",
                where=str(out),
                expected="an empty or a new folder, or that of a run to go on with",
                fix="Name another --out.",
            )
        )
    with _locked(out):
        yield


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Lock the folder itself: no lock file is left behind."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):  # a file system without locks
                raise OutputError(
                    describe("another run is working here", where=str(out), fix="Wait for it, or name another --out.")
                ) from error
        yield
    finally:
        os.close(handle)
