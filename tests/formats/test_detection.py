"""Which format a record is taken for, and when none is guessed."""

from __future__ import annotations

from typing import Any

import pytest

from sftdata.formats import FormatOptions, normalise
from sftdata.records import Conversation, Rejection

TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
GPT_TURNS = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"messages": TURNS}, "messages"),
        (TURNS, "messages"),
        ({"messages": TURNS, "prompt": "Q", "prompt_id": "1"}, "messages"),
        ({"messages": TURNS, "text": "<user>Q"}, "messages"),
        ({"messages": TURNS, "add_generation_prompt": True, "bos_token": "<s>"}, "messages"),
        ({"messages": GPT_TURNS}, "sharegpt"),
        (GPT_TURNS, "sharegpt"),
        ({"messages": [{"role": "human", "content": "Q"}, {"role": "gpt", "content": "A"}]}, "sharegpt"),
        ({"conversations": GPT_TURNS}, "sharegpt"),
        ({"conversations": TURNS}, "sharegpt"),
        ({"conversation": TURNS}, "sharegpt"),
        ({"instruction": "Q", "input": "", "output": "A"}, "alpaca"),
        ({"instruction": "Q", "response": "A"}, "alpaca"),
        ({"instruction": "Q", "context": "C", "response": "A", "category": "c"}, "alpaca"),
        ({"instruction": "Q", "input": "", "output": "A", "text": "Below is ..."}, "alpaca"),
        ({"instruction": "Q", "input": "", "output": "A", "prompt": "Below is ..."}, "alpaca"),
        ({"prompt": "Q", "completion": "A"}, "prompt-completion"),
        ({"prompt": "Q", "response": "A"}, "prompt-completion"),
        ({"question": "Q", "answer": "A"}, "prompt-completion"),
        ({"id": "1", "system_prompt": "S", "question": "Q", "response": "A"}, "prompt-completion"),
        ({"input": "Q", "output": "A"}, "prompt-completion"),
        ({"inputs": "Q", "targets": "A", "language": "en"}, "prompt-completion"),
        ({"query": "Q", "response": "A", "history": [["q", "a"]]}, "alpaca"),
        ({"input": "Q", "output": "A", "history": []}, "alpaca"),
        ({"conversation": [{"human": "Q", "assistant": "A"}], "dataset": "d"}, "pairs"),
        ({"conversation": [{"input": "Q", "output": "A"}]}, "pairs"),
        ({"conversations": [{"user": "Q"}, {"assistant": "A"}]}, "pairs"),
        ({"messages": '[{"human": "Q", "assistant": "A"}]'}, "pairs"),
        ({"messages": TURNS, "answer": "A"}, "messages"),
        ({"messages": TURNS, "documents": ["a.pdf"]}, "messages"),
        ({"messages": [TURNS[0], {"role": "assistant", "tool_calls": [{"name": "f"}]}], "answer": ""}, "messages"),
        ({"text": "T"}, "text"),
        ({"text": "T", "url": "u", "timestamp": 1, "label": True}, "text"),
        ({"text": "T", "from": "the web"}, "text"),
        ({"messages": None, "prompt": "Q", "completion": "A", "text": None}, "prompt-completion"),
    ],
)
def test_a_record_is_recognised_by_its_keys_and_shapes(record: Any, name: str) -> None:
    result = normalise(record)
    assert isinstance(result, Conversation), result
    assert result.format == name


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({}, "SFT125"),
        ({"a": 1}, "SFT125"),
        ({"prompt": "Q"}, "SFT125"),
        ({"messages": TURNS, "conversations": GPT_TURNS}, "SFT126"),
        ({"messages": TURNS, "instruction": "Q", "output": "A"}, "SFT126"),
        ({"instruction": "Q", "prompt": "P", "response": "A"}, "SFT126"),
        ({"instruction": "Q", "response": "A", "answer": "B"}, "SFT126"),
        ({"prompt": "Q", "response": "A", "answer": "B"}, "SFT126"),
        ({"question": "Q", "context": "C", "answer": "A"}, "SFT126"),
        ({"prompt": "Q", "completion": "A", "input": "I", "history": []}, "SFT126"),
        ({"inputs": "Q", "targets": "A", "history": []}, "SFT126"),
        ({"prompt": "Q", "text": "T"}, "SFT126"),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, "SFT124"),
        ({"messages": TURNS, "label": False}, "SFT124"),
        ({"prompt": "Q", "completion": "A", "label": True}, "SFT124"),
        ({"messages": TURNS[:1], "answer": "A"}, "SFT126"),
        ({"messages": TURNS, "documents": [{"title": "T", "text": "D"}]}, "SFT126"),
        ({"conversations": [*GPT_TURNS, GPT_TURNS[0]], "completion": "A"}, "SFT126"),
        ({"conversations": ["Q", "A"]}, "SFT102"),
        ({"text": "Q", "role": "prompter", "parent_id": None}, "SFT126"),
        ({"messages": TURNS, "rejected_response": "B"}, "SFT124"),
        ({"chosen_messages": TURNS, "rejected_messages": TURNS}, "SFT124"),
        ({"input": {"messages": TURNS[:1]}, "preferred_output": TURNS[1:], "non_preferred_output": []}, "SFT125"),
        ({"input": {"messages": TURNS[:1]}, "preferred_output": TURNS[1:], "non_preferred_output": TURNS}, "SFT124"),
        ({"messages": None}, "SFT101"),
        ({"conversations": None, "id": "1"}, "SFT101"),
        ({"instruction": "Q", "input": "", "output": None}, "SFT103"),
        ({"prompt": "Q", "completion": None}, "SFT103"),
    ],
)
def test_what_cannot_be_told_is_refused_by_name(record: Any, code: str) -> None:
    result = normalise(record)
    assert isinstance(result, Rejection)
    assert [found.code for found in result.findings] == [code]


def test_a_label_that_is_no_thumb_is_only_an_unread_key() -> None:
    result = normalise({"question": "Q", "answer": "A", "label": 1})
    assert [found.code for found in result.findings] == ["SFT116"]


@pytest.mark.parametrize(
    ("record", "name", "said"),
    [
        ({"messages": TURNS, "conversations": [GPT_TURNS[1]]}, "messages", ["Q", "A"]),
        ({"question": "Q", "context": "C", "answer": "A"}, "alpaca", ["Q\n\nC", "A"]),
        ({"messages": TURNS, "chosen": "a", "rejected": "b"}, "messages", ["Q", "A"]),
        ({"messages": TURNS, "documents": [{"text": "D"}]}, "messages", ["Q", "A"]),
    ],
)
def test_naming_the_format_overrides_detection(record: Any, name: str, said: list[str]) -> None:
    result = normalise(record, FormatOptions(input_format=name))
    assert isinstance(result, Conversation), result
    assert [turn.content for turn in result.messages] == said


def test_records_of_one_input_are_recognised_one_by_one() -> None:
    results = [normalise(record) for record in ({"text": "T"}, {"messages": TURNS}, {"prompt": "Q", "answer": "A"})]
    assert [getattr(result, "format", None) for result in results] == ["text", "messages", "prompt-completion"]
