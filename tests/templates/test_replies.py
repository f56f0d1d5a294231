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


THOUGHT = {"role": "assistant", "content": "A", "reasoning_content": "T"}
LOOK = {"role": "assistant", "tool_calls": [call("look", "c1")]}

LONE_CLOSE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|bot|>"
    "{{ '<think>' + m.reasoning_content if m.reasoning_content }}</think>{{ m.content }}"
    "{% for c in m.tool_calls %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}<|im_end|>"
    "{% else %}<|{{ m.role }}|>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|bot|>{{ prefix | default('<think>') }}{% endif %}"
)
"""A turn without reasoning holds the closing tag alone."""


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("<think>", "</think>A<|im_end|>"), ("<think></think>", "A<|im_end|>"), ("</think>", "A<|im_end|>")],
)
def test_a_block_that_the_turn_closes_without_opening_it_is_written_once(prefix: str, expected: str) -> None:
    outcome = unroll(LONE_CLOSE, ASK, ANSWER, reasoning="empty", template_arg={"prefix": prefix})
    assert replies(outcome) == [expected]


@pytest.mark.parametrize("prefix", ["<think></think>", "</think>"])
def test_calls_behind_a_closed_block_are_the_reply_and_no_second_closing_tag(prefix: str) -> None:
    outcome = unroll(LONE_CLOSE, ASK, LOOK, template_arg={"prefix": prefix})
    assert replies(outcome) == ['[look {"at": "sky"}]<|im_end|>']


@pytest.mark.parametrize("turn", [THOUGHT, {**LOOK, "reasoning_content": "T"}])
@pytest.mark.parametrize("prefix", ["<think></think>", "</think>"])
def test_reasoning_behind_a_block_that_the_prompt_has_closed_is_lost(turn: dict[str, Any], prefix: str) -> None:
    outcome = unroll(LONE_CLOSE, ASK, THOUGHT, ASK, turn, template_arg={"prefix": prefix})
    assert isinstance(outcome, Rejection)
    assert [one.code for one in outcome.findings] == ["SFT308"]
    dropped = unroll(LONE_CLOSE, ASK, THOUGHT, ASK, turn, template_arg={"prefix": prefix}, allow_dropped=("reasoning",))
    said = "A" if "content" in turn else '[look {"at": "sky"}]'
    assert replies(dropped) == ["A<|im_end|>", f"{said}<|im_end|>"]


WRAPPED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|bot|>"
    "{{ '<think>' + m.reasoning_content + '</think>' if m.reasoning_content }}"
    "{% for c in m.tool_calls %}<act>{{ c.function.name }} {{ c.function.arguments | tojson }}</act>"
    "{% else %}<say>{{ m.content }}</say>{% endfor %}<|im_end|>"
    "{% else %}<|{{ m.role }}|>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|bot|>{{ prefix | default('<think>') }}{% endif %}"
)
"""Content has tags of its own, behind reasoning and without it."""


@pytest.mark.parametrize(
    ("prefix", "lead"), [("<think>", "</think>"), ("<think>\n\n</think>\n\n", ""), ("<think></think>", "")]
)
def test_what_wraps_the_content_is_the_reply_where_the_template_writes_it_behind_reasoning_too(
    prefix: str, lead: str
) -> None:
    outcome = unroll(WRAPPED, ASK, ANSWER, reasoning="empty", template_arg={"prefix": prefix})
    assert replies(outcome) == [f"{lead}<say>A</say><|im_end|>"]


def test_a_mark_that_the_template_writes_instead_of_reasoning_is_no_part_of_a_reply_behind_it() -> None:
    source = WRAPPED.replace("<say>", "{{ '<instant>' if not m.reasoning_content }}")
    outcome = unroll(source, ASK, ANSWER, reasoning="empty")
    assert isinstance(outcome, Rejection)
    assert outcome.findings[-1].code == "SFT316"


def test_text_that_the_template_leaves_out_beside_calls_is_named_behind_a_closed_block_too() -> None:
    turn = {**LOOK, "content": "I will look."}
    given: dict[str, Any] = {"template_arg": {"prefix": "<think></think>"}}
    refused = unroll(WRAPPED, ASK, turn, **given)
    assert isinstance(refused, Rejection)
    assert "--allow-dropped content" in refused.findings[-1].fix
    allowed = unroll(WRAPPED, ASK, turn, allow_dropped=("content",), **given)
    assert replies(allowed) == ['<act>look {"at": "sky"}</act><|im_end|>']


