"""Unrolling by substitution: what the contract decided for one conversation, repeated for others of its shape.

    shape      user, assistant                                    (roles, flags, which fields there are)
    program    "<|im_start|>user\\n" 0 "<|im_end|>\\n<|im_start|>assistant\\n" | 1 "<|im_end|>" |
    row        contents put in their places, spans counted along

The contract is run once on symbols (`trace`). Its result is a program only if every decision that it took depends on
literals of the template alone, so that it would be the same for any contents that answer the template's questions
alike; what is doubtful is never a program. Tests hold programs and the contract to each other on every kind of text.

What lives here: building and running programs. What must not: the contract's own rules.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate, pairwise

import msgspec

from sftdata.records import Conversation, Finding, Span, TextExample
from sftdata.templates.trace import CLOSE, OPEN, Question, answer

__all__ = ["Program", "build_program", "contents_of", "shape_of", "symbolic"]

_SYMBOL = re.compile(f"{OPEN}(\\d+){CLOSE}")


class _Example(msgspec.Struct, frozen=True):
    parts: tuple[str | int, ...]
    """Literals, and numbers of contents."""
    marks: tuple[tuple[int, int, int], ...]
    """For every span: parts before it begins, parts before it ends, the message."""


class Program(msgspec.Struct, frozen=True):
    """How to unroll conversations of one shape."""

    examples: tuple[_Example, ...]
    questions: tuple[tuple[tuple[str | int, ...], str, object, bool], ...]
    findings: tuple[Finding, ...]
    breaks: tuple[str, ...]
    untrained: int

    def fits(self, contents: Sequence[str]) -> bool:
        """Whether these contents answer the template's questions as the traced ones did."""
        for parts, kind, argument, told in self.questions:
            text = contents[parts[0]] if len(parts) == 1 and type(parts[0]) is int else _joined(parts, contents)
            if answer(kind, text, argument) is not told:
                return False
        return True

    def run(self, contents: Sequence[str]) -> tuple[TextExample, ...]:
        """The examples of a conversation with these contents, which must fit."""
        built = []
        for example in self.examples:
            texts = [contents[part] if type(part) is int else part for part in example.parts]
            ends = [0, *accumulate(map(len, texts))]  # type: ignore[arg-type]
            spans = tuple([Span(ends[begin], ends[end], message) for begin, end, message in example.marks])
            built.append(TextExample("".join(texts), spans))  # type: ignore[arg-type]
        return tuple(built)


def _joined(parts: Sequence[str | int], contents: Sequence[str]) -> str:
    return "".join([contents[part] if isinstance(part, int) else part for part in parts])


def shape_of(conversation: Conversation) -> tuple[object, ...] | None:
    """What programs are kept by; None for a conversation that has more than plain turns."""
    if conversation.tools or conversation.template_kwargs:
        return None
    shape: list[object] = []
    for message in conversation.messages:
        if (
            not message.content
            or message.tool_calls
            or message.name is not None
            or message.tool_call_id is not None
            or message.inline is not None
            or message.reasoning == ""
        ):
            return None
        shape.append((message.role, message.trained, message.reasoning is None))
    return tuple(shape)


def contents_of(conversation: Conversation) -> list[str]:
    """All contents and reasoning of a conversation that has a shape, in order: what symbols stand for."""
    out: list[str] = []
    for message in conversation.messages:
        out.append(message.content)  # type: ignore[arg-type]
        if message.reasoning is not None:
            out.append(message.reasoning)
    return out


def symbolic(conversation: Conversation) -> Conversation:
    """The conversation with symbols for its contents, numbered as in `contents_of`."""
    messages, number = [], 0
    for message in conversation.messages:
        content, number = f"{OPEN}{number}{CLOSE}", number + 1
        reasoning = None
        if message.reasoning is not None:
            reasoning, number = f"{OPEN}{number}{CLOSE}", number + 1
        messages.append(msgspec.structs.replace(message, content=content, reasoning=reasoning))
    return msgspec.structs.replace(conversation, messages=tuple(messages))


def build_program(
    examples: Sequence[TextExample],
    questions: Sequence[Question],
    findings: tuple[Finding, ...],
    untrained: int,
    tags: Sequence[tuple[str, str]],
) -> Program | None:
    """A program of what the contract made of symbols; None where a decision of it may have been chance.

    A break between two examples must lie in literals of both; a prompt must end in a literal that decides by itself
    whether it opens a reasoning block; a reply must end in a literal.
    """
    for before, after in pairwise(examples):
        if not _literal_difference(before.text, after.text[: after.spans[0].start]):
            return None
    for example in examples:
        for span in example.spans:
            tail = example.text[: span.start].rpartition(CLOSE)[2].rstrip()
            if not tail or any(len(tail) < len(tag) and tag.endswith(tail) for pair in tags for tag in pair):
                return None
            if CLOSE in example.text[span.stop - 1 : span.stop]:
                return None
    built = tuple(map(_compiled, examples))
    asked = {(question.symbolic, question.kind, question.argument): question.answer for question in questions}
    breaks = tuple("history is rewritten" for _ in examples[1:])
    return Program(
        built,
        tuple((_parts(text), kind, argument, told) for (text, kind, argument), told in asked.items()),
        tuple(_without_symbols(finding) for finding in findings),
        breaks,
        untrained,
    )


def _literal_difference(text: str, prompt: str) -> bool:
    """Whether the first difference of two symbolic texts is one of literals, and so of all texts of the shape."""
    at = next((i for i, (a, b) in enumerate(zip(text, prompt, strict=False)) if a != b), None)
    if at is None:
        return False
    inside = text.rfind(OPEN, 0, at + 1) > text.rfind(CLOSE, 0, at + 1)
    return not inside and OPEN not in (text[at], prompt[at]) and CLOSE not in (text[at], prompt[at])


def _compiled(example: TextExample) -> _Example:
    """Split at symbols and at span borders."""
    parts: list[str | int] = []
    marks: list[tuple[int, int, int]] = []
    at = 0
    for span in example.spans:
        parts += _parts(example.text[at : span.start])
        begin = len(parts)
        parts += _parts(example.text[span.start : span.stop])
        marks.append((begin, len(parts), span.message))
        at = span.stop
    return _Example(tuple(parts), tuple(marks))


def _parts(text: str) -> tuple[str | int, ...]:
    pieces = _SYMBOL.split(text)
    mixed: list[str | int] = [int(piece) if place % 2 else piece for place, piece in enumerate(pieces)]
    return tuple(piece for piece in mixed if piece != "")


def _without_symbols(finding: Finding) -> Finding:
    return msgspec.structs.replace(finding, message=_SYMBOL.sub("…", finding.message))
