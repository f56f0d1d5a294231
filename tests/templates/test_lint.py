"""Rules about a template itself."""

from __future__ import annotations

import pytest

from sftdata.rules import RULES
from sftdata.templates.builtin import BUILTIN
from sftdata.templates.lint import lint_template

MARKED = "{% generation %}{{ messages[0].content }}{% endgeneration %}"


def found(source: str, **options: object) -> list[tuple[str, str]]:
    return [(one.code, one.message) for one in lint_template(source, **options)]  # type: ignore[arg-type]


def test_clean_template_has_no_findings() -> None:
    assert found("{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}" + MARKED) == []


def test_template_without_markers_is_told_so() -> None:
    assert found("{{ messages }}") == [("SFT304", "marks no reply with {% generation %}")]


@pytest.mark.parametrize(
    "block",
    [
        "{% macro f() %}\nBODY{% endmacro %}",
        "{% set x %}\nBODY{% endset %}",
        "{% filter upper %}\nBODY{% endfilter %}",
        "{% macro g() %}{{ caller() }}{% endmacro %}{% call g() %}\nBODY{% endcall %}",
        "{% for m in messages recursive %}\nBODY{% endfor %}",
        "{% set x %}{% if true %}\nBODY{% endif %}{% endset %}",
    ],
)
def test_marker_whose_output_is_held_back_is_found_with_its_line(block: str) -> None:
    assert found(block.replace("BODY", MARKED)) == [
        ("SFT305", "line 2: {% generation %} stands in a macro, set, call or filter block")
    ]


@pytest.mark.parametrize("block", ["{% for m in messages %}BODY{% endfor %}", "{% if true %}BODY{% endif %}", "BODY"])
def test_marker_that_is_written_at_once_is_fine(block: str) -> None:
    assert found(block.replace("BODY", MARKED)) == []


def test_clock_is_found_at_its_first_use() -> None:
    assert found(MARKED + "\n{{ strftime_now('%Y') }}\n{{ strftime_now('%m') }}") == [
        ("SFT310", "line 2: reads the clock with strftime_now")
    ]


def test_misspelt_name_is_found_and_a_known_argument_is_not() -> None:
    source = MARKED + "\n{% if add_generaton_prompt %}{{ style }}{% endif %}"
    assert found(source) == [
        ("SFT323", "line 2: reads add_generaton_prompt, which nothing defines"),
        ("SFT323", "line 2: reads style, which nothing defines"),
    ]
    assert found(source, known=["style", "add_generaton_prompt"]) == []


@pytest.mark.parametrize(
    "source",
    [
        "{% if thinking is defined and thinking %}x{% endif %}",
        "{% if thinking is not defined %}{% set thinking = 1 %}{% endif %}{{ thinking }}",
        "{{ thinking | default(false) }}",
        "{% for m in messages %}{% if m.x %}{% set y = 1 %}{% else %}{% set y = 2 %}{% endif %}{{ y }}{% endfor %}",
        "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1) }}{{ namespace(x=1).x }}{{ raise_exception('x') if tools }}",
    ],
)
def test_name_that_the_template_makes_or_tests_for_is_defined(source: str) -> None:
    assert found(MARKED + source) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a\n{% if %}", "line 2: Expected an expression, got 'end of statement block'"),
        ("{% block a %}{% endblock %}", "line 1: a chat template cannot use {% block %}"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "too deeply nested, or not compilable (RecursionError)"),
    ],
)
def test_template_that_does_not_compile_has_one_finding(source: str, message: str) -> None:
    assert found(source) == [("SFT322", message)]


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_carried_templates_are_clean_but_for_markers(name: str) -> None:
    assert {one.code for one in lint_template(BUILTIN[name].source())} == {"SFT304"}


def test_codes_are_in_the_catalogue() -> None:
    assert {"SFT304", "SFT305", "SFT310", "SFT322", "SFT323"} <= RULES.keys()
