"""64-bit keys of what a conversation says, so that records can be compared without being kept.

What lives here: `Keys` and how they are made. What must not: comparing them.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Any

import msgspec

from sftdata.records import Conversation

__all__ = ["Keys", "key", "keys_of", "said"]


class Keys(msgspec.Struct, frozen=True):
    """Keys of one conversation; 0 where there is nothing of the kind. Equal texts have equal keys in every run."""

    content: int
    """Of everything that is said, by whom, in order, with tools; not of training flags."""
    prompt: int
    """Of everything before the first reply."""
    answer: int
    """Of the first reply."""
    system: int
    """Of the system turns."""


def key(value: Any) -> int:
    """64 bits of plain data, or of anything that msgspec can encode.

    >>> key("a") == key("a"), key("a") == key("b")
    (True, False)
    """
    data = msgspec.json.encode(value, order="deterministic")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _plain(text: str | None) -> str:
    """Text as duplicates are told: compatibility forms, letter case and white space make no difference."""
    if not text:
        return ""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def keys_of(conversation: Conversation) -> Keys:
    """The keys of one conversation.

    >>> from sftdata.records import Message
    >>> one = keys_of(Conversation((Message("user", "Hi"), Message("assistant", "Hello"))))
    >>> two = keys_of(Conversation((Message("user", "Hi"), Message("assistant", "Hey"))))
    >>> one.prompt == two.prompt, one.content == two.content, one.system
    (True, False, 0)
    """
    if conversation.text is not None:
        return Keys(key(_plain(conversation.text)), 0, 0, 0)
    turns = [
        (one.role, _plain(one.content), _plain(one.reasoning), one.tool_calls and key(one.tool_calls))
        for one in conversation.messages
    ]
    first = next((index for index, turn in enumerate(turns) if turn[0] == "assistant"), len(turns))
    system = [turn[1] for turn in turns if turn[0] in {"system", "developer"}]
    tools = key(conversation.tools) if conversation.tools else 0
    return Keys(
        content=key((turns, tools)),
        prompt=key((turns[:first], tools)) if first else 0,
        answer=key(turns[first]) if first < len(turns) else 0,
        system=key(system) if system else 0,
    )


def said(conversation: Conversation, roles: frozenset[str] = frozenset({"user", "assistant"})) -> str:
    """What near-duplicates and overlaps are told by: the texts of `roles`, a line each."""
    if conversation.text is not None:
        return conversation.text
    return "\n".join(one.content for one in conversation.messages if one.content and one.role in roles)
