"""Two templates on the same conversations: what a server would send to the model under each, in text and in ids.

What lives here: rendering and encoding under both, and finding where they part. What must not: reading what the user
named (`named`), printing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from sftdata.pipeline.cases import Case
from sftdata.records import Conversation
from sftdata.report.difference import ids_difference, quoted, text_difference
from sftdata.templates.environment import Template, TemplateError
from sftdata.templates.rendering import Rendered, render_conversation
from sftdata.tokenizers import ReferenceEngine, Vocabulary

__all__ = ["Compared", "Side", "compare"]


class Side(msgspec.Struct):
    """One of the two."""

    label: str
    templates: dict[str, Template]
    """`default`, and `tool_use` where records with tools have a template of their own."""
    engine: ReferenceEngine | None = None
    """Where a tokenizer is known."""

    @classmethod
    def of(cls, label: str, templates: dict[str, Template], vocabulary: Vocabulary | None) -> Side:
        """With the engine of a vocabulary, where there is one."""
        return cls(label, templates, None if vocabulary is None else ReferenceEngine(vocabulary))

    def render(self, conversation: Conversation) -> Rendered | TemplateError:
        """What its template makes of a conversation."""
        name = "tool_use" if conversation.tools and "tool_use" in self.templates else "default"
        return render_conversation(self.templates[name], conversation)

    def ids(self, text: str) -> list[int] | None:
        """The encoding of a whole text, nothing added; None without a tokenizer."""
        if self.engine is None:
            return None
        ids: list[int] = self.engine.encode([text])[0].tolist()
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids."""
        assert self.engine is not None
        return self.engine.decode([ids])[0]


class Compared(msgspec.Struct, frozen=True):
    """What came of one conversation."""

    name: str
    outcome: Literal["same", "differs", "refused", "skipped"]
    """`refused`: by both templates. `skipped`: it is no conversation."""
    place: str = ""
    """What differs first: `text of the prompt of message 3`, `ids of the whole conversation`."""
    lines: tuple[str, ...] = ()
    """The difference in its context, or why the case was refused or skipped."""


def compare(one: Side, other: Side, cases: Iterable[Case]) -> Iterator[Compared]:
    """Compare every prompt and the whole text of every case."""
    for case in cases:
        if case.conversation is None:
            yield Compared(case.name, "skipped", "", (case.problem,))
        else:
            yield _compared(case.name, one, other, case.conversation)


def _compared(name: str, one: Side, other: Side, conversation: Conversation) -> Compared:
    first, second = one.render(conversation), other.render(conversation)
    labels = (one.label, other.label)
    if isinstance(first, TemplateError) or isinstance(second, TemplateError):
        if isinstance(first, TemplateError) and isinstance(second, TemplateError):
            return Compared(name, "refused", "", (f"{one.label}: {first.detail}", f"{other.label}: {second.detail}"))
        told = tuple(f"  {label}  {_told(it)}" for label, it in zip(labels, (first, second), strict=True))
        return Compared(name, "differs", "one of them refuses it", told)
    texts = [
        *(
            (f"the prompt of message {turn + 1}", a, b)
            for (turn, a), (_, b) in zip(first.prompts, second.prompts, strict=True)
        ),
        ("the whole conversation", first.whole, second.whole),
    ]
    for what, a, b in texts:
        lines = text_difference(a, b, labels)
        if lines:
            return Compared(name, "differs", f"text of {what}", tuple(lines))
    for what, a, b in texts:
        lines = _ids_lines(a, b, one, other)
        if lines:
            return Compared(name, "differs", f"ids of {what}", tuple(lines))
    return Compared(name, "same")


def _told(rendered: Rendered | TemplateError) -> str:
    return f"raises: {rendered.detail}" if isinstance(rendered, TemplateError) else f"renders {quoted(rendered.whole)}"


def _ids_lines(a: str, b: str, one: Side, other: Side) -> list[str]:
    first, second = one.ids(a), other.ids(b)
    if first is None or second is None:
        return []
    lines = ids_difference(first, second, one.decode, (one.label, other.label))
    if lines:
        # an id may be one text here and another there
        lines[-1] = ids_difference(first, second, other.decode, (one.label, other.label))[-1]
    return lines
