"""What a template may cost: a budget of steps and characters, and the operators that draw on it.

What lives here: `Limits`, `Budget` and every operation by which template code can build a value or go round a loop.
What must not: knowledge of Jinja's syntax tree (`sandbox_compiler`), of methods (`sandbox_calls`) or of filters
(`sandbox_filters`).

A chat template is code from a stranger. Attribute escapes are closed by Jinja's own sandbox; what that leaves open
is size: `'a' * 10**9`, nested ranges, a list that holds itself twice fifty times over and is then printed. So
every such operation asks the budget *before* it builds its result. Two counters, both deterministic, no clock:

- steps: syntax nodes executed in loops and macros, calls, values walked over, and one for 64 characters searched;
- chars: characters allocated, with 16 for an element of a list.

A counter that runs out is raised once, in proportion to what the caller passed in, so that a conversation of any
size renders while a short one cannot be blown up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import msgspec
from jinja2.exceptions import TemplateRuntimeError
from jinja2.runtime import Undefined

__all__ = [
    "Budget",
    "Extent",
    "LimitReached",
    "Limits",
    "add",
    "concat",
    "guard",
    "haystack",
    "key",
    "modulo",
    "multiply",
    "power",
    "steps",
    "subscript",
    "text",
    "words",
]

ELEMENT_CHARS = 16
"""What an element of a list costs of the character budget: a pointer and a small object."""
WALK_STEPS = 8
"""Steps for looking at one part of a value: it takes about as long as eight syntax nodes."""
LARGEST_INTEGER_BITS = 1 << 16
MOST_LOOP_TURNS = 100_000
"""The longest range, as in Jinja's sandbox."""


class Limits(msgspec.Struct, frozen=True):
    """What one rendering may cost before its input is looked at.

    With an input of m messages and c characters in all its values, the whole allowance is
    `steps + 64 * (c + values) + 64 * m * m` steps and `chars + (64 + m) * c` characters.
    """

    steps: int = 2_000_000
    chars: int = 8_000_000
    source_chars: int = 131_072
    """Longest template source that is compiled at all; the longest public ones have about 30,000."""


class LimitReached(Exception):
    """The budget does not allow what the template is about to do."""


class Extent(NamedTuple):
    """How large a value is when written out in full, shared parts counted as often as they appear."""

    chars: int
    values: int
    depth: int
    plain: bool
    """False if an object is in it that has no text of its own (a macro, a generator)."""


_SEQUENCES = (list, tuple)
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_SIZED = frozenset((str, list, tuple, dict, range, set, frozenset, *_VIEWS))
_SCALARS = frozenset((bool, int, float, type(None)))


def words(text: str) -> frozenset[str]:
    """The words of a text, for tables of names.

    >>> sorted(words("b a"))
    ['a', 'b']
    """
    return frozenset(text.split())


