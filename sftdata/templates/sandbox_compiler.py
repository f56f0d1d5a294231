"""How template source becomes Python: Jinja's compiler with every growing operation sent through the budget.

What lives here: `CodeGenerator`, the `{% generation %}` tag, and the static questions about a syntax tree that
compiling needs. What must not: rendering. Names that generated code uses beyond Jinja's are those of `RUNTIME`.

Sending things through the budget need not cost time: a look-up in a plain dict is written inline, a chain of `+`
is one call, and a method of a text is called without a detour over attribute access, so that the bounded template
runs faster than Jinja's own unsandboxed code (`benchmarks` measures it).
"""

# ruff: noqa: N802  visitors are named after the nodes that they visit

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator as JinjaCodeGenerator
from jinja2.compiler import Frame
from jinja2.exceptions import TemplateAssertionError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import LoopContext

from sftdata.templates import sandbox, sandbox_calls
from sftdata.templates.sandbox import words

__all__ = ["RUNTIME", "CodeGenerator", "GenerationTag", "refuse_forbidden", "weight"]

RUNTIME: dict[str, Callable[..., Any] | type] = {
    "bounded_add": sandbox.add,
    "bounded_call": sandbox_calls.call,
    "bounded_concat": sandbox.concat,
    "bounded_guard": sandbox.guard,
    "bounded_haystack": sandbox.haystack,
    "bounded_key": sandbox.key,
    "bounded_method": sandbox_calls.method,
    "bounded_modulo": sandbox.modulo,
    "bounded_multiply": sandbox.multiply,
    "bounded_power": sandbox.power,
    "bounded_steps": sandbox.steps,
    "bounded_subscript": sandbox.subscript,
    "bounded_text": sandbox.text,
    "LoopContext": LoopContext,
}
"""The globals of generated code."""

STEPS = "steps of a loop"
"""The name of the filter that stands for counting in the syntax tree; not one that source can spell."""

FORBIDDEN: dict[type[nodes.Node], str] = {
    nodes.Block: "block",
    nodes.Extends: "extends",
    nodes.Include: "include",
    nodes.Import: "import",
    nodes.FromImport: "from",
    nodes.ScopedEvalContextModifier: "autoescape",
}
"""Tags that need other files or write HTML."""

_DICT_NAMES = frozenset(dir(dict))
_LOOP_NAMES = words("depth depth0 first index index0 last length nextitem previtem revindex revindex0")


def weight(body: list[nodes.Node]) -> int:
    """Steps of running a piece of template once: its syntax nodes, at least 1."""
    return max(1, sum(1 + sum(1 for _ in node.find_all(nodes.Node)) for node in body))


