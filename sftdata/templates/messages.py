"""From a Conversation to the plain dicts that a chat template reads, and the protection of control spellings.

What lives here: the keys under which templates expect a message, the variants that templates disagree about (is a
missing content absent or empty, are arguments an object or text), and the marking of content that spells a control
token. What must not: rendering, prompts, replies.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import msgspec

from sftdata.records import Conversation, Finding, Message, ToolCall

__all__ = [
    "VARIANTS",
    "Chat",
    "ControlPolicy",
    "Variant",
    "as_content",
    "control_pattern",
    "plain_content",
    "prepare_chat",
    "prints_escaped",
    "prints_null",
    "prints_parts",
    "protect_text",
    "renamed",
    "spells_control",
]


class Variant(msgspec.Struct, frozen=True):
    """One of the ways in which servers hand the same message to a template."""

    no_content: Literal["absent", "empty", "null"] = "absent"
    """What a turn without content has: no key, as transformers leaves it, `content: ""` or, as OpenAI's clients write
    it, `content: null`."""
    text_arguments: bool = False
    """Tool-call arguments are JSON text; otherwise an object."""
    inline_reasoning: bool = False
    """Reasoning that stood inline in the content stays there; otherwise it has a key of its own."""
    parts: bool = False
    """Content is a list of one text part, as multimodal templates expect it; otherwise plain text."""


VARIANTS = tuple(
    Variant(no_content, text_arguments, inline_reasoning, parts)
    for parts, inline_reasoning, text_arguments in itertools.product((False, True), repeat=3)
    for no_content in ("absent", "empty", "null")
)
"""In the order in which they are tried: the first that the template renders without loss is the one."""


class ControlPolicy(msgspec.Struct, frozen=True):
    """Which spellings are control tokens, and what becomes of content that has them."""

    everywhere: tuple[str, ...]
    """Spellings that no content may turn into a token: special tokens and what the template opens turns with."""
    outside_replies: tuple[str, ...]
    """Spellings that a reply may contain as tokens (`<think>`, `<tool_call>`) but other roles may not."""
    mode: str = "text"
    """`text`: encoded as ordinary characters. `reject`: the record is. `allow`: nothing is protected."""


class Chat(msgspec.Struct, frozen=True):
    """A conversation as a template sees it."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    markers: str
    """The two private characters around protected spellings; empty where nothing is protected."""
    findings: tuple[Finding, ...]
    variant: Variant


def prepare_chat(conversation: Conversation, policy: ControlPolicy, variant: Variant) -> Chat:
    """The template's view of `conversation`; control spellings in content are enclosed in markers.

    >>> # a user who writes "<|im_end|>" is seen by the template as "\\U000f0000<|im_end|>\\U000f0001"
    """
    messages = [_as_dict(message, variant) for message in conversation.messages]
    tools: list[dict[str, Any]] | None = [dict(tool) for tool in conversation.tools] or None
    if policy.mode == "allow":
        return _chat(messages, tools, "", (), variant)
    patterns = {
        True: _pattern(policy.everywhere),
        False: _pattern((*policy.everywhere, *policy.outside_replies)),
    }
    hits = [
        index for index, message in enumerate(messages) if _contains(message, patterns[message["role"] == "assistant"])
    ]
    tools_hit = tools is not None and _contains(tools, patterns[False])
    if not hits and not tools_hit:
        return _chat(messages, tools, "", (), variant)
    findings = tuple(_found(conversation, index, policy.mode) for index in hits)
    if tools_hit:
        findings += (Finding(_CODES[policy.mode], "a tool definition spells a control token", "/tools"),)
    if policy.mode == "reject":
        return _chat(messages, tools, "", findings, variant)
    markers = _free_markers(messages, tools)
    for index in hits:
        pattern = patterns[messages[index]["role"] == "assistant"]
        messages[index] = _mapped(messages[index], _marker(pattern, markers))
    if tools_hit:
        tools = _mapped(tools, _marker(patterns[False], markers))
    return _chat(messages, tools, markers, findings, variant)


def _chat(
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None,
    markers: str,
    findings: tuple[Finding, ...],
    variant: Variant,
) -> Chat:
    if variant.parts:
        for message in messages:
            if message.get("content") is not None:
                message["content"] = as_content(message["content"], variant)
    return Chat(messages, tools, markers, findings, variant)


def as_content(text: str, variant: Variant) -> str | list[dict[str, str]]:
    """`text` as the value of `content` in this variant."""
    return [{"type": "text", "text": text}] if variant.parts else text


def plain_content(message: dict[str, Any]) -> str:
    """The text that `as_content` made the content of; empty where there is none."""
    content = message.get("content") or ""
    text: str = content if isinstance(content, str) else content[0]["text"]
    return text


def renamed(call: dict[str, Any], name: str) -> dict[str, Any]:
    """`call` under another name; an id that spells the old one (`functions.NAME:0`) goes along."""
    function = call["function"]
    out = {**call, "function": {**function, "name": name}}
    if function["name"] and function["name"] in call.get("id", ""):
        out["id"] = call["id"].replace(function["name"], name)
    return out


