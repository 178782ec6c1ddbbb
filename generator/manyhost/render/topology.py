"""A picture of a release: its groups, their hosts, GPUs and NICs, and the fabric that joins them."""

from __future__ import annotations

from manyhost.catalog.interconnect import Sockets
from manyhost.plan import Plan, Role, table

_COLOURS = ("#2f6fb7", "#c2571a", "#3b8a4e", "#8a4fa3", "#9a7b16", "#b8375f", "#1f8a8a", "#6b6b6b")
_GPU_WIDTH, _GPU_HEIGHT, _GAP, _MARGIN = 92, 58, 10, 24
_NIC_HEIGHT = 24
_HOST_HEIGHT = 168
_GROUPS_DRAWN = 3  # of each role; the others are counted in words
_HOSTS_DRAWN = 4  # of each group
_BUS = 26  # between the hosts of a group
_LETTER = 7.4  # at 13 pixels, cautiously
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})


def topology_svg(plan: Plan) -> bytes:
    """Return the picture as SVG text, readable without colours too: every box is labelled."""
    per_host = max(plan.gpus_per_host, 1)
    crosses = any(role.hosts > 1 for role in plan.roles)
    fabric = plan.interconnect.description if crosses else "one host a group"
    subtitle = (
        f"{table.groups(plan)} {plan.environment.host.machine_type} · {plan.engine} "
        f"({plan.settings.engine.executor}) · {fabric}"
    )
    boxes = per_host * (_GPU_WIDTH + _GAP) - _GAP + 6 * _MARGIN
    width = max(boxes, 700, 2 * _MARGIN + int(_LETTER * len(subtitle)))
    body: list[str] = []
    top = 92
    for role in plan.roles:
        drawn = min(role.groups, _GROUPS_DRAWN)
        for group in range(drawn):
            parts, top = _group(plan, role, group, top, width)
            body += parts
        if role.groups > drawn:
            more = role.groups - drawn
            body.append(_text(_MARGIN, top + 4, f"and {more} more group{'s' * (more > 1)} like these"))
            top += 28
        if role.name == "prefill" and plan.handover:
            moved = f"{plan.handover.bytes / 1e6:,.1f} MB of KV cache a request"
            body.append(_text(width / 2, top + 6, f"↓ {moved} ↓", anchor="middle", weight="bold"))
            top += 30
    legend, bottom = _legend(plan, top + 8)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom}" width="{width}" '
        f'height="{bottom}" font-family="sans-serif" font-size="13">',
        f"<title>{_escape(plan.recipe)}</title>",
        f'<rect width="{width}" height="{bottom}" fill="#ffffff"/>',
        _text(_MARGIN, 32, plan.recipe, size=20, weight="bold"),
        _text(_MARGIN, 54, subtitle, colour="#444444"),
        _text(_MARGIN, 74, _sizes(plan), colour="#444444"),
    ]
    return ("\n".join([*parts, *body, *legend, "</svg>"]) + "\n").encode()


def _sizes(plan: Plan) -> str:
    found = []
    for role in plan.roles:
        p = role.parallelism
        name = "" if role.name == "serve" else f"{role.name}: "
        found.append(f"{name}tensor {p.tensor} × pipeline {p.pipeline} × data {p.data}")
    return " · ".join(dict.fromkeys(found))


def _group(plan: Plan, role: Role, group: int, top: int, width: int) -> tuple[list[str], int]:
    """Return the box of one group and where the next one begins."""
    drawn = min(role.hosts, _HOSTS_DRAWN)
    height = 34 + drawn * _HOST_HEIGHT + (drawn - 1) * _BUS + 14 + (20 if role.hosts > drawn else 0)
    name = f"{'' if role.name == 'serve' else role.name} group {group}".strip()
    hosts = f"{role.hosts} host{'s' * (role.hosts > 1)}"
    parts = [
        f'<rect x="{_MARGIN / 2}" y="{top}" width="{width - _MARGIN}" height="{height}" rx="10" '
        f'fill="none" stroke="#8b93a0" stroke-dasharray="5 4"/>',
        _text(_MARGIN, top + 22, f"{name} · {hosts}", weight="bold"),
    ]
    at = top + 34
    for host in range(drawn):
        parts += _host(plan, role, host, at, width)
        at += _HOST_HEIGHT
        if host + 1 < drawn:
            parts += _bus(plan, at, width)
            at += _BUS
    if role.hosts > drawn:
        parts.append(_text(_MARGIN * 2, at + 16, f"and {role.hosts - drawn} more hosts on the same fabric"))
        at += 20
    return parts, at + 14 + 12


def _bus(plan: Plan, top: int, width: int) -> list[str]:
    """The fabric between two hosts of a group."""
    middle = top + _BUS / 2
    points = plan.interconnect.bandwidth.points
    rate = f", {max(p.gbytes_per_second for p in points):g} GB/s published" if points else ""
    label = f"{plan.interconnect.name}: {plan.interconnect.description}{rate}"
    return [
        f'<line x1="{_MARGIN * 2}" y1="{middle}" x2="{width - 2 * _MARGIN}" y2="{middle}" '
        'stroke="#1b1f24" stroke-width="3"/>',
        f'<line x1="{width / 2}" y1="{top}" x2="{width / 2}" y2="{top + _BUS}" '
        'stroke="#1b1f24" stroke-width="3"/>',
        f'<rect x="{width / 2 - 3.5 * len(label) - 8}" y="{top + 3}" width="{7 * len(label) + 16}" '
        f'height="{_BUS - 6}" rx="4" fill="#ffffff" stroke="#1b1f24"/>',
        _text(width / 2, middle + 5, label, anchor="middle", size=12),
    ]


