"""Calls into native code that may panic.

What lives here: the one place where a panic of a Rust library becomes an exception like any other. What must not: what
is called, and what its failure means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["NativeError", "held"]


class NativeError(Exception):
    """Native code failed, by an exception or by a panic; the message is one line."""


def held(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call `function`; whatever it throws, panics among it, is a NativeError, but for what ends the process.

    A panic reaches Python as `pyo3_runtime.PanicException`, which is no Exception and which every extension module
    makes anew, so it is known by its name. Any other BaseException is not the library's: a signal that comes while
    native code runs is raised as the call returns, and must not be taken for a text that cannot be encoded.
    """
    try:
        return function(*args, **options)
    except MemoryError:
        raise
    except Exception as error:
        raise NativeError(_line(error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise NativeError(_line(error)) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
