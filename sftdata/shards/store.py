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

from sftdata.errors import ConfigError, describe

__all__ = ["Store", "filesystem", "open_store", "steadily"]

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

    def _ask(self, question: Callable[[Any, str], Result]) -> Result:
        # Opened at every call: fsspec keeps instances, and makes new ones in a forked process.
        system, folder = filesystem(self.address)
        return steadily(lambda: question(system, folder.rstrip("/")))

    def size(self, name: str) -> int | None:
        try:
            return self._ask(lambda system, folder: int(system.size(f"{folder}/{name}")))
        except FileNotFoundError:
            return None

    def read(self, name: str, start: int, stop: int) -> bytes:
        return self._ask(lambda system, folder: bytes(system.cat_file(f"{folder}/{name}", start=start, end=stop)))

    def names(self) -> list[str]:
        try:
            found = self._ask(lambda system, folder: list(system.ls(folder, detail=False)))
        except FileNotFoundError:
            return []
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in found)

    def holds_unfinished_run(self) -> bool:
        return self._ask(lambda system, folder: bool(system.exists(f"{folder}/{_WORK}")))


def filesystem(address: str) -> tuple[Any, str]:
    """The fsspec filesystem of an address, and the path in it.

    Raises ConfigError where the protocol is unknown or its package is not installed.
    """
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(address)
    except (ImportError, ValueError) as error:
        fix = "Install the package that fsspec reads this protocol with (s3: s3fs, gs: gcsfs, az: adlfs)."
        raise ConfigError(describe(str(error), where=address, fix=fix)) from error
    return system, str(path)


def steadily(action: Callable[[], Result]) -> Result:
    """Do `action`, again after a pause where a remote store fails: a run of days outlives a fault of seconds.

    Raises FileNotFoundError and PermissionError at once, and OSError for whatever else the last try raised: clients
    of stores have exceptions of their own.
    """
    for pause in _PAUSES:
        try:
            return action()
        except (FileNotFoundError, PermissionError):
            raise
        except Exception:  # noqa: BLE001 - whatever it is, the last try will say it
            time.sleep(pause)
    try:
        return action()
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
