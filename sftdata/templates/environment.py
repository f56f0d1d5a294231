"""Compile and render chat templates as transformers does, bounded and without a clock.

What lives here: `compile_template`, the `Template` that it gives, and the errors that either can raise. What must
not: conversations and the serving contract (`contract`), where templates come from (`origin`).

A template sees the variables that transformers passes (`messages`, `tools`, `documents`, `add_generation_prompt`, the
named special tokens, and keyword arguments, which win) and the same functions and filters. Differences, all on
purpose: `strftime_now` reads a frozen date; cost is bounded (`sandbox`); what would print the address of an object,
or draws random values, is an error; inheritance, `include` and `autoescape` are refused when compiling.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.exceptions import TemplateError as JinjaTemplateError
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sftdata.errors import ConfigError, SftdataError, describe
from sftdata.templates.markers import find_markers, set_marks, take_marks
from sftdata.templates.sandbox import Budget, LimitReached, Limits
from sftdata.templates.sandbox_calls import BoundFormat
from sftdata.templates.sandbox_compiler import RUNTIME, CodeGenerator, GenerationTag, refuse_forbidden, weight
from sftdata.templates.sandbox_filters import FILTERS, TESTS
from sftdata.templates.sandbox_names import GLOBALS, TemplateNamespace, strftime_now

__all__ = [
    "Limits",
    "Template",
    "TemplateError",
    "TemplateLimitError",
    "TemplateSecurityError",
    "TemplateSyntaxError",
    "compile_template",
    "parse_template",
]

RESERVED = frozenset(("messages", "tools", "documents", "add_generation_prompt"))
"""Variables that only a call of `render` can give."""


class TemplateError(SftdataError):
    """The template raised while rendering a conversation: `detail` is its own message, `lineno` its line."""

    code = "SFT302"

    def __init__(self, detail: str, *, name: str = "", lineno: int | None = None) -> None:
        place = f"template {name or '(unnamed)'}"
        super().__init__(describe(detail, where=place if lineno is None else f"{place}, line {lineno}"))
        self.detail = detail
        self.name = name
        self.lineno = lineno


class TemplateLimitError(TemplateError):
    """The template ran longer, or built more, than the limits allow for its input."""

    code = "SFT318"


class TemplateSecurityError(TemplateError):
    """The template reached for something that a chat template must not touch."""


class TemplateSyntaxError(TemplateError, ConfigError):
    """The source is not a template; raised by `compile_template` only."""

    code = "SFT322"


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox with bounded operations. It holds no state of a rendering."""

    code_generator_class = CodeGenerator
    intercepted_binops = frozenset(("+", "*", "**", "%"))
    # never folded while compiling

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, "jinja2.ext.loopcontrols"])
        self.filters = dict(FILTERS)
        self.tests = dict(TESTS)
        self.globals = dict(GLOBALS)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is TemplateNamespace:
            held = object.__getattribute__(obj, "_Namespace__attrs")
            return held[attribute] if attribute in held else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)

    def wrap_str_format(self, value: Any) -> Any:
        """Hold `text.format` back until it is called, when there is a budget to pay from."""
        wrapped = super().wrap_str_format(value)
        return None if wrapped is None else BoundFormat(self, value.__self__, value.__name__)


@functools.cache
def _environment() -> TemplateEnvironment:
    return TemplateEnvironment()


class _RenderContext(Context):
    """Jinja's context, made in a fraction of the time: no blocks, one shared evaluation context."""

    def __init__(self, variables: dict[str, Any], eval_ctx: EvalContext, budget: Budget) -> None:
        self.parent = variables
        self.vars = {}
        self.environment = eval_ctx.environment
        self.eval_ctx = eval_ctx
        self.exported_vars = set()
        self.name = None
        self.blocks = {}
        self.globals_keys = set()
        self.budget = budget
        self.opening = ""
        self.closing = ""


LONGEST_DETAIL = 400
"""Characters of a template's own message that are kept: it may quote the conversation."""
CHUNK = 4096
"""Pieces of output that are held before they are counted."""


