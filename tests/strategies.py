"""Hypothesis strategies that several suites share: text that breaks things, and conversations made of it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from sftdata.formats import split_think
from sftdata.records import Conversation, Message, ToolCall

NASTY = (
    *("", " ", "\n", "\r\n", "\t", "\u00a0", "\u2028", "\u3000", "\ufeff", "\x00", "\x7f", "\x85"),
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "[INST]", "[/INST]", "<|eot_id|>", "<|user|>"),
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "assistant\n", "Human:", "### Response:"),
    *("{{ messages }}", "{% for m in messages %}", "{#", "{{name}}", "${x}", "%s", "\\n", "\\u0041", '"', "'"),
    *("e\u0301", "\u0301", "\u1100\u1161", "\ufb01", "\u00c5", "\u212b", "İ", "ß"),
    *("👩‍👩‍👧", "🏳️‍🌈", "🇩🇪", "\u200d", "\u200b", "\u202e", "\ud7ff", "\ue000", "\uffff", "\U000f0000", "\U0010ffff"),
    *("[[1, 2], [3, 4]]", "null", "0", "a" * 300, "日本語", "the quick brown fox"),
)
"""Pieces that have hurt someone: edges, control tokens, template syntax, corners of Unicode, surrogates' neighbours."""


def examples(number: int) -> settings:
    """`number` examples in a normal run, and as many times more as the profile asks beyond Hypothesis' own 100."""
    return settings(max_examples=max(1, number * settings().max_examples // 100))


_NO_SURROGATES = st.characters(codec="utf-8")


def texts() -> st.SearchStrategy[str]:
    """Any text without lone surrogates, most of it nasty; often empty or blank."""
    pieces = st.one_of(st.sampled_from(NASTY), st.text(_NO_SURROGATES, max_size=8))
    return st.lists(pieces, max_size=5).map("".join)


def spoken() -> st.SearchStrategy[str]:
    """Text with something to read in it."""
    return texts().filter(lambda text: bool(text) and not text.isspace())


def replies() -> st.SearchStrategy[str]:
    """What an assistant may say in normal form: not blank, and no think block to take out of it."""
    return spoken().filter(lambda text: split_think(text) is None)


def json_values() -> st.SearchStrategy[Any]:
    """Any plain JSON data, with the keys and words of chat data strewn in."""
    words = st.sampled_from(
        (
            *("messages", "conversations", "role", "content", "from", "value", "user", "assistant", "human", "gpt"),
            *("tool_calls", "function", "name", "arguments", "tools", "weight", "mask", "text", "system"),
            *("instruction", "input", "output", "history", "prompt", "completion", "tool_call", "label", "metadata"),
            *("reasoning_content", "function_call", "masked", "chat_template_kwargs", "train_detail", "images"),
        )
    )
    leaves = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts(), words
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(st.one_of(words, texts()), inner, max_size=5),
        ),
        max_leaves=25,
    )


def tool_definitions() -> st.SearchStrategy[dict[str, Any]]:
    """An OpenAI tool of one function with one parameter."""
    return st.sampled_from(("lookup", "add", "Ünïcode")).map(
        lambda name: {
            "type": "function",
            "function": {
                "name": name,
                "parameters": {"type": "object", "properties": {"q": {"type": "string", "default": None}}},
            },
        }
    )


def tool_calls() -> st.SearchStrategy[ToolCall]:
    """A call with an object of arguments, its id left out now and then."""
    arguments = st.dictionaries(st.sampled_from(("q", "n")), st.one_of(spoken(), st.integers(-5, 5)), max_size=2)
    return st.builds(
        ToolCall,
        name=st.sampled_from(("lookup", "add", "Ünïcode")),
        arguments=arguments,
        id=st.one_of(st.none(), st.sampled_from(("call_1", "call_2"))),
    )


def assistants(rich: bool) -> st.SearchStrategy[Message]:
    """A turn of the assistant; `rich` adds reasoning, tool calls and training flags."""
    if not rich:
        return replies().map(lambda text: Message("assistant", text))
    return st.builds(
        Message,
        role=st.just("assistant"),
        content=replies(),
        reasoning=st.one_of(st.none(), texts()),
        tool_calls=st.lists(tool_calls(), max_size=2).map(tuple),
        trained=st.sampled_from((None, None, True)),
    )


@st.composite
def conversations(draw: st.DrawFn, *, rich: bool = False, max_rounds: int = 3) -> Conversation:
    """A chat in normal form that ends on a trained reply: rounds of user and assistant, with a system message or not.

    `rich` adds tools, calls with their results, reasoning and training flags.
    """
    messages = [Message("system", draw(spoken()))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, max_rounds))):
        messages.append(Message("user", draw(texts())))
        turn = draw(assistants(rich))
        messages.append(turn)
        if turn.tool_calls:
            messages += [Message("tool", draw(texts()), tool_call_id=call.id) for call in turn.tool_calls]
            messages.append(Message("assistant", draw(replies())))
    tools = draw(st.lists(tool_definitions(), max_size=2, unique_by=json.dumps)) if rich else []
    return Conversation(messages=tuple(messages), tools=tuple(tools))
