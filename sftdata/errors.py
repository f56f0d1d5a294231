"""The errors that stop a run, and the one place that words a message.

What lives here: exception classes by *whose turn it is to act*, and `describe`, which joins where, what,
expected and fix into one sentence. What must not: any knowledge of records, templates or files. A record that
cannot be used is not an exception but a value (`records.Finding`); exceptions here end the run or the command.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ConfigError",
    "InputError",
    "OutputError",
    "SftdataError",
    "ShardError",
    "describe",
    "nearest",
]


class SftdataError(Exception):
    """Base of all errors raised on purpose. `str(error)` is complete and fit to be shown to a user."""


class ConfigError(SftdataError, ValueError):
    """The configuration, a template, a tokenizer or a flag is wrong. Nothing has been written (exit code 2)."""


class InputError(SftdataError, ValueError):
    """An input as a whole cannot be used: missing, unreadable, changed since it was planned (exit code 2)."""


class OutputError(SftdataError, OSError):
    """The output folder cannot be used: not empty, locked by another run, another plan (exit code 2)."""


class ShardError(SftdataError, ValueError):
    """A sealed dataset is damaged, foreign or incomplete."""


def describe(what: str, *, where: str = "", expected: str = "", fix: str = "") -> str:
    """Join the four parts of a message, leaving out those that are empty.

    >>> describe("content is null", where="chat.jsonl:12", expected="text", fix="Drop the record.")
    'chat.jsonl:12: content is null (expected text). Drop the record.'
    """
    text = what.rstrip(".")
    if where:
        text = f"{where}: {text}"
    if expected:
        text = f"{text} (expected {expected})"
    return f"{text}. {fix}" if fix else f"{text}."


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint naming the known spelling closest to `name`, or listing what is known; ends without a full stop.

    >>> nearest("max_lenght", ["max_length", "seed"])
    'did you mean max_length?'
    """
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(choices)}"