class Template:
    """A compiled template. Immutable and without state between renderings.

    `source`, `sha256` (of the source in UTF-8) and `name` say which template it is. `reads` are the variables it
    looks up from outside; `literals` all literal texts in it; `uses_clock` whether it asks for the date;
    `generation` whether it marks replies: "none", "plain", or "buffered" where a marker stands in a macro, set,
    call or filter block, where transformers' own offsets are wrong.
    """

    def __init__(
        self,
        source: str,
        *,
        name: str = "",
        variables: Mapping[str, Any],
        clock: datetime.date,
        limits: Limits,
    ) -> None:
        self.source = source
        self.name = name
        self.sha256 = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        self._limits = limits
        self._environment = _environment()
        self._constants = {**GLOBALS, "strftime_now": strftime_now(clock), **variables}
        self._eval_ctx = EvalContext(self._environment)
        self._compile()

    def _compile(self) -> None:
        """Parse, look over the tree, generate code and run its definitions."""
        tree = parse_template(self.source, name=self.name, limits=self._limits)
        try:
            self._survey(tree)
            code = self._environment.compile(tree, filename=f"<template {self.sha256[:12]}>")
        except REFUSED_WHEN_COMPILING as error:
            raise _syntax_error(error, self.name) from error
        names: dict[str, Any] = {"environment": self._environment, **RUNTIME}
        exec(code, names)  # noqa: S102  code of our own compiler, for a sandbox
        self._root = names["root"]
        self._code_name = code.co_filename
        self._lines = [
            (int(python), int(template))
            for template, python in (pair.split("=") for pair in names["debug_info"].split("&") if pair)
        ]

    def _survey(self, tree: nodes.Template) -> None:
        undeclared = meta.find_undeclared_variables(tree)
        self.uses_clock = "strftime_now" in undeclared
        self.reads = frozenset(undeclared) - GLOBALS.keys() - {"strftime_now"}
        data = [node.data for node in tree.find_all(nodes.TemplateData)]
        texts = [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
        self.literals = tuple(dict.fromkeys((*data, *texts)))
        self.generation = find_markers(tree)
        self._macro_weights: dict[str | None, int] = {}
        for macro in tree.find_all(nodes.Macro):
            self._macro_weights[macro.name] = max(weight(macro.body), self._macro_weights.get(macro.name, 1))
        self._widest = weight(tree.body)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool,
        **kwargs: Any,
    ) -> str:
        """The text of a conversation; with `add_generation_prompt` the prompt for the next reply.

        All values must be plain JSON data and are not changed. `tools` is None where there are none, as
        transformers has it.

        Raises
        ------
        TemplateError
            Whatever goes wrong in the template.
        MemoryError
            The machine has no more: what a template may take is limited, so this says nothing about the record.
        """
        inputs = {
            "messages": messages,
            "tools": tools,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
            **kwargs,
        }
        context = self._context(inputs)
        try:
            return _collect(self._root(context), context.budget)
        except MemoryError:
            raise
        except Exception as error:
            raise self._explain(error) from error

    def render_spans(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool,
        **kwargs: Any,
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the character spans that its `{% generation %}` blocks enclose, in order.

        Marks are set in the text itself and taken out again, so that spans are right inside macros and set blocks
        too. Where the template does something to the marked text that the marks do not survive (it trims or
        measures it), there are no spans to be had, and the list is empty.
        """
        inputs = {
            "messages": messages,
            "tools": tools,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
            **kwargs,
        }
        plain = self.render(messages, **{name: inputs[name] for name in inputs if name != "messages"})
        if self.generation == "none":
            return plain, []
        context = self._context(inputs)
        context.opening, context.closing = set_marks(plain)
        try:
            marked = _collect(self._root(context), context.budget)
        except MemoryError:
            raise
        except Exception as error:
            raise self._explain(error) from error
        text, spans = take_marks(marked, context.opening, context.closing)
        return plain, spans if text == plain else []

    def _context(self, inputs: dict[str, Any]) -> _RenderContext:
        budget = Budget(self._limits, inputs)
        budget.macro_weights = self._macro_weights
        budget.widest = self._widest
        return _RenderContext({**self._constants, **inputs}, self._eval_ctx, budget)

    def _explain(self, error: Exception) -> TemplateError:
        """The error of ours that says what went wrong in the template, and in which of its lines."""
        kind, detail = _classify(error)
        return kind(detail, name=self.name, lineno=self._line(error.__traceback__))

    def _line(self, traceback: TracebackType | None) -> int | None:
        """The template's line in the innermost frame of its own code."""
        python: int | None = None
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename == self._code_name:
                python = traceback.tb_lineno
            traceback = traceback.tb_next
        if python is None:
            return None
        return max(((at, line) for at, line in self._lines if at <= python), default=(0, 1))[1]


def _classify(error: Exception) -> tuple[type[TemplateError], str]:
    """Which error of ours an exception out of template code is, and its message."""
    detail = " ".join(str(error)[:LONGEST_DETAIL].split())
    if isinstance(error, LimitReached):
        return TemplateLimitError, f"the template {detail}"
    if isinstance(error, (RecursionError, OverflowError)):
        return TemplateLimitError, f"the template ran into {type(error).__name__}"
    if isinstance(error, SecurityError):
        return TemplateSecurityError, detail
    if isinstance(error, JinjaTemplateError):
        return TemplateError, detail or "the template raised an exception"
    return TemplateError, f"{type(error).__name__}: {detail}" if detail else type(error).__name__


REFUSED_WHEN_COMPILING = (
    jinja2.TemplateSyntaxError,
    RecursionError,
    SyntaxError,
    MemoryError,
    ValueError,
    OverflowError,
)


def _syntax_error(error: Exception, name: str) -> TemplateSyntaxError:
    if isinstance(error, jinja2.TemplateSyntaxError):
        return TemplateSyntaxError(error.message or "not valid Jinja", name=name, lineno=error.lineno)
    return TemplateSyntaxError(f"too deeply nested, or not compilable ({type(error).__name__})", name=name)


def parse_template(source: str, *, name: str = "", limits: Limits | None = None) -> nodes.Template:
    """The syntax tree of a template, in which a `Scope` is a `{% generation %}` block.

    Raises TemplateSyntaxError where the source is not one template, or longer than is compiled.
    """
    most = (limits or Limits()).source_chars
    if len(source) > most:
        raise TemplateSyntaxError(f"the source has {len(source):,} characters, more than {most:,}", name=name)
    try:
        tree = _environment().parse(source)
        refuse_forbidden(tree, name)
    except REFUSED_WHEN_COMPILING as error:
        raise _syntax_error(error, name) from error
    return tree


def _collect(pieces: Iterator[str], budget: Budget) -> str:
    """Join the output, counted a chunk at a time so that it never grows beyond the budget."""
    chunk = list(islice(pieces, CHUNK))
    text = budget.concat(chunk)
    if len(chunk) < CHUNK:
        return text
    texts = [text]
    while chunk := list(islice(pieces, CHUNK)):
        texts.append(budget.concat(chunk))
    return "".join(texts)


def compile_template(
    source: str,
    *,
    name: str = "",
    special_tokens: Mapping[str, str] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    clock: datetime.date,
    limits: Limits | None = None,
) -> Template:
    """Compile a template's source with what stays the same for all conversations.

    `special_tokens` are the named ones (`bos_token` and so on), `kwargs` the template's arguments, which win over
    them; both can be overridden by a call of `render`. `clock` is the day that `strftime_now` sees, at midnight.

    >>> chat = compile_template("{{ messages[0].content }}{{ eos }}", special_tokens={"eos": "</s>"},
    ...                         clock=datetime.date(2025, 1, 1))
    >>> chat.render([{"role": "user", "content": "hi"}], add_generation_prompt=False)
    'hi</s>'

    Raises
    ------
    TemplateSyntaxError
        Not valid Jinja, longer or more deeply nested than is compiled, or written for more than one file.
    ConfigError
        An argument has a name that only the conversation gives.
    """
    for key in kwargs or {}:
        if key in RESERVED:
            raise ConfigError(
                describe(f"template argument {key!r} is part of the conversation", fix="Choose another name.")
            )
    return Template(
        source,
        name=name,
        variables={**(special_tokens or {}), **(kwargs or {})},
        clock=clock,
        limits=limits or Limits(),
    )
