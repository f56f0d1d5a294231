"""Files that are there whole or not at all, whatever ends the process that writes them.

What lives here: the one way to write a file under a name that somebody will look for. What must not: what is in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

__all__ = ["durable"]


@contextlib.contextmanager
def durable(*paths: Path) -> Iterator[list[Path]]:
    """Names to write files to: when the block ends well they appear at `paths`, on the disk; else none of them does.

    What is no regular file (/dev/stdout, a named pipe) is written as it is. Raises OSError.
    """
    targets = [Path(os.path.realpath(path)) for path in paths]
    names = []
    for target in targets:
        if not target.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target))
        special = target.exists() and not target.is_file()
        names.append(target if special else target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp"))
    pairs = [(name, target) for name, target in zip(names, targets, strict=True) if name != target]
    undone = [name for name, _ in pairs]
    try:
        yield names
        for name, _ in pairs:
            with name.open("rb+") as file:
                os.fsync(file.fileno())
        for name, target in pairs:
            if not target.exists():
                undone.append(target)
            name.replace(target)
        undone.clear()
    finally:
        for name in undone:
            with contextlib.suppress(OSError):  # what led here is the one to be seen
                name.unlink()