def test_calls_that_stand_before_the_text_beside_them_are_in_the_reply() -> None:
    source = LONE_CLOSE.replace("</think>{{ m.content }}", "").replace("<|im_end|>", "{{ m.content }}<|im_end|>")
    turn = {**LOOK, "content": "I looked."}
    outcome = unroll(source, ASK, turn, template_arg={"prefix": "<think></think>"})
    assert replies(outcome) == ['[look {"at": "sky"}]I looked.<|im_end|>']


OPENED_BY_THE_PROMPT = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|bot|>"
    "{{ m.reasoning_content + '\\n[SO I SAY]\\n' if m.reasoning_content }}{{ m.content }}<|im_end|>"
    "{% else %}<|{{ m.role }}|>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|bot|>These are my thoughts:\n{% endif %}"
)
"""Words of the prompt open the reasoning; the turn that has it does not repeat them."""


def test_words_that_only_the_prompt_has_before_reasoning_open_it() -> None:
    assert replies(unroll(OPENED_BY_THE_PROMPT, ASK, THOUGHT)) == ["T\n[SO I SAY]\nA<|im_end|>"]
    assert replies(unroll(OPENED_BY_THE_PROMPT, ASK, ANSWER, reasoning="empty")) == ["\n[SO I SAY]\nA<|im_end|>"]
    refused = unroll(OPENED_BY_THE_PROMPT, ASK, ANSWER)
    assert isinstance(refused, Rejection)
    assert refused.findings[-1].code == "SFT317"


def test_words_that_only_the_prompt_has_and_nothing_closes_are_not_understood() -> None:
    outcome = unroll(OPENED_BY_THE_PROMPT.replace("\\n[SO I SAY]\\n", ""), ASK, ANSWER, reasoning="empty")
    assert isinstance(outcome, Rejection)
    assert outcome.findings[-1].code == "SFT316"


def test_a_closing_tag_of_its_own_kind_in_the_prompt_opens_nothing() -> None:
    source = WRAPPED.replace("think>", "muse:2>").replace("<say>", "").replace("</say>", "")
    outcome = unroll(source, ASK, ANSWER, template_arg={"prefix": "<muse:2></muse:2>"})
    assert replies(outcome) == ["A<|im_end|>"]


def test_a_result_that_prints_the_name_of_its_call_does_not_hide_what_closes_the_call() -> None:
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.name if m.name else '' }}\n{{ m.content }}"
        "{% for c in m.tool_calls %}<|im_start|>{{ c.function.name }} {{ c.function.arguments | tojson }}<|im_start|>"
        "{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant:\n{% endif %}"
    )
    result = {"role": "tool", "content": "blue", "name": "look", "tool_call_id": "c1"}
    outcome = unroll(source, ASK, LOOK, result, ANSWER)
    assert replies(outcome) == ['<|im_start|>look {"at": "sky"}<|im_start|><|im_end|>', "A<|im_end|>"]


def test_a_token_that_closes_the_reply_before_the_next_header_is_the_stop_and_not_the_header() -> None:
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    outcome = unroll(source, ASK, ANSWER, eos_token="<|endoftext|>", stop=("<|im_start|>",), append_eos=False)
    assert isinstance(outcome, Rejection)
    assert (outcome.findings[-1].code, "--stop '<|im_end|>'" in outcome.findings[-1].fix) == ("SFT414", True)


def test_a_stop_that_the_template_writes_inside_a_reply_is_refused() -> None:
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>"
        "{% for c in m.tool_calls %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]<|im_end|>{% endfor %}"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    outcome = unroll(source, ASK, {**LOOK, "content": "I will look."})
    assert isinstance(outcome, Rejection)
    assert outcome.findings[-1].code == "SFT424"
    assert "'<|im_end|>'" in outcome.findings[-1].message
    spelled = {"role": "assistant", "content": "It is <|im_end|> that ends it."}
    assert replies(unroll(source, ASK, spelled, control_tokens="allow"))[0].startswith("It is <|im_end|> that")


