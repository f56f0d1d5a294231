"""Opening what an address names: a local file, standard input, a named pipe, or anything fsspec knows.

What lives here: addresses to streams of bytes, and the errors of opening worded for a user. What must not: what is in
the bytes.
"""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, TypeVar, cast

from sftdata.errors import ConfigError, InputError, describe
from sftdata.sources.items import BLOCK, Input

__all__ = [
    "STDIN",
    "Hashed",
    "Steady",
    "filesystem",
    "is_remote",
    "open_input",
    "peek",
    "real_path",
    "state_of",
    "steadily",
    "unreadable",
    "windows",
]

STDIN = "-"
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


_MARKS = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "updated", "mtime", "created")
"""Under what names filesystems tell one content of an object from the next, the surest first."""


_PAUSES = (0.2, 0.5, 1.0, 2.0)
"""Seconds between tries at a remote store; its client may have retried each of them already."""

Result = TypeVar("Result")


def steadily(action: Callable[[], Result]) -> Result:
    """Do `action`, again after a pause where a remote store fails.

    Raises FileNotFoundError and PermissionError at once, and OSError with an errno for whatever else the last try
    raised: clients of stores have exceptions of their own, which must not look like the fault of a record.
    """
    for pause in (*_PAUSES, None):
        try:
            return action()
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:
            if pause is None:
                if isinstance(error, OSError) and error.errno:
                    raise
                raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def is_remote(address: str) -> bool:
    """Whether an address is for fsspec: `s3://bucket/key`, `memory://a.jsonl`; not `file://`, not a path."""
    return "://" in address and not address.startswith("file://")


def filesystem(address: str) -> tuple[Any, str]:
    """The fsspec filesystem of a remote address, and the path in it.

    Raises ConfigError where the protocol is unknown or its package is not installed.
    """
    import fsspec

    protocol = address.partition("://")[0].rpartition("::")[2]
    try:
        return cast("tuple[Any, str]", fsspec.core.url_to_fs(address))
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        fix = f"Install it: pip install {package}." if package else str(error)
        raise ConfigError(describe(f"reading {protocol}:// needs another package", where=address, fix=fix)) from error
    except ValueError as error:
        raise ConfigError(describe(str(error), where=address, fix="Check the protocol before '://'.")) from error


class Steady(io.RawIOBase):
    """A remote file that is read on from where a read failed; raises OSError with an errno where it goes on failing."""

    def __init__(self, address: str) -> None:
        super().__init__()
        system, path = filesystem(address)
        self._stream = cast("Any", steadily(lambda: system.open(path, "rb")))
        self._size: int | None = getattr(self._stream, "size", None)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset if whence == io.SEEK_SET else int(self._stream.seek(offset, whence))
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        data = steadily(lambda: self._read(-1 if size is None else size))
        self._at += len(data)
        return data

    def _read(self, size: int) -> bytes:
        if self._stream.tell() != self._at:
            self._stream.seek(self._at)
        data = bytes(self._stream.read(size))
        if not data and size and self._size is not None and self._at < self._size:
            raise OSError(errno.EIO, f"it ended after {self._at} of {self._size} bytes")
        return data

    def close(self) -> None:
        self._stream.close()
        super().close()


def open_input(item: Input) -> BinaryIO:
    """The raw bytes of an input, from their beginning. Raises InputError where it cannot be opened."""
    if item.location == STDIN:
        return sys.stdin.buffer
    try:
        if is_remote(item.location):
            return cast("BinaryIO", Steady(item.location))
        return open(item.location, "rb", buffering=0)
    except OSError as error:
        raise unreadable(item, error) from error


def unreadable(item: Input, error: OSError) -> InputError:
    """The error to raise where the system or a store refuses to give an input's bytes."""
    why = error.strerror or str(error) or type(error).__name__
    return InputError(describe(f"cannot be read: {why}", where=item.address, fix="Check that it is there and yours."))


def windows(item: Input, start: int = 0, stop: int | None = None, *, size: int = BLOCK) -> Iterator[bytes]:
    """The raw bytes of an input between two offsets, at most `size` at a time.

    A remote store that fails on the way is gone on with from where it failed. Raises InputError where reading fails, or
    where the input ends before `stop`: it changed since it was planned.
    """
    with open_input(item) as stream:
        try:
            if start:
                stream.seek(start)
            position = start
            while stop is None or position < stop:
                window = stream.read(size if stop is None else min(size, stop - position))
                if not window:
                    break
                position += len(window)
                yield window
        except OSError as error:
            raise unreadable(item, error) from error
    if stop is not None and position < stop:
        raise InputError(
            describe(
                f"ends after {position} bytes",
                where=item.address,
                expected=f"{stop} bytes, as planned",
                fix="It changed since the run began: start over with --fresh.",
            )
        )


def state_of(item: Input) -> str:
    """What tells the bytes of an input from those that it holds after a change: size, and etag or time of change.

    Raises InputError where the input is gone.
    """
    try:
        if not is_remote(item.location):
            found = os.stat(item.location)
            return f"{found.st_size} bytes of {found.st_mtime_ns}"
        system, path = filesystem(item.location)
        system.invalidate_cache()
        info = steadily(lambda: system.info(path))
    except OSError as error:
        raise unreadable(item, error) from error
    marks = (info[key] for key in _MARKS if info.get(key))
    return f"{info.get('size')} bytes of {next(marks, 'an unknown time')}"


def real_path(path: str) -> str:
    """The one name of a local file, by which two spellings are told to be the same."""
    return os.path.realpath(path.removeprefix("file://"))


class Hashed:
    """Windows of bytes that are counted and hashed as they pass."""

    def __init__(self, source: Iterable[bytes]) -> None:
        self.size = 0
        self._source = source
        self._digest = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for window in self._source:
            self._digest.update(window)
            self.size += len(window)
            yield window

    @property
    def sha256(self) -> str:
        """Of what has passed so far."""
        return self._digest.hexdigest()


def peek(source: Iterable[bytes], size: int) -> tuple[bytes, Iterator[bytes], bool]:
    """The first `size` bytes or more, the whole stream including them, and whether they are all there is."""
    rest = iter(source)
    held: list[bytes] = []
    while sum(map(len, held)) < size:
        window = next(rest, None)
        if window is None:
            head = b"".join(held)
            return head, iter((head,) if head else ()), True
        held.append(window)
    head = b"".join(held)
    return head, itertools.chain((head,), rest), False
