"""Placeholders that nobody filled in (SFT714).

What lives here: the spellings of template engines and of forms, outside of code. A reply about templates, or one that
uses the placeholder its prompt asked for, is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sftdata.checks.texts import prose
from sftdata.records import Conversation, Finding

__all__ = ["unfilled"]

_BRACES = re.compile(r"\{\{ ?[A-Za-z_][\w .-]{0,39}\}\}|\$\{\{ ?[\w.]{1,40} ?\}\}")
_FORMS = re.compile(r"\[(?:INSERT|YOUR|ENTER|ADD) [A-Z][A-Z0-9 _'/-]{1,40}\]|<(?:INSERT|YOUR)[ _][A-Z_ ]{2,40}>")
_FORM_LIKE = re.compile(r"[\[<](?:INSERT|YOUR|ENTER|ADD)")
_CODE_LIKE = re.compile(r"\{%|</|/>|=>|\bdef \w+\(|\bfunction\b|\bclass \w+[:{(]|;\s*\n|\\frac|\\begin|\\text")


def unfilled(conversation: Conversation) -> Iterator[Finding]:
    """One finding a turn whose text holds `{{name}}` or `[INSERT NAME]` that no turn before it holds."""
    for index, message in enumerate(conversation.messages):
        text = message.content
        if not text or not ("{{" in text or (("[" in text or "<" in text) and _FORM_LIKE.search(text))):
            continue
        found = _placeholder(text)
        if found is None or message.role == "tool":
            continue
        if not any(found in (one.content or "") for one in conversation.messages[:index]):
            yield Finding("SFT714", f"{found!r} was not filled in", conversation.pointers[index])


def _placeholder(text: str) -> str | None:
    found = _BRACES.search(text) or _FORMS.search(text)
    if found is None or _CODE_LIKE.search(text):
        return None
    plain = prose(text)
    again = _BRACES.search(plain) or _FORMS.search(plain)
    return again.group() if again else None
