"""The filters and tests of a template, each paid for before it builds anything.

What lives here: the tables `FILTERS` and `TESTS`, which are Jinja's own less those for HTML and those that give
another text on every run (`random`), with bounded forms of all that can grow. `tojson` is as transformers has it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from jinja2 import filters as jinja_filters
from jinja2 import tests as jinja_tests
from jinja2.runtime import Context
from jinja2.utils import pass_context

from sftdata.templates.sandbox import (
    ELEMENT_CHARS,
    Budget,
    add,
    guard,
    haystack,
    modulo,
    steps,
    text,
    words,
)
from sftdata.templates.sandbox_calls import result

__all__ = ["FILTERS", "TESTS"]

Function = Callable[..., Any]

FREE = words("abs count d default first float items last length")
"""Filters whose cost does not depend on their value, or that a loop pays for; taken as they are."""
READING = words(
    "capitalize dictsort e escape filesizeformat forceescape lower max min safe sort string title truncate unique"
    " upper urlencode wordcount groupby"
)
"""Filters that walk through their value and build something of about its size."""
_ESCAPE_GROWTH = {"e": 5, "escape": 5, "forceescape": 5, "urlencode": 12}
LAZY = words("map reject rejectattr select selectattr")
"""Filters that give a generator; worked out at once, so that generators never nest without end."""
MOST_DIGITS = 400


def _budget(context: Context) -> Budget:
    budget: Budget = context.budget  # type: ignore[attr-defined]
    return budget


def _bind(function: Function, context: Context) -> Function:
    """Give a filter of Jinja the first argument that it asks for."""
    wanted = getattr(getattr(function, "jinja_pass_arg", None), "name", None)
    first = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
    return function if wanted is None else lambda *args, **kwargs: function(first[wanted], *args, **kwargs)


def _paid(budget: Budget, value: Any) -> Any:
    """A value that a filter will read whole, and may write out."""
    if isinstance(value, str):
        return guard(budget, value)
    if isinstance(value, Iterator):
        value = list(steps(budget, value, 2))
    extent = budget.extent(value)
    if extent.values > 1:
        budget.spend_chars(extent.chars)
    return value


def _reading(name: str, function: Function) -> Function:
    growth = _ESCAPE_GROWTH.get(name, 0)

    def bounded(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget = _budget(context)
        value = _paid(budget, value)
        if growth and isinstance(value, str):
            budget.spend_chars(growth * len(value))
        for arg in (*args, *kwargs.values()):
            _paid(budget, arg)
        return result(budget, _bind(function, context)(value, *args, **kwargs))

    return pass_context(bounded)


def _lazy(function: Function) -> Function:
    def bounded(context: Context, value: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        for arg in (*args, *kwargs.values()):
            guard(_budget(context), arg)
        if not value:  # Jinja asks so too: `tools | selectattr(...)` of None is empty, not an error
            return iter(())
        made = list(function(context, steps(_budget(context), value, 8), *args, **kwargs))
        return (item for item in made)

    return pass_context(bounded)


@pass_context
def trim(context: Context, value: Any, chars: str | None = None) -> str:
    budget = _budget(context)
    value = value if isinstance(value, str) else text(budget, value)
    budget.steps -= 1 + (len(value) * len(chars or " ") >> 6)
    stripped: str = value.strip(chars)
    budget.chars -= len(stripped)
    if budget.steps < 0 or budget.chars < 0:
        budget.refill()
    return stripped


_ENCODER = json.JSONEncoder(ensure_ascii=False)


@pass_context
def tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML escapes, as transformers writes it."""
    budget = _budget(context)
    extent = budget.extent(value)
    wide = sum(map(len, separators)) if separators is not None else 2
    if indent is not None:
        wide += (len(indent) if isinstance(indent, str) else max(0, int(indent))) * extent.depth
    budget.spend_chars(extent.chars + wide * extent.values)
    if not ensure_ascii and indent is None and separators is None and not sort_keys:
        return _ENCODER.encode(value)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@pass_context
def join(context: Context, value: Any, d: Any = "", attribute: Any = None) -> str:
    budget = _budget(context)
    items = steps(budget, value, 2)
    if attribute is not None:
        items = map(jinja_filters.make_attrgetter(context.environment, guard(budget, attribute)), items)
    glue = text(budget, d)
    pieces: list[str] = []
    for item in items:
        pieces.append(text(budget, item))
        budget.spend_chars(len(glue) + len(pieces[-1]))
    return glue.join(pieces)


@pass_context
def listed(context: Context, value: Any) -> list[Any]:
    budget = _budget(context)
    budget.spend_chars(ELEMENT_CHARS * len(value) if hasattr(value, "__len__") else 0)
    items = list(steps(budget, value, 2))
    budget.spend_chars(ELEMENT_CHARS * len(items))
    return items


