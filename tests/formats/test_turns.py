"""What single turns become: roles, contents, reasoning, tool calls."""

from __future__ import annotations

from typing import Any

import pytest

from sftdata.formats import FormatOptions, join_think, normalise, split_think
from sftdata.formats.roles import CALL_ROLES, ROLES
from sftdata.formats.validation import schema
from sftdata.records import Conversation, Message, Rejection, ToolCall

USER = {"role": "user", "content": "Q"}


def chat(value: Any, options: FormatOptions | None = None) -> Conversation:
    result = normalise(value, options or FormatOptions())
    assert isinstance(result, Conversation), result
    return result


def reply(turn: dict[str, Any], **columns: Any) -> Message:
    """The last message of a chat that ends on this turn."""
    return chat({"messages": [USER, turn], **columns}).messages[-1]


def codes(value: Any) -> list[str]:
    return [found.code for found in normalise(value).findings]


def test_text_is_never_trimmed() -> None:
    text = " \r\n\tA\u00a0\u3000 \n"
    assert reply({"role": "assistant", "content": text}).content == text
    assert chat({"instruction": text, "input": text, "output": text}).messages == (
        Message("user", f"{text}\n\n{text}"),
        Message("assistant", text),
    )


def test_placeholders_of_a_template_stay_text() -> None:
    said = "I am {{name}}, made by {{ author }}. {% if x %}"
    assert chat({"instruction": "{{name}}?", "input": "", "output": said}).messages == (
        Message("user", "{{name}}?"),
        Message("assistant", said),
    )


@pytest.mark.parametrize("name", sorted({*ROLES, *CALL_ROLES}))
def test_every_role_of_the_table_is_one_that_a_schema_lets_through(name: str) -> None:
    value = '{"name": "f", "arguments": {}}' if name in CALL_ROLES else "A"
    turns = [{"from": "human", "value": "Q"}, {"from": name, "value": value}]
    assert schema("sharegpt").accepts({"conversations": turns})


@pytest.mark.parametrize(
    ("content", "said"),
    [([{"type": "text", "text": "a "}, {"type": "text", "text": "b"}], "a b"), ([], ""), (["a", "b"], "ab")],
)
def test_text_parts_are_joined_as_they_stand(content: Any, said: str) -> None:
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "A"}]
    assert chat(turns).messages[0].content == said


def test_null_keys_are_absent_keys() -> None:
    padded = {"role": "assistant", "content": "A", "tool_calls": None, "name": None, "weight": None, "thinking": None}
    record = {"messages": [USER, padded], "tools": None, "system": None, "images": None, "label": None}
    assert chat(record) == chat({"messages": [USER, {"role": "assistant", "content": "A"}]})


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_has_one_normal_form(key: str) -> None:
    assert reply({"role": "assistant", "content": "A", key: "R"}) == Message("assistant", "A", "R")


@pytest.mark.parametrize(
    ("content", "reasoning", "said"),
    [
        ("<think>\nR\n</think>\n\nA", "R", "A"),
        ("<think>R</think>A", "R", "A"),
        ("<think>\n\n</think>\n\nA", "", "A"),
        ("<think>\n\nR\n\n</think>\n\n\nA\n", "\nR\n", "\nA\n"),
    ],
)
def test_an_inline_think_block_is_reasoning_and_its_spelling_is_kept(content: str, reasoning: str, said: str) -> None:
    expected = Message("assistant", said, reasoning, inline=content)
    assert reply({"role": "assistant", "content": content}) == expected
    assert chat({"prompt": "Q", "completion": content}).messages[-1] == expected
    assert chat({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": content}]}).messages[
        -1
    ] == (expected)
    assert split_think(join_think(reasoning, said)) == (reasoning, said)


@pytest.mark.parametrize(
    "content",
    ["<think>R", "R</think>A", "<think>a<think>b</think>c</think>A", "<think>a</think>b</think>", "a</think><think>b"],
)
def test_think_tags_that_do_not_match_up_stay_text(content: str) -> None:
    result = chat([USER, {"role": "assistant", "content": content}])
    assert result.messages[-1] == Message("assistant", content)
    assert [(found.code, found.pointer) for found in result.findings] == [("SFT712", "/1/content")]


@pytest.mark.parametrize("content", ["Write <think>x</think> first.", " <think>R</think>A"])
def test_a_think_block_that_is_not_at_the_very_start_is_text(content: str) -> None:
    result = chat([USER, {"role": "assistant", "content": content}])
    assert (result.messages[-1].content, result.findings) == (content, ())


def test_a_second_think_block_is_reported() -> None:
    twice = chat([USER, {"role": "assistant", "content": "<think>a</think><think>b</think>A"}])
    assert twice.messages[-1].content == "<think>b</think>A"
    beside = chat([USER, {"role": "assistant", "content": "<think>b</think>A", "reasoning": "a"}])
    assert beside.messages[-1] == Message("assistant", "<think>b</think>A", "a")
    assert [found.code for found in (*twice.findings, *beside.findings)] == ["SFT712", "SFT712"]


def test_a_users_think_block_is_text() -> None:
    said = "<think>R</think>A"
    result = chat([{"role": "user", "content": said}, {"role": "assistant", "content": "A"}])
    assert (result.messages[0], result.findings) == (Message("user", said), ())


@pytest.mark.parametrize(
    "said",
    [
        {"tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"q": 1}'}}]},
        {"content": None, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"q": 1}}}]},
        {"tool_calls": [{"id": "1", "name": "f", "arguments": {"q": 1}}]},
        {"tool_calls": '[{"id": "1", "name": "f", "arguments": {"q": 1}}]'},
    ],
)
def test_a_tool_call_has_one_normal_form(said: dict[str, Any]) -> None:
    assert reply({"role": "assistant", **said}) == Message("assistant", tool_calls=(ToolCall("f", {"q": 1}, "1"),))


