"""Written-out chats and stand-ins for pictures: what is told, and what is left alone."""

from __future__ import annotations

import pytest

from sftdata.checks import examine
from sftdata.formats import normalise
from sftdata.records import Conversation


def codes(record: object) -> list[str]:
    conversation = normalise(record)
    assert isinstance(conversation, Conversation)
    return [found.code for found in examine(conversation)]


@pytest.mark.parametrize(
    "text",
    [
        "### Human: Hi### Assistant: Hello",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n",
        "<s>[INST] Hi [/INST] Hello </s>",
        "Below is an instruction.\n\n### Instruction:\nSay hi\n\n### Response:\nhi",
        "\n\nHuman: Hi\n\nAssistant: Hello",
        "<s>Human: Hi\n</s><s>Assistant: Hello\n</s>",
        "A chat. USER: is not it.\nUSER: Hi\nASSISTANT: Hello",
    ],
)
def test_a_text_that_spells_turns_is_told(text: str) -> None:
    assert codes({"text": text}) == ["SFT715"]
    assert codes({"question": "Complete this.", "answer": text}) == []


@pytest.mark.parametrize(
    "prompt",
    [
        "Human: hi\nAssistant: hello\nHuman: how are you?\nAssistant:\n",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "[INST] Hi [/INST] ",
        "### Instruction:\nSay hi\n\n### Response:",
    ],
)
def test_a_prompt_that_was_rendered_before_is_told(prompt: str) -> None:
    assert codes({"prompt": prompt, "completion": "Fine."}) == ["SFT715"]
    assert codes({"prompt": f"{prompt}Go on?", "completion": "Fine."}) == []


@pytest.mark.parametrize(
    "text", ["My Assistant: a poem", "Assistant: Hello\nHuman: Hi", "### Response: late", "Human: Hi"]
)
def test_half_a_chat_is_a_text(text: str) -> None:
    assert codes({"text": text}) == []


@pytest.mark.parametrize(
    "text", ["<image>\nWhat is this?", "What is this? <image>", "See:\n<video>\nWell?", "<audio>Who?"]
)
def test_a_stand_in_for_what_is_not_there_is_told(text: str) -> None:
    assert codes({"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "A."}]}) == ["SFT716"]
    assert codes({"text": text}) == ["SFT716"]


@pytest.mark.parametrize(
    "text", ["Use the <image> tag so.", "<image>a.png</image>", "```\n<image>\n```", "<images>", "<img>"]
)
def test_a_tag_in_a_sentence_or_in_code_is_left_alone(text: str) -> None:
    assert codes({"question": text, "answer": "A."}) == []
