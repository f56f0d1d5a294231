"""What a record says under an unexpected key is read or refused, never left out in silence."""

from __future__ import annotations

from typing import Any

import pytest

from sftdata.formats import FormatOptions, normalise
from sftdata.records import Conversation, Message, Rejection, ToolCall

ASKED = {"role": "user", "content": "Q"}
REPLY = {"role": "assistant", "content": "A"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {}}}}}


def read(record: Any) -> Conversation:
    result = normalise(record)
    assert isinstance(result, Conversation), result
    return result


def codes(record: Any, options: FormatOptions | None = None) -> list[str]:
    result = normalise(record, options or FormatOptions())
    assert isinstance(result, Rejection), result
    return [found.code for found in result.findings]


@pytest.mark.parametrize(
    "call",
    [
        {"function_call": {"name": "f", "parameters": {"x": 1}}},
        {"function_call": {"name": "f", "arguments": None, "parameters": {"x": 1}}},
        {"tool_calls": [{"type": "function", "function": {"name": "f", "parameters": '{"x": 1}'}}]},
        {"tool_calls": [{"name": "f", "parameters": {"x": 1}}]},
    ],
)
def test_parameters_of_a_call_are_its_arguments(call: dict[str, Any]) -> None:
    turn = {"role": "assistant", "content": "Let me look.", **call}
    assert read([ASKED, turn]).messages[1].tool_calls == (ToolCall("f", {"x": 1}),)


def test_parameters_in_the_text_of_a_call_are_its_arguments() -> None:
    turns = [
        {"from": "human", "value": "Q"},
        {"from": "function_call", "value": '{"name": "f", "parameters": {"x": 1}}'},
    ]
    assert read({"conversations": turns}).messages[1].tool_calls == (ToolCall("f", {"x": 1}),)


@pytest.mark.parametrize("name", ["args", "kwargs", "params"])
def test_arguments_under_a_name_that_nobody_defined_are_refused(name: str) -> None:
    assert codes([ASKED, {"role": "assistant", "tool_calls": [{"name": "f", name: {"x": 1}}]}]) == ["SFT118"]


def test_a_call_of_a_name_alone_has_no_arguments() -> None:
    call = {"id": "1", "type": "function", "index": 0, "function": {"name": "f"}}
    assert read([ASKED, {"role": "assistant", "tool_calls": [call]}]).messages[1].tool_calls == (
        ToolCall("f", {}, "1"),
    )


def test_what_stands_in_a_call_beside_its_arguments_is_named() -> None:
    call = {"name": "f", "arguments": {"x": 1}, "thoughts": "look it up"}
    conversation = read([ASKED, {"role": "assistant", "function_call": call}])
    assert [found.message for found in conversation.findings] == ["keys that nothing reads: 'thoughts'"]


@pytest.mark.parametrize("role", ["system", "developer"])
@pytest.mark.parametrize(
    "tools", [[TOOL], '[{"name": "f", "parameters": {"type": "object", "properties": {"x": {}}}}]']
)
def test_tools_in_the_system_turn_are_the_tools_of_the_record(role: str, tools: Any) -> None:
    conversation = read([{"role": role, "content": "S", "tools": tools}, ASKED, REPLY])
    assert conversation.tools == (TOOL,)
    assert conversation.findings == ()


def test_tools_that_are_said_twice_are_there_once() -> None:
    turns = [{"role": "system", "content": "S", "tools": [TOOL]}, ASKED, REPLY]
    assert read({"messages": turns, "tools": [TOOL]}).tools == (TOOL,)


def test_a_broken_tool_in_the_system_turn_is_found_where_it_stands() -> None:
    result = normalise([{"role": "system", "content": "S", "tools": [5]}, ASKED, REPLY])
    assert isinstance(result, Rejection)
    assert [(found.code, found.pointer) for found in result.findings] == [("SFT129", "/0/tools/0")]


@pytest.mark.parametrize("name", [5, {"a": 1}, ["f"]])
def test_a_tool_whose_name_is_no_text_is_refused(name: Any) -> None:
    parameters = {"type": "object", "properties": {}}
    for tool in ({"name": name, "parameters": parameters}, {"function": {"name": name, "parameters": parameters}}):
        assert codes({"messages": [ASKED, REPLY], "tools": [tool]}) == ["SFT129"]


