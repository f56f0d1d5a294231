"""Shape beyond the schema: size, tools and the order around them (SFT010, SFT111, SFT121).

What lives here: rules that need the whole normalised conversation. What must not: texts' content.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import jsonschema_rs
import msgspec

from sftdata.records import Conversation, Finding

__all__ = ["structure"]

_MANY = 1_000_000


def structure(conversation: Conversation) -> Iterator[Finding]:
    """Findings about size, order and tools."""
    size = len(conversation.text or "") + sum(len(message.content or "") for message in conversation.messages)
    if size > _MANY:
        yield Finding("SFT010", f"{size:,} characters in one record")
    if conversation.tools:
        yield from _tools(conversation)
    roles = {message.role for message in conversation.messages}
    if "assistant" in roles and "user" not in roles:
        yield Finding("SFT111", "a reply and no turn of the user", conversation.pointers[0])
    before = None
    for message, pointer in zip(conversation.messages, conversation.pointers, strict=True):
        if message.role == "tool" and before not in {"assistant", "tool"}:
            yield Finding("SFT111", f"a tool's result after {before or 'nothing'}", pointer)
        before = message.role


def _tools(conversation: Conversation) -> Iterator[Finding]:
    declared = {}
    for tool in conversation.tools:
        function = tool.get("function", tool)
        parameters = function.get("parameters") if isinstance(function, dict) else None
        if not isinstance(parameters, dict) or not isinstance(function.get("name"), str):
            continue
        declared[function["name"]] = msgspec.json.encode(parameters, order="deterministic")
    for message, pointer in zip(conversation.messages, conversation.pointers, strict=True):
        for call in message.tool_calls:
            if call.name in declared and isinstance(call.arguments, dict):
                wrong = _violation(declared[call.name], call.arguments)
                if wrong:
                    yield Finding("SFT121", f"arguments of {call.name!r}: {wrong}", pointer)


@lru_cache(maxsize=4096)
def _validator(schema: bytes) -> Any:
    try:
        return jsonschema_rs.validator_for(schema.decode())
    except (ValueError, jsonschema_rs.ValidationError):
        return None  # a schema that is none: SFT129's business


def _violation(schema: bytes, arguments: dict[str, Any]) -> str:
    validator = _validator(schema)
    if validator is None or validator.is_valid(arguments):
        return ""
    error = next(iter(validator.iter_errors(arguments)))
    return str(error.message)[:120]
