"""`report.html`: one file for people, without network: the verdict, plots, findings, and rows with their masks.

What lives here: choosing what of a report is plotted and shown, and filling the page. What must not: measuring
anything, reading data. The page needs no script: it only adds the filter by rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup

from sftdata.records import IGNORE_INDEX
from sftdata.report.plots import bars, lines
from sftdata.report.terminal import clean
from sftdata.report.view import ShownDocument
from sftdata.rules import RULES

__all__ = ["MAX_TOKENS", "ShownRow", "render", "shown_row"]

MAX_TOKENS = 60_000
"""Of all rows together: the page stays below 5 MiB."""
_ROW_TOKENS = 3_000
_NO_LIMIT = 1 << 24


class Piece(msgspec.Struct, frozen=True):
    """One token as it is shown."""

    text: str
    classes: str
    """`t` trained, `s` special, `b` the first token of a reply (the seam), `e` its last (the stop)."""


class ShownRow(msgspec.Struct, frozen=True):
    """One document of the viewer."""

    title: str
    pieces: list[Piece]
    rules: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cut: int = 0
    """Tokens that are not shown."""


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


def render(
    report: Mapping[str, Any], rows: Sequence[ShownRow], findings: Mapping[str, Sequence[Any]] | None = None
) -> str:
    """The page of a run or a check.

    `report`: as in `report.json`, where a check's `statuses` may be added. `findings`: by code, the places to show
    (anything with `source`, `line`, `pointer`, `message`). Every text of the data is escaped, and its control
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
    shown: list[ShownRow] = []
    used = 0
    for row in rows:
        used += len(row.pieces)
        if used > MAX_TOKENS and shown:
            break
        shown.append(row)
    return environment.get_template("page.html.jinja").render(
        report=report,
        rules=_rules(report),
        findings=findings or {},
        plots=list(_plots(report)),
        rows=shown,
        codes=sorted({code for row in shown for code in row.rules}),
        names={code: one.name for code, one in RULES.items()},
        share=_share,
    )


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _rules(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rules that found something, the most severe and frequent first."""
    order = {"error": 0, "warning": 1, "info": 2}
    rows = [{"code": code, **one, "why": RULES[code].why} for code, one in report["rules"].items() if one["count"]]
    return sorted(rows, key=lambda one: (order[one["severity"]], -one["count"], one["code"]))


class Plot(msgspec.Struct, frozen=True):
    """One figure with its numbers."""

    title: str
    caption: str
    image: Markup
    head: list[str]
    table: list[list[str]]
    legend: list[str] = []


def _family(report: Mapping[str, Any], name: str) -> list[tuple[str, int]]:
    """The counts `name/...` of the measures, by what stands behind the slash, numbers in their order."""
    prefix = f"{name}/"
    found = [(key[len(prefix) :], value) for key, value in report.get("measures", {}).items() if key.startswith(prefix)]
    return sorted(found, key=lambda pair: (int(pair[0]) if pair[0].isdigit() else 0, pair[0]))


def _plots(report: Mapping[str, Any]) -> Any:
    capacity = next((one["capacity"] for one in report.get("packing", {}).values()), 0)
    limit = capacity if capacity < _NO_LIMIT else 0
    makers: tuple[Callable[[], Plot | None], ...] = (
        lambda: _lengths(report, limit),
        lambda: _curve(report, limit),
        lambda: _counts(report, "share", "Trained share", "Documents by the share of their tokens that is trained."),
        lambda: _fill(report),
        lambda: _counts(report, "role", "Roles", "Turns by role."),
        lambda: _counts(report, "turns", "Turns", "Conversations by their number of turns."),
        lambda: _sources(report),
    )
    return (plot for maker in makers if (plot := maker()) is not None)


def _bar_plot(
    title: str, caption: str, pairs: Sequence[tuple[str, float]], head: Sequence[str], **more: Any
) -> Plot | None:
    if not pairs:
        return None
    labels, values = [label for label, _ in pairs], [value for _, value in pairs]
    image = bars(labels, values, alt=f"{title}. {caption}", **more)
    return Plot(title, caption, image, list(head), [[label, f"{value:,}"] for label, value in pairs])


def _lengths(report: Mapping[str, Any], limit: int) -> Plot | None:
    pairs = _family(report, "length")
    named = [(f"≤{int(edge):,}", count) for edge, count in pairs]
    below = [place for place, (edge, _) in enumerate(pairs) if int(edge) <= limit]
    more = {"marker": below[-1], "mark": f"max length {limit:,}"} if limit and below else {}
    caption = "Documents by length in tokens, before any limit."
    return _bar_plot("Lengths", caption, named, ("tokens", "documents"), **more)


def _curve(report: Mapping[str, Any], limit: int) -> Plot | None:
    series = {name: _family(report, name) for name in ("tokens", "trained", "replies")}
    longest = max((int(edge) for edge, count in _family(report, "length") if count), default=0)
    if not longest:
        return None
    xs = [int(edge) for edge, _ in series["tokens"] if int(edge) <= 2 * longest]
    names = {"tokens": "tokens", "trained": "trained tokens", "replies": "whole replies"}
    kept = []
    for name, pairs in series.items():
        whole = max((value for _, value in pairs), default=0) or 1
        kept.append((names[name], [value / whole for _, value in pairs[: len(xs)]]))
    image = lines(
        xs,
        kept,
        alt="Share of tokens, trained tokens and whole replies that each maximum length keeps.",
        at=limit or None,
        mark=f"max length {limit:,}",
    )
    table = [[f"{x:,}", *(f"{values[place]:.1%}" for _, values in kept)] for place, x in enumerate(xs)]
    caption = "What a maximum length keeps if longer documents are cut there."
    return Plot("Truncation curve", caption, image, ["max length", *names.values()], table, list(names.values()))


def _counts(report: Mapping[str, Any], name: str, title: str, caption: str) -> Plot | None:
    pairs = _family(report, name)
    if name == "share":
        pairs = [(f"{int(step) * 5}%", count) for step, count in pairs]
    if len(pairs) > 40:
        pairs = [*pairs[:39], (f"≥{pairs[39][0]}", sum(count for _, count in pairs[39:]))]
    return _bar_plot(title, caption, pairs, (title.lower(), "count"))


def _fill(report: Mapping[str, Any]) -> Plot | None:
    pairs = [(split, round(100 * one["fill"], 2)) for split, one in report.get("packing", {}).items()]
    if not pairs or report["packing"][pairs[0][0]]["capacity"] >= _NO_LIMIT:
        return None
    table = [
        [split, f"{one['bins']:,}", f"{one['tokens']:,}", f"{one['capacity']:,}", f"{one['fill']:.2%}"]
        for split, one in report["packing"].items()
    ]
    image = bars([split for split, _ in pairs], [fill for _, fill in pairs], alt="How full the bins are, in percent.")
    return Plot(
        "Bin fill", "How full the bins are, in percent.", image, ["split", "bins", "tokens", "capacity", "fill"], table
    )


def _sources(report: Mapping[str, Any]) -> Plot | None:
    pairs = [(one["name"], one["records"]) for one in report.get("inputs", [])]
    if len(pairs) < 2:
        return None
    most = sorted(pairs, key=lambda pair: -pair[1])[:20]
    shown = [(clean(name, limit=24), count) for name, count in most]
    return _bar_plot("Sources", "Records by input.", shown, ("input", "records"))