def test_tools_in_any_other_turn_are_refused() -> None:
    result = normalise({"messages": [{**ASKED, "tools": [TOOL]}, REPLY]})
    assert isinstance(result, Rejection)
    assert [(found.code, found.pointer) for found in result.findings] == [("SFT129", "/messages/0/tools")]
    assert read([{**ASKED, "tools": []}, {**REPLY, "tools": None}]).tools == ()


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
@pytest.mark.parametrize("record", [{"instruction": "Q", "output": "A"}, {"question": "Q", "answer": "A"}])
def test_reasoning_beside_the_one_answer_is_thought_before_it(record: dict[str, str], key: str) -> None:
    conversation = read({**record, key: "R"})
    assert conversation.messages[-1] == Message("assistant", "A", "R")
    assert conversation.findings == ()


def test_reasoning_under_a_name_of_the_users_own_is_mapped() -> None:
    record = {"Question": "Q", "Complex_CoT": "R", "Response": "A"}
    columns = {"prompt": "Question", "completion": "Response", "reasoning_content": "Complex_CoT"}
    result = normalise(record, FormatOptions(columns=columns))
    assert isinstance(result, Conversation)
    assert result.messages == (Message("user", "Q"), Message("assistant", "A", "R"))


def test_reasoning_that_is_no_text_is_an_unread_key() -> None:
    conversation = read({"question": "Q", "answer": "A", "thinking": ["R"]})
    assert [found.message for found in conversation.findings] == ["keys that nothing reads: 'thinking'"]


def test_parts_become_what_the_turn_thought_said_and_called() -> None:
    parts = [
        {"type": "reasoning", "value": "R"},
        {"type": "text", "value": "A"},
        {"type": "text", "text": "B"},
        {"type": "tool_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
        {"type": "tool_call", "value": {"name": "f", "arguments": {"x": 2}}},
    ]
    calls = (ToolCall("f", {"x": 1}), ToolCall("f", {"x": 2}))
    turn = read([ASKED, {"role": "assistant", "content": parts, "loss_weight": 1.0}]).messages[1]
    assert turn == Message("assistant", "AB", "R", calls, trained=True)
    alone = read([ASKED, {"role": "assistant", "content": parts[3:]}]).messages[1]
    assert (alone.content, alone.tool_calls) == (None, calls)


@pytest.mark.parametrize(
    ("role", "parts", "code"),
    [
        ("assistant", [{"type": "text", "value": "A"}, {"type": "reasoning", "value": "R"}], "SFT110"),
        ("assistant", [{"type": "tool_call", "value": '{"name": "f"}'}, {"type": "text", "value": "A"}], "SFT110"),
        ("user", [{"type": "reasoning", "value": "R"}, "Q"], "SFT110"),
        ("user", ["Q", {"type": "tool_call", "value": '{"name": "f"}'}], "SFT117"),
    ],
)
def test_parts_that_a_turn_cannot_keep_are_refused(role: str, parts: list[Any], code: str) -> None:
    assert codes([{"role": role, "content": parts}, REPLY])[0] == code


def test_a_system_prompt_in_parts_is_their_text() -> None:
    conversation = read({"system": [{"text": "Be "}, {"type": "text", "text": "kind."}], "messages": [ASKED, REPLY]})
    assert conversation.messages[0] == Message("system", "Be kind.")


def test_rounds_are_turns_in_order() -> None:
    rounds = [
        {"system": "S", "input": "Q1", "output": "A1", "output_with_loss": False},
        {"input": "Q2", "output": "A2"},
        {"input": "Q3"},
    ]
    conversation = read({"conversation": rounds})
    assert [(turn.role, turn.content, turn.trained) for turn in conversation.messages] == [
        ("system", "S", None),
        ("user", "Q1", None),
        ("assistant", "A1", False),
        ("user", "Q2", None),
        ("assistant", "A2", None),
        ("user", "Q3", None),
    ]
    assert conversation.pointers[2:4] == ("/conversation/0/output", "/conversation/1/input")
    assert [found.code for found in conversation.findings] == ["SFT113"]


def test_two_questions_in_a_round_are_refused() -> None:
    assert codes({"conversation": [{"instruction": "Q", "input": "I", "output": "A"}]}) == ["SFT126"]


def test_what_stands_in_a_round_beside_its_sides_is_named() -> None:
    conversation = read({"conversation": [{"human": "Q", "assistant": "A", "images_seen": 1}]})
    assert [found.message for found in conversation.findings] == ["keys that nothing reads: 'images_seen'"]
