"""The trade of a plan as an SVG picture: what a host makes against what a user gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from html import escape

from manyhost.plan.choices import Choice
from manyhost.report.plots import ticks

Trade = dict[str, list[tuple[float, float]]]

_TPOT_MS = (3, 5, 8, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100)  # asked for, one after the other
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _LEGEND = 720, 400, 60, 20, 45, 200
_WIDE, _HIGH = _WIDTH - _LEFT - _LEGEND, _HEIGHT - _TOP - _BOTTOM
_COLORS = ("#1a73e8", "#d93025", "#188038", "#e37400", "#9334e6", "#12858d", "#5f6368", "#b80672")


def trade(choices: Callable[[int], Iterable[Choice]], longest_ms: int = 0) -> Trade:
    """Return the points of each environment's line: tokens a second of one user, and of a host.

    Args:
        choices: What works within a time per output token in milliseconds, 0 for any; at least one.
        longest_ms: No point is at a longer one; 0 for any.
    """
    times = [tpot for tpot in _TPOT_MS if not longest_ms or tpot < longest_ms]
    points: Trade = {}
    for tpot in [*times, longest_ms]:
        best: dict[str, tuple[float, float]] = {}
        for each in choices(tpot):
            reached = each.tok_s / each.hosts, 1000 / each.tpot_ms
            best[each.environment] = max(best.get(each.environment, reached), reached)
        for environment, (host, user) in best.items():
            line = points.setdefault(environment, [])
            if (user, host) not in line:
                line.append((user, host))
    return points


def picture(model: str, points: Trade) -> str:
    """Return a line for each environment, the tokens of a host on a logarithmic scale.

    Args:
        model: Its name, for screen readers.
        points: What `trade` returned, at least one.
    """
    made = [host for line in points.values() for _, host in line]
    users = ticks(max(user for line in points.values() for user, _ in line))
    low = min(math.floor(math.log10(max(min(made), 1))), 9)
    top = max(math.ceil(math.log10(max(made))), low + 1)

    def place(user: float, host: float) -> tuple[int, int]:
        up = (math.log10(host) - low) / (top - low)
        return round(_LEFT + _WIDE * user / users[-1]), round(_TOP + _HIGH * (1 - up))

    named: dict[tuple[tuple[int, int], ...], list[str]] = {}  # lines that lie upon each other share a name
    for environment, line in sorted(points.items()):
        named.setdefault(tuple(place(*point) for point in line), []).append(environment)
    title = f"Serving {model}: output tokens a second of a host against those of one user"
    corner = f"M{_LEFT},{_TOP} L{_LEFT},{_TOP + _HIGH} L{_LEFT + _WIDE},{_TOP + _HIGH}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<path d="{corner}" fill="none" stroke="#5f6368"/>',
        f'<text x="{_LEFT + _WIDE // 2}" y="{_HEIGHT - 8}" text-anchor="middle">'
        "tokens a second of one user</text>",
        f'<text x="{_LEFT}" y="14">output tokens a second of a host</text>',
    ]
    for user in users:
        x, y = place(user, 10**low)
        parts.append(f'<text x="{x}" y="{y + 16}" text-anchor="middle">{user:g}</text>')
    for power in range(low, top + 1):
        x, y = place(0, 10**power)
        parts.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{10**power:,}</text>')
    for number, (drawn, environments) in enumerate(named.items()):
        color = _COLORS[number % len(_COLORS)]
        path = " ".join(f"{x},{y}" for x, y in drawn)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="2.5" fill="{color}"/>' for x, y in drawn]
        parts.append(
            f'<text x="{_WIDTH - _LEGEND + 20}" y="{40 + 20 * number}" fill="{color}">'
            f"{escape(', '.join(environments))}</text>"
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
