"""What a template loses: every field of the real record must leave a trace in what is rendered.

What lives here: looking for the record's own values in the rendered text, and, where one is not found as it stands,
the trial with a sentinel in its place that decides between lost and merely rewritten (JSON escapes, trimming). What
must not: prompts, replies, policies other than the list of fields that may be lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import msgspec

from sftdata.records import Conversation, Finding, Message
from sftdata.templates.environment import TemplateError
from sftdata.templates.messages import Chat, as_content, plain_content, prints_parts, renamed

__all__ = ["REFUSED_FIELDS", "Kept"]

REFUSED_FIELDS = ("system", "tools", "tool_calls", "tool_results", "reasoning", "content", "user")
"""Fields whose loss is refused unless allowed by name. `name` and `tool_call_id` are information."""

_MARK = "Zq7vKeptName"
_ARGUMENT = "Zq7vKeptKey"


class Spoken(Protocol):
    """A reply, of which only the text matters here."""

    @property
    def text(self) -> str:
        """What the model must emit."""
        ...


class Reader(Protocol):
    """What `Kept` asks of the reader of turns."""

    @property
    def arguments(self) -> str:
        """The flag that sets arguments of the template, as a remedy names it."""
        ...

    def render(self, chat: Chat, upto: int, *, generation: bool) -> str:
        """The text of the first `upto` messages."""
        ...

    def read(self, conversation: Conversation, chat: Chat, turn: int) -> tuple[str, Spoken | Finding]:
        """The prompt of an assistant turn and its reply."""
        ...


class Kept:
    """Finds fields that one template, with one set of arguments, does not render."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._dropped: dict[tuple[Any, ...], frozenset[str]] = {}

    def missing(
        self,
        conversation: Conversation,
        chat: Chat,
        text: str,
        replies: Mapping[int, str],
        allowed: frozenset[str],
    ) -> list[Finding]:
        """A finding for every kind of field that is lost: SFT308 where that is refused, SFT325 where allowed.

        `text` is the last example's prompt and reply, `replies` the replies by turn.
        """
        upto = max(replies) + 1
        dropped = self._dropped_in_shape(conversation, chat, upto)
        suspects: dict[str, str] = {}
        for field, pointer, place, value in _fields(conversation, chat, upto):
            if field in suspects:
                continue
            if field == "reasoning" and place not in replies:
                continue
            target = replies.get(place, text) if field in _OF_REPLIES else text
            if field in dropped or (not _found(value, target) and self._lost(conversation, chat, field, place, upto)):
                suspects[field] = pointer
        return [_finding(field, pointer, allowed, self._reader.arguments) for field, pointer in suspects.items()]

    def _dropped_in_shape(self, conversation: Conversation, chat: Chat, upto: int) -> frozenset[str]:
        """Fields that vanish from conversations of this shape, asked once a shape with sentinels in all fields.

        Short values ("a", "ok") are found somewhere in almost any text; this is what catches their loss.
        """
        messages = conversation.messages[:upto]
        shape = (
            bool(conversation.tools),
            chat.variant,
            messages[0].role,
            frozenset(
                (one.role, bool(one.tool_calls), bool(one.reasoning), one.name is None, bool(one.content))
                for one in messages
            ),
        )
        known = self._dropped.get(shape)
        if known is None:
            last = {field: place for field, _, place, _ in _fields(conversation, chat, upto)}
            # reasoning of earlier turns may go: it is trained where that turn has an example of its own
            last = {field: place for field, place in last.items() if field != "reasoning" or place == upto - 1}
            known = frozenset(
                field for field, place in last.items() if self._lost(conversation, chat, field, place, upto)
            )
            self._dropped[shape] = known
        return known

    def _lost(self, conversation: Conversation, chat: Chat, field: str, place: int, upto: int) -> bool:
        """Whether a sentinel in the field's place leaves no trace: in the reply, where the field belongs to one."""
        trial = _with_sentinel(chat, field, place)
        try:
            if field not in _OF_REPLIES:
                # what the last reply's prompt holds is what is served; its turn may be rendered behind something else
                asked = place < upto - 1
                text = self._reader.render(trial, upto - asked, generation=asked)
                return _MARK not in text or (chat.variant.parts and prints_parts(text, _MARK))
            _, reply = self._reader.read(_thinking(conversation, field, place), trial, place)
        except TemplateError:
            return False
        if isinstance(reply, Finding):
            return False
        if field == "tool_calls":
            # arguments printed as a Python literal ({'a': 1}) are not what any server parses: text is tried next
            return _MARK not in reply.text or _ARGUMENT not in reply.text or f"'{_ARGUMENT}'" in reply.text
        return _MARK not in reply.text


