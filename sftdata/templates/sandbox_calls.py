"""Calls out of a template: macros, methods of plain values, and the few functions that templates get.

What lives here: which callables a template may reach and what a call costs. Everything not named here is refused:
a template sees plain data, so there is nothing else that it could mean to call.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.sandbox import SandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Cycler, Joiner

from sftdata.templates.sandbox import ELEMENT_CHARS, Budget, key, spend_width, steps, text, words

__all__ = ["BoundFormat", "Exposed", "call", "method", "result"]

CALL_STEPS = 8
"""What a call costs beyond the work that it does."""

_READING = words(
    "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit isidentifier islower"
    " isnumeric isprintable isspace istitle isupper lower partition removeprefix removesuffix split splitlines"
    " startswith swapcase title upper"
)
"""Methods of a text whose cost is in proportion to it."""
_SEARCHING = words("lstrip rfind rindex rpartition rsplit rstrip strip")
"""Methods whose cost is in proportion to the text times their argument."""
_PADDING = words("center expandtabs ljust rjust zfill")
_CODECS = frozenset(("utf-8", "utf8", "ascii", "latin-1", "utf-16", "utf-32"))
_OTHER = {
    dict: words("copy get items keys values"),
    list: words("copy count index"),
    tuple: words("count index"),
    int: words("bit_count bit_length conjugate is_integer"),
    float: words("hex is_integer"),
    bytes: words("decode endswith hex startswith"),
    range: words("count index"),
}
"""Methods of other plain values that neither change them nor grow."""


class Exposed:
    """A function that templates may call by name; it gets the budget first."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, budget: Budget, /, *args: Any, **kwargs: Any) -> Any:
        return self._function(budget, *args, **kwargs)


class BoundFormat:
    """`text.format` or `text.format_map`, looked up but not yet called."""

    __slots__ = ("environment", "name", "value")

    def __init__(self, environment: SandboxedEnvironment, value: str, name: str) -> None:
        self.environment = environment
        self.value = value
        self.name = name


class _Formatter(SandboxedFormatter):
    """`str.format` with attributes closed by the sandbox and every field paid for."""

    def __init__(self, environment: SandboxedEnvironment, budget: Budget) -> None:
        super().__init__(environment)
        self._budget = budget

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if conversion is not None:
            self._budget.spend_chars(self._budget.extent(value).chars)
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> Any:
        digits = ""
        for character in f"{format_spec} ":
            if character.isdigit():
                digits += character
            elif digits:
                spend_width(self._budget, digits)
                digits = ""
        if not isinstance(value, (str, int, float)):
            value = text(self._budget, value)
        formatted = format(value, format_spec)
        self._budget.spend_chars(len(formatted))
        return formatted


