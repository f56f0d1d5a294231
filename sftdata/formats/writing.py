"""A conversation as an OpenAI-style record: the inverse of reading.

What lives here: `to_messages`. `normalise(to_messages(c))` gives the same messages, tools and template arguments.
What must not: rules.
"""

from __future__ import annotations

from typing import Any

from sftdata.records import Conversation, Message

__all__ = ["to_messages"]


def to_messages(conversation: Conversation) -> dict[str, Any]:
    """The record that says what `conversation` says; a text without roles becomes `{"text": …}`.

    Arguments of tool calls stay objects, training flags are `weight`, and reasoning is `reasoning_content` unless it
    stood inline, where it stays.
    """
    if conversation.text is not None:
        return {"text": conversation.text}
    record: dict[str, Any] = {"messages": [_written(message) for message in conversation.messages]}
    if conversation.tools:
        record["tools"] = list(conversation.tools)
    if conversation.template_kwargs is not None:
        record["chat_template_kwargs"] = dict(conversation.template_kwargs)
    return record


def _written(message: Message) -> dict[str, Any]:
    raw: dict[str, Any] = {"role": message.role}
    content = message.content if message.inline is None else message.inline
    if content is not None:
        raw["content"] = content
    if message.reasoning is not None and message.inline is None:
        raw["reasoning_content"] = message.reasoning
    if message.tool_calls:
        raw["tool_calls"] = [
            {
                **({"id": call.id} if call.id is not None else {}),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        raw["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        raw["name"] = message.name
    if message.trained is not None:
        raw["weight"] = int(message.trained)
    return raw
