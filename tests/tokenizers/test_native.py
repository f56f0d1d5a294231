"""What native code throws is one exception; what ends the process is not the native code's."""

from __future__ import annotations

import os
import signal

import pytest

from sftdata.tokenizers import engines, load_files, load_vocabulary
from sftdata.tokenizers.native import NativeError, held


class Stopped(BaseException):
    pass


class PanicException(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError("a\nb"), PanicException("a b"), RecursionError("a b")])
def test_failures_and_panics_are_one_exception(error: BaseException) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(NativeError, match="a b"):
        held(fails)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), MemoryError(), Stopped()])
def test_what_ends_the_process_goes_through(error: BaseException) -> None:
    def ends() -> None:
        raise error

    with pytest.raises(type(error)):
        held(ends)


def test_a_signal_that_comes_in_native_code_is_no_failure_of_it() -> None:
    def stop(*_: object) -> None:
        raise Stopped

    before = signal.signal(signal.SIGINT, stop)
    try:
        with pytest.raises(Stopped):
            held(os.kill, os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_want_of_memory_does_not_choose_another_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(engines, "FastEngine", starved)
    with pytest.raises(MemoryError):
        engines.choose_engine(load_vocabulary(load_files("builtin")), "auto")