def _host(plan: Plan, role: Role, host: int, top: int, width: int) -> list[str]:
    member = "leader" if host == 0 else "worker"
    kind = "GPU" if plan.gpus_per_host else "CPU rank"
    per_host = max(plan.gpus_per_host, 1)
    summary = plan.weights.path or "local SSD"
    left = 2 * _MARGIN
    parts = [
        f'<rect x="{_MARGIN}" y="{top}" width="{width - 2 * _MARGIN}" height="{_HOST_HEIGHT}" rx="8" '
        f'fill="#f6f7f9" stroke="#5c6470"/>',
        _text(left, top + 22, f"host {host} · {member}", weight="bold"),
        _text(width - 2 * _MARGIN, top + 22, f"weights: {summary}", anchor="end", colour="#444444"),
    ]
    y = top + 34
    sizes = role.parallelism
    for gpu in range(per_host):
        rank = host * per_host + gpu
        tensor_rank = rank % sizes.tensor
        stage = (rank // sizes.tensor) % sizes.pipeline
        x = left + gpu * (_GPU_WIDTH + _GAP)
        colour = _COLOURS[stage % len(_COLOURS)]
        label = f"{kind} {gpu}: rank {rank}, tensor rank {tensor_rank}, pipeline stage {stage}"
        middle = x + _GPU_WIDTH / 2
        parts += [
            f"<g><title>{_escape(label)}</title>",
            f'<rect x="{x}" y="{y}" width="{_GPU_WIDTH}" height="{_GPU_HEIGHT}" rx="5" fill="{colour}"/>',
            _text(middle, y + 24, f"{kind} {gpu}", anchor="middle", colour="#ffffff"),
            _text(
                middle, y + 43, f"tp {tensor_rank} · pp {stage}", anchor="middle", colour="#ffffff", size=12
            ),
            "</g>",
        ]
    parts += _nics(plan, role, y + _GPU_HEIGHT, left)
    return parts


def _nics(plan: Plan, role: Role, top: int, left: int) -> list[str]:
    """Each NIC below the GPUs that it carries; those of the host itself in a line below.

    Pods of one host with no fabric have the cluster's network alone (_pod.tpl of the chart).
    """
    attached = role.hosts > 1 or not isinstance(plan.interconnect, Sockets)
    nics = zip(plan.environment.host.nics, plan.networks, strict=True) if attached else ()
    per_host = max(plan.gpus_per_host, 1)
    parts: list[str] = []
    own: list[str] = []
    y = top + 16
    for index, (nic, name) in enumerate(nics):
        gpus = [gpu for gpu in nic.gpus if gpu < per_host]
        label = f"eth{index} {name}" if nic.mode or not nic.gpus else name
        if not gpus:
            if not nic.gpus:
                own.append(label)
            continue
        first, last = (left + gpu * (_GPU_WIDTH + _GAP) for gpu in (min(gpus), max(gpus)))
        for gpu in gpus:
            middle = left + gpu * (_GPU_WIDTH + _GAP) + _GPU_WIDTH / 2
            parts.append(f'<line x1="{middle}" y1="{top}" x2="{middle}" y2="{y}" stroke="#5c6470"/>')
        box, of = last + _GPU_WIDTH - first, ", ".join(map(str, gpus))
        parts += [
            f"<g><title>{_escape(f'NIC {label} of GPU {of}')}</title>",
            f'<rect x="{first}" y="{y}" width="{box}" height="{_NIC_HEIGHT}" rx="4" fill="#ffffff" '
            f'stroke="#5c6470"/>',
            _text(first + box / 2, y + 17, _short(label, int(box / 6.6)), anchor="middle", size=12),
            "</g>",
        ]
    control = plan.environment.host.interface
    line = ", ".join(own) if own else f"{control} cluster network"
    parts.append(_text(left, y + _NIC_HEIGHT + 24, f"{line}: control, API", colour="#444444"))
    return parts


def _legend(plan: Plan, top: int) -> tuple[list[str], int]:
    """Return the legend of the pipeline stages and where the picture ends."""
    parts: list[str] = []
    role, y = plan.main, top
    first = 0
    for stage, layers in enumerate(role.pipeline_layers[: len(_COLOURS)]):
        held = role.memory.weights_gib if role.memory else role.weights.gib if role.weights else ()
        weights = f", {held[stage]:.1f} GiB of weights a GPU" if held else ""
        text = f"pipeline stage {stage}: layers {first} to {first + layers - 1}{weights}"
        parts += [
            f'<rect x="{_MARGIN}" y="{y}" width="16" height="16" rx="3" fill="{_COLOURS[stage]}"/>',
            _text(_MARGIN + 24, y + 13, text),
        ]
        first += layers
        y += 22
    if (more := len(role.pipeline_layers) - len(_COLOURS)) > 0:
        parts.append(_text(_MARGIN + 24, y + 13, f"and {more} more stages, in the same colours again"))
        y += 22
    return parts, y + 16


def _escape(text: str) -> str:
    return text.translate(_ENTITIES)


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 13,
    weight: str = "normal",
    anchor: str = "start",
    colour: str = "#1b1f24",
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{colour}">{_escape(text)}</text>'
    )
