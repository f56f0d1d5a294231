"""Rules about whole conversations, and what stands beside the turns."""

from __future__ import annotations

from typing import Any

import pytest

from sftdata.formats import normalise
from sftdata.formats.faults import MAX_FINDINGS, has_error
from sftdata.records import Conversation, Message, Rejection

S = {"role": "system", "content": "S"}
D = {"role": "developer", "content": "D"}
U = {"role": "user", "content": "Q"}
A = {"role": "assistant", "content": "A"}
T = {"role": "tool", "content": "R"}


def call(*ids: str | None, name: str = "f") -> dict[str, Any]:
    calls = [{"id": each, "function": {"name": name, "arguments": {}}} for each in ids]
    return {"role": "assistant", "tool_calls": calls}


def result_of(call_id: str | None) -> dict[str, Any]:
    return {**T, "tool_call_id": call_id}


def found(value: Any) -> list[tuple[str, str]]:
    result = normalise(value)
    assert has_error(result.findings) is isinstance(result, Rejection)
    return [(each.code, each.pointer) for each in result.findings]


@pytest.mark.parametrize(
    ("turns", "findings"),
    [
        ([S, U, A, U, A], []),
        ([U, A, T], [("SFT113", "/2"), ("SFT119", "/2")]),
        ([U, A, U], [("SFT113", "/2")]),
        ([S, U], [("SFT106", "")]),
        ([U, U, A], [("SFT112", "/1")]),
        ([U, A, A], [("SFT112", "/2")]),
        ([U, S, A], [("SFT114", "/1")]),
        ([S, D, U, A], [("SFT114", "/1")]),
        ([{**U, "content": ""}, A], [("SFT109", "/0")]),
        ([{**U, "content": " \n"}, A], [("SFT109", "/0")]),
        ([U, {**A, "content": ""}], [("SFT108", "/1")]),
        ([U, {**A, "content": "\n"}], [("SFT108", "/1")]),
        ([U, {**A, "content": "", "weight": 0}, U, A], []),
        ([U, {**A, "content": "", "reasoning": "R"}], [("SFT108", "/1")]),
        ([U, {**call("1"), "content": ""}], []),
        ([U, call("1"), result_of("1"), A], []),
        ([U, call("1", "2"), result_of("2"), result_of("1"), A], []),
        ([U, call(None, None), result_of(None), result_of(None), A], []),
        ([U, call("1"), result_of(None), A], []),
        ([U, call(None), result_of("1"), A], []),
        ([U, call("1")], []),
        ([U, call("1"), result_of("2"), A], [("SFT119", "/2"), ("SFT119", "/3")]),
        ([U, call("1"), U, A], [("SFT119", "/2")]),
        ([U, call("1"), result_of("1"), result_of("1"), A], [("SFT119", "/3")]),
    ],
)
def test_what_is_unusual_about_a_conversation_is_reported_where_it_is(turns: Any, findings: Any) -> None:
    assert found(turns) == findings


def test_turns_that_are_reported_are_kept() -> None:
    result = normalise([U, U, A, {**U, "content": ""}])
    assert isinstance(result, Conversation)
    assert [turn.content for turn in result.messages] == ["Q", "Q", "A", ""]


def test_a_call_to_an_undeclared_tool_is_reported_once() -> None:
    tools = [{"name": "g", "parameters": {}}]
    turns = [U, call("1"), result_of("1"), call("2"), result_of("2"), A]
    assert found({"messages": turns, "tools": tools}) == [("SFT120", "/messages/1")]
    assert found({"messages": turns}) == []
    assert found({"messages": turns, "tools": [*tools, {"type": "code_interpreter"}]}) == []


