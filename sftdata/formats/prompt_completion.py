"""`prompt-completion`: a prompt and its completion, each a text or a list of messages.

What lives here: how the format is recognised and read. The completion is what is trained: replies inside a prompt
are context, unless the record flags them. What must not: other formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Any

import msgspec

from sftdata.formats.conversation import CHAT_COLUMNS, conclude
from sftdata.formats.faults import Faults
from sftdata.formats.tools import Tools, read_tools
from sftdata.formats.turns import explain_turns, read_turns, reasoning_beside, reply
from sftdata.formats.validation import schema
from sftdata.records import Conversation, Message, Rejection

__all__ = ["COMPLETION_KEYS", "PROMPT_KEYS", "claims", "read"]

PROMPT_KEYS = ("prompt", "question", "query", "problem", "input", "inputs")
COMPLETION_KEYS = ("completion", "response", "answer", "solution", "output", "target", "targets")


def claims(keys: AbstractSet[str]) -> bool:
    """Whether a record with these keys looks like this format."""
    if "instruction" in keys:
        return {"prompt", "completion"} <= keys
    return not keys.isdisjoint(PROMPT_KEYS) and not keys.isdisjoint(COMPLETION_KEYS)


@lru_cache(maxsize=1024)
def _plan(keys: tuple[str, ...]) -> tuple[str, str, frozenset[str]]:
    """The columns read as prompt and completion, and the unread ones."""
    prompt, completion = (next(key for key in names if key in keys) for names in (PROMPT_KEYS, COMPLETION_KEYS))
    return prompt, completion, frozenset(keys) - CHAT_COLUMNS - {prompt, completion}


def read(record: dict[str, Any]) -> Conversation | Rejection:
    """Prompt and completion as a conversation, or everything that is wrong with the record."""
    faults = Faults()
    rules = schema("prompt_completion")
    if not rules.accepts(record):
        return explain_turns(rules, record, (*PROMPT_KEYS, *COMPLETION_KEYS), faults)
    prompt_key, completion_key, unread = _plan(tuple(record))
    tools = read_tools(record, faults, prompt_key if isinstance(record[prompt_key], list) else "")
    answer = record[completion_key]
    thought = reasoning_beside(record) if unread and isinstance(answer, str) else None
    if unread:
        faults.ignore(unread - {thought})
    prompt, asked = _prompt(record[prompt_key], f"/{prompt_key}", tools, faults)
    place = f"/{completion_key}"
    completion: Sequence[Message]
    answered: Sequence[str]
    if isinstance(answer, str):
        completion, answered = [reply(answer, place, faults, record[thought] if thought else None)], (place,)
    else:
        completion, answered = read_turns(answer, place, tools, faults)
    return conclude("prompt-completion", record, [*prompt, *completion], (*asked, *answered), tools, faults)


def _prompt(value: Any, base: str, tools: Tools, faults: Faults) -> tuple[list[Message], Sequence[str]]:
    if isinstance(value, str):
        return [Message("user", value)], (base,)
    messages, pointers = read_turns(value, base, tools, faults)
    context = [
        msgspec.structs.replace(message, trained=False)
        if message.role == "assistant" and message.trained is None
        else message
        for message in messages
    ]
    return context, pointers
