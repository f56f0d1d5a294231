"""SIGINT and SIGTERM end a command that can be resumed: at once, cleanly, and with a line that says how to go on.

What lives here: the handlers. What must not: what is cleaned up (whoever opened something closes it on the way out).
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

import click

__all__ = ["ending_cleanly"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_CLEANING = 5.0  # seconds that cleaning up has to itself


class _Stopped(BaseException):
    """Not an Exception, so that nothing takes it for a failure of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def ending_cleanly(hint: str) -> Iterator[None]:
    """While the block runs, a signal ends it with exit code 130 (SIGINT) or 143 (SIGTERM) and `hint`."""

    first = -math.inf

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal first
        # another one soon after must not break off the cleaning up; a later one is somebody who still waits, because
        # the first was raised inside a finaliser, where Python drops what is raised
        if time.monotonic() - first < _CLEANING:
            return
        first = time.monotonic()
        raise _Stopped(number)

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    except _Stopped as stopped:
        click.echo(f"interrupted by {signal.Signals(stopped.number).name}: {hint}", err=True)
        sys.exit(128 + stopped.number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
