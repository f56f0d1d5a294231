"""Rendering: the values a template sees, what it prints, what it raises, and the spans it marks."""

# ruff: noqa: E501  a template is one line

from __future__ import annotations

import datetime
import hashlib
from typing import Any

import pytest

from sftdata.errors import ConfigError
from sftdata.templates.environment import (
    Limits,
    Template,
    TemplateError,
    TemplateSecurityError,
    TemplateSyntaxError,
    compile_template,
)

DAY = datetime.date(2024, 7, 26)
CHAT = [{"role": "user", "content": "ping"}, {"role": "assistant", "content": "pong"}]


def build(source: str, **options: Any) -> Template:
    return compile_template(source, clock=DAY, **options)


def show(source: str, messages: list[dict[str, Any]] | None = None, **variables: Any) -> str:
    given = {"add_generation_prompt": False, **variables}
    return build(source).render(CHAT if messages is None else messages, **given)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ tools is none }} {{ documents is none }} {{ tools }}", "True True None"),
        ("{{ messages[0].role }}{{ messages[1]['content'] }}{{ messages | length }}", "userpong2"),
        ("a\n{% if true %}\n  b\n{% endif %}\nc\n", "a\n  b\nc"),
        ("x\r\ny", "x\ny"),
        ("{{ messages[0].absent }}|{% for x in absent %}x{% endfor %}", "|"),
        ("{{ None }}{{ true }}{{ 1.50 }}{{ [1, 'a'] }}{{ {'k': none} }}", "NoneTrue1.5[1, 'a']{'k': None}"),
        ("{{ {'b': '<é>', 'a': none} | tojson }}", '{"b": "<é>", "a": null}'),
        ("{{ {'b': 1, 'a': [2]} | tojson(indent=2, sort_keys=true) }}", '{\n  "a": [\n    2\n  ],\n  "b": 1\n}'),
        ("{{ [1] | tojson(separators=[',', ':'], ensure_ascii=true) }}", "[1]"),
        ("{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "user"),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}", "assistant"),
        ("{% set ns = namespace(n=1) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "3"),
        ("{{ strftime_now('%d %b %Y %H:%M:%S') }}", "26 Jul 2024 00:00:00"),
        ("{{ dict(a=1).items() | list }}{{ dict.fromkeys('ab', 0) }}", "[('a', 1)]{'a': 0, 'b': 0}"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(',') }}", "ping"),
        ("{{ messages[::-1][0].role }}{{ 'abc'[1:] }}{{ messages[:0] }}", "assistantbc[]"),
        ("{{ 'a' + 'b' + messages[0].role ~ 1 ~ none }}", "abuser1None"),
        ("{{ '%s-%03d' % ('a', 7) }}{{ '{:>3}|{x}'.format(1, x=2) }}{{ 'a-b'.split('-') }}", "a-007  1|2['a', 'b']"),
        ("{% macro f(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, b=3) }}", "1213"),
        ("{% macro wrap() %}<{{ caller('x') }}>{% endmacro %}{% call(x) wrap() %}{{ x }}{% endcall %}", "<x>"),
        ("{% set x %}a{{ messages[0].role }}{% endset %}{{ x | upper }}{% filter upper %}b{% endfilter %}", "AUSERB"),
        ("{% for n in [[1, [2]]] recursive %}{{ n if n is number else loop(n) }}{% endfor %}", "12"),
        ("{{ ('<' | e) + '<' }}{{ ('<' | safe) + '<' }}{{ 'a' + ('<' | e) }}", "&lt;&lt;<&lt;a&lt;"),
        ("{{ ', '.join(messages | map(attribute='role')) }}{{ range(3) | sum }}", "user, assistant3"),
        ("{% if messages | selectattr('role', 'equalto', 'x') %}generators are true{% endif %}", "generators are true"),
        ("{{ tools | selectattr('type') | list }}{{ none | map('upper') | list }}{{ 0 | reject | list }}", "[][][]"),
        ("{{ 3 * 'ab' }}{{ [0] * 2 }}{{ 2 ** 10 }}{{ 7 % 3 }}{{ 7 // 2 }}", "ababab[0, 0]102413"),
        ("{{ 'role' in messages[0] }}{{ 'x' not in 'abc' }}{{ 1 < 2 <= 2 }}{{ messages[0] == messages[0] }}", "TrueTrueTrueTrue"),
        ("{{ messages[0].items() | list | length }}{{ messages[0].get('x', 'd') }}{{ messages[0]['keys']() | list }}", "2d['role', 'content']"),
        ("{{ '  a ' | trim }}{{ 'xax' | trim('x') }}{{ 'a\nb' | indent(2) }}", "aaa\n  b"),
        ("{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{% set j = joiner() %}{{ j() }}{{ j() }}", "aba, "),
    ],
)  # fmt: skip
def test_template_prints(source: str, text: str) -> None:
    assert show(source) == text