def _finding(field: str, pointer: str, allowed: frozenset[str], arguments: str) -> Finding:
    if field in allowed or field not in REFUSED_FIELDS:
        return Finding("SFT325", f"the template does not render {_WORDS.get(field, field)}", pointer)
    return Finding(
        "SFT308",
        f"the template does not render {_WORDS.get(field, field)}",
        pointer,
        f"Use a template, or arguments of it ({arguments}), that render it, or --allow-dropped {field} to train "
        "without it.",
    )


def _fields(conversation: Conversation, chat: Chat, upto: int) -> Iterable[tuple[str, str, int, str]]:
    """(field, pointer, message index, value as the template saw it) of what must leave a trace before `upto`."""
    for index, (message, seen) in enumerate(zip(conversation.messages[:upto], chat.messages, strict=False)):
        pointer = conversation.pointers[index] if index < len(conversation.pointers) else ""
        field = _CONTENT_FIELDS.get(message.role)
        if field is not None and message.content and message.content.strip():
            yield field, pointer, index, plain_content(seen)
        yield from _extra_fields(message, seen, pointer, index)
    for place, tool in enumerate(chat.tools or []):
        name = (tool.get("function") or tool).get("name")
        if isinstance(name, str) and name:
            yield "tools", f"/tools/{place}", -1, name


_OF_REPLIES = frozenset({"reasoning", "tool_calls", "content"})
"""Fields that must stand in the reply of their own turn."""
_WORDS = {"content": "the text beside tool calls"}

_CONTENT_FIELDS = {"system": "system", "developer": "system", "user": "user", "tool": "tool_results"}


def _extra_fields(
    message: Message, seen: dict[str, Any], pointer: str, index: int
) -> Iterable[tuple[str, str, int, str]]:
    if message.reasoning and message.reasoning.strip() and "reasoning_content" in seen:
        yield "reasoning", pointer, index, seen["reasoning_content"]
    if message.tool_calls and message.content and message.content.strip() and seen.get("tool_calls"):
        yield "content", pointer, index, plain_content(seen)
    for call in seen.get("tool_calls", ()):
        yield "tool_calls", pointer, index, call["function"]["name"]
    if message.name is not None and message.role != "tool":
        yield "name", pointer, index, message.name


def _found(value: str, text: str) -> bool:
    return value in text or value.strip() in text


def _thinking(conversation: Conversation, field: str, place: int) -> Conversation:
    """The conversation with the sentinel for the reasoning of one turn, where that is the field."""
    if field != "reasoning":
        return conversation
    messages = list(conversation.messages)
    messages[place] = msgspec.structs.replace(messages[place], reasoning=_MARK)
    return msgspec.structs.replace(conversation, messages=tuple(messages))


def _with_sentinel(chat: Chat, field: str, place: int) -> Chat:
    if field == "tools":
        assert chat.tools is not None
        tool = dict(chat.tools[-1])
        if isinstance(tool.get("function"), dict):
            tool["function"] = {**tool["function"], "name": _MARK}
        else:
            tool["name"] = _MARK
        return msgspec.structs.replace(chat, tools=[*chat.tools[:-1], tool])
    messages = list(chat.messages)
    message = dict(messages[place])
    if field == "tool_calls":
        calls = message["tool_calls"]
        arguments: Any = {_ARGUMENT: 1}
        arguments = json.dumps(arguments) if chat.variant.text_arguments else arguments
        call = renamed(calls[-1], _MARK)
        message["tool_calls"] = [*calls[:-1], {**call, "function": {**call["function"], "arguments": arguments}}]
    elif field == "reasoning":
        message["reasoning_content"] = message["thinking"] = _MARK
    elif field == "name":
        message["name"] = _MARK
    else:
        message["content"] = as_content(_MARK, chat.variant)
    messages[place] = message
    return msgspec.structs.replace(chat, messages=messages)
