"""Signals that end a run between two steps, and reader processes that leave them to the run.

What lives here: who listens to SIGTERM, SIGINT and SIGHUP. What must not: what is done then.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["leave_signals_to_parent", "noted_signals"]

_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """A list in which SIGTERM, SIGINT and SIGHUP are noted inside; a second SIGINT ends the process as it would have.

    What is ignored, as nohup has SIGHUP, stays so.

    Outside the main thread, where Python takes no handlers, the list stays empty.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        received.append(number)
        if number == signal.SIGINT:
            signal.signal(number, before[number])

    before: dict[int, Any] = {
        number: signal.getsignal(number)
        for number in _ENDING
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        for number in before:
            signal.signal(number, note)
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_parent(worker: int) -> None:  # noqa: ARG001
    """For a DataLoader's worker: end when the parent says so, whatever else is sent.

    A terminal, torchrun and Slurm signal all processes of a run. torch's workers would die of it, and their parent of
    that, before it could save anything.
    """
    if not hasattr(signal, "sigwaitinfo"):  # macOS, Windows: who sent a signal cannot be asked
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(parent: int) -> None:
    while True:
        sent = signal.sigwaitinfo(_ENDING)
        if sent.si_signo == signal.SIGTERM and sent.si_pid in (parent, os.getppid()):
            os._exit(0)
