"""A conversation as one template renders it, without a tokenizer: every prompt that is served for it, and its end.

What lives here: asking one template for all prompts of one conversation, in that variant of the messages in which it
loses least. What must not: replies, stops (`contract`), ids, comparing templates.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from sftdata.records import Conversation
from sftdata.templates.environment import Template, TemplateError
from sftdata.templates.messages import VARIANTS, Chat, ControlPolicy, prepare_chat

__all__ = ["UNGUARDED", "Rendered", "prompt_turns", "render_conversation"]

UNGUARDED = ControlPolicy((), (), "allow")
"""No content is protected: the text is all that is looked at."""


class Rendered(msgspec.Struct, frozen=True):
    """What a template makes of a conversation."""

    prompts: tuple[tuple[int, str], ...]
    """(index of the message that is asked for, the prompt as served): see `prompt_turns`."""
    whole: str
    """All messages, with no reply asked for."""
    markers: str
    """The two characters around protected content in these texts; empty where nothing is protected."""


def prompt_turns(conversation: Conversation) -> list[int]:
    """The messages for which a server renders a prompt: each reply, and the one that is to come.

    For system, user, assistant, user these are 2 and 4. A reply with nothing before it has no prompt.
    """
    roles = [message.role for message in conversation.messages]
    replies = [index for index, role in enumerate(roles) if role == "assistant" and index]
    return replies if not roles or roles[-1] == "assistant" else [*replies, len(roles)]


def render_conversation(
    template: Template,
    conversation: Conversation,
    policy: ControlPolicy = UNGUARDED,
) -> Rendered | TemplateError:
    """All prompts of a chat and its whole text, or the template's refusal of the most usual form of its messages.

    Of the ways in which servers hand over the same messages, the first is taken in which least of what was said is
    missing from the text.
    """
    said = list(_said(conversation))
    arguments = conversation.template_kwargs or {}
    tried: list[list[dict[str, Any]]] = []
    best: Rendered | None = None
    fewest = 0
    refusal: TemplateError | None = None
    for variant in VARIANTS:
        chat = prepare_chat(conversation, policy, variant)
        if chat.messages in tried:
            continue
        tried.append(chat.messages)
        try:
            rendered = _render(template, chat, prompt_turns(conversation), arguments)
        except TemplateError as error:
            refusal = refusal or error
            continue
        text = "\0".join((rendered.whole, *(prompt for _, prompt in rendered.prompts)))
        missing = sum(one not in text for one in said)
        if best is None or missing < fewest:
            best, fewest = rendered, missing
        if not missing:
            break
    if best is not None:
        return best
    assert refusal is not None
    return refusal


def _render(template: Template, chat: Chat, turns: Iterable[int], kwargs: Mapping[str, Any]) -> Rendered:
    prompts = tuple(
        (turn, template.render(chat.messages[:turn], tools=chat.tools, add_generation_prompt=True, **kwargs))
        for turn in turns
    )
    whole = template.render(chat.messages, tools=chat.tools, add_generation_prompt=False, **kwargs)
    return Rendered(prompts, whole, chat.markers)


def _said(conversation: Conversation) -> Iterable[str]:
    """Pieces of text that a rendering should hold, in a form that survives trimming and JSON."""
    for message in conversation.messages:
        for text in (message.content, message.reasoning):
            if text and text.strip():
                yield text.strip()
        for call in message.tool_calls:
            yield call.name
            if isinstance(call.arguments, dict):
                yield from (json.dumps(value, ensure_ascii=False).strip('"') for value in call.arguments.values())
    for tool in conversation.tools:
        function = tool.get("function", tool)
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            yield function["name"]