class Budget:
    """The two counters of one rendering; operations subtract in place and call `refill` below zero."""

    __slots__ = ("chars", "inputs", "limits", "macro_weights", "refilled", "steps", "widest")

    def __init__(self, limits: Limits, inputs: Mapping[str, Any]) -> None:
        self.steps = limits.steps
        self.chars = limits.chars
        self.limits = limits
        self.inputs = inputs
        """What the caller passed in; looked through only if the plain limits do not do."""
        self.refilled = False
        self.macro_weights: Mapping[str | None, int] = {}
        self.widest = 1
        """Steps of the template's widest macro or loop body."""

    def refill(self) -> None:
        """Raise both counters in proportion to the input, once; `LimitReached` if one is still below zero."""
        if not self.refilled:
            self.refilled = True
            chars, values, messages = self._input_size()
            self.steps += 64 * (chars + values) + 64 * messages * messages
            self.chars += (64 + messages) * chars
        if self.steps < 0:
            self.stop("runs for more steps than its input warrants")
        if self.chars < 0:
            self.stop("builds more text than its input warrants")

    def stop(self, what: str) -> NoReturn:
        raise LimitReached(what)

    def spend_steps(self, count: int) -> None:
        self.steps -= count
        if self.steps < 0:
            self.refill()

    def spend_chars(self, count: int) -> None:
        self.chars -= count
        if self.chars < 0:
            self.refill()

    def extent(self, value: Any) -> Extent:
        """Walk through a value, paying for each part; one too large to walk ends in `LimitReached`."""
        chars = values = deepest = 0
        plain = True
        stack: list[tuple[Any, int]] = [(value, 1)]
        while stack:
            item, depth = stack.pop()
            values += 1
            kind = type(item)
            if isinstance(item, str):
                chars += len(item) + 4
            elif kind is int:
                chars += 8 + item.bit_length() // 3
            elif kind in _SIZED and kind is not range:
                self._reserve(values + len(stack), item)
                deepest = max(deepest, depth)
                stack += [(part, depth + 1) for part in (item.items() if kind is dict else item)]
                chars += 4
            else:
                plain = plain and (kind in _SCALARS or kind is range or isinstance(item, Undefined))
                chars += 24
        self.spend_steps(WALK_STEPS * values)
        return Extent(chars, values, deepest, plain)

    def _reserve(self, used: int, item: Any) -> None:
        needed = WALK_STEPS * (used + len(item))
        if needed > self.steps:
            self.spend_steps(needed)
            self.steps += needed

    def concat(self, pieces: Sequence[str]) -> str:
        """Join what a macro, a set block or a filter block wrote."""
        self.chars -= sum(map(len, pieces))
        if self.chars < 0:
            self.refill()
        return "".join(pieces)

    def _input_size(self) -> tuple[int, int, int]:
        chars = values = 0
        stack: list[Any] = list(self.inputs.values())
        while stack:
            item = stack.pop()
            values += 1
            if isinstance(item, str):
                chars += len(item)
            elif isinstance(item, dict):
                stack += item.keys()
                stack += item.values()
            elif isinstance(item, _SEQUENCES):
                stack += item
        messages = self.inputs.get("messages")
        return chars, values, len(messages) if isinstance(messages, _SEQUENCES) else 0


def text(budget: Budget, value: Any) -> str:
    """A value as the template prints it: `str(value)`, refused where that would be the address of an object."""
    kind = type(value)
    if kind is str:
        return value  # type: ignore[no-any-return]
    if kind in _SCALARS or isinstance(value, (str, Undefined)):
        return str(value)
    extent = budget.extent(value)
    if not extent.plain:
        raise TemplateRuntimeError(f"prints an object ({kind.__name__}), whose text is not the same on every run")
    budget.spend_chars(extent.chars)
    return str(value)


def concat(budget: Budget, *parts: Any) -> str:
    """The `~` operator: the texts of all operands, joined."""
    size = 0
    for part in parts:
        if type(part) is not str:
            return budget.concat([text(budget, part) for part in parts])
        size += len(part)
    budget.chars -= size
    if budget.chars < 0:
        budget.refill()
    return "".join(parts)


def add(budget: Budget, *parts: Any) -> Any:
    """The `+` operator over a chain of operands, from left to right."""
    size = 0
    for part in parts:
        if type(part) is not str:
            return _add_in_turn(budget, parts)
        size += len(part)
    budget.chars -= size
    if budget.chars < 0:
        budget.refill()
    return "".join(parts)


def _add_in_turn(budget: Budget, parts: Sequence[Any]) -> Any:
    total = parts[0]
    for part in parts[1:]:
        if isinstance(total, str):
            budget.spend_chars(6 * len(total) if type(total) is not type(part) else len(total))
        elif isinstance(total, _SEQUENCES):
            budget.spend_chars(ELEMENT_CHARS * len(total))
        if isinstance(part, str):
            budget.spend_chars(6 * len(part) if type(total) is not type(part) else len(part))
        elif isinstance(part, _SEQUENCES):
            budget.spend_chars(ELEMENT_CHARS * len(part))
        total = total + part
        _small(budget, total)
    return total


