"""Law 4, as far as conversations go: one chat, written in every format that can hold it, is one conversation."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sftdata.formats import FORMATS, FormatOptions, normalise, to_messages
from sftdata.formats.faults import has_error
from sftdata.records import Conversation, Rejection
from tests.strategies import conversations, json_values


def said(value: Any, options: FormatOptions | None = None) -> Conversation:
    """What a record says, without where it stood in it."""
    result = normalise(value, options or FormatOptions())
    assert isinstance(result, Conversation), result
    return Conversation(result.messages, result.text, result.tools, result.template_kwargs)


def as_sharegpt(chat: Conversation) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return {"conversations": [{"from": names[turn.role], "value": turn.content} for turn in chat.messages]}


def as_alpaca(chat: Conversation) -> dict[str, Any]:
    system = [turn.content for turn in chat.messages if turn.role == "system"]
    said_in_turn = [turn.content for turn in chat.messages if turn.role != "system"]
    return {
        **({"system": system[0]} if system else {}),
        "history": [said_in_turn[at : at + 2] for at in range(0, len(said_in_turn) - 2, 2)],
        "instruction": said_in_turn[-2],
        "input": "",
        "output": said_in_turn[-1],
    }


def as_pairs(chat: Conversation, asking: str, answering: str) -> dict[str, Any]:
    system = [turn.content for turn in chat.messages if turn.role == "system"]
    said_in_turn = [turn.content for turn in chat.messages if turn.role != "system"]
    rounds = [
        {asking: asked, answering: answered}
        for asked, answered in zip(said_in_turn[::2], said_in_turn[1::2], strict=True)
    ]
    return {**({"system": [{"text": system[0]}]} if system else {}), "conversation": rounds}


def in_parts(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**turn, "content": [{"type": "text", "value": turn["content"]}]} for turn in turns]


@given(conversations())
def test_the_same_chat_in_every_format_is_the_same_conversation(chat: Conversation) -> None:
    record = to_messages(chat)
    expected = said(record)
    assert expected == chat
    assert said(record["messages"]) == expected, "bare list"
    assert said(as_sharegpt(chat)) == expected
    assert said({"conversations": record["messages"]}) == expected, "ShareGPT's key, OpenAI's turns"
    assert said(as_alpaca(chat)) == expected
    assert said(as_pairs(chat, "human", "assistant")) == said(as_pairs(chat, "input", "output")) == expected
    assert said(in_parts(record["messages"])) == expected


@given(conversations(max_rounds=1))
def test_a_pair_of_texts_is_the_same_conversation_as_its_messages(chat: Conversation) -> None:
    *before, asked, answered = chat.messages
    system = {"system": before[0].content} if before else {}
    for ask, answer in (("prompt", "completion"), ("question", "answer"), ("prompt", "response")):
        assert said({ask: asked.content, answer: answered.content, **system}) == chat
    turns = to_messages(chat)["messages"]
    assert said({"prompt": turns[:-1], "completion": turns[-1:]}) == chat


@given(conversations(rich=True))
def test_what_is_written_reads_back_the_same(chat: Conversation) -> None:
    once = said(to_messages(chat))
    assert once == chat
    assert said(to_messages(once)) == once


@given(json_values())
def test_no_json_value_makes_normalise_raise(value: Any) -> None:
    for name in ("auto", *FORMATS):
        result = normalise(value, FormatOptions(input_format=name))
        assert has_error(result.findings) is isinstance(result, Rejection)
        if isinstance(result, Conversation):
            assert len(result.pointers) == len(result.messages)
            assert (result.text is None) is bool(result.messages)
            again = normalise(to_messages(result))
            assert isinstance(again, Conversation)
            assert (again.messages, again.text, again.tools) == (result.messages, result.text, result.tools)


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything inside a value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, item in inside for path in ((*above, key), *places(item, (*above, key)))]


def at(value: Any, pointer: str) -> Any:
    """What an RFC 6901 pointer leads to; raises LookupError where it leads nowhere."""
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


@given(conversations(rich=True), json_values(), st.data())
def test_a_record_with_a_foreign_value_is_read_or_refused_at_a_place_that_exists(
    chat: Conversation, foreign: Any, data: st.DataObject
) -> None:
    record = copy.deepcopy({**to_messages(chat), "system": "S", "id": 1})
    *above, last = data.draw(st.sampled_from(places(record)))
    node = record
    for key in above:
        node = node[key]
    node[last] = foreign
    result = normalise(record)
    assert has_error(result.findings) is isinstance(result, Rejection)
    for pointer in (*(found.pointer for found in result.findings), *getattr(result, "pointers", ())):
        at(record, pointer)
    if isinstance(result, Conversation):
        assert said(to_messages(result)) == said(record)
