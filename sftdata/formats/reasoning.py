"""One normal form for what a model thought before it answered.

    content "<think>\\nA\\n</think>\\n\\nB"   ─►   reasoning "A", content "B"

The tag must be the very first thing in the content. One line break after `<think>`, one before `</think>` and up
to two after it belong to the notation and are taken away; every other character stays, so `join_think` writes back
what was read wherever the record used the usual form, and reading what `join_think` wrote always gives the same
pair. What lives here: that notation. What must not: messages.
"""

from __future__ import annotations

__all__ = ["CLOSE", "OPEN", "has_stray_tag", "join_think", "split_think"]

OPEN = "<think>"
CLOSE = "</think>"


def split_think(content: str) -> tuple[str, str] | None:
    """(reasoning, content) of a content that opens with a think block; None where it must stay as it is.

    It stays where there is no block at the very start, or where the tags do not match up.

    >>> split_think("<think>\\nA\\n</think>\\n\\nB")
    ('A', 'B')
    >>> split_think("<think>A") is None
    True
    """
    end = content.find(CLOSE)
    if end < 0 or not content.startswith(OPEN):
        return None
    inner, rest = content[len(OPEN) : end], content[end + len(CLOSE) :]
    if OPEN in inner or not _balanced(rest):
        return None
    inner = inner.removeprefix("\n").removesuffix("\n")
    return inner, rest.removeprefix("\n").removeprefix("\n")


def join_think(reasoning: str, content: str) -> str:
    """The inverse of `split_think`, in the usual form.

    >>> join_think("A", "B")
    '<think>\\nA\\n</think>\\n\\nB'
    """
    return f"{OPEN}\n{reasoning}\n{CLOSE}\n\n{content}"


def has_stray_tag(reasoning: str | None, content: str) -> bool:
    """Whether tags stand without their other half, or a second block follows a first."""
    if reasoning is not None and (OPEN in reasoning or CLOSE in reasoning or content.startswith(OPEN)):
        return True
    return "think>" in content and not _balanced(content)


def _balanced(text: str) -> bool:
    """Whether every tag in the text has its other half, and none is nested."""
    at = 0
    while True:
        opened, closed = text.find(OPEN, at), text.find(CLOSE, at)
        if opened < 0 or closed < 0:
            return opened == closed
        if closed < opened or OPEN in text[opened + len(OPEN) : closed]:
            return False
        at = closed + len(CLOSE)
