"""What of a report is plotted, with its numbers in a table beside it.

What lives here: choosing figures. What must not: drawing (`plots`), the page (`html`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from markupsafe import Markup

from sftdata.report.plots import bars, columns, lines
from sftdata.report.terminal import NO_LIMIT, clean

__all__ = ["Figure", "figures"]

_MOST_SOURCES, _MOST_COLUMNS = 15, 40


class Figure(msgspec.Struct, frozen=True):
    """One figure with its numbers."""

    title: str
    caption: str
    image: Markup
    head: list[str]
    table: list[list[str]]
    legend: list[str] = []


def figures(report: Mapping[str, Any]) -> Iterator[Figure]:
    """The figures that there is anything to show in."""
    capacity = next((one["capacity"] for one in report.get("packing", {}).values()), 0)
    limit = capacity if capacity < NO_LIMIT else 0
    makers: tuple[Callable[[], Figure | None], ...] = (
        lambda: _lengths(report, limit),
        lambda: _curve(report, limit),
        lambda: _counts(report, "share", "Trained share", "Documents by the share of their tokens that is trained."),
        lambda: _counts(report, "turns", "Turns", "Conversations by their number of turns."),
        lambda: _roles(report),
        lambda: _fill(report),
        lambda: _mixture(report),
        lambda: _sources(report),
    )
    return (figure for maker in makers if (figure := maker()) is not None)


def _family(report: Mapping[str, Any], name: str) -> list[tuple[str, int]]:
    """The counts `name/...` of the measures, by what stands behind the slash, numbers in their order."""
    prefix = f"{name}/"
    found = [(key[len(prefix) :], value) for key, value in report.get("measures", {}).items() if key.startswith(prefix)]
    return sorted(found, key=lambda pair: (int(pair[0]) if pair[0].isdigit() else 0, pair[0]))


def _standing(
    title: str, caption: str, pairs: Sequence[tuple[str, float]], head: Sequence[str], **more: Any
) -> Figure | None:
    if not pairs:
        return None
    labels, values = [label for label, _ in pairs], [value for _, value in pairs]
    image = columns(labels, values, alt=f"{title}. {caption}", **more)
    return Figure(title, caption, image, list(head), [[label, f"{value:,}"] for label, value in pairs])


def _lying(title: str, caption: str, pairs: Sequence[tuple[str, float]], head: Sequence[str]) -> Figure | None:
    """Counts by name."""
    if not pairs:
        return None
    values = [value for _, value in pairs]
    shown = [f"{value:,}" for value in values]
    names = [clean(name) for name, _ in pairs]
    image = bars(names, values, shown, top=max(values), alt=f"{title}. {caption}")
    return Figure(title, caption, image, list(head), [[name, text] for name, text in zip(names, shown, strict=True)])


def _lengths(report: Mapping[str, Any], limit: int) -> Figure | None:
    pairs = _family(report, "length")
    named = [(f"≤{int(edge):,}", count) for edge, count in pairs]
    below = [place for place, (edge, _) in enumerate(pairs) if int(edge) <= limit]
    caption = "Documents by length in tokens, before any limit."
    more: dict[str, Any] = {}
    if pairs and limit > int(pairs[-1][0]):
        caption += f" All are within max length {limit:,}."
    elif below:
        more = {"marker": below[-1], "mark": f"max length {limit:,}"}
    return _standing("Lengths", caption, named, ("tokens", "documents"), **more)


def _curve(report: Mapping[str, Any], limit: int) -> Figure | None:
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
    return Figure("Truncation curve", caption, image, ["max length", *names.values()], table, list(names.values()))


def _counts(report: Mapping[str, Any], name: str, title: str, caption: str) -> Figure | None:
    pairs = _family(report, name)
    if name == "share":
        pairs = [(f"{int(step) * 5}%", count) for step, count in pairs]
    if len(pairs) > _MOST_COLUMNS:
        last = _MOST_COLUMNS - 1
        pairs = [*pairs[:last], (f"≥{pairs[last][0]}", sum(count for _, count in pairs[last:]))]
    return _standing(title, caption, pairs, (title.lower(), "count"))


def _roles(report: Mapping[str, Any]) -> Figure | None:
    pairs = sorted(_family(report, "role"), key=lambda pair: -pair[1])
    return _lying("Roles", "Turns by role.", pairs, ("role", "turns"))


def _fill(report: Mapping[str, Any]) -> Figure | None:
    packing = report.get("packing", {})
    if not packing or next(iter(packing.values()))["capacity"] >= NO_LIMIT:
        return None
    table = [
        [split, f"{one['bins']:,}", f"{one['tokens']:,}", f"{one['capacity']:,}", f"{one['fill']:.2%}"]
        for split, one in packing.items()
    ]
    fills = [one["fill"] for one in packing.values()]
    caption = "Tokens of the bins over their capacity."
    image = bars(list(packing), fills, [f"{fill:.2%}" for fill in fills], top=1.0, alt=f"Bin fill. {caption}")
    return Figure("Bin fill", caption, image, ["split", "bins", "tokens", "capacity", "fill"], table)


def _mixture(report: Mapping[str, Any]) -> Figure | None:
    mixture = report.get("mixture")
    if not mixture:
        return None
    sources = mixture["sources"]
    names = [clean(name) for name in sources]
    table = [
        [
            name,
            f"{one['planned_share']:.1%}",
            f"{one['share_of_tokens']:.1%}",
            f"{one['taken']:,}",
            f"{one['passes']:.2f}",
            f"{one['written']['tokens']:,}",
        ]
        for name, one in zip(names, sources.values(), strict=True)
    ]
    shares = [one["share_of_tokens"] for one in sources.values()]
    caption = f"Share of the written tokens by source; planned shares count {mixture['weights_count']}."
    image = bars(names, shares, [f"{share:.1%}" for share in shares], top=max(shares), alt=f"Mixture. {caption}")
    head = ["source", "planned share", "share of tokens", "records taken", "passes", "tokens"]
    return Figure("Mixture", caption, image, head, table)


def _sources(report: Mapping[str, Any]) -> Figure | None:
    pairs = sorted(((one["name"], one["records"]) for one in report.get("inputs", [])), key=lambda pair: -pair[1])
    if len(pairs) < 2:
        return None
    shown, rest = pairs[:_MOST_SOURCES], pairs[_MOST_SOURCES:]
    if rest:
        shown = [*shown, (f"{len(rest):,} more", sum(count for _, count in rest))]
    return _lying("Sources", "Records by input.", shown, ("input", "records"))
