"""docs/reference/plan-deepseek-r1-671b.md: what `manyhost plan` says, as a page with a picture."""

from __future__ import annotations

import math
from typing import Any

from manyhost.catalog import Catalog, Resolved, resolve
from manyhost.catalog.recipe import Traffic
from manyhost.plan.choice_table import NOTES, markdown, reasons
from manyhost.plan.choices import Choice, Wanted, assignments, choices

MODEL = "deepseek-r1-671b"
_TPOT_MS = (15, 20, 25, 30, 40, 50, 60, 80)  # of the picture's points
_HEAD = f"""# Every way to serve {MODEL}

Generated from `values/` by `make generate`: what `manyhost plan {MODEL}` says of requests of 1000 + 1000
tokens, a context of 32,768 and as many requests as have a seat. Speeds are predictions:
[how right they are](../../benchmarks/plan/README.md), [how to ask for your own](../how-to/plan.md).

"""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _LEGEND = 720, 400, 60, 45, 200
_WIDE = _WIDTH - _LEFT - _LEGEND
_RIGHT, _LOW, _TOP = 70, 100, 40_000  # tokens a second of a user; of a host, least and most
_COLORS = ("#1a73e8", "#d93025", "#188038", "#e37400", "#9334e6", "#12858d", "#5f6368")


def page(catalog: Catalog) -> str:
    """Return the page."""
    found, rejected = _choices(catalog, 0)
    lines = [*markdown(found), "", *NOTES, "", "## The trade", "", f"![Output tokens]({MODEL}-plan.svg)", ""]
    lines += [
        "The best layout of each environment at each time per token: further up takes fewer hosts.",
        "A host of A4X has four GPUs.",
        "",
    ]
    lines += ["## What does not work", "", *(f"- {reason}" for reason in reasons(rejected))]
    return _HEAD + "\n".join(lines) + "\n"


def _choices(catalog: Catalog, tpot_ms: int) -> tuple[list[Choice], list[Any]]:
    def resolved(recipe: str, changes: dict[str, Any]) -> Resolved:
        return resolve(catalog, recipe, assignments=assignments(changes))

    traffic = Traffic(input_tokens=1000, output_tokens=1000)
    wanted = Wanted(model=MODEL, context=32768, traffic=traffic, tpot_ms=tpot_ms)
    return choices(catalog, resolved, wanted, catalog.names("environments"))


def picture(catalog: Catalog) -> str:
    """Return what a host makes against what a user gets, as an SVG picture: a line for each environment."""
    points: dict[str, list[tuple[float, float]]] = {}
    for tpot in _TPOT_MS:
        best: dict[str, float] = {}
        for each in _choices(catalog, tpot)[0]:
            best[each.environment] = max(best.get(each.environment, 0.0), each.tok_s / each.hosts)
        for environment, made in best.items():
            points.setdefault(environment, []).append((1000 / tpot, made))
    named: dict[tuple[str, ...], list[str]] = {}  # lines that lie upon each other share their name
    for environment, line in sorted(points.items()):
        named.setdefault(tuple(_place(x, y) for x, y in line), []).append(environment)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="#ffffff"/>',
        f'<path d="M{_place(0, _TOP)} L{_place(0, _LOW)} L{_place(_RIGHT, _LOW)}" fill="none" '
        'stroke="#5f6368"/>',
        f'<text x="{_LEFT + _WIDE / 2:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">'
        "tokens a second of one user</text>",
        f'<text x="{_LEFT}" y="14">output tokens a second of a host</text>',
    ]
    for user in range(10, _RIGHT + 1, 10):
        x, y = _place(user, _LOW).split(",")
        parts.append(f'<text x="{x}" y="{int(y) + 16}" text-anchor="middle">{user}</text>')
    for host in (_LOW, 1_000, 10_000, _TOP):
        x, y = _place(0, host).split(",")
        parts.append(f'<text x="{int(x) - 6}" y="{int(y) + 4}" text-anchor="end">{host:,}</text>')
    for number, (drawn, environments) in enumerate(named.items()):
        color, at = _COLORS[number % len(_COLORS)], 40 + 20 * number
        parts.append(f'<polyline points="{" ".join(drawn)}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.append(
            f'<text x="{_WIDTH - _LEGEND + 20}" y="{at}" fill="{color}">{", ".join(environments)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _place(user: float, host: float) -> str:
    """Return where a point lies: tokens a second of a user, and of a host on a logarithmic scale."""
    up = math.log(max(host, _LOW) / _LOW) / math.log(_TOP / _LOW)
    return f"{_LEFT + _WIDE * user / _RIGHT:.0f},{20 + (_HEIGHT - _BOTTOM - 20) * (1 - up):.0f}"
