"""How an installed command begins: signals are taken before anything is imported that takes time.

What lives here: that order, on the standard library alone. What must not: what is run.
"""

from __future__ import annotations

import importlib
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

    sys.exit(interruptible(work))