def test_a_system_column_is_the_first_message() -> None:
    for column in ("system", "system_prompt"):
        result = normalise({"messages": [U, A], column: " S "})
        assert isinstance(result, Conversation)
        assert result.messages[0] == Message("system", " S ")
        assert result.pointers == (f"/{column}", "/messages/0", "/messages/1")
    for blank in ("", " \n", None):
        result = normalise({"messages": [U, A], "system": blank})
        assert isinstance(result, Conversation)
        assert result.messages[0].role == "user"


def test_a_system_column_beside_a_system_turn_is_never_lost() -> None:
    assert found({"messages": [S, U, A], "system": "S"}) == []
    result = normalise({"messages": [S, U, A], "system": "X"})
    assert [turn.content for turn in result.messages[:2]] == ["X", "S"]  # type: ignore[union-attr]
    assert [each.code for each in result.findings] == ["SFT114"]


@pytest.mark.parametrize(
    ("value", "kwargs"),
    [
        ({"enable_thinking": False}, {"enable_thinking": False}),
        ('{"a": [1]}', {"a": [1]}),
        ({"a": None, "b": 1}, {"b": 1}),
        ({}, None),
        ("", None),
        (None, None),
    ],
)
def test_template_arguments_ride_on_the_conversation(value: Any, kwargs: Any) -> None:
    result = normalise({"messages": [U, A], "chat_template_kwargs": value})
    assert isinstance(result, Conversation)
    assert (result.template_kwargs, result.findings) == (kwargs, ())


def test_unread_keys_are_named_once() -> None:
    turns = [{**U, "ts": 1}, {**A, "ts": 2, "likes": 3}]
    result = normalise({"messages": turns, "id": 7, "source": "x"})
    assert [(each.code, each.pointer) for each in result.findings] == [("SFT116", "")]
    assert result.findings[0].message == "keys that nothing reads: 'id', 'likes', 'source', 'ts'"


@pytest.mark.parametrize("text", ["<noinput>", "N/A", "No input", "<No Input>", "(noinput)", "no input required."])
def test_an_input_that_only_says_there_is_none_is_none(text: str) -> None:
    result = normalise({"instruction": "Q", "input": text, "output": "A"})
    assert result.messages[0].content == "Q"  # type: ignore[union-attr]
    assert [(each.code, each.pointer) for each in result.findings] == [("SFT123", "/input")]


@pytest.mark.parametrize(
    ("instruction", "given", "prompt"),
    [("Q", "I", "Q\n\nI"), ("Q", " \n", "Q"), ("", "I", "I"), (" ", "I", "I"), ("Q\n", "N", "Q\n\n\nN")],
)
def test_instruction_and_input_are_joined_by_an_empty_line(instruction: str, given: str, prompt: str) -> None:
    result = normalise({"instruction": instruction, "input": given, "output": "A"})
    assert result.messages[0] == Message("user", prompt)  # type: ignore[union-attr]


@pytest.mark.parametrize("bad", [5, {"role": "model", "content": "x"}, {"role": "user", "content": [{}, 5]}])
def test_a_hostile_number_of_faults_is_bounded(bad: Any) -> None:
    result = normalise([bad] * 20_000)
    assert isinstance(result, Rejection)
    assert len(result.findings) == MAX_FINDINGS


def test_no_number_of_warnings_hides_an_error() -> None:
    blank = {**U, "content": ""}
    result = normalise([*[blank, A] * 500, U, {**A, "content": ""}])
    assert isinstance(result, Rejection)
    assert [each.pointer for each in result.findings if each.code == "SFT108"] == ["/1001"]
    assert len(result.findings) == MAX_FINDINGS + 1


def test_depth_does_not_matter() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": deep}
    for record in (
        {"messages": [U, {**A, "metadata": deep}], "x": deep},
        {"messages": [U, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": deep}}]}]},
        {"messages": [U, A], "tools": [deep]},
        {"messages": [U, {**A, "content": deep}]},
    ):
        assert normalise(record).findings is not None
    while deep:  # taken apart by hand: the interpreter's own way down is recursive
        deep = deep.pop("a")