@pass_context
def replace(context: Context, s: Any, old: Any, new: Any, count: int | None = None) -> str:
    budget = _budget(context)
    s, old, new = (part if isinstance(part, str) else text(budget, part) for part in (s, old, new))
    budget.spend_steps(1 + (len(s) >> 5))
    budget.spend_chars(len(s) + max(0, s.count(old) * (len(new) - len(old))))
    return s.replace(old, new, -1 if count is None else count)  # type: ignore[no-any-return]


@pass_context
def indent(context: Context, s: Any, width: Any = 4, first: bool = False, blank: bool = False) -> str:
    budget = _budget(context)
    s = s if isinstance(s, str) else text(budget, s)
    size = len(width) if isinstance(width, str) else max(0, width)
    budget.spend_chars(size * (2 + len(s.splitlines())) + len(s))
    return jinja_filters.do_indent(s, width, first, blank)


@pass_context
def center(context: Context, value: Any, width: int = 80) -> str:
    budget = _budget(context)
    budget.spend_chars(max(0, int(width)))
    return text(budget, value).center(width)


@pass_context
def formatted(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
    if args and kwargs:
        raise TypeError("format takes positional or keyword arguments, not both")
    budget = _budget(context)
    return modulo(budget, value if isinstance(value, str) else text(budget, value), kwargs or args)


@pass_context
def batch(context: Context, value: Any, linecount: int, fill_with: Any = None) -> Iterator[Any]:
    budget = _budget(context)
    budget.spend_chars(ELEMENT_CHARS * max(0, int(linecount)))
    made = list(jinja_filters.do_batch(list(steps(budget, value, 2)), linecount, fill_with))
    return (item for item in made)


@pass_context
def sliced(context: Context, value: Any, slices: int, fill_with: Any = None) -> Iterator[Any]:
    budget = _budget(context)
    budget.spend_chars(4 * ELEMENT_CHARS * max(0, int(slices)))
    budget.spend_steps(max(0, int(slices)))
    made = list(jinja_filters.sync_do_slice(list(steps(budget, value, 2)), slices, fill_with))
    return (item for item in made)


@pass_context
def total(context: Context, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
    if isinstance(start, str):
        raise TypeError("sum() can't sum strings")
    budget = _budget(context)
    items = steps(budget, iterable, 2)
    if attribute is not None:
        items = map(jinja_filters.make_attrgetter(context.environment, guard(budget, attribute)), items)
    for item in items:
        start = add(budget, start, item)
    return start


@pass_context
def rounded(context: Context, value: Any, precision: Any = 0, method: str = "common") -> Any:
    if isinstance(precision, int) and abs(precision) > MOST_DIGITS:
        _budget(context).stop(f"rounds to more than {MOST_DIGITS} digits")
    return jinja_filters.do_round(value, precision, method)  # type: ignore[arg-type]


@pass_context
def integer(context: Context, value: Any, default: Any = 0, base: int = 10) -> Any:
    if isinstance(value, str) and len(value) > 4300:
        _budget(context).stop("reads a number of more than 4,300 digits")
    return jinja_filters.do_int(value, default, base)


@pass_context
def attribute(context: Context, obj: Any, name: Any) -> Any:
    return jinja_filters.do_attr(context.environment, obj, text(_budget(context), name))


@pass_context
def reverse(context: Context, value: Any) -> Any:
    budget = _budget(context)
    if isinstance(value, str):
        budget.spend_chars(len(value))
        return value[::-1]
    items = list(steps(budget, value, 1))
    return (item for item in reversed(items))


FILTERS: dict[str, Function] = {
    **{name: jinja_filters.FILTERS[name] for name in FREE},
    **{name: _reading(name, jinja_filters.FILTERS[name]) for name in READING},
    **{name: _lazy(jinja_filters.FILTERS[name]) for name in LAZY},
    "attr": attribute,
    "batch": batch,
    "center": center,
    "format": formatted,
    "indent": indent,
    "int": integer,
    "join": join,
    "list": listed,
    "replace": replace,
    "reverse": reverse,
    "round": rounded,
    "slice": sliced,
    "sum": total,
    "tojson": tojson,
    "trim": trim,
}


_JINJA_TESTS: dict[str, Function] = {**jinja_tests.TESTS}  # type: ignore[dict-item]


def _comparing(function: Function, weigh: Callable[[Budget, Any], Any]) -> Function:
    def bounded(context: Context, value: Any, other: Any) -> bool:
        budget = _budget(context)
        return bool(function(guard(budget, value), weigh(budget, other)))

    return pass_context(bounded)


_COMPARISONS = words("!= < <= == > >= eq equalto ge greaterthan gt le lessthan lt ne")

TESTS: dict[str, Function] = {
    **_JINJA_TESTS,
    **{name: _comparing(_JINJA_TESTS[name], guard) for name in _COMPARISONS},
    "in": _comparing(_JINJA_TESTS["in"], haystack),
}
