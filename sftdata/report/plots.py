"""Plots as inline SVG: columns, bars and lines, drawn from numbers alone.

What lives here: three kinds of plot that follow the page's colours. What must not: knowledge of what is plotted. Every
plot is an image with a text that says what it shows; the page puts the numbers into a table beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

__all__ = ["bars", "columns", "lines", "short", "short_power"]

_WIDTH, _HEIGHT = 560, 220
_WIDEST = 72
"""Of a column: one alone would be a wall."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 20, 14, 40


def short(value: float) -> str:
    """A number as an axis shows it.

    >>> short(1500), short(2_000_000), short(12)
    ('1.5k', '2M', '12')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def bars(labels: Sequence[str], values: Sequence[float], shown: Sequence[str], *, top: float, alt: str) -> Markup:
    """A lying bar a name, with what is `shown` behind it; as long as the plot is wide where a value is `top`."""
    row, longest = 30, 28
    name = 20 + 7 * max((len(_middle_cut(label, longest)) for label in labels), default=0)
    scale = (_WIDTH - name - 96) / (top or 1.0)
    parts = []
    for place, (label, value, text) in enumerate(zip(labels, values, shown, strict=True)):
        middle, wide = place * row + row / 2 + 4, value * scale
        parts.append(f'<text class="tick name" x="{name - 8}" y="{middle + 4:.1f}" text-anchor="end">')
        parts.append(f"<title>{escape(label)}</title>{escape(_middle_cut(label, longest))}</text>")
        parts.append(
            f'<rect class="rail" x="{name}" y="{middle - 8:.1f}" width="{top * scale:.1f}" height="16" rx="2"/>'
        )
        parts.append(f'<rect class="bar" x="{name}" y="{middle - 8:.1f}" width="{wide:.1f}" height="16" rx="2"/>')
        parts.append(f'<text class="tick" x="{name + top * scale + 8:.1f}" y="{middle + 4:.1f}">{escape(text)}</text>')
    return _figure(parts, alt, len(labels) * row + 8)


def _middle_cut(text: str, most: int) -> str:
    """The ends of file names tell more than their middles."""
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most - most // 2) :]}"


def columns(
    labels: Sequence[str], values: Sequence[float], *, alt: str, marker: int | None = None, mark: str = ""
) -> Markup:
    """A standing column a label; `marker` draws a line, named `mark`, behind the column with that index."""
    top = 4 * max(_nice(max(values, default=0) / 4), 1.0)  # counts: its quarters are whole numbers
    inner = _WIDTH - _LEFT - _RIGHT
    step = min(inner / max(len(values), 1), _WIDEST)
    parts = [_axis(top)]
    widest = max(map(len, labels), default=1)
    every = math.ceil(len(labels) * (7 * widest + 8) / inner)
    for place, (label, value) in enumerate(zip(labels, values, strict=True)):
        height = (_HEIGHT - _TOP - _BOTTOM) * value / top
        x, y = _LEFT + place * step, _HEIGHT - _BOTTOM - height
        title = f"<title>{escape(label)}: {value:,}</title>"
        parts.append(f'<rect class="bar" x="{x + step * 0.08:.1f}" y="{y:.1f}" width="{step * 0.84:.1f}" ')
        parts.append(f'height="{height:.1f}">{title}</rect>')
        if place % every == 0:
            parts.append(_tick(x + step / 2, label))
    if marker is not None:
        parts.append(_marker(_LEFT + (marker + 1) * step, mark))
    return _figure(parts, alt)


def lines(
    xs: Sequence[float],
    series: Sequence[tuple[str, Sequence[float]]],
    *,
    alt: str,
    at: float | None = None,
    mark: str = "",
) -> Markup:
    """Lines of shares (0 to 1) over a logarithmic axis; `at` draws a vertical line named `mark`."""
    low, high = math.log2(xs[0]), math.log2(xs[-1])

    def place(x: float) -> float:
        share = (math.log2(x) - low) / ((high - low) or 1.0)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    parts = [_axis(1.0, percent=True)]
    for number, (name, values) in enumerate(series):
        points = " ".join(
            f"{place(x):.1f},{_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * y:.1f}"
            for x, y in zip(xs, values, strict=True)
        )
        parts.append(f'<polyline class="line l{number}" points="{points}"><title>{escape(name)}</title></polyline>')
    powers = [x for x in xs if math.log2(x) % 1 == 0]
    every = math.ceil(len(powers) / 9)
    parts += [_tick(place(x), short_power(x)) for x in powers[::every]]
    if at is not None and xs[0] <= at <= xs[-1]:
        parts.append(_marker(place(at), mark, _HEIGHT - _BOTTOM - 6))
    return _figure(parts, alt)


def short_power(value: float) -> str:
    """A length in tokens as people say it.

    >>> short_power(512), short_power(4096), short_power(1048576)
    ('512', '4Ki', '1Mi')
    """
    for size, unit in ((1 << 20, "Mi"), (1 << 10, "Ki")):
        if value >= size and value % size == 0:
            return f"{int(value // size)}{unit}"
    return f"{int(value):,}"


def _figure(parts: Sequence[str], alt: str, height: float = _HEIGHT) -> Markup:
    head = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(alt)}">'
    return Markup(head + "".join(parts) + "</svg>")  # noqa: S704 - numbers of ours and escaped texts


def _nice(value: float) -> float:
    """The end of an axis: the next of 1, 2, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)


def _axis(top: float, *, percent: bool = False) -> str:
    out = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share
        text = f"{share * top:.0%}" if percent else short(share * top)
        out.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    return "".join(out)


def _tick(x: float, label: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{escape(label)}</text>'


def _marker(x: float, label: str, y: float = _TOP + 8) -> str:
    line = f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
    anchor = "end" if x > _WIDTH * 0.7 else "start"
    shift = -4 if anchor == "end" else 4
    text = f'<text class="tick" x="{x + shift:.1f}" y="{y}" text-anchor="{anchor}">{escape(label)}</text>'
    return line + text
