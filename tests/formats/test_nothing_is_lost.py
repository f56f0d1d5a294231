"""What a record says under an unexpected key is read or refused, never left out in silence."""

from __future__ import annotations

from typing import Any

import pytest

from sftdata.formats import FormatOptions, normalise
from sftdata.records import Conversation, Rejection, ToolCall

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


def test_tools_in_any_other_turn_are_refused() -> None:
    result = normalise({"messages": [{**ASKED, "tools": [TOOL]}, REPLY]})
    assert isinstance(result, Rejection)
    assert [(found.code, found.pointer) for found in result.findings] == [("SFT129", "/messages/0/tools")]
    assert read([{**ASKED, "tools": []}, {**REPLY, "tools": None}]).tools == ()
