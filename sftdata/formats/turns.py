"""One raw turn becomes one `Message`, whatever its spelling: OpenAI's or ShareGPT's.

What lives here: reading turns that the format's schema accepts. What must not: rules about the conversation as a
whole (`conversation`), or which columns a record has (the formats).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from sftdata.formats.faults import Faults
from sftdata.formats.flags import FLAG_KEYS, mask_counts, trained_flag
from sftdata.formats.parts import Parts, read_parts
from sftdata.formats.reasoning import has_stray_tag, split_think
from sftdata.formats.roles import CALL_ROLES, ROLES
from sftdata.formats.tools import Tools, read_calls, read_tools
from sftdata.formats.validation import Schema
from sftdata.records import Message, Rejection, Role, ToolCall

__all__ = ["explain_turns", "read_turns", "reasoning_beside", "reply", "turn_pointers"]

_FEW = 64
"""Conversations of up to so many turns share their pointers."""
_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
_KNOWN = frozenset(
    {
        *("role", "content", "from", "value", "name", "tool_calls", "function_call", "tool_call_id"),
        *("train_detail", "training_detail", "image", "images", "audio", "audios", "video", "videos"),
        *_REASONING_KEYS,
        *FLAG_KEYS,
    }
)


@lru_cache(maxsize=512)
def _few_pointers(base: str, count: int) -> tuple[str, ...]:
    return tuple(f"{base}/{index}" for index in range(count))


def turn_pointers(base: str, count: int) -> tuple[str, ...]:
    """The pointers of `count` turns in the list at `base`.

    >>> turn_pointers("/messages", 2)
    ('/messages/0', '/messages/1')
    """
    return (_few_pointers if count <= _FEW else _few_pointers.__wrapped__)(base, count)


def read_turns(
    raws: Sequence[dict[str, Any]], base: str, tools: Tools, faults: Faults
) -> tuple[list[Message], tuple[str, ...]]:
    """The messages of the turns in the list at `base`, and the pointer of each.

    Neighbouring turns that are nothing but a tool call each are parallel calls of one message.
    """
    messages: list[Message] = []
    pointers = turn_pointers(base, len(raws))
    merged: set[int] = set()
    reader: _TurnReader | None = None
    for index, raw in enumerate(raws):
        if len(raw) == 2:
            content = raw.get("content")
            role = ROLES.get(raw.get("role", ""))
            if role is None:
                content = raw.get("value")
                role = ROLES.get(raw.get("from", ""))
            if type(content) is str and role and (role != "assistant" or "think>" not in content):
                messages.append(Message(role, content))
                continue
        if reader is None:
            reader = _TurnReader(raws, tools, faults)
        message = reader.read(raw, pointers[index])
        if index > 0 and _is_call(raw) and _is_call(raws[index - 1]) and messages[-1].trained is message.trained:
            merged.add(index)
            message = msgspec.structs.replace(message, tool_calls=messages.pop().tool_calls + message.tool_calls)
        messages.append(message)
    if merged:
        pointers = tuple(place for index, place in enumerate(pointers) if index not in merged)
    return messages, pointers


def reply(content: str, where: str, faults: Faults, thought: str | None = None) -> Message:
    """The assistant's message for a reply that is text alone, at `where`, and what was thought before it."""
    if "think>" not in content:
        return Message("assistant", content, thought)
    reasoning, text, inline = _split_reasoning(thought, content, where, faults)
    return Message("assistant", text, reasoning, inline=inline)


def reasoning_beside(record: Mapping[str, Any]) -> str | None:
    """The key that holds what was thought before the one answer of `record`; None where none does.

    >>> reasoning_beside({"question": "Q", "reasoning": "R", "answer": "A"})
    'reasoning'
    """
    for key in _REASONING_KEYS:
        value = record.get(key)
        if isinstance(value, str) and value and not value.isspace():
            return key
    return None


def explain_turns(schema: Schema, record: dict[str, Any], keys: Iterable[str], faults: Faults) -> Rejection:
    """All faults of a record that its schema refuses: the schema's, and those of the turns it has none with."""
    paths = schema.explain(record, faults)
    refused = {tuple(path[:2]) for path in paths}
    columns = {path[0] for path in paths if path}
    tools = read_tools({key: value for key, value in record.items() if key not in columns}, faults)
    for key in keys:
        raws = record.get(key)
        if not isinstance(raws, list):
            continue
        reader = _TurnReader([raw for raw in raws if isinstance(raw, dict)], tools, faults)
        for index, raw in enumerate(raws):
            if faults.full:
                break
            if (key, index) not in refused and isinstance(raw, dict):
                reader.read(raw, f"/{key}/{index}")
    return Rejection(faults.all())


