"""SIGINT, SIGTERM and SIGHUP end every command: at once, cleanly, and with a line that says how to go on.

What lives here: the handlers, and the end of a process that they ended. What must not: what is cleaned up (whoever
opened something closes it on the way out).
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

__all__ = ["Interrupted", "behind", "ending_cleanly", "interruptible"]

_ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_CLEANING = 5.0  # seconds that cleaning up has to itself
_AGAIN = 0.01  # seconds after which a signal that was swallowed is raised again
_hints: list[str] = []


class Interrupted(BaseException):
    """Not an Exception, so that nothing takes it for a failure of its own.

    Python drops what is raised inside a finaliser, and there is code that catches everything. One that goes away
    before it has ended the command was swallowed so: its signal comes again.
    """

    def __init__(self, number: int, handlers: _Handlers) -> None:
        super().__init__(number)
        self.number, self.hint = number, _hints[-1] if _hints else ""
        self._handlers = handlers

    def __del__(self) -> None:
        self._handlers.lost(self.number)


class _Handlers:
    """What the handlers of a process know."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.first = -math.inf
        """When the signal came that is being obeyed."""
        self.ended: int | None = None
        """The exit code of a command that has ended, by a signal or without."""

    def stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Raise, but for a signal that comes soon after another, or after the end.

        The one must not break off the cleaning up; a later one is somebody who still waits. The other changes nothing
        of what was done, and ends what may still be on its way out.
        """
        if os.getpid() != self.process:  # a forked child, which has nothing of its own to put in order
            os._exit(128 + number)
        if time.monotonic() - self.first < _CLEANING:
            return
        if self.ended is not None:
            os._exit(self.ended)
        self.first = time.monotonic()
        raise Interrupted(number, self)

    def lost(self, number: int) -> None:
        """Somebody swallowed the exception: raise it anew a moment later, when they are done."""
        if self.ended is not None or not hasattr(signal, "setitimer"):
            return
        self.first = -math.inf
        with contextlib.suppress(ValueError):  # outside the main thread, where no handler can be set
            signal.signal(signal.SIGALRM, lambda _, frame: self.stop(number, frame))
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)

    def dropped(self, what: Any) -> None:
        """For what is raised inside a finaliser: `lost` sees to it, and nobody has to read of it."""
        if what.exc_type is not Interrupted:
            sys.__unraisablehook__(what)


@contextlib.contextmanager
def ending_cleanly(hint: str) -> Iterator[None]:
    """A signal that ends the command while the block runs says `hint`."""
    _hints.append(hint)
    try:
        yield
    finally:
        _hints.pop()


def behind(error: BaseException) -> Interrupted | None:
    """The signal that `error` hides, where cleaning up after it failed."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, Interrupted):
        seen = seen.__context__
    return seen


def _ignore(taken: Iterable[int]) -> None:
    """As the last thing before the interpreter goes: it takes its time, and would have signals kill meanwhile."""
    for number in taken:
        signal.signal(number, signal.SIG_IGN)


def interruptible(work: Callable[[], int]) -> int:
    """What `work` returns; a signal ends the process instead, with 130 (SIGINT), 143 (SIGTERM) or 129 (SIGHUP).

    For the last thing that a process does: the handlers stay.
    """
    handlers = _Handlers()
    # nohup has SIGHUP ignored, and means it. Shells have SIGINT ignored by whatever a script starts in the background;
    # `kill -INT` is to end that all the same.
    taken = [one for one in _ENDING if one == signal.SIGINT or signal.getsignal(one) != signal.SIG_IGN]
    atexit.register(_ignore, taken)
    try:
        sys.unraisablehook = handlers.dropped
        for number in taken:
            signal.signal(number, handlers.stop)
        handlers.ended = work()
    except Interrupted as stopped:
        handlers.ended = 128 + stopped.number
        with contextlib.suppress(OSError):
            name = signal.Signals(stopped.number).name
            print(f"interrupted by {name}{': ' * bool(stopped.hint)}{stopped.hint}", file=sys.stderr, flush=True)
        # what is to be done at an exit is done; whatever still runs in this process, such as a thread that loads a
        # tokenizer, is not waited for, as leaving in the ordinary way would
        atexit._run_exitfuncs()
        os._exit(handlers.ended)
    return handlers.ended
