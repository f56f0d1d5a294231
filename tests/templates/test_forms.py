"""Where servers hand the same message to a template in different forms, the form that loses nothing is taken."""

from __future__ import annotations

from typing import Any

from sftdata.config import build_config
from sftdata.formats import normalise
from sftdata.pipeline.serving import settle_serving
from sftdata.records import Conversation, Rejection
from sftdata.templates.contract import Contract, Unrolled

TURN = "{{ '<|im_start|>' + m.role + '\n' }}"
END = "{{ '<|im_end|>\n' }}"
HEADER = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
CALLS = "{% for c in m.tool_calls %}<call>{{ c.function.name }} {{ c.function.arguments | string }}</call>{% endfor %}"


def unroll(template: str, record: dict[str, Any]) -> Unrolled | Rejection:
    config = build_config(
        {"inputs": ["-"], "out": "-", "tokenizer": "builtin", "template": template, "max_length": 1 << 20}
    )
    serving = settle_serving(config, "2026-01-01")
    conversation = normalise(record)
    assert isinstance(conversation, Conversation)
    return Contract(serving.templates, serving.options).unroll(conversation)


def call(**beside: Any) -> dict[str, Any]:
    calls = [{"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}]
    return {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "tool_calls": calls, **beside}]}


def over(body: str) -> str:
    return "{% for m in messages %}" + TURN + body + END + "{% endfor %}" + HEADER


def test_a_template_that_asks_whether_content_is_null_is_given_null() -> None:
    body = "{% if m['content'] is none %}" + CALLS + "{% else %}{{ m['content'] + '' }}{% endif %}"
    outcome = unroll(over(body), call())
    assert isinstance(outcome, Unrolled), outcome
    assert outcome.examples[0].text.endswith('assistant\n<call>look {"at": "sky"}</call><|im_end|>')


def test_a_null_that_is_printed_as_a_word_is_no_form_of_a_message() -> None:
    picky = "{% if m['content'] is defined and m['content'] != '' %}{{ m['content'] }}" + CALLS
    outcome = unroll(over(picky + "{% else %}{{ raise_exception('no content') }}{% endif %}"), call())
    assert isinstance(outcome, Rejection)
    assert outcome.findings[-1].code == "SFT302"
    assert isinstance(unroll(over(picky + "{% endif %}"), call(content="None of it.")), Unrolled)


def test_what_is_lost_is_named_in_the_form_that_loses_least() -> None:
    body = "{% if m['content'] is none %}" + CALLS + "{% else %}{{ m['content'] + '' }}{% endif %}"
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    outcome = unroll(over(body), {**call(), "tools": tools})
    assert isinstance(outcome, Rejection)
    assert (outcome.findings[-1].code, outcome.findings[-1].pointer) == ("SFT308", "/tools/0")


def test_what_a_template_of_parts_loses_is_named_and_not_that_it_prints_no_plain_text() -> None:
    body = "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    turn = {"role": "assistant", "content": "A", "reasoning_content": "T"}
    outcome = unroll(over(body), {"messages": [{"role": "user", "content": "Q"}, turn]})
    assert isinstance(outcome, Rejection)
    assert (outcome.findings[-1].code, "reasoning" in outcome.findings[-1].message) == ("SFT308", True)


def test_a_template_that_raises_is_quoted_in_the_remedy_and_a_missing_argument_is_named() -> None:
    record = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}
    refused = unroll(over("{{ raise_exception('Only poems here.') }}"), record)
    assert isinstance(refused, Rejection)
    assert (refused.findings[-1].code, "Only poems here." in refused.findings[-1].fix) == ("SFT302", True)
    refused = unroll(over("{{ verse + m.content }}"), record)
    assert isinstance(refused, Rejection)
    assert refused.findings[-1].fix == "Pass what the template reads: --template-arg verse=VALUE."
