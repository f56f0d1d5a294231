"""What a user may say about the shape of their data, checked where it is said.

What lives here: `FormatOptions` and the canonical names it speaks of. What must not: reading records.
"""

from __future__ import annotations

import msgspec

from sftdata.errors import ConfigError, describe, nearest
from sftdata.formats.roles import ROLE_TARGETS

__all__ = ["FIELDS", "FORMAT_NAMES", "TURN_FIELDS", "FormatOptions"]

FORMAT_NAMES = ("alpaca", "sharegpt", "messages", "pairs", "prompt-completion", "text")

TURN_FIELDS = frozenset(
    {
        *("role", "content", "from", "value", "name", "weight", "train"),
        *("tool_calls", "tool_call_id", "reasoning_content"),
    }
)
"""Canonical fields of a turn; all others are fields of the record."""

FIELDS = TURN_FIELDS | {
    *("messages", "conversations", "tools", "system", "chat_template_kwargs"),
    *("instruction", "input", "output", "history", "prompt", "completion", "text"),
    *("chosen", "rejected", "label", "images", "videos", "audios"),
}
"""Every canonical field that a column may be mapped to."""


class FormatOptions(msgspec.Struct, frozen=True):
    """How to read the records of one input. Raises ConfigError for a name that does not exist."""

    input_format: str = "auto"
    """A key of `FORMATS`, or `auto`: every record is recognised by its own keys and shapes."""
    columns: dict[str, str] = msgspec.field(default_factory=dict)
    """Canonical field → the column in the data, such as `{"output": "target"}`. Others stay as they are."""
    roles: dict[str, str] = msgspec.field(default_factory=dict)
    """A role in the data → the role it stands for, such as `{"model": "assistant"}`."""

    def __post_init__(self) -> None:
        _check("input format", self.input_format, ("auto", *FORMAT_NAMES))
        for field in self.columns:
            _check("column", field, FIELDS)
        for role in self.roles.values():
            _check("role", role, ROLE_TARGETS)


def _check(what: str, name: str, known: frozenset[str] | tuple[str, ...]) -> None:
    if name not in known:
        raise ConfigError(describe(f"no {what} {name!r}", fix=nearest(name, known)))
