"""Where a dataset lies: a local folder or any fsspec address, read by byte ranges.

What lives here: sizes, ranges and names. What must not: what the bytes mean. Nothing stays open between two calls,
so a store may cross a fork or a pickle: opening a local file costs some microseconds, a row group milliseconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

__all__ = ["Store", "open_store"]

_PAUSES = (0.2, 0.5, 1.0, 2.0)
"""Seconds between tries at a remote store; its client may have retried each of them already."""

Result = TypeVar("Result")


class Store(Protocol):
    """A folder of files. Names are base names."""

    address: str

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where it is not there."""

    def read(self, name: str, start: int, stop: int) -> bytes:
        """The bytes from `start` to before `stop`; fewer where the file ends earlier. Raises OSError."""

    def names(self) -> list[str]:
        """Names of all files in the folder, sorted; empty where there is no folder."""

    def holds_unfinished_run(self) -> bool:
        """Whether a run left its work there."""


def open_store(path: str | os.PathLike[str]) -> Store:
    """The store at `path`: a local folder, or what fsspec opens where it has a scheme (`s3://bucket/set`)."""
    address = os.fspath(path)
    return _Remote(address) if "://" in address else _Local(address)


_WORK = ".work"


class _Local:
    def __init__(self, address: str) -> None:
        self.address = address
        self._folder = Path(address)

    def size(self, name: str) -> int | None:
        try:
            return (self._folder / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, name: str, start: int, stop: int) -> bytes:
        with (self._folder / name).open("rb", buffering=0) as file:
            file.seek(start)
            data = file.read(stop - start)
            while len(data) < stop - start and (more := file.read(stop - start - len(data))):
                data += more  # a signal or a network file system may cut a read short
            return data

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self._folder.iterdir()) if self._folder.is_dir() else []

    def holds_unfinished_run(self) -> bool:
        return (self._folder / _WORK).is_dir()


class _Remote:
    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")

    def _open(self) -> tuple[Any, str]:
        # Asked for at every call: fsspec keeps instances, and makes new ones in a forked process.
        from fsspec.core import url_to_fs

        filesystem, folder = url_to_fs(self.address)
        return filesystem, folder.rstrip("/")

    def size(self, name: str) -> int | None:
        filesystem, folder = self._open()
        try:
            return _steadily(lambda: int(filesystem.size(f"{folder}/{name}")))
        except FileNotFoundError:
            return None

    def read(self, name: str, start: int, stop: int) -> bytes:
        filesystem, folder = self._open()
        return _steadily(lambda: bytes(filesystem.cat_file(f"{folder}/{name}", start=start, end=stop)))

    def names(self) -> list[str]:
        filesystem, folder = self._open()
        try:
            found = _steadily(lambda: filesystem.ls(folder, detail=False))
        except FileNotFoundError:
            return []
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in found)

    def holds_unfinished_run(self) -> bool:
        filesystem, folder = self._open()
        return bool(filesystem.exists(f"{folder}/{_WORK}"))


def _steadily(action: Callable[[], Result]) -> Result:
    """Do `action`, again after a pause where the store fails; raises what the last try raises."""
    for pause in _PAUSES:
        try:
            return action()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:
            time.sleep(pause)
    return action()
