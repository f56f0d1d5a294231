"""Where an output lies: a folder on a disk, or an address that fsspec knows (`s3://`, `gs://`, `hf://`, `memory://`).

What lives here: whole files by name, put there so that after a crash each is there whole or not at all. What must not:
what the files mean. Names are relative to the output: `manifest.json`, `.work/plan.json`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sftdata.errors import OutputError, describe
from sftdata.sources.opening import filesystem, is_remote

__all__ = [
    "RESUME",
    "WORK",
    "LocalStore",
    "RemoteStore",
    "Store",
    "hash_file",
    "open_store",
    "sync_folder",
    "write_durably",
]

WORK = ".work"
RESUME = "Run the same command again: it resumes."
_PAUSES = (0.2, 0.5, 1.0, 2.0)
"""Seconds between tries at a remote store; its client has retried each of them already."""

Result = TypeVar("Result")


class Store(Protocol):
    """Whole files under names."""

    address: str
    """The output as the user would recognise it, wherever he stands: an absolute path or a full address."""
    scratch: Path
    """The folder on this machine in which units write and inputs are decoded."""
    one_process: bool
    """Whether other processes cannot see what this one writes (`memory://`)."""

    def read(self, name: str) -> bytes | None:
        """All of a file; None where it is not there."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Make `name` hold `data`: after a crash it holds all of it, or what it held before."""
        ...

    def take(self, path: Path, name: str) -> None:
        """Make the finished local file `path`, which is on the disk, the file `name`; `path` may be gone then."""
        ...

    def move(self, source: str, target: str) -> None:
        """Make `source`'s content `target`; whether `source` stays is the store's affair."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it; nothing happens where it is not there."""
        ...

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Names (relative to `folder`) and sizes of all that lies there, folders as well; empty where it is not."""
        ...

    def sha256(self, name: str) -> str | None:
        """The hash of a file; None where asking would cost as much as making it again."""
        ...

    def lock(self, *, shared: bool = False) -> contextlib.AbstractContextManager[None]:
        """Hold the output for this run, or `shared` with other runs of units.

        Raises OutputError where another run of this machine holds it.
        """
        ...


def open_store(address: str | os.PathLike[str]) -> Store:
    """The store for an output, not touched yet."""
    named = os.fspath(address)
    return RemoteStore(named) if is_remote(named) else LocalStore(named)


class LocalStore:
    """A folder on a disk. Temporary names lie in the work folder, so that nobody else's glob meets them."""

    one_process = False

    def __init__(self, address: str) -> None:
        self.path = Path(os.path.abspath(address.removeprefix("file://")))
        self.address = str(self.path)
        self.scratch = self.path / WORK

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, data: bytes) -> None:
        write_durably(self.path / name, data, temporary=self.scratch)

    def take(self, path: Path, name: str) -> None:
        target = self.path / name
        if path != target:
            path.replace(target)
        sync_folder(target.parent)

    def move(self, source: str, target: str) -> None:
        self.take(self.path / source, target)

    def remove(self, name: str) -> None:
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def sizes(self, folder: str = "") -> dict[str, int]:
        path = self.path / folder
        if path.exists() and not path.is_dir():
            raise OutputError(describe("the output is a file", where=str(path), expected="a folder"))
        try:
            with os.scandir(path) as entries:
                return {entry.name: entry.stat().st_size for entry in entries}
        except FileNotFoundError:
            return {}

    def sha256(self, name: str) -> str | None:
        return hash_file(self.path / name)

    @contextlib.contextmanager
    def lock(self, *, shared: bool = False) -> Iterator[None]:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with _locked(self.path, self.address, shared=shared):
                self.scratch.mkdir(exist_ok=True)
                yield
        except FileExistsError as error:
            raise OutputError(describe("the output is a file", where=str(self.path), expected="a folder")) from error


