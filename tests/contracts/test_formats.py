"""The contract of record formats: each schema accepts what is right, and every fault has its rule and its place.

All formats pass the same suite. `VALID` holds records that a schema must accept; `FAULTS` changes one thing in one
of them and names the rule and the pointer that must come out. A last test holds the two tables against the schemas:
no rule that a schema names may lack a case.
"""

from __future__ import annotations

import copy
from typing import Any

import jsonschema_rs
import pytest

import sftdata_schemas
from sftdata.formats import FORMATS, FormatOptions, normalise
from sftdata.formats.validation import schema
from sftdata.records import Conversation, Rejection
from sftdata.rules import RULES

GONE = object()
USER = {"role": "user", "content": "Q"}
REPLY = {"role": "assistant", "content": "A"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
PARTS = [
    {"type": "reasoning", "value": "R"},
    {"type": "text", "value": "A"},
    {"type": "tool_call", "value": '{"name": "f", "arguments": {}}'},
]
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}

VALID: dict[str, list[Any]] = {
    "alpaca": [
        {"instruction": "Q", "input": "", "output": "A"},
        {"instruction": "Q", "context": "C", "response": "A", "history": [["q", "a"]], "system": "S"},
        {"instruction": "Q", "input": None, "output": "A", "tools": [TOOL], "weight": 1, "images": []},
        {"question": "Q", "answer": "A", "chat_template_kwargs": {"x": 1}},
        {"instruction": "Q", "output": "A", "system": [{"text": "S"}, "!"]},
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "system": None},
        {"conversation": [USER, REPLY], "tools": "[]"},
        {"messages": [{"from": "user", "value": "Q"}, {"role": "assistant", "tool_calls": [CALL]}]},
    ],
    "messages": [
        {"messages": [USER, REPLY]},
        [USER, REPLY],
        {"messages": [USER, {**REPLY, "weight": 1, "reasoning_content": "R"}], "tools": [TOOL]},
        {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
        {"messages": [USER, {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}, "!"]}, REPLY]},
        {"messages": [USER, {**REPLY, "tool_calls": [{"type": "custom", "custom": {"name": "f", "input": "x"}}]}]},
        {"messages": [{"role": "user", "content": [{"text": "Q"}]}, {"role": "assistant", "content": PARTS}]},
    ],
    "pairs": [
        {"conversation": [{"human": "Q", "assistant": "A"}], "dataset": "d"},
        {"conversations": [{"input": "Q", "output": "A", "output_with_loss": True, "system": "S"}], "tools": [TOOL]},
        {"messages": [{"user": "Q"}, {"assistant": "A", "weight": 1, "reasoning": "R"}]},
    ],
    "prompt-completion": [
        {"prompt": "Q", "completion": "A"},
        {"question": "Q", "answer": "A", "system_prompt": "S"},
        {"prompt": [USER], "completion": [REPLY]},
    ],
    "text": [{"text": "T"}, {"text": " T\n", "url": "u", "images": None}],
}

