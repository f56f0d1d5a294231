"""Hostile templates: each attack by name ends in a named refusal, in little time and memory."""

# ruff: noqa: E501  a template is one line

from __future__ import annotations

import datetime
import tracemalloc

import pytest

from sftdata.templates.environment import (
    TemplateError,
    TemplateLimitError,
    TemplateSecurityError,
    TemplateSyntaxError,
    compile_template,
)

DAY = datetime.date(2024, 7, 26)
CHAT = [{"role": "user", "content": "hello"}]
MOST_MEMORY = 48 << 20

BIG = "{% set big = 'a' * 1000000 %}"
TWINS = (
    "{% set ns = namespace(x=[1], y=[1], t=(1,), d={'a': 1}) %}{% for i in range(60) %}"
    "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% set ns.t = (ns.t, ns.t) %}"
    "{% set ns.d = {'a': ns.d, 'b': ns.d} %}{% endfor %}"
)
"""Values that hold themselves twice, sixty times over: 2**60 parts if written out."""

BOMBS = {
    "repeated text": "{{ 'a' * 10**9 }}",
    "repeated list": "{{ [0] * 10**9 }}",
    "repeated from the left": "{{ 10**9 * 'a' }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "repeated squaring": "{% set ns = namespace(x=10) %}{% for i in range(999) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "printf width": "{{ '%1000000000d' % 1 }}",
    "printf precision": "{{ '%.999999999f' % 1.0 }}",
    "printf star": "{{ '%*d' % (999999999, 1) }}",
    "printf of a mapping": BIG + "{{ ('%(a)s' * 100000) % {'a': big} }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "ljust": "{{ 'x'.ljust(10**9) }}",
    "rjust": "{{ 'x'.rjust(10**9) }}",
    "center": "{{ 'x'.center(10**9) }}",
    "center filter": "{{ 'x' | center(10**9) }}",
    "zfill": "{{ 'x'.zfill(10**9) }}",
    "expandtabs": "{{ '\t'.expandtabs(10**9) }}",
    "stored method": "{% set f = 'x'.ljust %}{{ f(10**9) }}",
    "format width": "{{ '{:>999999999}'.format('x') }}",
    "format nested width": "{{ '{:{w}}'.format('x', w=999999999) }}",
    "format_map": "{{ '{a:>999999999}'.format_map({'a': 1}) }}",
    "stored format": "{% set f = '{:>999999999}'.format %}{{ f('x') }}",
    "format repeated": BIG + "{{ ('{0}' * 100000).format(big) }}",
    "join filter": BIG + "{{ range(100000) | join(big) }}",
    "join method": BIG + "{{ big.join(('b' * 100000) | list) }}",
    "replace filter": "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
    "replace method": "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "translate": BIG + "{{ big.translate({97: big}) }}",
    "indent filter": "{{ ('\n' * 100000) | indent(100000) }}",
    "indent filter with text": "{{ ('\n' * 100000) | indent('x' * 100000) }}",
    "batch filter": "{{ [1] | batch(10**9, 'x') | list }}",
    "slice filter": "{{ [1] | slice(10**9) | list }}",
    "round filter": "{{ 5 | round(1000000000, 'floor') }}",
    "int filter": "{{ ('9' * 1000000) | int }}",
    "tojson indent": "{{ [1] | tojson(indent=10**9) }}",
    "tojson separators": "{{ range(100000) | list | tojson(separators=['x' * 100000, ':']) }}",
    "strftime width": "{{ strftime_now('%999999999Y') }}",
    "encode": BIG + "{{ big.encode('punycode') }}",
    "sum of lists": "{% set l = range(100000) | list %}{{ ([l] * 10000) | sum(start=[]) | length }}",
    "lists kept": "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l, range(100000) | list] %}{% endfor %}",
    "doubling with tilde": "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling with plus": "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling a list": "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "growing dict": "{% set ns = namespace(d={}) %}{% for i in range(9999) %}{% set ns.d = dict(ns.d, **{'k' ~ i: i}) %}{% endfor %}",
    "huge range": "{% for a in range(10**9) %}{% endfor %}",
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "nested loops over generators": "{% for a in range(99999) %}{% for b in range(99999) | reverse %}{% endfor %}{% endfor %}",
    "nested output": "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
    "output by reference": BIG + "{% for i in range(99999) %}{{ big }}{% endfor %}",
    "wide characters": "{% set s = '😀' * 1000000 %}{% for i in range(99999) %}{{ s }}{% endfor %}",
    "set block": "{% set x %}{% for a in range(99999) %}{% for b in range(999) %}xxxxxxxxxxxxxxxx{% endfor %}{% endfor %}{% endset %}",
    "filter block": "{% filter upper %}{% for a in range(99999) %}{% for b in range(999) %}xxxxxxxx{% endfor %}{% endfor %}{% endfilter %}",
    "macro without end": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "macro tree": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursive loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "recursive loop tree": "{% for x in [1, 2] recursive %}{% if loop.depth < 50 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}",
    "calls in loops": "{% set c = cycler(1, 2) %}{% for a in range(9999) %}{% for b in range(9999) %}{{ c.next() }}{% endfor %}{% endfor %}",
    "searching": BIG + "{% set b = big ~ 'b' %}{% for i in range(99999) %}{% if b in big %}{% endif %}{% endfor %}",
    "comparing": BIG + "{% set b = 'a' * 999999 ~ 'a' %}{% for i in range(99999) %}{% if b == big %}{% endif %}{% endfor %}",
    "rfind": BIG + "{% set b = 'b' ~ 'a' * 500000 %}{% for i in range(99) %}{{ big.rfind(b) }}{% endfor %}",
    "strip": BIG + "{% for i in range(99999) %}{{ big.strip('bcdefgh' * 10000) }}{% endfor %}",
    "slicing": BIG + "{% for i in range(99999) %}{% set b = big[1:] %}{% endfor %}",
    "splitting": BIG + "{% for i in range(99999) %}{% set b = big.split('a') %}{% endfor %}",
    "upper": BIG + "{% for i in range(99999) %}{% set b = big | upper %}{% endfor %}",
    "trim": BIG + "{% for i in range(99999) %}{% set b = big | trim %}{% endfor %}",
    "deep list": "{% set ns = namespace(g=[1]) %}{% for i in range(99999) %}{% set ns.g = [ns.g] %}{% endfor %}{{ ns.g }}",
    "deep list as JSON": "{% set ns = namespace(g=[1]) %}{% for i in range(99999) %}{% set ns.g = [ns.g] %}{% endfor %}{{ ns.g | tojson }}",
    "twins printed": TWINS + "{{ ns.x }}",
    "twin dicts printed": TWINS + "{{ ns.d }}",
    "twin views printed": TWINS + "{{ ns.d.values() }}",
    "twins as JSON": TWINS + "{{ ns.x | tojson }}",
    "twins joined to text": TWINS + "{{ 'a' ~ ns.x }}",
    "twins through printf": TWINS + "{{ '%s' % (ns.x,) }}",
    "twins through format": TWINS + "{{ '{}'.format(ns.x) }}",
    "twins through repr": TWINS + "{{ '{!r}'.format(ns.x) }}",
    "twins through join": TWINS + "{{ [ns.x] | join }}",
    "twins through a text filter": TWINS + "{{ ns.x | upper }}",
    "twins through trim": TWINS + "{{ ns.x | trim }}",
    "twins through replace": TWINS + "{{ 'a' | replace('a', ns.x) }}",
    "twins through safe": TWINS + "{{ ns.x | safe }}",
    "twins compared": TWINS + "{{ ns.x == ns.y }}",
    "twins searched": TWINS + "{{ ns.x in [ns.y] }}",
    "twins tested": TWINS + "{{ ns.x is eq(ns.y) }}",
    "twins selected": TWINS + "{{ [ns.x] | select('eq', ns.y) | list }}",
    "twins sorted": TWINS + "{{ [ns.x, ns.y] | sort }}",
    "twins indexed": TWINS + "{{ [ns.x].index(ns.y) }}",
    "twins changed": TWINS + "{% for i in [1, 2] %}{{ loop.changed(ns.x if i == 1 else ns.y) }}{% endfor %}",
    "twins hashed": TWINS + "{{ {ns.t: 1} }}",
    "twins looked up": TWINS + "{{ {}[ns.t] }}",
    "twins in an error": TWINS + "{{ [1][ns.x].y }}",
    "twins raised": TWINS + "{{ raise_exception(ns.x) }}",
    "twins as a name": TWINS + "{{ 'a' | attr(ns.x) }}",
    "twins as an attribute": TWINS + "{{ ([{}] | map(attribute=ns.x) | list | first).y }}",
}  # fmt: skip


SLOW_TO_TRACE = ("twin", "nested", "macro", "recursive", "calls", "deep", "growing", "set block", "filter block")
"""Many steps and little memory: following each allocation would take far longer than the attack."""


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_refused_in_little_memory(name: str) -> None:
    template = compile_template(BOMBS[name], clock=DAY)
    tracing = not name.startswith(SLOW_TO_TRACE)
    if tracing:
        tracemalloc.start()
    try:
        with pytest.raises(TemplateLimitError) as caught:
            template.render(CHAT, add_generation_prompt=False)
        assert not tracing or tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()
    assert caught.value.code == "SFT318"


def test_the_memory_bound_of_these_tests_can_be_broken() -> None:
    tracemalloc.start()
    try:
        held = "a" * (MOST_MEMORY + 1)
        assert tracemalloc.get_traced_memory()[1] > MOST_MEMORY
    finally:
        tracemalloc.stop()
    del held


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__'].x }}",
        "{{ (''|attr('__class__')).x }}",
        "{{ '{0.__class__.x}'.format('') }}",
        "{{ messages | map(attribute='__class__.__mro__') | list }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ namespace.__init__.__globals__ }}{{ namespace.__init__.__globals__.x }}",
        "{{ raise_exception._function.__globals__ }}",
        "{{ self._TemplateReference__context.x }}",
        "{% macro m() %}{% endmacro %}{{ m._func.__code__ }}",
        "{{ ([1] | map('string')).gi_frame.f_globals }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'a': 1}) }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ namespace(__x=1) }}",
        "{{ (5).to_bytes(10**9, 'big') }}",
    ],
)
def test_escape_from_the_sandbox_is_refused(source: str) -> None:
    with pytest.raises(TemplateSecurityError):
        compile_template(source, clock=DAY).render(CHAT, add_generation_prompt=False)