class GenerationTag(Extension):
    """`{% generation %}`: the marked text is a scope of its own, as it is where the tag is a call block."""

    tags = {"generation"}  # noqa: RUF012  declared by Jinja as an instance attribute

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class CodeGenerator(JinjaCodeGenerator):
    """Jinja's code generator; the overridden visitors emit calls of `RUNTIME`."""

    def write_commons(self) -> None:
        super().write_commons()
        self.writeline("budget = context.budget")
        self.writeline("concat = budget.concat")

    def visit_Scope(self, node: nodes.Scope, frame: Frame) -> None:
        self.simple_write("context.opening", frame, node)
        super().visit_Scope(node, frame)
        self.simple_write("context.closing", frame, node)

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        turn = nodes.Const(weight([*node.body, *([node.test] if node.test else [])]))
        node.iter = nodes.Filter(node.iter, STEPS, [turn], [], None, None, lineno=node.lineno)
        super().visit_For(node, frame)

    def visit_Filter(self, node: nodes.Filter, frame: Frame) -> None:
        if node.name != STEPS:
            super().visit_Filter(node, frame)
            return
        self._emit("bounded_steps", frame, node.node, *node.args)

    def _emit(self, function: str, frame: Frame, *operands: nodes.Node | None) -> None:
        self.write(f"{function}(budget")
        for operand in operands:
            if operand is not None:
                self.write(", ")
                self.visit(operand, frame)
        self.write(")")

    # -- output: a text goes out as it is, anything else through `text`

    def _output_child_pre(self, _node: nodes.Expr, _frame: Frame, _finalize: Any) -> None:
        self.write("(t_out if type(t_out := ")

    def _output_child_post(self, _node: nodes.Expr, _frame: Frame, _finalize: Any) -> None:
        self.write(") is str else bounded_text(budget, t_out))")

    # -- look-ups: inline where the value is a plain dict or the loop

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if isinstance(node.arg, nodes.Slice):
            self._slice(node, node.arg, frame)
        elif isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            self._look_up("getitem", node.node, node.arg.value, frame)
        else:
            self.write("environment.getitem(")
            self.visit(node.node, frame)
            self.write(", ")
            if _is_scalar(node.arg):
                self.visit(node.arg, frame)
            else:
                self._emit("bounded_key", frame, node.arg)
            self.write(")")

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:
        if isinstance(node.node, nodes.Name) and node.node.name == "loop" and node.attr in _LOOP_NAMES:
            self.write(f"(t_item.{node.attr} if type(t_item := ")
            self.visit(node.node, frame)
            self.write(f") is LoopContext else environment.getattr(t_item, {node.attr!r}))")
        else:
            self._look_up("getattr", node.node, node.attr, frame)

    def _look_up(self, method: str, value: nodes.Expr, name: str, frame: Frame) -> None:
        """A key of a plain dict, or undefined; where the name is a method of dicts Jinja's own rules decide."""
        if name in _DICT_NAMES:
            self.write(f"environment.{method}(")
            self.visit(value, frame)
            self.write(f", {name!r})")
            return
        self.write(f"((t_item[{name!r}] if {name!r} in t_item else undefined(obj=t_item, name={name!r}))")
        self.write(" if type(t_item := ")
        self.visit(value, frame)
        self.write(f") is dict else environment.{method}(t_item, {name!r}))")

    def _slice(self, node: nodes.Getitem, part: nodes.Slice, frame: Frame) -> None:
        self.write("bounded_subscript(budget, ")
        self.visit(node.node, frame)
        self.write(", slice(")
        for bound in (part.start, part.stop, part.step):
            if bound is None:
                self.write("None")
            else:
                self.visit(bound, frame)
            self.write(", ")
        self.write("))")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self.write("{")
        for item in node.items:
            self._emit("bounded_key", frame, item.key)
            self.write(": ")
            self.visit(item.value, frame)
            self.write(", ")
        self.write("}")

    # -- operators

    def visit_Add(self, node: nodes.BinExpr, frame: Frame) -> None:
        self._emit("bounded_add", frame, *_chain(node))

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self._emit("bounded_concat", frame, *node.nodes)

    def visit_Mul(self, node: nodes.BinExpr, frame: Frame) -> None:
        self._emit("bounded_multiply", frame, node.left, node.right)

    def visit_Pow(self, node: nodes.BinExpr, frame: Frame) -> None:
        self._emit("bounded_power", frame, node.left, node.right)

    def visit_Mod(self, node: nodes.BinExpr, frame: Frame) -> None:
        self._emit("bounded_modulo", frame, node.left, node.right)

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        self.write("(")
        if any(operand.op in ("in", "notin") for operand in node.ops) and not _is_scalar(node.expr):
            self._emit("bounded_guard", frame, node.expr)
        else:
            self.visit(node.expr, frame)
        for operand in node.ops:
            self.visit(operand, frame)
        self.write(")")

    def visit_Operand(self, node: nodes.Operand, frame: Frame) -> None:
        self.write(f" {_OPERATORS[node.op]} ")
        if _is_scalar(node.expr):
            self.visit(node.expr, frame)
        else:
            self._emit("bounded_haystack" if node.op in ("in", "notin") else "bounded_guard", frame, node.expr)

    # -- calls

    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:
        if isinstance(node.node, nodes.Getattr):
            self.write("bounded_method(budget, environment, ")
            self.visit(node.node.node, frame)
            self.write(f", {node.node.attr!r}")
        else:
            self.write("bounded_call(budget, ")
            self.visit(node.node, frame)
        self.signature(node, frame, {"caller": "caller"} if forward_caller else None)
        self.write(")")


_OPERATORS = {
    "eq": "==",
    "ne": "!=",
    "gt": ">",
    "gteq": ">=",
    "lt": "<",
    "lteq": "<=",
    "in": "in",
    "notin": "not in",
}


def _is_scalar(node: nodes.Node) -> bool:
    """Whether comparing with it takes no longer than its source is long."""
    if isinstance(node, (nodes.List, nodes.Tuple)):
        return all(_is_scalar(item) for item in node.items)
    return isinstance(node, nodes.Const)


def _chain(node: nodes.BinExpr) -> list[nodes.Expr]:
    """The operands of `a + b + c` from left to right, neighbouring literal texts made one."""
    operands: list[nodes.Expr] = []
    left: nodes.Expr = node
    while isinstance(left, nodes.Add):
        operands.append(left.right)
        left = left.left
    operands.append(left)
    merged: list[nodes.Expr] = []
    for operand in reversed(operands):
        if merged and _is_text(merged[-1]) and _is_text(operand):
            joined = merged[-1].value + operand.value  # type: ignore[attr-defined]
            merged[-1] = nodes.Const(joined, lineno=operand.lineno)
        else:
            merged.append(operand)
    return merged


def _is_text(node: nodes.Expr) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, str)


def refuse_forbidden(tree: nodes.Template, name: str | None) -> None:
    """Raise for a tag that a chat template cannot have."""
    for kind, tag in FORBIDDEN.items():
        for node in tree.find_all(kind):
            raise TemplateAssertionError(f"a chat template cannot use {{% {tag} %}}", node.lineno, name)