FAULTS: list[tuple[str, int, str, Any, str, str]] = [
    # format, index into VALID, pointer changed, new value (GONE deletes), rule, pointer of the finding
    ("alpaca", 0, "/output", GONE, "SFT103", ""),
    ("alpaca", 0, "/instruction", 5, "SFT110", "/instruction"),
    ("alpaca", 0, "/output", 5, "SFT110", "/output"),
    ("alpaca", 0, "/output", {"text": "A"}, "SFT110", "/output"),
    ("alpaca", 0, "/output", ["A"], "SFT110", "/output"),
    ("alpaca", 0, "/output", True, "SFT110", "/output"),
    ("alpaca", 0, "/input", 5, "SFT110", "/input"),
    ("alpaca", 1, "/history/0", ["q"], "SFT129", "/history/0"),
    ("alpaca", 1, "/history/0/1", 5, "SFT110", "/history/0/1"),
    ("alpaca", 1, "/history", "q", "SFT129", "/history"),
    ("alpaca", 1, "/system", 5, "SFT110", "/system"),
    ("alpaca", 2, "/weight", 0.5, "SFT115", "/weight"),
    ("alpaca", 2, "/images", ["a.png"], "SFT122", "/images"),
    ("alpaca", 2, "/tools", 5, "SFT129", "/tools"),
    ("alpaca", 2, "/tools", "[", "SFT129", "/tools"),
    ("alpaca", 3, "/chat_template_kwargs", 5, "SFT129", "/chat_template_kwargs"),
    ("alpaca", 3, "/chat_template_kwargs", "x", "SFT129", "/chat_template_kwargs"),
    ("sharegpt", 0, "/conversations", GONE, "SFT101", ""),
    ("sharegpt", 0, "/conversations", [], "SFT101", "/conversations"),
    ("sharegpt", 0, "/conversations", "Q", "SFT101", "/conversations"),
    ("sharegpt", 0, "/conversations/0", "Q", "SFT102", "/conversations/0"),
    ("sharegpt", 0, "/conversations/0/from", GONE, "SFT103", "/conversations/0"),
    ("sharegpt", 0, "/conversations/0/from", "model", "SFT104", "/conversations/0/from"),
    ("sharegpt", 0, "/conversations/0/from", 5, "SFT104", "/conversations/0/from"),
    ("sharegpt", 0, "/conversations/1/value", GONE, "SFT103", "/conversations/1"),
    ("sharegpt", 0, "/conversations/1/value", None, "SFT103", "/conversations/1/value"),
    ("sharegpt", 0, "/conversations/1/value", 5, "SFT110", "/conversations/1/value"),
    ("sharegpt", 1, "/conversation/1/content", GONE, "SFT103", "/conversation/1"),
    ("sharegpt", 1, "/conversation/1/weight", 2, "SFT115", "/conversation/1/weight"),
    ("messages", 0, "/messages", GONE, "SFT101", ""),
    ("messages", 0, "/messages", [], "SFT101", "/messages"),
    ("messages", 0, "/messages", {}, "SFT101", "/messages"),
    ("messages", 1, "/0", "Q", "SFT102", "/0"),
    ("messages", 1, "/1/role", "model", "SFT104", "/1/role"),
    ("messages", 0, "/messages/0/role", GONE, "SFT103", "/messages/0"),
    ("messages", 0, "/messages/0/role", "gpt", "SFT105", "/messages/0/role"),
    ("messages", 0, "/messages/0/content", GONE, "SFT103", "/messages/0"),
    ("messages", 0, "/messages/1/content", None, "SFT103", "/messages/1/content"),
    ("messages", 0, "/messages/1/content", 5, "SFT110", "/messages/1/content"),
    ("messages", 0, "/messages/1/content", {"a": 1}, "SFT110", "/messages/1/content"),
    ("messages", 2, "/messages/1/weight", "1", "SFT115", "/messages/1/weight"),
    ("messages", 2, "/messages/1/weight", 0.5, "SFT115", "/messages/1/weight"),
    ("messages", 2, "/messages/1/train_detail", [{"train": True}], "SFT115", "/messages/1/train_detail"),
    ("messages", 2, "/messages/1/reasoning_content", 5, "SFT110", "/messages/1/reasoning_content"),
    ("messages", 2, "/messages/1/tool_call_id", 5, "SFT117", "/messages/1/tool_call_id"),
    ("messages", 2, "/messages/1/name", 5, "SFT129", "/messages/1/name"),
    ("messages", 2, "/messages/1/images", ["a.png"], "SFT122", "/messages/1/images"),
    ("messages", 2, "/tools/0", 5, "SFT129", "/tools/0"),
    ("messages", 6, "/messages/1/tool_calls", {}, "SFT117", "/messages/1/tool_calls"),
    ("messages", 3, "/messages/1/tool_calls/0", "f", "SFT117", "/messages/1/tool_calls/0"),
    ("messages", 3, "/messages/1/tool_calls/0/id", 5, "SFT117", "/messages/1/tool_calls/0/id"),
    ("messages", 3, "/messages/1/tool_calls/0/type", 5, "SFT117", "/messages/1/tool_calls/0/type"),
    ("messages", 3, "/messages/1/tool_calls/0/function", GONE, "SFT117", "/messages/1/tool_calls/0"),
    ("messages", 3, "/messages/1/tool_calls/0/function", "f", "SFT117", "/messages/1/tool_calls/0/function"),
    ("messages", 3, "/messages/1/tool_calls/0/function/name", GONE, "SFT117", "/messages/1/tool_calls/0/function"),
    ("messages", 3, "/messages/1/tool_calls/0/function/name", "", "SFT117", "/messages/1/tool_calls/0/function/name"),
    (
        *("messages", 3, "/messages/1/tool_calls/0/function/arguments", [1]),
        *("SFT118", "/messages/1/tool_calls/0/function/arguments"),
    ),
    ("messages", 4, "/messages/1/function_call/name", 5, "SFT117", "/messages/1/function_call/name"),
    ("messages", 5, "/messages/0/content/0", 5, "SFT110", "/messages/0/content/0"),
    ("messages", 5, "/messages/0/content/0/text", GONE, "SFT110", "/messages/0/content/0"),
    ("messages", 5, "/messages/0/content/0/text", 5, "SFT110", "/messages/0/content/0/text"),
    ("messages", 5, "/messages/0/content/0/type", "image_url", "SFT122", "/messages/0/content/0/type"),
    ("messages", 5, "/messages/0/content/0/type", "tool_use", "SFT110", "/messages/0/content/0/type"),
    ("messages", 5, "/messages/0/content/0/train", False, "SFT115", "/messages/0/content/0/train"),
    ("messages", 6, "/messages/1/tool_calls/0/custom/name", GONE, "SFT117", "/messages/1/tool_calls/0/custom"),
    ("messages", 7, "/messages/0/content/0/text", GONE, "SFT110", "/messages/0/content/0"),
    ("messages", 7, "/messages/1/content/1/value", 5, "SFT110", "/messages/1/content/1/value"),
    ("messages", 7, "/messages/1/content/0/value", GONE, "SFT110", "/messages/1/content/0"),
    ("messages", 7, "/messages/1/content/0/value", 5, "SFT110", "/messages/1/content/0/value"),
    ("messages", 7, "/messages/1/content/2/value", GONE, "SFT117", "/messages/1/content/2"),
    ("messages", 7, "/messages/1/content/2/value", 5, "SFT117", "/messages/1/content/2/value"),
    ("messages", 7, "/messages/1/content/2/value", "f()", "SFT117", "/messages/1/content/2/value"),
    ("messages", 7, "/messages/1/content/1/type", "tool_use", "SFT110", "/messages/1/content/1/type"),
    ("alpaca", 4, "/system", [5], "SFT110", "/system/0"),
    ("alpaca", 4, "/system/0/text", GONE, "SFT110", "/system/0"),
    ("pairs", 0, "/conversation", GONE, "SFT101", ""),
    ("pairs", 0, "/conversation", [], "SFT101", "/conversation"),
    ("pairs", 0, "/conversation", "Q", "SFT101", "/conversation"),
    ("pairs", 0, "/conversation/0", "Q", "SFT102", "/conversation/0"),
    ("pairs", 0, "/conversation/0", {"system": "S"}, "SFT103", "/conversation/0"),
    ("pairs", 0, "/conversation/0/human", 5, "SFT110", "/conversation/0/human"),
    ("pairs", 0, "/conversation/0/assistant", None, "SFT110", "/conversation/0/assistant"),
    ("pairs", 1, "/conversations/0/system", 5, "SFT110", "/conversations/0/system"),
    ("pairs", 1, "/conversations/0/output_with_loss", 0.5, "SFT115", "/conversations/0/output_with_loss"),
    ("pairs", 2, "/messages/1/weight", 0.5, "SFT115", "/messages/1/weight"),
    ("prompt-completion", 0, "/prompt", GONE, "SFT103", ""),
    ("prompt-completion", 0, "/completion", GONE, "SFT103", ""),
    ("prompt-completion", 0, "/completion", 5, "SFT110", "/completion"),
    ("prompt-completion", 1, "/system_prompt", 5, "SFT110", "/system_prompt"),
    ("prompt-completion", 2, "/prompt", [], "SFT101", "/prompt"),
    ("prompt-completion", 2, "/completion/0/role", "model", "SFT104", "/completion/0/role"),
    ("text", 0, "/text", GONE, "SFT128", ""),
    ("text", 0, "/text", " \n", "SFT128", "/text"),
    ("text", 0, "/text", 5, "SFT128", "/text"),
    ("text", 1, "/images", ["a.png"], "SFT122", "/images"),
]


