"""How an installed command begins: streams are there, and signals taken, before anything is imported that takes time.

What lives here: that order, on the standard library alone. What must not: what is run.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import NoReturn

from sftdata_cli.interrupts import interruptible

__all__ = ["enter"]


def enter(module: str) -> NoReturn:
    """Run the `command` of `module` on the process's arguments, and exit with its code."""

    def work() -> int:
        from sftdata_cli.exits import exit_code

        code: int = exit_code(importlib.import_module(module).command)
        return code

    _open_streams()
    sys.exit(interruptible(work))


def _open_streams() -> None:
    """Let a stream that the caller has closed (`>&-`) lead nowhere.

    The next file that is opened would have its number, and get what native code writes to it.
    """
    for handle, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(handle, mode, encoding="utf-8", closefd=False))
