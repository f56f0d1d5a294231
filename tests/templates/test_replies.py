"""Where the reply lies, for templates that make it hard to see: what must be trained, to the character."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sftdata.config import build_config
from sftdata.formats import normalise
from sftdata.pipeline.serving import Serving, settle_serving
from sftdata.records import Conversation, Rejection
from sftdata.templates.contract import Contract, Unrolled
from sftdata.templates.reply import written_block

FAMILIES = Path(__file__).parents[1] / "conformance" / "families"
ASK = {"role": "user", "content": "Q"}
ANSWER = {"role": "assistant", "content": "A"}


def serving(template: str, **options: Any) -> Serving:
    given = {"tokenizer": "builtin", "template": template, "max_length": 1 << 20, "append_eos": True, **options}
    return settle_serving(build_config({"inputs": ["-"], "out": "-", **given}), "2026-01-01")


def unroll(template: str, *messages: dict[str, Any], **options: Any) -> Unrolled | Rejection:
    one = serving(template, **options)
    conversation = normalise({"messages": list(messages)})
    assert isinstance(conversation, Conversation)
    return Contract(one.templates, one.options).unroll_in_full(conversation)


def replies(outcome: Unrolled | Rejection) -> list[str]:
    assert isinstance(outcome, Unrolled), outcome
    return [one.text[span.start : span.stop] for one in outcome.examples for span in one.spans]


def family(name: str) -> str:
    return str(FAMILIES / f"{name}.jinja")


def call(name: str, identity: str) -> dict[str, Any]:
    return {"type": "function", "id": identity, "function": {"name": name, "arguments": {"at": "sky"}}}


def test_a_system_text_that_moves_with_the_last_question_is_in_every_prompt() -> None:
    outcome = unroll(family("mistral-v3-last-user"), {"role": "system", "content": "S"}, ASK, ANSWER, ASK, ANSWER)
    assert replies(outcome) == [" A<|im_end|>", " A<|im_end|>"]
    assert isinstance(outcome, Unrolled)
    prompts = [one.text[: one.spans[-1].start] for one in outcome.examples]
    assert prompts == ["[INST] S\n\nQ[/INST]", "[INST] Q[/INST] A<|im_end|>[INST] S\n\nQ[/INST]"]


def test_a_system_text_that_no_served_prompt_holds_is_lost_although_the_turn_is_rendered_with_it() -> None:
    template = (
        "{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}]{{ m.content }}"
        "{% elif not add_generation_prompt %}{{ '' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    outcome = unroll(template, {"role": "system", "content": "A long system text"}, ASK, ANSWER)
    assert isinstance(outcome, Rejection)
    assert outcome.findings[-1].code == "SFT308"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("step3", "\n</think>\nA<|im_end|>"),
        ("minimax", "\n</think>\n\nA[e~[<|im_end|>"),
        ("ernie-thinking", "\n</think>\n\n<response>\nA\n</response>\n<|im_end|>"),
    ],
)
def test_an_empty_reasoning_block_is_closed_as_the_template_itself_writes_one(name: str, expected: str) -> None:
    source = Path(family(name)).read_text(encoding="utf-8").replace("<|EOT|>", "")
    assert replies(unroll(source, ASK, ANSWER, reasoning="empty")) == [expected]


def test_calls_behind_an_empty_reasoning_block_keep_the_whitespace_that_the_template_puts_before_them() -> None:
    [reply] = replies(
        unroll(family("minimax"), ASK, {"role": "assistant", "tool_calls": [call("look", "c1")]}, reasoning="empty")
    )
    assert reply.startswith('\n</think>\n\n\n<minimax:tool_call>\n<invoke name="look">')


def test_a_call_whose_name_is_printed_in_its_id_alone_is_kept() -> None:
    turn = {"role": "assistant", "tool_calls": [call("look", "functions.look:0")]}
    [reply] = replies(unroll(family("kimi-k2"), ASK, turn, stop=("<|im_end|>",)))
    assert reply == (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.look:0<|tool_call_argument_begin|>"
        '{"at": "sky"}<|tool_call_end|><|tool_calls_section_end|><|im_end|>'
    )


def test_a_call_whose_name_is_nowhere_is_lost() -> None:
    turn = {"role": "assistant", "tool_calls": [call("look", "call_1")]}
    outcome = unroll(family("kimi-k2"), ASK, turn, stop=("<|im_end|>",))
    assert isinstance(outcome, Rejection)
    assert outcome.findings[-1].code == "SFT308"


def test_the_tag_of_a_reasoning_block_is_not_taken_together_with_the_header_before_it() -> None:
    block = written_block("<|Assistant|><think>T</think><answer>S", "T", "S")
    assert block is not None
    assert (block.tags, block.lead, block.end) == (("<think>", "</think>"), "", "</think>")
    odd = written_block("<|bot|><ponder>\nT\n</ponder>\n\nS", "T", "S")
    assert odd is not None
    assert (odd.tags, odd.lead, odd.end) == (("<ponder>", "</ponder>"), "\n", "\n</ponder>\n\n")


def test_text_beside_tool_calls_that_the_template_drops_is_refused_unless_allowed() -> None:
    turn = {"role": "assistant", "content": "I will look.", "tool_calls": [call("look", "c1")]}
    refused = unroll(family("glm4"), ASK, turn)
    assert isinstance(refused, Rejection)
    assert refused.findings[-1].code == "SFT308"
    assert "--allow-dropped content" in refused.findings[-1].fix
    assert replies(unroll(family("glm4"), ASK, turn, allow_dropped=("content",))) == ['look\n{"at": "sky"}<|im_end|>']
