"""Turns that a table holds as JSON text are the turns that it says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from sftdata.formats import FormatOptions, normalise, to_messages
from sftdata.records import Conversation, Rejection
from tests.strategies import conversations

TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
GPT_TURNS = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]


@given(chat=conversations())
def test_the_text_of_a_list_of_turns_reads_as_the_list(chat: Conversation) -> None:
    record = to_messages(chat)
    assert normalise({**record, "messages": json.dumps(record["messages"])}) == normalise(record)


@pytest.mark.parametrize("key", ["conversations", "conversation"])
def test_each_column_of_turns_may_be_text(key: str) -> None:
    assert normalise({key: json.dumps(GPT_TURNS)}) == normalise({key: GPT_TURNS})


def test_columns_and_roles_of_the_user_reach_into_the_text() -> None:
    options = FormatOptions(columns={"messages": "dialog", "content": "said"}, roles={"bot": "assistant"})
    turns = [{"role": "user", "said": "Q"}, {"role": "bot", "said": "A"}]
    assert normalise({"dialog": json.dumps(turns)}, options) == normalise({"dialog": turns}, options)


def test_a_fault_inside_the_text_has_its_place() -> None:
    result = normalise({"messages": json.dumps([*TURNS, {"role": "narrator", "content": "x"}])})
    assert isinstance(result, Rejection)
    assert [(found.code, found.pointer) for found in result.findings] == [("SFT104", "/messages/2/role")]


@pytest.mark.parametrize("text", [str(TURNS), "[", "{}", "hello", "", "[" * 100_000])
def test_text_that_is_no_list_is_refused_as_missing_turns(text: str) -> None:
    result = normalise({"messages": text})
    assert isinstance(result, Rejection)
    assert {found.code for found in result.findings} == {"SFT101"}


@pytest.mark.parametrize("text", ["[[1, 2], [3, 4]]", json.dumps(TURNS)])
def test_a_prompt_that_looks_like_a_list_stays_text(text: str) -> None:
    result: Any = normalise({"prompt": text, "completion": text})
    assert [message.content for message in result.messages] == [text, text]
