"""`messages`: OpenAI-style messages, or a bare list of them.

What lives here: how the format is recognised and read. What must not: other formats.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

from sftdata.formats.conversation import CHAT_COLUMNS, conclude
from sftdata.formats.faults import Faults
from sftdata.formats.tools import read_tools
from sftdata.formats.turns import explain_turns, read_turns
from sftdata.formats.validation import schema
from sftdata.records import Conversation, Rejection

__all__ = ["claims", "read"]

_KNOWN = CHAT_COLUMNS | {"messages"}


def claims(keys: AbstractSet[str]) -> bool:
    """Whether a record with these keys looks like this format."""
    return "messages" in keys


def read(record: dict[str, Any]) -> Conversation | Rejection:
    """The conversation in `messages`, or everything that is wrong with the record."""
    faults = Faults()
    rules = schema("messages")
    if not rules.accepts(record):
        return explain_turns(rules, record, ("messages",), faults)
    tools = read_tools(record, faults, "messages")
    messages, pointers = read_turns(record["messages"], "/messages", tools, faults)
    if not record.keys() <= _KNOWN:
        faults.ignore(record.keys() - _KNOWN)
    return conclude("messages", record, messages, pointers, tools, faults)