@pytest.mark.parametrize(
    ("prefix", "gap", "expected"),
    [("", "", "T</think>"), ("\n", "\n", "T\n</think>"), ("", "\n\n", "\nT\n</think>")],
)
def test_reasoning_goes_into_the_block_that_the_prompt_opens_and_the_turn_leaves_empty(
    prefix: str, gap: str, expected: str
) -> None:
    source = (
        "{% for m in messages %}<|{{ m.role }}|>{{ block if m.role == 'assistant' }}{{ m.content }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{{ opening }}{% endif %}"
    )
    arguments = {"opening": f"<think>{prefix}", "block": f"<think>{prefix}{gap}</think>"}
    assert replies(unroll(source, ASK, THOUGHT, template_arg=arguments)) == [f"{expected}A<|im_end|>"]
    empty = unroll(source, ASK, ANSWER, template_arg=arguments, reasoning="empty")
    assert replies(empty) == [f"{gap}</think>A<|im_end|>"]


def test_special_tokens_around_the_content_are_the_reply_behind_a_closed_block() -> None:
    source = (
        "{% for m in messages %}<|{{ m.role }}|>"
        "{{ '<|im_start|>' + m.content + '<|endoftext|>' if m.role == 'assistant' else m.content }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|><think></think>{% endif %}"
    )
    assert replies(unroll(source, ASK, ANSWER)) == ["<|im_start|>A<|endoftext|><|im_end|>"]
    unpaired = unroll(source.replace("<|endoftext|>", ""), ASK, ANSWER)
    assert isinstance(unpaired, Rejection)
    assert unpaired.findings[-1].code == "SFT316"


@pytest.mark.parametrize("thought", ["I weigh the matter with care.", "t", "assistant"])
def test_reasoning_inside_the_content_behind_a_block_that_the_prompt_has_closed_is_lost_and_never_cut(
    thought: str,
) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% set c = m.content %}{% set r = m.reasoning_content or '' %}{% if not r and '</think>' in c %}"
        "{% set r = c.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
        "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "<think>\n{{ r }}\n</think>\n\n{{ c }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
    )
    inline = {"role": "assistant", "content": f"<think>\n{thought}\n</think>\n\nA"}
    outcome = unroll(template, ASK, inline)
    assert isinstance(outcome, Rejection)
    assert outcome.findings[-1].code == "SFT308"
    assert "reasoning" in outcome.findings[-1].message
    assert replies(unroll(template, ASK, inline, allow_dropped=["reasoning"])) == ["A<|im_end|>"]
    assert replies(unroll(template, ASK, ANSWER)) == ["A<|im_end|>"]


def test_text_behind_calls_that_later_prompts_move_does_not_make_a_stop_of_their_closing_token() -> None:
    source = (
        "{% for m in messages %}{% if m.role != 'tool' %}<|{{ m.role }}|>"
        "{% for c in m.tool_calls %}{{ c.function.name }} {{ c.function.arguments | tojson }}<|im_start|>{% endfor %}"
        "{% if not loop.last and m.tool_calls %}<|endoftext|>{{ messages[loop.index0 + 1].content }}{% endif %}"
        "{{ m.content }}{{ '<|endoftext|>' if loop.last and m.tool_calls else '<|im_end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    result = {"role": "tool", "content": "blue", "tool_call_id": "c1"}
    outcome = unroll(source, ASK, {**LOOK, "content": "I look."}, result, ANSWER, stop=("<|endoftext|>",))
    assert replies(outcome) == ['look {"at": "sky"}<|im_start|>I look.<|endoftext|>', "A<|im_end|>"]


def test_remedies_name_the_arguments_that_the_template_reads() -> None:
    source = (
        "{% for m in messages %}[{{ m.role }}]{{ m.reasoning_content if think }}{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{{ '<hm>' if mode is defined }}{% endif %}"
    )
    refused = unroll(source, ASK, THOUGHT)
    assert isinstance(refused, Rejection)
    assert "(--template-arg; it reads mode, think)" in refused.findings[-1].fix
    assert replies(unroll(source, ASK, THOUGHT, template_arg={"think": True})) == ["TA<|im_end|>"]
    refused = unroll(source, ASK, ANSWER, template_arg={"mode": 1})
    assert isinstance(refused, Rejection)
    assert (refused.findings[-1].code, "it reads mode, think" in refused.findings[-1].fix) == ("SFT316", True)


def test_the_token_that_is_named_as_the_end_of_a_turn_is_none_that_opens_one() -> None:
    """The template asks for the next reply whether it is told to or not."""
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
        "<|im_start|>assistant\n<think></think>"
    )
    outcome = unroll(source, ASK, ANSWER, eos_token="<|endoftext|>", append_eos=False)
    assert isinstance(outcome, Rejection)
    assert (outcome.findings[-1].code, "--stop '<|im_end|>'" in outcome.findings[-1].fix) == ("SFT414", True)