def call(budget: Budget, function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call what a template calls, or refuse it with a `SecurityError`."""
    kind = type(function)
    budget.steps -= CALL_STEPS
    if kind is Macro:
        budget.spend_steps(budget.macro_weights.get(function.name, budget.widest))
        return function(*args, **kwargs)
    if kind is Exposed or kind is DictFunction:
        return function(budget, *args, **kwargs)
    if kind is types.BuiltinMethodType:
        return _builtin(budget, function, args, kwargs)
    if kind is BoundFormat:
        return _format(budget, function, args, kwargs)
    if kind is LoopContext:
        return function(*(steps(budget, arg, budget.widest) for arg in args), **kwargs)
    if kind is types.MethodType and type(function.__self__) in (LoopContext, Cycler):
        budget.spend_steps(budget.extent(args).values)
        return function(*args, **kwargs)
    if kind is Joiner:
        return function()
    if isinstance(function, Undefined):
        return function()
    raise SecurityError(f"calls an object of type {kind.__name__}, which no template may call")


def method(
    budget: Budget, environment: SandboxedEnvironment, value: Any, name: str, /, *args: Any, **kwargs: Any
) -> Any:
    """`value.name(...)`: what attribute access and a call come to, without the detour for texts and dicts."""
    kind = type(value)
    if kind is str:
        if name in _READING or name in _SEARCHING:
            return _text_method(budget, value, name, args, kwargs)
    elif kind is dict and name in _OTHER[dict]:
        budget.steps -= 1
        if name == "get" and args:
            key(budget, args[0])
        return getattr(value, name)(*args, **kwargs)
    return call(budget, environment.getattr(value, name), *args, **kwargs)


def _text_method(budget: Budget, value: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    cost = 1 + (len(value) >> 6)
    if args and name in _SEARCHING and isinstance(args[0], str):
        cost += len(value) * len(args[0]) >> 6
    budget.steps -= cost
    if budget.steps < 0:
        budget.refill()
    return result(budget, getattr(value, name)(*args, **kwargs))


def _builtin(budget: Budget, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    value, name = function.__self__, function.__name__
    if isinstance(value, str):
        if name in _READING or name in _SEARCHING:
            return _text_method(budget, value, name, args, kwargs)
        grower = _GROWING.get(name)
        if name == "join" and args:
            args = (list(steps(budget, args[0], 1)),)
        if grower is not None:
            grower(budget, value, *args, **kwargs)
            return result(budget, function(*args, **kwargs))
    elif name in _OTHER.get(type(value), ()):
        budget.spend_steps(1 + budget.extent(args).values)
        if name in ("copy", "count", "index") and isinstance(value, (list, tuple, dict)):
            budget.extent(value)
        return result(budget, function(*args, **kwargs))
    raise SecurityError(f"calls {type(value).__name__}.{name}, which no template may call")


def result(budget: Budget, value: Any) -> Any:
    """A value that an operation has made, paid for by its size."""
    if isinstance(value, str):
        budget.chars -= len(value)
    elif isinstance(value, (list, tuple)):
        budget.chars -= ELEMENT_CHARS * len(value) + sum(len(part) for part in value if isinstance(part, str))
    if budget.chars < 0:
        budget.refill()
    return value


# What a growing method is about to build, paid for before it does. Arguments of a wrong type cost nothing here:
# the method itself refuses them.


def _spend_padding(budget: Budget, value: str, width: Any = 8, *_: Any, tabsize: Any = 8) -> None:
    for size in (width, tabsize):
        if isinstance(size, int):
            budget.spend_chars(max(0, size) * (1 + value.count("\t")))


def _spend_replace(budget: Budget, value: str, old: Any = "", new: Any = "", *_: Any, **__: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        budget.spend_steps(1 + (len(value) >> 6))
        budget.spend_chars(max(0, value.count(old) * (len(new) - len(old))))


def _spend_join(budget: Budget, value: str, parts: Any = ()) -> None:
    budget.spend_chars(len(value) * len(parts) + sum(len(part) for part in parts if isinstance(part, str)))


def _spend_translate(budget: Budget, value: str, table: Any = None) -> None:
    if not isinstance(table, dict):
        budget.stop("translates by something that is not a dict")
    longest = max((len(new) for new in table.values() if isinstance(new, str)), default=1)
    budget.spend_chars(len(value) * max(1, longest))


def _spend_encode(budget: Budget, value: str, encoding: Any = "utf-8", *_: Any, **kwargs: Any) -> None:
    if kwargs or str(encoding).lower() not in _CODECS:
        budget.stop("encodes text in another way than a Unicode encoding")
    budget.spend_chars(4 * len(value))


_GROWING: dict[str, Callable[..., None]] = {
    **dict.fromkeys(_PADDING, _spend_padding),
    "replace": _spend_replace,
    "join": _spend_join,
    "translate": _spend_translate,
    "encode": _spend_encode,
}


def _format(budget: Budget, bound: BoundFormat, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    if bound.name == "format_map":
        if kwargs or len(args) != 1:
            raise TypeError(f"format_map() takes exactly one argument ({len(args)} given)")
        (kwargs,) = args
        args = ()
    budget.spend_chars(len(bound.value))
    formatted = _Formatter(bound.environment, budget).vformat(bound.value, args, kwargs)
    return type(bound.value)(formatted)


class DictFunction(Exposed):
    """The name `dict` in a template: a call, and `fromkeys`."""

    __slots__ = ("fromkeys",)

    def __init__(self) -> None:
        super().__init__(_make_dict)
        self.fromkeys = Exposed(_dict_from_keys)


def _make_dict(budget: Budget, /, *args: Any, **kwargs: Any) -> dict[Any, Any]:
    budget.spend_chars(ELEMENT_CHARS * budget.extent(list(args)).values)
    return dict(*args, **kwargs)


def _dict_from_keys(budget: Budget, /, keys: Any, value: Any = None) -> dict[Any, Any]:
    made = dict.fromkeys(steps(budget, keys, 4), value)
    budget.spend_chars(ELEMENT_CHARS * len(made))
    return made
