"""The rules about a conversation as a whole, and the making of the `Conversation`.

What lives here: order of roles, blank turns, training flags, calls and their results, and the columns that any chat
format may have beside its turns (`system`, `tools`, `chat_template_kwargs`, a weight). What must not: raw turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from sftdata.formats.faults import Faults, has_error, shown
from sftdata.formats.flags import RECORD_FLAG_KEYS, record_flag
from sftdata.formats.parts import text_of
from sftdata.formats.roles import ROLES
from sftdata.formats.tools import Tools
from sftdata.records import Conversation, Message, Rejection, Role

__all__ = ["CHAT_COLUMNS", "conclude", "is_usual"]

_FEW = 64
"""The order of roles is looked up for conversations of up to so many turns, and worked out for longer ones."""
_SYSTEM_KEYS = ("system", "system_prompt")
CHAT_COLUMNS = frozenset(
    {
        *_SYSTEM_KEYS,
        *("tools", "functions", "chat_template_kwargs"),
        *("image", "images", "audio", "audios", "video", "videos"),
        *RECORD_FLAG_KEYS,
    }
)
"""Columns of a record that every chat format understands."""


def conclude(
    name: str,
    record: dict[str, Any],
    messages: list[Message],
    pointers: Sequence[str],
    tools: Tools,
    faults: Faults,
) -> Conversation | Rejection:
    """Add what stands beside the turns, hold the whole against the rules, and build the conversation.

    `pointers` says, for each of `messages`, where it came from. Returns a Rejection with everything found where any
    of it is an error.
    """
    kwargs = None
    if not CHAT_COLUMNS.isdisjoint(record):
        messages, pointers = _with_system(record, messages, pointers)
        messages = _with_record_flag(record, messages)
        kwargs = _template_kwargs(record, faults)
    mask = record.get("mask")
    if type(mask) is str:
        _check_masked_roles(mask, faults)
    order = _order if len(messages) <= _FEW else _order.__wrapped__
    for code, index, message in order(tuple([message.role for message in messages])):
        faults.add(code, message, pointers[index] if index >= 0 else "")
    with_tools = _check_turns(messages, pointers, faults)
    if with_tools:
        _check_tools(messages, pointers, tools, faults)
    findings = faults.all()
    if findings and has_error(findings):
        return Rejection(findings)
    return Conversation(
        messages=tuple(messages),
        tools=tools.definitions,
        template_kwargs=kwargs,
        pointers=tuple(pointers),
        format=name,
        findings=findings,
    )


def _with_system(
    record: dict[str, Any], messages: list[Message], pointers: Sequence[str]
) -> tuple[list[Message], Sequence[str]]:
    """The system column as the first message, unless it is blank or the conversation opens with the same text."""
    for key in _SYSTEM_KEYS:
        text = record.get(key)
        if isinstance(text, list):
            text = "".join(text_of(part) for part in text)
        if text and not text.isspace():
            if messages and messages[0].role == "system" and messages[0].content == text:
                break
            return [Message("system", text), *messages], (f"/{key}", *pointers)
    return messages, pointers


def _with_record_flag(record: dict[str, Any], messages: list[Message]) -> list[Message]:
    if RECORD_FLAG_KEYS.isdisjoint(record) or record_flag(record) is not False:
        return messages
    return [
        msgspec.structs.replace(message, trained=False)
        if message.role == "assistant" and message.trained is None
        else message
        for message in messages
    ]


def _template_kwargs(record: dict[str, Any], faults: Faults) -> dict[str, Any] | None:
    value = record.get("chat_template_kwargs")
    if isinstance(value, str) and value.strip():
        try:
            value = msgspec.json.decode(value)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            faults.add("SFT129", "the text is not a JSON object", "/chat_template_kwargs")
    kwargs = {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else None
    return kwargs or None


def _check_masked_roles(roles: str, faults: Faults) -> None:
    """NeMo's record-level `"mask": "User"` names the roles without loss: fine as long as no reply is among them."""
    if any(ROLES.get(role.strip(), "assistant") == "assistant" for role in roles.split(",")):
        faults.add("SFT115", f"the record masks the roles {shown(roles)}", "/mask")


@lru_cache(maxsize=4096)
def _order(roles: tuple[str, ...]) -> tuple[tuple[str, int, str], ...]:
    """(code, index of the turn or -1, message) for what is unusual about a sequence of roles."""
    found = []
    if "assistant" not in roles:
        found.append(("SFT106", -1, "no turn of the assistant"))
    system_seen = False
    for index, role in enumerate(roles):
        if role in ("system", "developer"):
            if system_seen:
                found.append(("SFT114", index, "a second system message"))
            elif index > 0:
                found.append(("SFT114", index, "a system message that is not the first"))
            system_seen = True
        elif index > 0 and role == roles[index - 1] and role != "tool":
            found.append(("SFT112", index, f"two turns of role {role} in a row"))
    if "assistant" in roles and roles[-1] != "assistant":
        found.append(("SFT113", len(roles) - 1, f"the last turn is of role {roles[-1]}; it is kept, untrained"))
    return tuple(found)


def is_usual(roles: tuple[Role, ...]) -> bool:
    """Whether there is nothing to say of a sequence of roles.

    >>> is_usual(("user", "assistant")), is_usual(("user", "user"))
    (True, False)
    """
    return not (_order if len(roles) <= _FEW else _order.__wrapped__)(roles)


def _check_turns(messages: list[Message], pointers: Sequence[str], faults: Faults) -> bool:
    """Blank turns and training flags; returns whether there are tool calls or results to look at."""
    with_tools = False
    weighted_off = 0
    for index, message in enumerate(messages):
        role = message.role
        content = message.content
        if role == "assistant":
            with_tools = with_tools or bool(message.tool_calls)
            if message.trained is False:
                weighted_off += 1
            elif (not content or content.isspace()) and not message.tool_calls:
                faults.add("SFT108", "a trained reply without content and without a tool call", pointers[index])
        elif role == "tool":
            with_tools = True
        elif role == "user" and (not content or content.isspace()):
            faults.add("SFT109", "a blank turn of the user", pointers[index])
    if weighted_off and weighted_off == sum(message.role == "assistant" for message in messages):
        faults.add("SFT107", "every reply is flagged as untrained")
    return with_tools


def _check_tools(messages: list[Message], pointers: Sequence[str], tools: Tools, faults: Faults) -> None:
    """Results belong to calls, calls to declared tools. A record may end on calls: they are then its target."""
    undeclared: set[str] = set()
    open_calls: list[str | None] = []
    for index, message in enumerate(messages):
        if message.role == "tool":
            if not _closes(open_calls, message.tool_call_id):
                faults.add("SFT119", "a tool result without its call", pointers[index])
            continue
        if open_calls:
            faults.add("SFT119", "tool calls before this turn have no result", pointers[index])
        open_calls = [call.id for call in message.tool_calls]
        if not tools.definitions or tools.builtin:
            continue
        for call in message.tool_calls:
            if call.name not in tools.parameters and call.name not in undeclared:
                undeclared.add(call.name)
                faults.add("SFT120", f"the tool {shown(call.name)} is not declared", pointers[index])


def _closes(open_calls: list[str | None], call_id: str | None) -> bool:
    """Take the call that a result belongs to out of the open ones: by id where both have one, else the oldest."""
    if call_id in open_calls:
        open_calls.remove(call_id)
    elif call_id is None and open_calls:
        open_calls.pop(0)
    elif None in open_calls:
        open_calls.remove(None)
    else:
        return False
    return True