def changed(value: Any, pointer: str, new: Any) -> Any:
    """A copy of `value` with one place changed, added or deleted."""
    value = copy.deepcopy(value)
    *parents, last = pointer.split("/")[1:]
    node = value
    for token in parents:
        node = node[int(token) if isinstance(node, list) else token]
    key: Any = int(last) if isinstance(node, list) else last
    if new is GONE:
        del node[key]
    else:
        node[key] = new
    return value


def read(name: str, value: Any) -> Conversation | Rejection:
    return normalise(value, FormatOptions(input_format=name))


@pytest.mark.parametrize("name", FORMATS)
def test_every_schema_is_itself_valid(name: str) -> None:
    jsonschema_rs.meta.validate(sftdata_schemas.load(FORMATS[name].schema))


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in FORMATS for value in VALID[name]])
def test_what_is_right_is_accepted_by_the_schema_and_read(name: str, value: Any) -> None:
    assert schema(FORMATS[name].schema).accepts(value)
    result = read(name, value)
    assert isinstance(result, Conversation), result
    assert result.format == name


@pytest.mark.parametrize(("name", "index", "place", "new", "code", "where"), FAULTS)
def test_one_fault_is_one_finding_with_its_rule_and_place(
    name: str, index: int, place: str, new: Any, code: str, where: str
) -> None:
    result = read(name, changed(VALID[name][index], place, new))
    assert isinstance(result, Rejection), result
    assert [(found.code, found.pointer) for found in result.findings] == [(code, where)]
    assert result.findings[0].message