def test_special_tokens_yield_to_arguments_and_both_to_the_call() -> None:
    template = build("{{ bos_token }}{{ date }}", special_tokens={"bos_token": "<s>"}, kwargs={"date": "d"})
    assert template.render(CHAT, add_generation_prompt=False) == "<s>d"
    assert template.render(CHAT, add_generation_prompt=False, bos_token="", date="e") == "e"
    override = build("{{ bos_token }}", special_tokens={"bos_token": "<s>"}, kwargs={"bos_token": "<b>"})
    assert override.render(CHAT, add_generation_prompt=False) == "<b>"


@pytest.mark.parametrize("name", ["messages", "tools", "documents", "add_generation_prompt"])
def test_parts_of_the_conversation_cannot_be_arguments(name: str) -> None:
    with pytest.raises(ConfigError, match="part of the conversation"):
        build("", kwargs={name: 1})


def test_rendering_changes_neither_input_nor_template() -> None:
    template = build("{% set messages = messages[1:] %}{{ messages[0].role }}{% set x = 1 %}")
    chat = [dict(message) for message in CHAT]
    assert [template.render(chat, add_generation_prompt=False) for _ in range(3)] == ["assistant"] * 3
    assert chat == CHAT


def test_same_clock_gives_the_same_text_on_any_day() -> None:
    source = "{{ strftime_now('%Y-%m-%d %A %j') }}"
    texts = {build(source).render([], add_generation_prompt=False) for _ in range(2)}
    assert texts == {"2024-07-26 Friday 208"}
    assert build(source).uses_clock
    assert not build("{{ date }}").uses_clock


def test_template_says_what_it_is() -> None:
    source = "{{ bos_token }}{% for m in messages %}<|{{ m['role'] + '|>' }}{% endfor %}{{ raise_exception('x') if y }}"
    template = build(source, name="mine")
    assert template.source == source
    assert template.name == "mine"
    assert template.sha256 == hashlib.sha256(source.encode()).hexdigest()
    assert template.reads == {"bos_token", "messages", "y"}
    assert {"<|", "|>", "role", "x"} <= set(template.literals)


# -- errors


def test_message_and_line_of_the_template_come_through() -> None:
    template = build("{{ 1 }}\n{% for m in messages %}\n{{ raise_exception('No ' ~ m.role) }}{% endfor %}", name="t")
    with pytest.raises(TemplateError) as caught:
        template.render(CHAT, add_generation_prompt=False)
    error = caught.value
    assert (error.code, error.detail, error.lineno) == ("SFT302", "No user", 3)
    assert str(error) == "template t, line 3: No user."


@pytest.mark.parametrize(
    ("source", "detail"),
    [
        ("{{ 'a' + messages[0].absent }}", "'dict object' has no attribute 'absent'"),
        ("{{ 'a' + 1 }}", 'TypeError: can only concatenate str (not "int") to str'),
        ("{{ absent.x }}", "'absent' is undefined"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ absent() }}", "'absent' is undefined"),
        ("{{ 'x' | tojson(nonsense=1) }}", "TypeError: tojson() got an unexpected keyword argument 'nonsense'"),
        ("{{ absent | tojson }}", "TypeError: Object of type Undefined is not JSON serializable"),
        ("{% for a, b in messages[0] %}{% endfor %}", "ValueError: too many values to unpack (expected 2)"),
        ("{{ raise_exception() }}", "the template raised an exception"),
        ("{{ ([] | first).x }}", "No first item, sequence was empty."),
        ("{{ messages | map('nonsense') | list }}", "No filter named 'nonsense'."),
    ],
)
def test_whatever_goes_wrong_is_a_template_error(source: str, detail: str) -> None:
    with pytest.raises(TemplateError) as caught:
        show(source)
    assert caught.value.code == "SFT302"
    assert caught.value.detail == detail
    assert caught.value.lineno == 1


def test_error_does_not_quote_a_whole_conversation() -> None:
    with pytest.raises(TemplateError) as caught:
        show("{{ raise_exception(messages[0].content) }}", [{"content": "secret " * 10_000}])
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("source", "line"),
    [("{{ ", 1), ("a\n{% if x %}", 2), ("{% nonsense %}", 1), ("\n\n{{ x | nonsense }}", 3), ("{% generation %}", 1)],
)
def test_source_that_is_no_template_is_refused_with_its_line(source: str, line: int) -> None:
    with pytest.raises(TemplateSyntaxError) as caught:
        build(source)
    assert caught.value.code == "SFT322"
    assert caught.value.lineno == line
    assert isinstance(caught.value, ConfigError)