class RemoteStore:
    """An object store through fsspec: files are finished on this machine, then put there in one piece.

    Objects appear whole or not at all, so that no temporary name is needed. The lock holds on this machine only;
    between machines the plan is the lock: a run of another plan refuses, and one of the same plan writes the same
    bytes under the same names.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.one_process = self.address.startswith("memory://")
        digest = hashlib.sha256(self.address.encode()).hexdigest()[:16]
        self.scratch = Path(tempfile.gettempdir()) / f"sftdata-{digest}"

    def _at(self, name: str) -> tuple[Any, str]:
        # asked for at every call: fsspec keeps instances, and makes new ones in another process
        system, root = filesystem(self.address)
        return system, f"{root.rstrip('/')}/{name}" if name else root.rstrip("/")

    def read(self, name: str) -> bytes | None:
        system, path = self._at(name)
        try:
            return self._tried(lambda: bytes(system.cat_file(path)), f"{name} cannot be read")
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        system, path = self._at(name)
        self._tried(lambda: system.pipe_file(path, data), f"{name} cannot be written")

    def take(self, path: Path, name: str) -> None:
        system, target = self._at(name)
        size = path.stat().st_size

        def put() -> None:
            system.put_file(str(path), target)
            self._must_have(system, target, size)

        self._tried(put, f"{name} cannot be written")
        path.unlink()

    def move(self, source: str, target: str) -> None:
        system, path = self._at(source)
        _, final = self._at(target)

        def copy() -> None:
            system.cp_file(path, final)
            self._must_have(system, final, system.size(path))

        self._tried(copy, f"{target} cannot be written")

    def remove(self, name: str) -> None:
        system, path = self._at(name)

        def clear() -> None:
            system.invalidate_cache()
            with contextlib.suppress(FileNotFoundError):
                system.rm(path, recursive=True)

        self._tried(clear, f"{name} cannot be removed")
        if name == WORK:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def sizes(self, folder: str = "") -> dict[str, int]:
        system, path = self._at(folder)

        def listed() -> dict[str, int]:
            system.invalidate_cache()
            entries = system.ls(path, detail=True)
            return {
                entry["name"].rstrip("/").rpartition("/")[2]: int(entry["size"] or 0)
                for entry in entries
                if entry["name"].strip("/") != path.strip("/")  # some stores list the folder among its files
            }

        try:
            return self._tried(listed, "it cannot be listed")
        except FileNotFoundError:
            return {}

    def sha256(self, name: str) -> str | None:  # noqa: ARG002 - an object is whole; reading it back costs its making
        return None

    @contextlib.contextmanager
    def lock(self, *, shared: bool = False) -> Iterator[None]:
        self.scratch.mkdir(parents=True, exist_ok=True)
        with _locked(self.scratch, self.address, shared=shared):
            yield

    @staticmethod
    def _must_have(system: Any, path: str, size: int) -> None:
        system.invalidate_cache()
        found = system.size(path)
        if found != size:
            raise OSError(f"{found} bytes arrived of {size}")

    def _tried(self, action: Callable[[], Result], what: str) -> Result:
        """Do `action`, again after a pause where the store fails; every action here may be repeated.

        Raises FileNotFoundError as it comes, and OutputError where the store goes on failing.
        """
        for pause in (*_PAUSES, None):
            try:
                return action()
            except FileNotFoundError:
                raise
            except Exception as error:  # clients of stores raise what they like
                if pause is None or isinstance(error, (PermissionError, NotImplementedError)):
                    why = str(error) or type(error).__name__
                    message = describe(f"{what}: {why}", where=self.address, fix=f"Check the store. {RESUME}")
                    raise OutputError(message) from error
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")


def write_durably(path: Path, data: bytes, *, temporary: Path | None = None) -> None:
    """Write `data` so that after a crash `path` holds all of it or what it held before.

    `temporary` is the folder for the temporary name, on the same disk; by default that of `path`.
    """
    folder = temporary or path.parent
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{path.name}.{uuid.uuid4().hex}.tmp"
    with unfinished.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames in `path` durable, where the system allows a folder to be opened."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def hash_file(path: Path) -> str | None:
    """sha256 of a file, a MiB at a time; None where it is not there."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while window := file.read(1 << 20):
                digest.update(window)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


@contextlib.contextmanager
def _locked(path: Path, address: str, *, shared: bool) -> Iterator[None]:
    """Lock a folder itself: no lock file is left behind, and the lock goes with the process, however it ends.

    Where the file system knows no locks (Lustre as it is often mounted), nothing is held: what runs write is safe
    without, as a second run of the same plan writes the same bytes under the same names.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise OutputError(
            describe(
                "another run is working on this folder", where=address, fix="Wait for it, or choose another --out."
            )
        ) from error
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(handle)