def named_rules(node: Any) -> set[str]:
    """Every rule that a schema names in `x-rule`."""
    if isinstance(node, list):
        return set().union(*map(named_rules, node))
    if not isinstance(node, dict):
        return set()
    here = node.get("x-rule", {})
    codes = {here} if isinstance(here, str) else set(here.values())
    return codes.union(*(named_rules(child) for key, child in node.items() if key != "x-rule"))


@pytest.mark.parametrize("name", FORMATS)
def test_every_rule_that_a_schema_names_exists_and_has_a_case(name: str) -> None:
    codes = named_rules(sftdata_schemas.load(FORMATS[name].schema))
    assert codes
    assert codes <= RULES.keys()
    tried = {code for format_name, *_, code, _ in FAULTS if format_name == name}
    unreachable = {"SFT016"}  # `normalise` refuses what is no object before any schema sees it
    assert codes - unreachable <= tried


def test_all_faults_of_a_record_are_found_at_once() -> None:
    result = normalise(
        {
            "messages": [
                {"role": "model", "content": "Q"},
                {"role": "user"},
                5,
                {**REPLY, "weight": 0.5},
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            ],
            "tools": 5,
        }
    )
    assert isinstance(result, Rejection)
    assert {(found.code, found.pointer) for found in result.findings} == {
        ("SFT104", "/messages/0/role"),
        ("SFT103", "/messages/1"),
        ("SFT102", "/messages/2"),
        ("SFT115", "/messages/3/weight"),
        ("SFT118", "/messages/4/tool_calls/0"),
        ("SFT129", "/tools"),
    }


@pytest.mark.parametrize("value", [None, True, 5, 0.5, "text"])
def test_a_record_that_is_neither_object_nor_list_is_refused(value: Any) -> None:
    result = normalise(value)
    assert isinstance(result, Rejection)
    assert [found.code for found in result.findings] == ["SFT016"]