@pytest.mark.parametrize("arguments", [None, "", " ", "null", "{}", {}])
def test_a_call_without_arguments_has_an_empty_object(arguments: Any) -> None:
    turn = {"role": "assistant", "function_call": {"name": "f", "arguments": arguments}}
    assert reply(turn).tool_calls == (ToolCall("f", {}),)


@pytest.mark.parametrize("arguments", ['{"q": 1', "[1]", "5", '"{\\"q\\": 1}"', '{"q": NaN}', "{" * 99_999])
def test_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    turn = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
    result = normalise([USER, turn])
    assert [(found.code, found.pointer) for found in result.findings] == [("SFT118", "/1/tool_calls/0")]


def test_free_text_is_for_tools_that_are_not_declared_as_functions() -> None:
    code = "l = [1]\nl.remove(2)"
    turn = {"role": "assistant", "tool_calls": [{"function": {"name": "python", "arguments": code}}]}
    assert reply(turn, tools=[{"type": "code_interpreter"}]).tool_calls == (ToolCall("python", code),)
    declared = {"type": "function", "function": {"name": "python", "parameters": {}}}
    assert codes({"messages": [USER, turn], "tools": [declared]}) == ["SFT118"]
    custom = {
        "role": "assistant",
        "tool_calls": [{"id": "1", "type": "custom", "custom": {"name": "p", "input": code}}],
    }
    assert reply(custom).tool_calls == (ToolCall("p", code, "1"),)


def test_the_text_of_a_call_turn_is_its_call() -> None:
    turns = [
        {"from": "human", "value": "Q"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"q": 1}}'},
        {"from": "observation", "value": "R"},
        {"from": "gpt", "value": "A"},
    ]
    assert chat({"conversations": turns}).messages == (
        Message("user", "Q"),
        Message("assistant", tool_calls=(ToolCall("f", {"q": 1}),)),
        Message("tool", "R"),
        Message("assistant", "A"),
    )


def test_neighbouring_call_turns_are_parallel_calls_of_one_message() -> None:
    call = '{"name": "%s", "arguments": {}}'
    turns = [
        {"role": "user", "content": "Q"},
        {"role": "tool_call", "content": call % "f"},
        {"role": "tool_call", "content": call % "g"},
        {"role": "tool_response", "content": "1"},
        {"role": "tool_response", "content": "2"},
        {"role": "assistant", "content": "A"},
    ]
    result = chat({"messages": turns})
    assert [call.name for call in result.messages[1].tool_calls] == ["f", "g"]
    assert result.pointers == ("/messages/0", "/messages/1", "/messages/3", "/messages/4", "/messages/5")
    assert result.findings == ()


@pytest.mark.parametrize("value", ["f(1)", "{}", '{"arguments": {}}', "[1]"])
def test_a_call_turn_without_the_json_of_a_call_is_refused(value: str) -> None:
    turns = [{"from": "human", "value": "Q"}, {"from": "function_call", "value": value}]
    result = normalise({"conversations": turns})
    assert isinstance(result, Rejection)
    assert ("SFT117", "/conversations/1/value") in [(found.code, found.pointer) for found in result.findings]


@pytest.mark.parametrize(
    ("column", "tools"),
    [
        ("tools", [{"type": "function", "function": {"name": "f", "parameters": {}}}]),
        ("tools", [{"name": "f", "parameters": {}}]),
        ("tools", [{"type": "function", "name": "f", "parameters": {}}]),
        ("tools", '[{"name": "f", "parameters": {}}]'),
        ("tools", ['{"name": "f", "parameters": {}}']),
        ("functions", [{"name": "f", "parameters": {}}]),
    ],
)
def test_tool_definitions_have_one_normal_form(column: str, tools: Any) -> None:
    turns = [USER, {"role": "assistant", "content": "A"}]
    expected = {"type": "function", "function": {"name": "f", "parameters": {}}}
    assert chat({"messages": turns, column: tools}).tools == (expected,)


@pytest.mark.parametrize("tools", [None, "", " ", [], "[]", [None]])
def test_no_tools_are_no_tools(tools: Any) -> None:
    assert chat({"messages": [USER, {"role": "assistant", "content": "A"}], "tools": tools}).tools == ()


def test_null_padding_of_a_tool_is_dropped_and_a_null_default_kept() -> None:
    parameters = {"type": "object", "properties": {"q": {"type": "string", "default": None, "enum": [None]}, "z": None}}
    tool = {"type": "function", "strict": None, "function": {"name": "f", "parameters": parameters}}
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"q": None, "z": None}}}]}
    result = chat({"messages": [USER, call], "tools": [tool]})
    properties = {"q": {"type": "string", "default": None, "enum": [None]}}
    expected = {"name": "f", "parameters": {"type": "object", "properties": properties}}
    assert result.tools == ({"type": "function", "function": expected},)
    assert result.messages[-1].tool_calls == (ToolCall("f", {"q": None}),)
