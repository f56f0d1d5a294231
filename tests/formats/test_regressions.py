"""Cases that went wrong in public tools, by their number in the knowledge base."""

from __future__ import annotations

from typing import Any

import pytest

from sftdata.formats import FormatOptions, normalise
from sftdata.records import Conversation, Message, Rejection, ToolCall

USER = {"role": "user", "content": "Q"}
REPLY = {"role": "assistant", "content": "A"}


def codes(value: Any) -> list[str]:
    return [found.code for found in normalise(value).findings]


def test_r3_an_answer_that_looks_like_a_probe_is_an_answer() -> None:
    result = normalise({"instruction": "Q", "input": "", "output": "[[1, 2], [3, 4]]"})
    assert isinstance(result, Conversation)
    assert result.messages[1] == Message("assistant", "[[1, 2], [3, 4]]")


def test_r5_text_beside_tool_calls_is_kept_with_them() -> None:
    turn = {
        "role": "assistant",
        "content": "I will look.",
        "tool_calls": [{"function": {"name": "f", "arguments": {}}}],
    }
    result = normalise([USER, turn])
    assert isinstance(result, Conversation)
    assert result.messages[1] == Message("assistant", "I will look.", tool_calls=(ToolCall("f", {}),))


def test_r6_arguments_as_text_and_as_object_are_the_same_call() -> None:
    def said(arguments: Any) -> Conversation:
        turn = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": arguments}}]}
        result = normalise([USER, turn])
        assert isinstance(result, Conversation)
        return result

    assert said({"q": "é", "n": 1.0, "deep": {"a": [None]}}) == said(
        '{"q": "\\u00e9", "n": 1.0, "deep": {"a": [null]}}'
    )


def test_r7_weight_zero_is_honoured() -> None:
    result = normalise([USER, {**REPLY, "weight": 0}, USER, {**REPLY, "weight": 1}])
    assert isinstance(result, Conversation)
    assert [turn.trained for turn in result.messages] == [None, False, None, True]


@pytest.mark.parametrize("record", [[USER, {"role": "model", "content": "A"}], {"conversations": [
    {"from": "human", "value": "Q"}, {"from": "model", "value": "A"}]}])  # fmt: skip
def test_r8_an_unknown_role_is_refused_and_never_a_record_without_labels(record: Any) -> None:
    assert codes(record) == ["SFT104"]


@pytest.mark.parametrize("output", [5, 0.5, True, {"a": 1}, ["A"]])
def test_r9_an_output_that_is_no_text_is_refused(output: Any) -> None:
    assert codes({"instruction": "Q", "input": "", "output": output}) == ["SFT110"]


def test_r10_two_users_in_a_row_and_a_system_message_in_mid_chat_are_kept_and_reported() -> None:
    result = normalise([USER, USER, REPLY, {"role": "system", "content": "S"}, USER, REPLY])
    assert isinstance(result, Conversation)
    assert len(result.messages) == 6
    assert [(found.code, found.pointer) for found in result.findings] == [("SFT112", "/1"), ("SFT114", "/3")]


def test_r11_a_trailing_tool_message_is_kept_untrained_and_reported() -> None:
    call = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {}}}]}
    result = normalise([USER, call, {"role": "tool", "content": "R", "tool_call_id": "1"}])
    assert isinstance(result, Conversation)
    assert result.messages[-1] == Message("tool", "R", tool_call_id="1")
    assert [found.code for found in result.findings] == ["SFT113"]


def test_r15_an_empty_reply_is_refused_where_it_would_be_trained_and_kept_where_it_would_not() -> None:
    assert codes([USER, {**REPLY, "content": ""}, USER, REPLY]) == ["SFT108"]
    kept = normalise([USER, {**REPLY, "content": "", "weight": 0}, USER, REPLY])
    assert isinstance(kept, Conversation)
    assert len(kept.messages) == 4


def test_r16_a_partial_column_mapping_touches_no_other_column() -> None:
    record = {"question": "Q", "input": "I", "output": "A", "system": "S", "tools": [{"name": "f", "parameters": {}}]}
    result = normalise(record, FormatOptions(columns={"instruction": "question"}))
    assert isinstance(result, Conversation)
    assert [turn.content for turn in result.messages] == ["S", "Q\n\nI", "A"]
    assert len(result.tools) == 1


def test_an_unfilled_role_of_a_preference_set_is_no_chat() -> None:
    assert isinstance(normalise({"messages": [USER, REPLY], "label": False}), Rejection)


@pytest.mark.parametrize("function", [True, "developer", [[{"name": "f"}]], 7])
def test_a_tool_whose_function_is_no_object_is_refused(function: Any) -> None:
    record = {"messages": [USER, REPLY], "tools": [{"type": "function", "function": function}]}
    assert codes(record) == ["SFT129"]


@pytest.mark.parametrize("value", [True, 7, ["x"], {"a": 1}])
def test_a_column_without_a_name_is_no_input(value: Any) -> None:
    result = normalise({"instruction": "Q", "output": "A", "": value})
    assert isinstance(result, Conversation)
    assert [turn.content for turn in result.messages] == ["Q", "A"]
