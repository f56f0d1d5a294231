"""Remote shards in a local folder: fetched when first needed, verified, put in place atomically, bounded in bytes.

What lives here: the copying and the eviction. What must not: reading Parquet, or any order. Several processes may
share one folder; each file appears whole or not at all, and two that fetch the same one write the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import uuid
from pathlib import Path
from typing import Any

from sftdata.errors import ShardError, describe
from sftdata.shards.store import filesystem, steadily

__all__ = ["ShardCache"]

_CHUNK = 1 << 20
_SUFFIX = ".part"
_DEAD_SECONDS = 3600
"""A part that was not written to for so long belongs to nobody."""


class ShardCache:
    """A local mirror of the sealed set at `address` (any fsspec URL) under `folder`, holding at most `limit_bytes`.

    What was used least recently goes first; the file asked for is kept even where it alone is over the limit.
    """

    def __init__(self, address: str, folder: str | os.PathLike[str], *, limit_bytes: int | None = None) -> None:
        self.address = address.rstrip("/")
        self.folder = Path(folder) / hashlib.sha256(self.address.encode()).hexdigest()[:16]
        self.limit_bytes = limit_bytes

    def fetch(self, name: str, *, size: int | None = None, sha256: str | None = None) -> Path:
        """The local path of the file `name`, fetched if it is not there.

        `size` and `sha256` are what the manifest says of it; without them it is fetched anew. Raises ShardError,
        naming the address, where it is missing, cannot be read, or its bytes are others.
        """
        path = self.folder / name
        if size is not None and path.is_file() and path.stat().st_size == size:
            os.utime(path)
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{name}.{uuid.uuid4().hex}{_SUFFIX}"
        try:
            self._copy(name, part, size, sha256)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        self._evict(keep=path)
        return path

    def _copy(self, name: str, part: Path, size: int | None, sha256: str | None) -> None:
        source = f"{self.address}/{name}"
        try:
            system, path = filesystem(source)
            copied, digest = steadily(lambda: _copied(system, path, part))
        except FileNotFoundError as absent:
            raise ShardError(
                describe("the file is missing", where=source, fix="Upload the sealed set again.")
            ) from absent
        except OSError as error:
            fix = f"Look at the address and who may read it, and at the space in {self.folder}."
            raise ShardError(describe(f"it cannot be fetched: {error}", where=source, fix=fix)) from error
        if (size is not None and copied != size) or (sha256 is not None and digest != sha256):
            raise ShardError(
                describe(
                    f"{copied} bytes with sha256 {digest}",
                    where=source,
                    expected=f"{size} bytes with {sha256}",
                    fix="Upload the file again; run `sftdata verify` on the set it came from.",
                )
            )

    def _evict(self, keep: Path) -> None:
        """Delete what dead processes left half written, and what was used least recently until the rest fits."""
        for part in self.folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # its owner put it in place
                if time.time() - part.stat().st_mtime > _DEAD_SECONDS:
                    part.unlink()
        if self.limit_bytes is None:
            return
        known = []
        for path in self.folder.glob("*.parquet"):
            with contextlib.suppress(FileNotFoundError):  # another process evicted it
                known.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        total = sum(size for _, size, _ in known)
        for _, size, path in sorted(known):
            if total <= self.limit_bytes:
                break
            if path != keep:
                path.unlink(missing_ok=True)
                total -= size


def _copied(system: Any, source: str, part: Path) -> tuple[int, str]:
    """Copy a file to `part`, from its beginning, onto the disk; its size and sha256."""
    digest, copied = hashlib.sha256(), 0
    with system.open(source, "rb") as remote, part.open("wb") as local:
        while chunk := remote.read(_CHUNK):
            digest.update(chunk)
            copied += len(chunk)
            local.write(chunk)
        local.flush()
        os.fsync(local.fileno())
    return copied, digest.hexdigest()
