"""Line charts as SVG text: inside a page they take its colour of text, alone they are black on nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import msgspec

_COLOURS = ("#2f7fd0", "#d0661f", "#3f9a55", "#9a5bb5", "#a88a1c", "#c4446a")
_DASHES = ("", "7 4", "2 3", "9 3 2 3", "4 4", "12 4")  # readable without colours too
MOST = len(_COLOURS)  # series of one chart
_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 24, 44
_ROW = 18  # of the legend
_TICKS = 5
_LETTER = 6.6  # at 12 pixels, cautiously
_MOST_POINTS = 600


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a chart.

    Attributes:
        name: For the legend.
        points: (x, y), ascending in x or in the order of a walk.
        spans: Of each point the interval of x; empty without.
        labels: Of each point a few letters; empty without.
    """

    name: str
    points: Sequence[tuple[float, float]]
    spans: Sequence[tuple[float, float] | None] = ()
    labels: Sequence[str] = ()


def chart(
    title: str, x: str, y: str, series: Sequence[Series], *, names: Sequence[str] = (), marks: bool = False
) -> str:
    """Return a chart that begins at zero.

    Args:
        title: What it shows, for screen readers.
        x: Name of the axis with its unit.
        y: Likewise.
        series: At most MOST lines with at least one point in all.
        names: Names of x = 0, 1, 2, ... in place of numbers.
        marks: Draw the points themselves.
    """
    inside = [point for line in series for point in line.points]
    edges = [span for line in series for span in line.spans if span]
    right = max([point[0] for point in inside] + [high for _, high in edges if math.isfinite(high)] + [1e-9])
    x_ticks = list(range(len(names))) if names else ticks(right)
    y_ticks = ticks(max([point[1] for point in inside] + [1e-9]))
    width, bottom = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _BOTTOM

    def across(value: float) -> float:
        return _LEFT + width * min(1.0, max(0.0, value / (x_ticks[-1] or 1)))

    def up(value: float) -> float:
        return bottom - (bottom - _TOP) * value / y_ticks[-1]

    parts = []
    for tick in y_ticks:
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}" '
            'stroke="currentColor" stroke-opacity="0.15"/>'
        )
        parts.append(label(_LEFT - 8, up(tick) + 4, f"{tick:,g}", "end"))
    for tick in x_ticks:
        name = names[int(tick)] if names else f"{tick:,g}"
        parts.append(label(across(tick), bottom + 16, name, "middle"))
    parts.append(label(_LEFT + width / 2, bottom + 36, x, "middle"))
    parts.append(
        f'<text transform="translate(14 {(_TOP + bottom) / 2:.0f}) rotate(-90)" text-anchor="middle" '
        f'fill="currentColor">{escape(y)}</text>'
    )
    rows, at = [], _LEFT + 0.0
    top = _HEIGHT + 6
    for number, line in enumerate(series):
        colour, dash = _COLOURS[number], _DASHES[number]
        style = f'stroke="{colour}" fill="none" stroke-width="2" stroke-dasharray="{dash}"'
        drawn = thinned(line.points)
        path = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in drawn)
        if len(drawn) > 1:
            parts.append(f'<polyline points="{path}" {style}/>')
        for (_, b), span in zip(line.points, line.spans, strict=False):
            if span:
                parts.append(
                    f'<line x1="{across(span[0]):.1f}" x2="{across(span[1]):.1f}" '
                    f'y1="{up(b):.1f}" y2="{up(b):.1f}" stroke="{colour}" stroke-width="1"/>'
                )
        if marks or len(drawn) == 1:
            parts += [
                f'<circle cx="{across(a):.1f}" cy="{up(b):.1f}" r="3.5" fill="{colour}"/>' for a, b in drawn
            ]
        for (a, b), letters in zip(line.points, line.labels, strict=False):
            parts.append(label(across(a) + 6, up(b) - 6, letters, "start"))
        long = 46 + _LETTER * len(line.name)
        if at + long > _WIDTH and at > _LEFT:
            at, top = _LEFT, top + _ROW
        rows.append(f'<line x1="{at:.0f}" x2="{at + 26:.0f}" y1="{top}" y2="{top}" {style}/>')
        rows.append(label(at + 32, top + 4, line.name, "start"))
        at += long
    height = top + _ROW
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
            'font-family="sans-serif" font-size="12">',
            f"<title>{escape(title)}</title>",
            *parts,
            *rows,
            "</svg>",
        ]
    )


def ticks(highest: float) -> list[float]:
    """Return round numbers from 0 to at least the highest."""
    rough = highest / _TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    count = math.ceil(highest / step - 1e-9)
    return [round(step * number, 12) for number in range(count + 1)]


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return so many of the points, evenly taken, that a picture has no more than it can show."""
    step = max(1, math.ceil(len(points) / _MOST_POINTS))
    return [*points[::step], *points[len(points) - 1 :]] if step > 1 else list(points)


def label(x: float, y: float, text: str, anchor: str) -> str:
    """Return a piece of text at a place; anchor is start, middle or end."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor">{escape(text)}</text>'
