"""The most frequent record of all, read in one loop: `messages` and nothing else, turns of a role and a text.

    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}

What lives here: recognising records of which no rule has anything to say, and their conversation, as `messages.read`
would give it; tests hold the two to each other. What must not: any finding. What is in doubt is left to the formats.
"""

from __future__ import annotations

from typing import Any

from sftdata.formats.conversation import is_usual
from sftdata.formats.turns import turn_pointers
from sftdata.records import Conversation, Message

__all__ = ["read"]

_ROLES = frozenset({"system", "user", "assistant"})


def read(value: Any) -> Conversation | None:
    """The conversation of an ordinary record; None for all others."""
    if type(value) is not dict or len(value) != 1:
        return None
    turns = value.get("messages")
    if type(turns) is not list:
        return None
    messages = []
    for turn in turns:
        if type(turn) is not dict or len(turn) != 2:
            return None
        role, content = turn.get("role"), turn.get("content")
        if type(content) is not str or type(role) is not str or role not in _ROLES:
            return None
        if content.isspace() or not content or (role == "assistant" and "think>" in content):
            return None
        messages.append(Message(role, content))  # type: ignore[arg-type]
    if not is_usual(tuple([message.role for message in messages])):
        return None
    return Conversation(tuple(messages), pointers=turn_pointers("/messages", len(messages)), format="messages")