@pytest.mark.parametrize(
    "source",
    ["{{ [1] | map('string') }}", "{{ raise_exception }}", "{{ messages.count }}", "{{ [namespace()] }}", "{{ self }}"],
)
def test_address_of_an_object_is_never_printed(source: str) -> None:
    with pytest.raises(TemplateError, match=r"whose text is not the same on every run|is undefined"):
        compile_template(source, clock=DAY).render(CHAT, add_generation_prompt=False)


@pytest.mark.parametrize("source", ["{{ [1, 2] | random }}", "{{ 'x' | urlize }}", "{{ {} | xmlattr }}"])
def test_random_and_html_filters_do_not_exist(source: str) -> None:
    with pytest.raises(TemplateSyntaxError, match="No filter named"):
        compile_template(source, clock=DAY)


def test_random_text_does_not_exist() -> None:
    with pytest.raises(TemplateError, match="'lipsum' is undefined"):
        compile_template("{{ lipsum() }}", clock=DAY).render(CHAT, add_generation_prompt=False)


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
        "{{ " + "not " * 20_000 + "1 }}",
        "{{ " + "1+" * 20_000 + "1 }}",
        "{{ a" + ".b" * 20_000 + " }}",
        "{% if 1 %}" * 2_000 + "{% endif %}" * 2_000,
        "{% for a in b %}" * 30 + "{% endfor %}" * 30,
        "x" * 200_000,
    ],
)
def test_source_too_deep_or_too_long_is_refused_when_compiling(source: str) -> None:
    with pytest.raises(TemplateSyntaxError):
        compile_template(source, clock=DAY)


@pytest.mark.parametrize("source", ["{{ 'a' * 10**9 }}", "{{ 'x' | center(10**9) }}", "{{ '%1000000000d' % 1 }}"])
def test_constant_bomb_does_not_go_off_while_compiling(source: str) -> None:
    compile_template("{% if false %}" + source + "{% endif %}", clock=DAY).render(CHAT, add_generation_prompt=False)


def test_generators_in_generators_are_worked_out_one_by_one() -> None:
    source = (
        "{% set ns = namespace(g=[1]) %}{% for i in range(9999) %}{% set ns.g = ns.g | map('string') %}{% endfor %}"
    )
    template = compile_template(source + "{{ ns.g | list }}", clock=DAY)
    assert template.render(CHAT, add_generation_prompt=False) == "['1']"