def _small(budget: Budget, value: Any) -> Any:
    if type(value) is int and value.bit_length() > LARGEST_INTEGER_BITS:
        budget.stop("computes with a number of more than 65,536 bits")
    return value


def multiply(budget: Budget, left: Any, right: Any) -> Any:
    """The `*` operator: numbers, or a text or list repeated."""
    for one, other in ((left, right), (right, left)):
        if isinstance(one, (str, bytes, *_SEQUENCES)) and isinstance(other, int):
            width = 1 if isinstance(one, (str, bytes)) else ELEMENT_CHARS
            budget.spend_chars(width * len(one) * max(0, other))
            return left * right
    return _small(budget, left * right)


def power(budget: Budget, left: Any, right: Any) -> Any:
    """The `**` operator, refused where the result would have more than 65,536 bits."""
    whole = isinstance(left, int) and isinstance(right, int)
    if whole and right > 0 and left.bit_length() * right > LARGEST_INTEGER_BITS:
        budget.stop("computes with a number of more than 65,536 bits")
    return left**right


_CONVERSION = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(\*|\d+)?(?:\.(\*|\d+))?")


def modulo(budget: Budget, left: Any, right: Any) -> Any:
    """The `%` operator: remainder, or printf formatting with its widths and arguments paid for first."""
    if not isinstance(left, (str, bytes)):
        return left % right
    if isinstance(left, bytes):
        budget.stop("formats bytes")
    conversions = 0
    for match in _CONVERSION.finditer(left):
        conversions += 1
        for width in match.groups():
            if width == "*":
                budget.stop("formats with a width taken from its arguments")
            if width is not None:
                spend_width(budget, width)
    extent = budget.extent(right)
    if not extent.plain:
        raise TemplateRuntimeError("formats an object, whose text is not the same on every run")
    budget.spend_chars(len(left) + extent.chars * (conversions if isinstance(right, dict) else 1))
    return left % right


def spend_width(budget: Budget, digits: str) -> None:
    """Pay for a width or precision written in a format."""
    budget.spend_chars(int(digits) if len(digits) < 10 else 1 << 62)


def steps(budget: Budget, iterable: Any, weight: int) -> Any:
    """What a loop goes over, paid for: `weight` steps a turn, at once where the length is known.

    Returns the iterable itself where it has a length, else a generator that pays as it goes.
    """
    if type(iterable) in _SIZED:
        budget.steps -= len(iterable) * weight
        if budget.steps < 0:
            budget.refill()
        return iterable
    if isinstance(iterable, Undefined):
        return iterable
    return _counted(budget, iter(iterable), weight)


def _counted(budget: Budget, iterator: Iterator[Any], weight: int) -> Iterable[Any]:
    for item in iterator:
        budget.steps -= weight
        if budget.steps < 0:
            budget.refill()
        yield item


def guard(budget: Budget, value: Any) -> Any:
    """The right side of a comparison, paid for by its size: equality walks through both sides."""
    kind = type(value)
    if kind is str:
        budget.steps -= len(value) >> 6
        if budget.steps < 0:
            budget.refill()
    elif kind in _SIZED:
        budget.extent(value)
    return value


def haystack(budget: Budget, value: Any) -> Any:
    """The right side of `in`: a look-up costs nothing, a search the size of what is searched."""
    return value if type(value) is dict else guard(budget, value)


def key(budget: Budget, value: Any) -> Any:
    """A key of a dict or a subscript: hashing it walks through it, and so does an error that quotes it."""
    if type(value) in _SIZED and type(value) is not str:
        budget.extent(value)
    return value


def subscript(budget: Budget, value: Any, part: slice) -> Any:
    """`value[start:stop:step]`, its copy paid for."""
    result = value[part]
    if isinstance(result, str):
        budget.steps -= len(result) >> 6
        budget.chars -= len(result)
    elif isinstance(result, _SEQUENCES):
        budget.steps -= len(result) >> 3
        budget.chars -= ELEMENT_CHARS * len(result)
    if budget.steps < 0 or budget.chars < 0:
        budget.refill()
    return result