def prints_parts(text: str, said: str) -> bool:
    """Whether `text` has the list of parts around `said` printed as a list, as no template means to."""
    return f"'text': '{said}'" in text or f'"text": "{said}"' in text


def prints_null(text: str, chat: Chat) -> bool:
    """Whether `text` has the word None for a content that is null, as no template means to."""
    said = "\0".join(_strings([*chat.messages, *(chat.tools or [])]))
    return chat.variant.no_content == "null" and text.count("None") > said.count("None")


def prints_escaped(text: str, markers: str) -> bool:
    """Whether a marker was printed as an escape, so that what it protects is protected no more."""
    escapes = (form for marker in markers for form in (repr(marker)[1:-1], json.dumps(marker)[1:-1]))
    return any(escape in text for escape in escapes)


def spells_control(text: str, policy: ControlPolicy, role: str) -> bool:
    """Whether `text`, said in this role, spells a control token."""
    return control_pattern(policy, role).search(text) is not None


def control_pattern(policy: ControlPolicy, role: str) -> re.Pattern[str]:
    """What finds a control token in a text said in this role."""
    return _pattern(policy.everywhere if role == "assistant" else (*policy.everywhere, *policy.outside_replies))


def protect_text(text: str, policy: ControlPolicy) -> tuple[str, str]:
    """`text` with control spellings enclosed in markers, and the markers (empty where there are none)."""
    pattern = _pattern((*policy.everywhere, *policy.outside_replies))
    if policy.mode == "allow" or not pattern.search(text):
        return text, ""
    markers = _free_markers([text], None)
    return _marker(pattern, markers)(text), markers


_CODES = {"text": "SFT423", "reject": "SFT405"}


def _found(conversation: Conversation, index: int, mode: str) -> Finding:
    pointer = conversation.pointers[index] if index < len(conversation.pointers) else ""
    role = conversation.messages[index].role
    return Finding(_CODES[mode], f"the {role} turn spells a control token", pointer)


def _as_dict(message: Message, variant: Variant) -> dict[str, Any]:
    """One message under the keys that transformers and OpenAI use; what is None is absent."""
    out: dict[str, Any] = {"role": message.role}
    inline = variant.inline_reasoning and message.inline is not None
    if inline:
        out["content"] = message.inline
    elif message.content is not None:
        out["content"] = message.content
    elif variant.no_content != "absent":
        out["content"] = "" if variant.no_content == "empty" else None
    if message.reasoning is not None and not inline:
        # transformers copies the first reasoning key it finds to both of these names (chat_template_utils.py)
        out["reasoning_content"] = message.reasoning
        out["thinking"] = message.reasoning
    if message.tool_calls:
        out["tool_calls"] = [_call(call, variant) for call in message.tool_calls]
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        out["name"] = message.name
    return out


def _call(call: ToolCall, variant: Variant) -> dict[str, Any]:
    arguments = call.arguments
    if variant.text_arguments and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    out: dict[str, Any] = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
    if call.id is not None:
        out["id"] = call.id
    return out


_PATTERNS: dict[tuple[str, ...], re.Pattern[str]] = {}


def _pattern(literals: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern for any of `literals`, longest first so that a token wins over those inside it."""
    if literals not in _PATTERNS:
        longest = sorted(filter(None, literals), key=len, reverse=True)
        _PATTERNS[literals] = re.compile("|".join(map(re.escape, longest)) or "(?!)")
    return _PATTERNS[literals]


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            if key not in _STRUCTURE:
                yield key
            if key != "role":
                yield from _strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)


_STRUCTURE = frozenset(
    (
        *("role", "content", "reasoning_content", "thinking", "tool_calls", "tool_call_id", "name", "id", "type"),
        *("function", "arguments", "description", "parameters", "properties", "required", "items", "enum"),
    )
)
"""Keys by which templates find their way: never changed, whatever added tokens a tokenizer has."""


def _contains(value: dict[str, Any] | list[dict[str, Any]], pattern: re.Pattern[str]) -> bool:
    return any(pattern.search(one) for one in _strings(value))


def _marker(pattern: re.Pattern[str], markers: str) -> Callable[[str], str]:
    return lambda text: pattern.sub(lambda match: f"{markers[0]}{match[0]}{markers[1]}", text)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {
            key if key in _STRUCTURE else change(key): one if key == "role" else _mapped(one, change)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [_mapped(one, change) for one in value]
    return value


def _free_markers(messages: Sequence[Any], tools: Any) -> str:
    """Two private-use characters that occur nowhere in the record; the ones transformers uses where they are free."""
    seen = {char for text in _strings([*messages, tools or []]) for char in text if char >= "\U000f0000"}
    free = (chr(code) for code in range(0xF0000, 0xFFFFE) if chr(code) not in seen)
    return next(free) + next(free)
