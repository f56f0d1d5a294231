"""`report.html`: one file for people, without network: the verdict, plots, findings, and rows with their masks.

What lives here: filling the page, and how a row is shown. What is plotted stands in `figures`. What must not: measuring
anything, reading data. The page needs no script: it only adds the filter by rule.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import msgspec

from sftdata.records import IGNORE_INDEX
from sftdata.report.figures import figures
from sftdata.report.terminal import NO_LIMIT, clean
from sftdata.report.view import ShownDocument
from sftdata.rules import RULES

__all__ = ["MAX_TOKENS", "ShownRow", "raw_row", "render", "shown_row"]

MAX_TOKENS = 60_000
"""Of all rows together: the page stays below 5 MiB."""
_ROW_TOKENS = 3_000
_RAW_CHARACTERS = 4_000


class Piece(msgspec.Struct, frozen=True):
    """One token as it is shown."""

    text: str
    classes: str
    """`t` trained, `s` special, `b` the first token of a reply (the seam), `e` its last (the stop)."""


class ShownRow(msgspec.Struct, frozen=True):
    """One document of the viewer, or a record that has none."""

    title: str
    pieces: list[Piece]
    rules: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cut: int = 0
    """Tokens that are not shown."""
    rejected: bool = False
    """The record is not trained; its one piece is what was read."""


def shown_row(
    document: ShownDocument, decode: Callable[[Sequence[int]], str], special: frozenset[int], rules: Sequence[str] = ()
) -> ShownRow:
    """A document for the viewer: every token with its text and what it is."""
    pieces = []
    trained = [label != IGNORE_INDEX for label in document.labels]
    for place, token in enumerate(document.ids[:_ROW_TOKENS]):
        first = trained[place] and not (place and trained[place - 1])
        last = trained[place] and not (place + 1 < len(trained) and trained[place + 1])
        marks = (("t", trained[place]), ("s", token in special), ("b", first), ("e", last))
        text = clean(decode([token]), limit=200).replace("\n", "⏎\n")
        pieces.append(Piece(text, " ".join(name for name, on in marks if on)))
    cut = max(0, len(document.ids) - _ROW_TOKENS)
    return ShownRow(document.title, pieces, tuple(rules), document.notes, cut)


def raw_row(title: str, value: Any, rules: Sequence[str], notes: Sequence[str]) -> ShownRow:
    """A record that is not trained, as it was read."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
    piece = Piece(clean(text, limit=_RAW_CHARACTERS), "")
    return ShownRow(title, [piece], tuple(rules), tuple(notes), rejected=True)


def render(
    report: Mapping[str, Any], rows: Sequence[ShownRow], findings: Mapping[str, Sequence[Any]] | None = None
) -> str:
    """The page of a run or a check.

    `report`: as in `report.json`, where a check's `failed` and `skipped` may be added. `findings`: by code, the places
    to show (anything with `source`, `line`, `pointer`, `message`). Every text of the data is escaped, and its control
    characters shown as escapes.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sftdata.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["clean"] = clean
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["size"] = _size
    shown: list[ShownRow] = []
    used = 0
    for row in rows:
        used += len(row.pieces)
        if used > MAX_TOKENS and shown:
            break
        shown.append(row)
    return environment.get_template("page.html.jinja").render(
        report=report,
        verdict=_VERDICTS.get(report["status"], (report["status"].capitalize(), False)),
        rules=_rules(report),
        findings=findings or {},
        plots=list(figures(report)),
        rows=shown,
        codes=sorted({code for row in shown for code in row.rules}),
        names={code: one.name for code, one in RULES.items()},
        packing={split: one for split, one in report.get("packing", {}).items() if one["capacity"] < NO_LIMIT},
        share=_share,
    )


_VERDICTS = {
    "sealed": ("Sealed", False),
    "refused": ("Not sealed", True),
    "passed": ("Check passed", False),
    "failed": ("Check failed", True),
}
"""What the page says first, and whether it is bad."""


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _size(value: float) -> str:
    """Bytes as people say them."""
    if value < 1024:
        return f"{value:,} B"
    power = min(int(math.log2(value)) // 10, 4)
    return f"{value / (1 << 10 * power):,.1f} {('', 'Ki', 'Mi', 'Gi', 'Ti')[power]}B"


def _rules(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rules that found something, the most severe and frequent first."""
    order = {"error": 0, "warning": 1, "info": 2}
    rows = [{"code": code, **one, "why": RULES[code].why} for code, one in report["rules"].items() if one["count"]]
    return sorted(rows, key=lambda one: (order[one["severity"]], -one["count"], one["code"]))
