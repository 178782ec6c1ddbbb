"""A picture of what was measured: groups, hosts and how the model is spread over them, as SVG text."""

from __future__ import annotations

from html import escape

from manyhost.benchmark.result import Deployment, Role
from manyhost.report.plots import label

_WIDTH, _HOST_WIDTH, _HOST_HEIGHT, _GAP, _LEFT = 720, 160, 54, 12, 10
_DRAWN = 4  # hosts of a row; the others are counted in words


def topology(of: Deployment) -> str:
    """Return the picture; inside a page it takes its colour of text."""
    parts: list[str] = []
    top = 20
    for role in of.roles:
        groups = f"{role.groups} group{'s' * (role.groups != 1)}"
        hosts = f"{role.hosts} host{'s' * (role.hosts != 1)}"
        name = "" if role.name == "serve" else f"{role.name}: "
        spread = ", ".join(
            f"{kind} {getattr(role, kind)}"
            for kind in ("tensor", "pipeline", "data")
            if getattr(role, kind) != 1
        )
        parts.append(label(_LEFT, top, f"{name}{groups} of {hosts}{spread and f', {spread}'}", "start"))
        drawn = min(role.hosts, _DRAWN)
        for host in range(drawn):
            parts += _host(of, role, host, _LEFT + host * (_HOST_WIDTH + _GAP), top + 12)
        if role.hosts > 1:
            middle = top + 12 + _HOST_HEIGHT + 8
            right = _LEFT + drawn * (_HOST_WIDTH + _GAP) - _GAP
            parts.append(
                f'<line x1="{_LEFT}" x2="{right}" y1="{middle}" y2="{middle}" stroke="currentColor" '
                'stroke-width="2"/>'
            )
            more = f"and {role.hosts - drawn} more, " if role.hosts > drawn else ""
            fabric = "TCP" if of.interconnect == "none" else of.interconnect
            parts.append(label(_LEFT, middle + 16, f"{more}joined by {fabric}", "start"))
            top += 24
        top += 12 + _HOST_HEIGHT + 26
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" role="img" '
            'font-family="sans-serif" font-size="12">',
            f"<title>{escape(f'{of.recipe} on {of.hosts} {of.machine_type}')}</title>",
            *parts,
            "</svg>",
        ]
    )


def _host(of: Deployment, role: Role, host: int, left: int, top: int) -> list[str]:
    hosts = sum(each.hosts * each.groups for each in of.roles)
    gpus = of.gpus // hosts if hosts else 0
    # Stages are dealt to the hosts of a group in their order.
    stages = max(1, role.pipeline // role.hosts)
    first = host * stages
    last = first + stages - 1
    stage = f"stage {first}" if first == last else f"stages {first} to {last}"
    return [
        f'<rect x="{left}" y="{top}" width="{_HOST_WIDTH}" height="{_HOST_HEIGHT}" rx="6" fill="none" '
        'stroke="currentColor"/>',
        label(left + _HOST_WIDTH / 2, top + 22, f"{gpus} {of.gpu}" if gpus else of.machine_type, "middle"),
        label(left + _HOST_WIDTH / 2, top + 42, stage if role.pipeline > 1 else f"host {host}", "middle"),
    ]
