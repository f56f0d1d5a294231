"""A signal ends a command, wherever it comes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from sftdata_cli.interrupts import ending_cleanly


class Finalised:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def interrupted(work: Callable[[], None]) -> int:
    """The exit code of a command that does `work`."""
    with pytest.raises(SystemExit) as ended, ending_cleanly("go on so"):
        work()
    code = ended.value.code
    assert isinstance(code, int)
    return code


def test_a_second_signal_does_not_break_off_the_cleaning_up(capsys: pytest.CaptureFixture[str]) -> None:
    cleaned = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            cleaned.append(True)

    ended = interrupted(work)
    assert ended == 128 + signal.SIGTERM
    assert cleaned == [True]
    assert capsys.readouterr().err == "interrupted by SIGTERM: go on so\n"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_drops_can_be_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    went_on = []

    def work() -> None:
        Finalised()
        went_on.append(True)
        clock[0] += 60
        os.kill(os.getpid(), signal.SIGINT)

    ended = interrupted(work)
    assert went_on == [True]
    assert ended == 128 + signal.SIGINT


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with ending_cleanly("go on so"):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
