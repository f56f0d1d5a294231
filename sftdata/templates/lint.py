"""Rules about a template itself, found in its syntax tree without rendering anything.

What lives here: `lint_template`. What must not: conversations (what a template does with one is `probe`'s question).
"""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Iterable

from jinja2 import nodes

from sftdata.records import Finding
from sftdata.templates.environment import (
    RESERVED,
    Template,
    TemplateSyntaxError,
    compile_template,
    parse_template,
)
from sftdata.templates.markers import buffered_markers

__all__ = ["lint_template", "place_of", "read_arguments"]

GIVEN = RESERVED | {f"{name}_token" for name in ("bos", "cls", "eos", "mask", "pad", "sep", "unk")}
"""Variables that a template may count on: the conversation, and the tokenizer's named tokens."""

_ANY_DAY = datetime.date(2000, 1, 1)


def lint_template(source: str, *, name: str = "", known: Iterable[str] = ()) -> tuple[Finding, ...]:
    """What is wrong, or worth knowing, about a template; `known` are the arguments that it will be given.

    Each message opens with the line. A template that does not compile has one finding, SFT322.

    >>> [finding.message for finding in lint_template("{{ massages[0].content }}")]
    ['line 1: reads massages, which nothing defines', 'marks no reply with {% generation %}']
    """
    try:
        tree = parse_template(source, name=name)
        template = compile_template(source, name=name, clock=_ANY_DAY)
    except TemplateSyntaxError as error:
        place = "" if error.lineno is None else f"line {error.lineno}: "
        return (Finding("SFT322", f"{place}{error.detail}"),)
    missing = read_arguments(template) - _asked_for(tree) - frozenset(known)
    return (
        *(_guessed(one) for one in _at_each_use(tree, missing, "SFT323", "reads {name}, which nothing defines")),
        *_clock(tree, template),
        *_markers(tree, template),
    )


def place_of(finding: Finding) -> tuple[int | None, str]:
    """The line that a finding's message opens with, and the rest; None where it is about the whole template.

    >>> place_of(Finding("SFT323", "line 2: reads x, which nothing defines"))
    (2, 'reads x, which nothing defines')
    """
    opening = _LINE.match(finding.message)
    return (int(opening[1]), finding.message[opening.end() :]) if opening else (None, finding.message)


_LINE = re.compile(r"line (\d+): ")


def read_arguments(template: Template) -> frozenset[str]:
    """Names that a template expects as arguments: read, and neither given to all templates nor made by itself.

    A name that it sets only where it is not defined (`{% if not x is defined %}{% set x = 1 %}`) is an argument.
    """
    tree = parse_template(template.source)
    made = {node.name for node in tree.find_all(nodes.Name) if node.ctx == "store"}
    return template.reads - GIVEN - (made - _asked_for(tree))


def _asked_for(tree: nodes.Template) -> frozenset[str]:
    """Names that the template itself treats as optional: it tests whether they are defined, or has a default."""
    tested = (test.node for test in tree.find_all(nodes.Test) if test.name in ("defined", "undefined"))
    defaulted = (one.node for one in tree.find_all(nodes.Filter) if one.name in ("d", "default"))
    return frozenset(node.name for node in (*tested, *defaulted) if isinstance(node, nodes.Name))


def _at_each_use(tree: nodes.Template, names: frozenset[str], code: str, message: str) -> list[Finding]:
    """One finding a name, at the first line that reads it."""
    lines: dict[str, int] = {}
    for node in tree.find_all(nodes.Name):
        if node.name in names and node.ctx == "load":
            lines[node.name] = min(node.lineno, lines.get(node.name, node.lineno))
    ordered = sorted(lines.items(), key=lambda item: (item[1], item[0]))
    return [Finding(code, f"line {line}: {message.format(name=name)}") for name, line in ordered]


def _guessed(finding: Finding) -> Finding:
    """With the name that was probably meant."""
    name = place_of(finding)[1].split()[1].rstrip(",")
    close = difflib.get_close_matches(name, sorted(GIVEN), n=1, cutoff=0.7)
    return Finding(finding.code, finding.message, fix=f"Did you mean {close[0]}?") if close else finding


def _clock(tree: nodes.Template, template: Template) -> list[Finding]:
    if not template.uses_clock:
        return []
    return _at_each_use(tree, frozenset(("strftime_now",)), "SFT310", "reads the clock with {name}")


def _markers(tree: nodes.Template, template: Template) -> list[Finding]:
    if template.generation == "none":
        return [Finding("SFT304", "marks no reply with {% generation %}")]
    return [
        Finding(
            "SFT305",
            f"line {line}: {{% generation %}} stands in a macro, set, call or filter block",
            fix="Move it out of the block: whoever reads its offsets while rendering gets wrong ones.",
        )
        for line in buffered_markers(tree)
    ]
