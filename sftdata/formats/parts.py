"""Contents that are lists of parts: texts, what the model thought, and the tools it called.

    [{"type": "reasoning", "value": "R"}, {"type": "text", "value": "A"}]   ─►   reasoning "R", text "A"

What lives here: taking such lists apart. A turn is thought, then said, then calls; parts in another order cannot be
kept in it and are refused. What must not: whole turns, or what a call means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from sftdata.formats.faults import Faults

__all__ = ["Parts", "read_parts", "text_of"]

_STAGES = {"reasoning": 0, "thinking": 0, "tool_call": 2}
"""Where a part of this type stands in its turn; every other type that the schemas let pass is text, and stands at 1."""
_TEXT_KEYS = ("text", "value", "thinking")


class Parts(msgspec.Struct, frozen=True):
    """The parts of one content."""

    text: str | None
    """All text parts one after another; None where there are none, and calls instead."""
    reasoning: str | None
    calls: tuple[tuple[Any, str], ...]
    """Each tool call as the record has it, and where it stands."""


def text_of(part: str | dict[str, Any]) -> str:
    """The text of one part.

    >>> text_of({"type": "text", "text": "Hi"}), text_of({"text": "Hi"}), text_of("Hi")
    ('Hi', 'Hi', 'Hi')
    """
    return part if isinstance(part, str) else next(part[key] for key in _TEXT_KEYS if isinstance(part.get(key), str))


def read_parts(content: Sequence[str | dict[str, Any]], where: str, faults: Faults) -> Parts:
    """The parts of the list at `where`, which the format's schema accepts. Parts out of order are faults (SFT110)."""
    said: tuple[list[str], list[str]] = ([], [])
    calls = []
    reached = 0
    for index, part in enumerate(content):
        stage = 1 if isinstance(part, str) else _STAGES.get(part.get("type") or "text", 1)
        if stage < reached:
            what = ("reasoning", "text")[stage]
            faults.add("SFT110", f"a part with {what} stands behind what must follow it", f"{where}/{index}")
        reached = max(reached, stage)
        if stage == 2 and isinstance(part, dict):
            calls.append((part["value"], f"{where}/{index}/value"))
        else:
            said[stage].append(text_of(part))
    reasoning, texts = said
    return Parts("".join(texts) if texts or not calls else None, "".join(reasoning) or None, tuple(calls))
