"""What a probe says about templates whose behaviour is known."""

from __future__ import annotations

import datetime

import msgspec
import pytest

from sftdata.templates.builtin import BUILTIN
from sftdata.templates.environment import compile_template
from sftdata.templates.probe import FIELDS, Probe, probe_template


def probe(source: str, **kwargs: object) -> Probe:
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    return probe_template(
        compile_template(source, name="t", special_tokens=tokens, clock=datetime.date(2024, 7, 26)), **kwargs
    )


def carried(name: str, **kwargs: object) -> Probe:
    return probe(BUILTIN[name].source(), **kwargs)


def outcomes(result: Probe, *questions: str) -> list[str]:
    return [result.answer(question).outcome for question in questions]


CALLS = (
    "tool call",
    "tool call with arguments as text",
    "parallel tool calls",
    "text beside a tool call",
    "tool result",
)
THOUGHTS = ("reasoning of the last reply", "reasoning before a tool call", "reasoning of earlier replies")
EDGES = ("edges of a user", "edges of a reply", "edges of a system")


def test_chatml_keeps_everything_but_names_and_ids() -> None:
    result = carried("chatml")
    dropped = {row.question for row in result.answers if row.group == "fields" and row.outcome != "kept"}
    assert dropped == {"name", "tool result, name", "tool call id"}
    assert outcomes(result, "earlier turns stay as they were", "adds text of its own") == ["yes", "no"]


def test_qwen3_drops_earlier_reasoning_and_so_rewrites_history() -> None:
    result = carried("qwen3")
    assert outcomes(result, *THOUGHTS) == ["kept", "kept", "dropped"]
    assert outcomes(result, "earlier turns stay as they were") == ["no"]
    row = result.answer("a rendered reply begins with its prompt")
    assert (row.outcome, row.detail) == ("yes", repr("<think>\n\n</think>\n\n"))


def test_a_prompt_that_later_prompts_do_not_repeat_is_rewritten_history() -> None:
    """Each turn stays as it was rendered, but its prompt had an opening tag that no later prompt has."""
    source = (
        "{% for m in messages %}[{{ m.role }}]{{ '</think>' if m.role == 'assistant' }}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]<think>{% endif %}"
    )
    result = probe(source)
    assert outcomes(result, "earlier turns stay as they were") == ["no"]


@pytest.mark.parametrize(
    ("prefix", "told"),
    [("", ""), ("<think>\n", "opened by '<think>'"), ("<think></think>", "closed by '</think>'"), ("<muse>", "muse")],
)
def test_a_reasoning_block_at_the_end_of_the_prompt_is_told(prefix: str, told: str) -> None:
    source = (
        "{% for m in messages %}[{{ m.role }}]{{ '<muse>' + m.reasoning_content + '</muse>' if m.reasoning_content }}"
        "{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{{ prefix }}{% endif %}"
    )
    row = probe(source, prefix=prefix).answer("a reasoning block ends its prompt")
    assert row.outcome == ("yes" if told else "no")
    assert told in row.detail


def test_arguments_reach_the_template() -> None:
    row = carried("qwen3", enable_thinking=False).answer("text that asks for a reply")
    assert row.detail == repr("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_injected_system_prompt_is_quoted() -> None:
    row = carried("qwen2.5").answer("adds text of its own")
    assert row.outcome == "yes"
    assert "You are Qwen" in row.detail
    assert outcomes(carried("mistral"), "adds text of its own") == ["no"]


def test_trimming_and_spaces_are_seen() -> None:
    assert outcomes(carried("llama-3"), *EDGES) == ["altered", "altered", "altered"]
    assert outcomes(carried("chatml"), *EDGES) == ["kept", "kept", "kept"]
    llama = carried("llama-2")
    assert llama.answer("a rendered reply begins with its prompt").detail == repr(" ")
    assert llama.answer("text behind the last reply").detail == repr(" </s>")
    assert llama.answer("text that asks for a reply").detail == repr("")


def test_refusals_carry_the_message_and_line_of_the_template() -> None:
    row = carried("zephyr").answer("tool result")
    assert row.outcome == "refused"
    assert row.detail.startswith("zephyr has no place for a turn of the role tool (line ")


def test_calls_dropped_in_silence_are_called_dropped() -> None:
    result = carried("zephyr")
    assert outcomes(result, "tool call", "parallel tool calls", "tools") == ["dropped", "dropped", "dropped"]
    assert outcomes(result, *CALLS[:1], "text beside a tool call") == ["dropped", "altered"]


def test_part_of_a_field_is_altered_with_what_is_missing() -> None:
    source = (
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}{{ c.function.name }}{% endfor %}{% endfor %}"
    )
    row = probe(source).answer("tool call")
    assert (row.outcome, row.detail) == ("altered", "without the argument's name, the argument's value")


def test_content_is_tried_as_parts_and_as_null_where_a_template_wants_that() -> None:
    parts = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
    result = probe(parts)
    assert (result.answer("a plain chat").outcome, result.answer("system").outcome) == ("kept", "kept")
    assert result.answer("a plain chat").detail == "with content as a list of parts"
    assert probe("{% for m in messages %}{{ m.content }}{% endfor %}").answer("a plain chat").detail == ""
    null = "{% for m in messages %}{% if m.content is none %}{{ m.tool_calls }}{% endif %}{% endfor %}"
    assert outcomes(probe(null), "tool call", "text beside a tool call") == ["kept", "dropped"]


def test_a_reply_that_ends_otherwise_when_more_is_said_is_seen() -> None:
    source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ '<stop>' if loop.last else '<end>' }}{% endfor %}"
    row = probe(source).answer("what ends a reply stays as it was")
    assert (row.outcome, row.detail) == ("no", "'<stop>' becomes '<end><user>'")
    assert outcomes(carried("chatml"), "what ends a reply stays as it was") == ["yes"]


def test_prompt_that_the_rendered_turn_does_not_begin_with_is_shown() -> None:
    source = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
    )
    row = probe(source).answer("a rendered reply begins with its prompt")
    assert (row.outcome, row.detail) == ("no", repr("bot>"))


def test_template_that_refuses_a_plain_chat_says_so_and_no_more() -> None:
    result = probe("{{ raise_exception('closed') }}")
    assert {row.outcome for row in result.answers if row.group != "source"} == {"refused"}
    assert result.answer("a plain chat").detail == "closed (line 1)"


def test_template_that_loses_the_content_says_so() -> None:
    assert outcomes(probe("hello"), "a plain chat", "edges of a reply", "system") == ["dropped"] * 3


def test_source_rows_tell_markers_clock_and_arguments() -> None:
    source = "{% generation %}{{ strftime_now('%Y') }}{{ style }}{{ tone | default('') }}{% endgeneration %}"
    rows = {row.question: (row.outcome, row.detail) for row in probe(source).answers if row.group == "source"}
    assert rows == {
        "marks replies with {% generation %}": ("yes", "plain"),
        "reads the clock": ("yes", ""),
        "takes arguments": ("yes", "style, tone"),
    }


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_probe_answers_each_question_once_and_is_json(name: str) -> None:
    result = carried(name)
    questions = [row.question for row in result.answers]
    assert len(set(questions)) == len(questions)
    assert {field.question for field in FIELDS} <= set(questions)
    assert msgspec.json.decode(msgspec.json.encode(result), type=Probe) == result
    assert len(result.rows()) == len(questions)
    assert result.sha256
