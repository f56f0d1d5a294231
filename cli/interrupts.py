"""SIGINT and SIGTERM end a command that can be resumed: at once, cleanly, and with a line that says how to go on.

What lives here: the handlers. What must not: what is cleaned up (whoever opened something closes it on the way out).
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

import click

__all__ = ["ending_cleanly"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Stopped(BaseException):
    """Not an Exception, so that nothing takes it for a failure of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def ending_cleanly(hint: str) -> Iterator[None]:
    """While the block runs, a signal ends it with exit code 130 (SIGINT) or 143 (SIGTERM) and `hint`."""

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        for one in _SIGNALS:  # a second one must not break off the cleaning up, which takes no time
            signal.signal(one, signal.SIG_IGN)
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
