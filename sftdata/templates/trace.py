"""Watch what a template does with content, so that what it does can be repeated without running it.

A template is run once on a conversation whose contents are `Opaque`: texts that may be printed, joined, and asked a
few questions, every answer of which is written down. If nothing else was done to them, then any other conversation
of the same shape that gives the same answers is rendered to the same literals with its own contents between them.
That is a proof and no guess: whatever is not on the short list of allowed operations raises `Untraceable`, and the
template is then run in full for every conversation.

What lives here: `Opaque`, the operations of generated code (`sandbox_compiler.RUNTIME`) that know it, and a template
compiled with them. What must not: what is made of a trace (`program`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from jinja2 import nodes
from jinja2.nodes import EvalContext
from jinja2.runtime import Macro

from sftdata.templates import sandbox, sandbox_calls
from sftdata.templates.environment import Template, TemplateEnvironment, parse_template
from sftdata.templates.sandbox import Budget
from sftdata.templates.sandbox_compiler import RUNTIME
from sftdata.templates.sandbox_names import GLOBALS

__all__ = ["CLOSE", "OPEN", "Opaque", "Question", "TracedTemplate", "Untraceable", "answer"]

OPEN, CLOSE = "\U000f5e00", "\U000f5e01"
"""Around the number of a content in symbolic text: `OPEN 3 CLOSE` stands for content 3."""


class Untraceable(Exception):
    """The template did something to content that is not repeated by putting texts together."""


class Question(msgspec.Struct, frozen=True):
    """Something a template asked of a content, and what it was told."""

    symbolic: str
    """The text that was asked, contents as symbols."""
    kind: str
    argument: Any
    answer: bool


def answer(kind: str, text: str, argument: Any) -> bool:
    """`answer("contains", "a<b", "<")` is True. `bare` asks whether stripping `argument` would change nothing."""
    return bool(_ANSWERS[kind](text, argument))


_ANSWERS: dict[str, Callable[[str, Any], Any]] = {
    "true": lambda text, _: text,
    "equals": lambda text, other: text == other,
    "contains": lambda text, part: part in text,
    "startswith": lambda text, start: text.startswith(start),
    "endswith": lambda text, end: text.endswith(end),
    "strip": lambda text, chars: text.strip(chars) == text,
    "lstrip": lambda text, chars: text.lstrip(chars) == text,
    "rstrip": lambda text, chars: text.rstrip(chars) == text,
}


class Opaque:  # noqa: PLW1641 - __hash__ is refused below, with all else
    """A text that the template can print, join and question, and nothing else."""

    __slots__ = ("concrete", "questions", "symbolic")

    def __init__(self, symbolic: str, concrete: str, questions: list[Question]) -> None:
        self.symbolic = symbolic
        self.concrete = concrete
        self.questions = questions

    def ask(self, kind: str, argument: Any = None) -> bool:
        """Answer for the traced conversation, and remember the question."""
        told = answer(kind, self.concrete, argument)
        self.questions.append(Question(self.symbolic, kind, argument, told))
        return told

    def joined(self, before: str, after: str) -> Opaque:
        """This text with plain text around it."""
        return Opaque(before + self.symbolic + after, before + self.concrete + after, self.questions)

    def __add__(self, other: Any) -> Opaque:
        if type(other) is Opaque:
            return Opaque(self.symbolic + other.symbolic, self.concrete + other.concrete, self.questions)
        if type(other) is str:
            return self.joined("", other)
        raise Untraceable("+")

    def __radd__(self, other: Any) -> Opaque:
        if type(other) is str:
            return self.joined(other, "")
        raise Untraceable("+")

    def __bool__(self) -> bool:
        return self.ask("true")

    def __eq__(self, other: object) -> bool:
        if type(other) is str:
            return self.ask("equals", other)
        if type(other) is Opaque:
            raise Untraceable("==")
        return False

    def __contains__(self, part: Any) -> bool:
        if type(part) is str:
            return self.ask("contains", part)
        raise Untraceable("in")

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise Untraceable("an operation on content")

    __hash__ = __iter__ = __getitem__ = __len__ = __str__ = __repr__ = __format__ = _refuse
    __mul__ = __rmul__ = __mod__ = __rmod__ = __lt__ = __le__ = __gt__ = __ge__ = __int__ = __float__ = _refuse

    def __getattr__(self, name: str) -> Any:
        raise Untraceable(name)


def _method(budget: Budget, environment: Any, value: Any, name: str, /, *args: Any, **kwargs: Any) -> Any:
    if type(value) is not Opaque:
        _no_opaque(args, kwargs)
        return _rewrapped(sandbox_calls.method(budget, environment, value, name, *args, **kwargs))
    if kwargs or not all(_plain(arg) for arg in args):
        raise Untraceable(name)
    if name in {"startswith", "endswith"} and len(args) == 1:
        return value.ask(name, args[0])
    if name in {"strip", "lstrip", "rstrip"} and len(args) <= 1:
        return _stripped(value, name, args[0] if args else None)
    raise Untraceable(name)


def _stripped(value: Opaque, name: str, chars: str | None) -> Opaque:
    if not value.ask(name, chars):
        raise Untraceable("content that stripping changes")
    return value


def _plain(value: Any) -> bool:
    return type(value) is str or (type(value) is tuple and all(type(one) is str for one in value))


def _no_opaque(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    if any(type(one) is Opaque for one in (*args, *kwargs.values())):
        raise Untraceable("content as an argument")


_HOLDERS = (GLOBALS["namespace"], GLOBALS["dict"])


def _call(budget: Budget, function: Any, /, *args: Any, **kwargs: Any) -> Any:
    if type(function) is not Macro and not any(function is holder for holder in _HOLDERS):
        _no_opaque(args, kwargs)
    return _rewrapped(sandbox_calls.call(budget, function, *args, **kwargs))


def _rewrapped(value: Any) -> Any:
    """What a macro printed is a plain text again; if content is in it, nobody would see what is asked of it."""
    if isinstance(value, str) and OPEN in value:
        raise Untraceable("content through a macro")
    return value


def _add(budget: Budget, *parts: Any) -> Any:
    if not any(type(part) is Opaque for part in parts):
        return sandbox.add(budget, *parts)
    return functools.reduce(lambda left, right: left + right, parts)


def _concat(budget: Budget, *parts: Any) -> Any:
    if not any(type(part) is Opaque for part in parts):
        return sandbox.concat(budget, *parts)
    texts = [part if type(part) is Opaque else sandbox.text(budget, part) for part in parts]
    return functools.reduce(lambda left, right: left + right, texts)


def _text(budget: Budget, value: Any) -> str:
    return value.symbolic if type(value) is Opaque else sandbox.text(budget, value)


def _without_opaque(function: Callable[..., Any]) -> Callable[..., Any]:
    def checked(budget: Budget, *args: Any) -> Any:
        _no_opaque(args, {})
        return function(budget, *args)

    return checked


_TRACED: dict[str, Any] = {
    **RUNTIME,
    "bounded_add": _add,
    "bounded_call": _call,
    "bounded_concat": _concat,
    "bounded_method": _method,
    "bounded_text": _text,
    **{
        name: _without_opaque(RUNTIME[name])
        for name in (
            *("bounded_key", "bounded_modulo", "bounded_multiply"),
            *("bounded_power", "bounded_steps", "bounded_subscript"),
        )
    },
}

_KNOWN_TESTS: dict[str, bool] = {
    **dict.fromkeys(("string", "defined", "iterable", "sequence"), True),
    **dict.fromkeys(("undefined", "none", "mapping", "number", "boolean", "integer", "float", "callable"), False),
    **dict.fromkeys(("true", "false"), False),
}
_BY_EQUALITY = frozenset({"eq", "equalto", "==", "ne", "!=", "in"})


def _filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        opaque = [one for one in (*args, *kwargs.values()) if type(one) is Opaque]
        if not opaque:
            return _rewrapped(function(*args, **kwargs))
        if name == "string":
            return opaque[0]
        if name in {"default", "d"}:
            return function(*args, **kwargs)
        if name == "trim" and len(opaque) == 1:
            given = [one for one in args if type(one) is str] + list(kwargs.values())
            return _stripped(opaque[0], "strip", given[0] if given else None)
        raise Untraceable(name)

    return traced


def _test(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        if not any(type(one) is Opaque for one in (*args, *kwargs.values())):
            return function(*args, **kwargs)
        if name in _KNOWN_TESTS:
            return _KNOWN_TESTS[name]
        if name in _BY_EQUALITY:
            return function(*args, **kwargs)
        raise Untraceable(name)

    return traced


@functools.cache
def _environment() -> TemplateEnvironment:
    environment = TemplateEnvironment()
    environment.filters = {name: _filter(name, one) for name, one in environment.filters.items()}
    environment.tests = {name: _test(name, one) for name, one in dict[str, Any](environment.tests).items()}
    return environment


_BUFFERED = (nodes.AssignBlock, nodes.FilterBlock, nodes.CallBlock)


class TracedTemplate(Template):
    """A template compiled with operations that know `Opaque`; renders like the one it was made of otherwise.

    Raises Untraceable where the template prints into a variable, where no question would be seen.
    """

    def __init__(self, template: Template) -> None:
        self.__dict__.update(template.__dict__)
        tree = parse_template(template.source, name=template.name, limits=template._limits)
        if next(tree.find_all(_BUFFERED), None) is not None:
            raise Untraceable("a block that prints into a variable")
        self._environment = _environment()
        self._eval_ctx = EvalContext(self._environment)
        code = self._environment.compile(tree, filename=self._code_name)
        names: dict[str, Any] = {"environment": self._environment, **_TRACED}
        exec(code, names)  # noqa: S102 - code of our own compiler, as in environment.Template
        self._root = names["root"]
        self.contents: dict[str, Opaque] = {}

    def begin(self, contents: Mapping[str, str]) -> list[Question]:
        """Begin a trace: symbols and what they stand for. The list that is returned fills with questions."""
        questions: list[Question] = []
        self.contents = {symbol: Opaque(symbol, text, questions) for symbol, text in contents.items()}
        return questions

    def render(self, messages: Sequence[Mapping[str, Any]], **rest: Any) -> str:
        """As `Template.render`; a value that is a symbol reaches the template as the Opaque that it stands for."""
        seen = [
            {key: self.contents.get(one, one) if type(one) is str else one for key, one in message.items()}
            for message in messages
        ]
        return super().render(seen, **rest)
