"""`sharegpt`: turns under `conversations`, with `from` and `value`, or `role` and `content`.

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

__all__ = ["KEYS", "claims", "read"]

KEYS = ("conversations", "conversation")
_READ_KEYS = (*KEYS, "messages")
_KNOWN = CHAT_COLUMNS | {*_READ_KEYS, "mask"}


def claims(keys: AbstractSet[str]) -> bool:
    """Whether a record with these keys looks like this format."""
    return not keys.isdisjoint(KEYS)


def read(record: dict[str, Any]) -> Conversation | Rejection:
    """The conversation in the first of `conversations`, `conversation` and `messages` that is there."""
    faults = Faults()
    rules = schema("sharegpt")
    if not rules.accepts(record):
        return explain_turns(rules, record, _READ_KEYS, faults)
    key = next(name for name in _READ_KEYS if name in record)
    tools = read_tools(record, faults, key)
    messages, pointers = read_turns(record[key], f"/{key}", tools, faults)
    if not record.keys() <= _KNOWN:
        faults.ignore(record.keys() - _KNOWN)
    return conclude("sharegpt", record, messages, pointers, tools, faults)
