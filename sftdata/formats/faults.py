"""Where the findings of one record gather, so that all its faults are reported at once.

What lives here: the collector and JSON pointers. What must not: any rule's own knowledge.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from sftdata.records import Finding
from sftdata.rules import RULES

__all__ = ["MAX_FINDINGS", "Faults", "has_error", "pointer", "shown"]

MAX_FINDINGS = 100
"""So many errors, and as many other findings, are kept of one record: a million bad turns say no more."""

_ERRORS = frozenset(code for code, entry in RULES.items() if entry.severity == "error")
_FEW = 64
_MAX_KEYS = 8
_MAX_SHOWN = 40


class Faults:
    """Findings of one record in the order of their discovery, and the keys nobody asked for."""

    __slots__ = ("_errors", "extra", "findings")

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.extra: set[str] = set()
        self._errors = 0

    @property
    def full(self) -> bool:
        """Whether so much is wrong that looking further is pointless."""
        return self._errors >= MAX_FINDINGS

    def add(self, code: str, message: str, where: str = "", fix: str = "") -> None:
        """Note one finding; past `MAX_FINDINGS` it is let go. Errors are counted apart: no warning crowds one out."""
        is_error = code in _ERRORS
        if (self._errors if is_error else len(self.findings) - self._errors) < MAX_FINDINGS:
            self._errors += is_error
            self.findings.append(Finding(code, message, where, fix))

    def ignore(self, keys: Iterable[str]) -> None:
        """Note keys that nothing reads."""
        self.extra.update(keys)

    def all(self) -> tuple[Finding, ...]:
        """Everything found, with one SFT116 for all unread keys of the record at the end."""
        if self.extra:
            name = _unread if len(self.extra) <= _FEW else _unread.__wrapped__
            self.findings.append(name(frozenset(self.extra)))
            self.extra = set()
        return tuple(self.findings)


@lru_cache(maxsize=1024)
def _unread(keys: frozenset[str]) -> Finding:
    names = sorted(keys)
    listed = ", ".join(shown(name) for name in names[:_MAX_KEYS])
    more = f" and {len(names) - _MAX_KEYS} more" if len(names) > _MAX_KEYS else ""
    return Finding("SFT116", f"keys that nothing reads: {listed}{more}")


def has_error(findings: Iterable[Finding]) -> bool:
    """Whether one of the findings is of severity error."""
    return any(found.code in _ERRORS for found in findings)


def pointer(*tokens: str | int) -> str:
    """An RFC 6901 JSON pointer.

    >>> pointer("messages", 2, "a/b")
    '/messages/2/a~1b'
    """
    return "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in tokens)


def shown(value: object) -> str:
    """A value as a message may quote it: short, on one line.

    >>> shown("model")
    "'model'"
    """
    text = repr(value[:_MAX_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= _MAX_SHOWN + 2 else text[:_MAX_SHOWN] + "..."