@pytest.mark.parametrize(
    "source",
    [
        "{% include 'x' %}",
        "{% extends 'x' %}",
        "{% import 'x' as y %}",
        "{% from 'x' import y %}",
        "{% block a %}{% endblock %}",
        "{% autoescape true %}{% endautoescape %}",
    ],
)
def test_templates_of_several_files_are_refused(source: str) -> None:
    with pytest.raises(TemplateSyntaxError, match=r"a chat template cannot use \{%"):
        build(source)


# -- generation spans


def test_marked_spans_are_offsets_of_the_plain_text() -> None:
    template = build(
        "{% for m in messages %}<{{ m.role }}>{% generation %}{{ m.content }}</s>{% endgeneration %}\n{% endfor %}"
    )
    text, spans = template.render_spans(CHAT, add_generation_prompt=False)
    assert text == template.render(CHAT, add_generation_prompt=False) == "<user>ping</s><assistant>pong</s>"
    assert [text[start:stop] for start, stop in spans] == ["ping</s>", "pong</s>"]
    assert template.generation == "plain"


@pytest.mark.parametrize(
    "source",
    [
        "{% macro f(m) %}BODY{% endmacro %}{% for m in messages %}{{ f(m) }}{% endfor %}",
        "{% for m in messages %}{% set x %}BODY{% endset %}{{ x }}{% endfor %}",
        "{% for m in messages recursive %}BODY{% endfor %}",
    ],
)
def test_spans_are_right_inside_buffered_blocks_too(source: str) -> None:
    template = build(source.replace("BODY", "<{% generation %}{{ m.content }}{% endgeneration %}>"))
    assert template.generation == "buffered"
    text, spans = template.render_spans(CHAT, add_generation_prompt=False)
    assert text == "<ping><pong>"
    assert spans == [(1, 5), (7, 11)]


def test_marks_that_the_template_measures_give_no_spans_and_no_other_text() -> None:
    template = build("{% set x %}{% generation %} a {% endgeneration %}{% endset %}{{ x | trim }}{{ x | length }}")
    assert template.render_spans(CHAT, add_generation_prompt=False) == ("a3", [])


def test_content_with_private_characters_does_not_disturb_the_spans() -> None:
    template = build("{{ messages[0].content }}{% generation %}x{% endgeneration %}")
    content = "\U000f5f00\U000f5f01\U000f5f02"
    text, spans = template.render_spans([{"content": content}], add_generation_prompt=False)
    assert (text, spans) == (content + "x", [(3, 4)])


def test_variables_set_inside_a_generation_block_stay_inside() -> None:
    source = "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}"
    assert show(source) == "21"


def test_template_without_markers_has_no_spans() -> None:
    template = build("{{ messages[0].content }}")
    assert template.generation == "none"
    assert template.render_spans(CHAT, add_generation_prompt=False) == ("ping", [])


# -- limits grow with the input


def test_a_long_message_renders_where_a_short_one_may_not_grow_as_long() -> None:
    limits = Limits(steps=1000, chars=1000)
    template = build("{% for m in messages %}{{ m.content | trim | replace('a', 'b') }}{% endfor %}", limits=limits)
    content = "a" * 2_000_000
    assert len(template.render([{"content": content}], add_generation_prompt=False)) == 2_000_000
    with pytest.raises(TemplateError) as caught:
        build("{{ 'a' * 2000000 }}", limits=limits).render([{"content": "a"}], add_generation_prompt=False)
    assert caught.value.code == "SFT318"


def test_many_messages_may_each_look_at_all_others() -> None:
    template = build(
        "{% for m in messages %}{% for n in messages %}{% if n.x == m.x %}{% endif %}{% endfor %}{% endfor %}"
    )
    assert template.render([{"x": "a"}] * 1000, add_generation_prompt=True) == ""


def test_a_breach_is_told_apart_from_a_mistake() -> None:
    with pytest.raises(TemplateSecurityError):
        show("{{ ''.__class__.__mro__ }}")


def test_want_of_memory_is_no_fault_of_the_template_or_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(*_: object) -> str:
        raise MemoryError

    template = build("{% generation %}x{% endgeneration %}")
    monkeypatch.setattr("sftdata.templates.environment._collect", starved)
    with pytest.raises(MemoryError):
        template.render(CHAT, add_generation_prompt=False)
    with pytest.raises(MemoryError):
        template.render_spans(CHAT, add_generation_prompt=False)