class _TurnReader:
    """Reads the turns of one record that are more than a role and a text."""

    __slots__ = ("_faults", "_mask", "_tools")

    def __init__(self, raws: Iterable[Mapping[str, Any]], tools: Tools, faults: Faults) -> None:
        self._tools = tools
        self._faults = faults
        masks = [(_role(raw), raw["mask"]) for raw in raws if raw.get("mask") is not None]
        self._mask = mask_counts(masks) if masks else False

    def read(self, raw: dict[str, Any], where: str) -> Message:
        faults = self._faults
        if None in raw.values():
            raw = {key: value for key, value in raw.items() if value is not None}
        role = _role(raw)
        key = "content" if "role" in raw else "value"
        said = raw.get(key)
        content = said if isinstance(said, str) else None
        calls = self._calls(raw, role, where)
        parts = read_parts(said, f"{where}/{key}", faults) if isinstance(said, list) else None
        if parts is not None:
            content = parts.text
            calls += self._called(parts, role)
        if content is not None and _is_call(raw):
            calls += read_calls(content, f"{where}/{key}", self._tools, faults)
            content = None
        reasoning, inline = next((raw[name] for name in _REASONING_KEYS if name in raw), None), None
        if parts is not None and parts.reasoning is not None:
            if role != "assistant" or reasoning is not None:
                faults.add("SFT110", "reasoning that is not the reply's own", f"{where}/{key}")
            reasoning = parts.reasoning
        if role != "assistant":
            faults.ignore(name for name in _REASONING_KEYS if raw.get(name))
            reasoning = None
        elif content is not None:
            reasoning, content, inline = _split_reasoning(reasoning, content, f"{where}/{key}", faults)
        self._note_unread(raw, where)
        return Message(
            role,
            content,
            reasoning,
            calls,
            raw.get("tool_call_id"),
            raw.get("name"),
            trained_flag(raw, role, where, self._mask, faults),
            inline=inline,
        )

    def _calls(self, raw: Mapping[str, Any], role: Role, where: str) -> tuple[ToolCall, ...]:
        calls: tuple[ToolCall, ...] = ()
        for key in ("tool_calls", "function_call"):
            if not raw.get(key):
                continue
            if role == "assistant":
                calls += read_calls(raw[key], f"{where}/{key}", self._tools, self._faults)
            else:
                self._faults.add("SFT117", f"a turn of role {role} holds tool calls", f"{where}/{key}")
        return calls

    def _called(self, parts: Parts, role: Role) -> tuple[ToolCall, ...]:
        """The calls that are parts of the content."""
        calls: tuple[ToolCall, ...] = ()
        for call, place in parts.calls:
            if role == "assistant":
                calls += read_calls(call, place, self._tools, self._faults)
            else:
                self._faults.add("SFT117", f"a turn of role {role} holds tool calls", place)
        return calls

    def _note_unread(self, raw: Mapping[str, Any], where: str) -> None:
        unread = raw.keys() - _KNOWN
        if "tools" in unread:
            unread.discard("tools")
            if raw["tools"] and not (where.endswith("/0") and _role(raw) in ("system", "developer")):
                what = "tools are declared in a turn that is not the opening system message"
                self._faults.add("SFT129", what, f"{where}/tools", "Put them into `tools` beside the turns.")
        metadata = raw.get("metadata")
        if unread and isinstance(metadata, dict) and metadata.keys() == {"masked"}:
            unread.discard("metadata")
        if unread:
            self._faults.ignore(unread)


def _split_reasoning(
    reasoning: str | None, content: str, where: str, faults: Faults
) -> tuple[str | None, str, str | None]:
    """(reasoning, content, content as it stood where the reasoning was taken out of it)."""
    inline = None
    if reasoning is None and (pair := split_think(content)) is not None:
        inline = content
        reasoning, content = pair
    if has_stray_tag(reasoning, content):
        faults.add("SFT712", "think tags that do not match up stay in the text", where)
    return reasoning, content, inline


def _is_call(raw: Mapping[str, Any]) -> bool:
    """Whether the turn's whole text is a tool call."""
    return raw.get("role", raw.get("from")) in CALL_ROLES


def _role(raw: Mapping[str, Any]) -> Role:
    name = raw.get("role", raw.get("from"))
    return ROLES.get(name, "assistant") if isinstance(name, str) else "assistant"
