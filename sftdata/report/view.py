"""The masked view: documents with their trained tokens marked, for terminals and for plain text.

What lives here: cutting a document into runs (trained or not, special or not) and printing them. What must not: where
the tokens came from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from sftdata.records import IGNORE_INDEX
from sftdata.report.terminal import clean

__all__ = ["Run", "ShownDocument", "beside", "plain_lines", "raw_text", "rich_lines", "runs_of", "token_lines"]

_WIDE = 100
"""Columns that a terminal must have for two texts side by side."""

Decode = Callable[[Sequence[int]], str]


class ShownDocument(msgspec.Struct, frozen=True):
    """One document to be shown."""

    title: str
    """Such as `document 1 of 5: record 12, chats.jsonl line 13`."""
    ids: list[int]
    labels: list[int]
    notes: tuple[str, ...] = ()
    rendered: str | None = None
    """The text that was encoded, where it is known; the tokens decode to it."""


class Run(msgspec.Struct, frozen=True):
    """Neighbouring tokens that are shown alike."""

    text: str
    trained: bool
    special: bool


def runs_of(document: ShownDocument, decode: Decode, special: frozenset[int]) -> list[Run]:
    """Cut a document into runs; a special token is a run of its own."""
    runs: list[Run] = []
    held: list[int] = []
    state = (False, False)
    for token, label in zip(document.ids, document.labels, strict=True):
        now = (label != IGNORE_INDEX, token in special)
        if held and (now != state or now[1]):
            runs.append(Run(decode(held), *state))
            held = []
        held.append(token)
        state = now
    if held:
        runs.append(Run(decode(held), *state))
    return runs


def _visible(run: Run) -> str:
    """Data is never trusted by a terminal; line ends are shown as well as made."""
    text = clean(run.text, limit=1_000_000)
    return text if not run.trained else text.replace("\n", "⏎\n")


def plain_lines(document: ShownDocument, runs: Iterable[Run]) -> list[str]:
    """`[[...]]` around what is trained: `<|im_start|>assistant` newline `[[Hello<|im_end|>]]`."""
    text, inside = [], False
    for run in runs:
        if run.trained != inside:
            text.append("[[" if run.trained else "]]")
            inside = run.trained
        text.append(_visible(run))
    text.append("]]" if inside else "")
    return [document.title, *document.notes, "".join(text)]


def rich_lines(document: ShownDocument, runs: Iterable[Run]) -> list[object]:
    """The same for rich: trained green, special tokens bold, the rest dim."""
    from rich.text import Text

    body = Text()
    for run in runs:
        style = "green" if run.trained else "dim"
        body.append(_visible(run), style=f"bold {style.replace('dim', 'blue')}" if run.special else style)
    title = Text(document.title, style="bold underline")
    return [title, *(Text(note, style="yellow") for note in document.notes), body]


def token_lines(document: ShownDocument, decode: Decode, special: frozenset[int], *, title: bool = True) -> list[str]:
    """One line a token: position, id, label, text, what it is; a label of -100 is not trained."""
    lines = [document.title, *document.notes] if title else list(document.notes)
    lines.append(f"{'position':>8} {'id':>8} {'label':>8}  {'text':<24} {'kind':<8}")
    for place, (token, label) in enumerate(zip(document.ids, document.labels, strict=True)):
        text = repr(clean(decode([token]), limit=80))[1:-1]
        kind = "special" if token in special else ""
        trained = "trained" if label != IGNORE_INDEX else ""
        lines.append(f"{place:>8} {token:>8} {label:>8}  {text:<24} {kind:<8} {trained}".rstrip())
    return lines


def raw_text(raw: Any) -> str:
    """A raw record as JSON, or as its bytes stood; fit for a terminal."""
    if isinstance(raw, bytes):
        return clean(raw.decode("utf-8", "replace"), limit=100_000)
    return clean(json.dumps(raw, indent=2, ensure_ascii=False), limit=100_000)


def beside(raw: str, rendered: str, *, width: int) -> list[object]:
    """The raw record and the text that it became: side by side where there is room, else one after the other."""
    from rich.table import Table
    from rich.text import Text

    text = clean(rendered, limit=100_000)
    if not raw:
        return ["rendered", text]
    if width < _WIDE:
        return ["raw", raw, "rendered", text]
    table = Table(show_edge=False, pad_edge=False, expand=True)
    for name in ("raw", "rendered"):
        table.add_column(name, ratio=1, overflow="fold")
    table.add_row(Text(raw), Text(text))
    return [table]
