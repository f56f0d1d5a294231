"""`pairs`: rounds of a question and its answer under `conversation`, each an object with one key for either side.

    {"conversation": [{"human": "Q", "assistant": "A"}, …]}        {"conversation": [{"input": "Q", "output": "A"}, …]}

What lives here: how the format is recognised and read. A round may hold one side alone, and the system prompt before
it. What must not: other formats.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sftdata.formats.conversation import CHAT_COLUMNS, conclude
from sftdata.formats.faults import Faults
from sftdata.formats.flags import FLAG_KEYS, trained_flag
from sftdata.formats.tools import read_tools
from sftdata.formats.turns import reasoning_beside, reply
from sftdata.formats.validation import schema
from sftdata.records import Conversation, Message, Rejection

__all__ = ["ANSWER_KEYS", "COLUMNS", "QUESTION_KEYS", "is_round", "read"]

COLUMNS = ("conversations", "conversation", "messages")
QUESTION_KEYS = ("human", "user", "input", "prompt", "question", "query", "instruction")
ANSWER_KEYS = ("assistant", "gpt", "bot", "output", "response", "answer", "completion")
_SIDES = frozenset({*QUESTION_KEYS, *ANSWER_KEYS})
_TURN_KEYS = frozenset({"role", "from", "content", "value"})
_LOSS = "output_with_loss"
"""xtuner's flag of a round: whether its answer is trained."""
_KNOWN = frozenset({"system", _LOSS, *FLAG_KEYS})


def is_round(value: Any) -> bool:
    """Whether a value is a round of this format and not a turn of another.

    >>> is_round({"human": "Q", "assistant": "A"}), is_round({"from": "human", "value": "Q"})
    (True, False)
    """
    return isinstance(value, dict) and not _SIDES.isdisjoint(value) and _TURN_KEYS.isdisjoint(value)


def read(record: dict[str, Any]) -> Conversation | Rejection:
    """The rounds as a conversation, or everything that is wrong with the record."""
    faults = Faults()
    rules = schema("pairs")
    if not rules.accepts(record):
        return rules.reject(record, faults)
    column = next(name for name in COLUMNS if name in record)
    messages: list[Message] = []
    pointers: list[str] = []
    for index, raw in enumerate(record[column]):
        for message, key in _round(raw, f"/{column}/{index}", faults):
            messages.append(message)
            pointers.append(f"/{column}/{index}/{key}")
    unread = record.keys() - CHAT_COLUMNS - {column}
    if unread:
        faults.ignore(unread)
    return conclude("pairs", record, messages, pointers, read_tools(record, faults), faults)


def _round(raw: dict[str, Any], where: str, faults: Faults) -> list[tuple[Message, str]]:
    """The messages of one round, and the key that each came from."""
    raw = {key: value for key, value in raw.items() if value is not None}
    asked = [key for key in QUESTION_KEYS if key in raw]
    answered = [key for key in ANSWER_KEYS if key in raw]
    for keys in (asked, answered):
        if len(keys) > 1:
            faults.add("SFT126", f"`{keys[0]}` and `{keys[1]}` compete", where, "Leave one of them in each round.")
    found = [(Message("system", raw["system"]), "system")] if raw.get("system", "").strip() else []
    found += [(Message("user", raw[key]), key) for key in asked[:1]]
    thought = reasoning_beside(raw)
    for key in answered[:1]:
        message = reply(raw[key], f"{where}/{key}", faults, raw[thought] if thought else None)
        found.append((msgspec.structs.replace(message, trained=_trained(raw, where, faults)), key))
    faults.ignore(raw.keys() - _KNOWN - _SIDES - {thought})
    return found


def _trained(raw: dict[str, Any], where: str, faults: Faults) -> bool | None:
    flags = {key: raw[key] for key in FLAG_KEYS.intersection(raw)}
    if _LOSS in raw:
        flags.setdefault("loss", raw[_LOSS])
    return trained_flag(flags, "assistant", where, mask=False, faults=faults) if flags else None
