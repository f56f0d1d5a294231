"""A record that is refused says, in its own names, how to have it read; and having done so, it is read."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sftdata.formats import FormatOptions, normalise
from sftdata.records import Conversation, Rejection
from tests.strategies import json_values

ASKED = {"role": "user", "content": "Q"}
REPLY = {"role": "assistant", "content": "A"}


def remedy(record: Any) -> str:
    result = normalise(record)
    assert isinstance(result, Rejection), result
    return result.findings[0].fix


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"content": "Q", "summary": "A"}, ["Q", "A"]),
        ({"toy text": "T"}, ["T"]),
        ({"ask": "Q", "given": "I", "reply": "A"}, ["Q\n\nI", "A"]),
        ({"Question": "Q", "Complex_CoT": "R", "Response": "A"}, ["Q", "A"]),
        ({"ask": "Q", "given": "I", "rationale": "R", "reply": "A"}, ["Q\n\nI", "A"]),
        ({"prompt": "Q", "chosen_response": "A", "rejected_response": "B"}, ["Q", "A"]),
        ({"query": "Q", "answers": "A", "id": 1, "repo_name": "x"}, ["Q", "A"]),
        ({"output": "A", "asked": "Q"}, ["Q", "A"]),
        ({"items": [ASKED, REPLY], "model": "m"}, ["Q", "A"]),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, ["Q", "A"]),
        ({"prompt": [ASKED], "chosen": [REPLY], "rejected": [REPLY]}, ["Q", "A"]),
        ({"prompt": "Q", "chosen": [ASKED, REPLY], "rejected": [ASKED, REPLY]}, ["Q", "A"]),
        ({"chosen_messages": [ASKED, REPLY], "rejected_messages": [ASKED, REPLY]}, ["Q", "A"]),
        ({"messages": [ASKED, REPLY], "rejected_response": "B"}, ["Q", "A"]),
        ({"messages": [ASKED], "answer": "A"}, ["Q", "A"]),
        ({"question": "Q", "context": "C", "answer": "A"}, ["Q\n\nC", "A"]),
        ({"messages": [{"role": "user", "message": "Q"}, {"role": "assistant", "message": "A"}]}, ["Q", "A"]),
        ({"conversations": [{"speaker": "human", "value": "Q"}, {"speaker": "gpt", "value": "A"}]}, ["Q", "A"]),
        ({"messages": [ASKED, {"role": "model", "content": "A"}]}, ["Q", "A"]),
    ],
)
def test_the_options_that_a_remedy_names_make_the_record_readable(record: Any, said: list[str]) -> None:
    words = shlex.split(remedy(record).rstrip("."))
    columns: dict[str, str] = {}
    roles: dict[str, str] = {}
    form = "auto"
    for option, word in pairwise(words):
        value = word.rstrip(".")
        field, _, name = value.partition("=")
        if option == "--column":
            columns[field] = name
        elif option == "--role":
            roles[field] = name
        elif option == "--input-format" and form == "auto" and value:
            form = value
    result = normalise(record, FormatOptions(form, columns, roles))
    assert isinstance(result, Conversation), result
    assert [turn.content for turn in result.messages] or [result.text] == said
    assert [turn.content for turn in result.messages] == (said if result.messages else [])


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
@pytest.mark.parametrize(
    ("record", "lines"),
    [
        ({"data": [{"instruction": "Q", "output": "A"}, {"instruction": "Q", "output": "A"}]}, 2),
        ({"my data": [{"instruction": "Q", "output": "A"}]}, 1),
        ({"id": "0", "data": ["Q?", "A."]}, 1),
        ({"conversations": ["Q", "A"], "source": "s"}, 1),
        (
            {
                "systemInstruction": {"role": "system", "parts": [{"text": "S"}]},
                "contents": [
                    {"role": "user", "parts": [{"text": "Q"}]},
                    {"role": "model", "parts": [{"text": "A"}]},
                ],
            },
            1,
        ),
        ({"contents": [{"role": "user", "parts": [{"text": "Q"}]}, {"role": "model", "parts": [{"text": "A"}]}]}, 1),
        ({"custom_id": "1", "method": "POST", "body": {"messages": [ASKED, REPLY]}}, 1),
    ],
)
def test_the_program_that_a_remedy_names_makes_the_record_readable(record: Any, lines: int) -> None:
    program = re.search(r"jq -c '(.*)' FILE", remedy(record))
    assert program is not None
    done = subprocess.run(
        ["jq", "-c", program[1]], input=json.dumps(record), capture_output=True, text=True, check=True
    )
    found = [normalise(json.loads(line)) for line in done.stdout.splitlines()]
    assert len(found) == lines
    for result in found:
        assert isinstance(result, Conversation)
        turns = [(turn.role, str(turn.content)[0]) for turn in result.messages]
        assert turns[-2:] == [("user", "Q"), ("assistant", "A")]
        assert turns[:-2] == ([("system", "S")] if "systemInstruction" in record else [])


def test_a_call_and_its_result_in_one_turn_are_to_be_told_apart() -> None:
    tool = {"role": "tool", "name": "f", "parameters": {"x": 1}, "observation": {"y": 2}}
    assert remedy({"conversations": [ASKED, tool, REPLY]}).startswith("Write the call as tool_calls")


def test_a_list_as_python_prints_it_is_told_from_json() -> None:
    assert "json.dumps" in remedy({"messages": "[{'role': 'user', 'content': 'Q'}]", "id": "1"})


def test_reasoning_is_not_taken_for_the_input_of_an_instruction() -> None:
    said = remedy({"Question": "Q", "Complex_CoT": "R", "Response": "A"})
    assert "--column reasoning_content=Complex_CoT" in said


def test_what_a_remedy_leaves_out_of_a_call_is_refused_and_not_lost() -> None:
    part = {"functionCall": {"name": "f", "args": {}}}
    record = {"contents": [{"role": "user", "parts": [{"text": "Q"}]}, {"role": "model", "parts": [part]}]}
    program = re.search(r"jq -c '(.*)' FILE", remedy(record))
    assert program is not None
    assert "content: [.parts[] | {text}]" in program[1]
    parts = {"messages": [ASKED, {"role": "assistant", "content": [{"text": None}]}]}
    assert isinstance(normalise(parts), Rejection)


def test_a_turn_without_any_role_is_given_no_content_either() -> None:
    result = normalise({"conversation": [{"human": "Q", "assistant": "A"}]}, FormatOptions("sharegpt"))
    assert isinstance(result, Rejection)
    assert [found.fix for found in result.findings] == ["", ""]


def test_an_unreadable_record_without_texts_has_a_remedy_too() -> None:
    records: list[dict[str, Any]] = [{}, {"a": 1}, {"a": {"b": []}}, {"\x1b[31m": "T"}, {"prompt": "Q"}]
    for record in records:
        assert len(remedy(record)) < 200


@given(st.dictionaries(st.text(max_size=3) | st.sampled_from(["thought", "chosen", "id"]), json_values(), max_size=5))
@example({"": "a text"})
def test_any_record_is_read_or_refused(record: dict[str, Any]) -> None:
    """Whatever its keys are called: remedies are made of them."""
    assert isinstance(normalise(record), (Conversation, Rejection))


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Q", "completion": "A"},
        {"instruction": "Q", "output": "A"},
        {"conversation": [{"input": "Q", "output": "A"}]},
    ],
)
def test_a_column_without_a_name_is_not_taken_for_reasoning(record: dict[str, Any]) -> None:
    plain = normalise(record)
    named = {**record, "": "a note"}
    for one in named.get("conversation", ()):
        one[""] = "a note"
    result = normalise(named)
    assert isinstance(plain, Conversation)
    assert isinstance(result, Conversation)
    assert result.messages == plain.messages
    assert [finding.code for finding in result.findings] == ["SFT116"]
