"""A picture of one group: hosts, GPUs, NICs, and the tensor and pipeline parallel groups."""

from __future__ import annotations

from manyhost.plan import Plan, table

_COLOURS = ("#2f6fb7", "#c2571a", "#3b8a4e", "#8a4fa3", "#9a7b16", "#b8375f", "#1f8a8a", "#6b6b6b")
_GPU_WIDTH, _GPU_HEIGHT, _GAP, _MARGIN = 88, 64, 10, 24
_HOST_HEIGHT = 196
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})


def topology_svg(plan: Plan) -> bytes:
    """Return the picture as SVG text, readable without colours too: every box is labelled."""
    per_host = max(plan.gpus_per_host, 1)
    width = max(per_host * (_GPU_WIDTH + _GAP) - _GAP + 4 * _MARGIN, 640)
    header = 84
    legend = 22 * min(plan.pipeline, len(_COLOURS)) + 40
    duties = ("prefill", "decode") if plan.prefill_groups else ("",)
    height = header + len(duties) * plan.hosts_per_group * (_HOST_HEIGHT + _MARGIN) + legend
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="13">',
        f"<title>{_escape(plan.recipe)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(_MARGIN, 32, plan.recipe, size=20, weight="bold"),
        _text(
            _MARGIN,
            56,
            f"{_groups(plan)} of {plan.hosts_per_group} {plan.environment.host.machine_type} · "
            f"tensor {plan.tensor} × pipeline {plan.pipeline} × data {plan.data} · "
            f"vLLM {plan.engine.version} ({plan.executor}) · {plan.interconnect.name}",
            colour="#444444",
        ),
    ]
    top = header
    for duty in duties:
        for host in range(plan.hosts_per_group):
            parts += _host(plan, duty, host, top, width)
            top += _HOST_HEIGHT + _MARGIN
    parts += _legend(plan, top + 8)
    parts.append("</svg>")
    return ("\n".join(parts) + "\n").encode()


def _groups(plan: Plan) -> str:
    if plan.handover:
        return (
            f"{table.groups(plan)}, {plan.handover.bytes / 1e6:,.1f} MB of KV cache a request between them,"
        )
    return f"{plan.groups} group(s)"


def _host(plan: Plan, duty: str, host: int, top: int, width: int) -> list[str]:
    role = "leader" if host == 0 else "worker"
    name = f"{duty} host {host} · {role}".strip()
    kind = "GPU" if plan.gpus_per_host else "CPU rank"
    per_host = max(plan.gpus_per_host, 1)
    networks = len(plan.networks)
    summary = plan.weights_path or "local SSD"
    parts = [
        f'<rect x="{_MARGIN}" y="{top}" width="{width - 2 * _MARGIN}" height="{_HOST_HEIGHT}" rx="8" '
        f'fill="#f6f7f9" stroke="#5c6470"/>',
        _text(_MARGIN * 2, top + 24, name, weight="bold"),
        _text(width - 2 * _MARGIN, top + 24, f"weights: {summary}", anchor="end", colour="#444444"),
    ]
    for gpu in range(per_host):
        rank = host * per_host + gpu
        tensor_rank = rank % plan.tensor
        stage = (rank // plan.tensor) % plan.pipeline
        x = 2 * _MARGIN + gpu * (_GPU_WIDTH + _GAP)
        y = top + 38
        colour = _COLOURS[stage % len(_COLOURS)]
        label = f"{kind} {gpu}: rank {rank}, tensor rank {tensor_rank}, pipeline stage {stage}"
        parts += [
            f"<g><title>{_escape(label)}</title>",
            f'<rect x="{x}" y="{y}" width="{_GPU_WIDTH}" height="{_GPU_HEIGHT}" rx="5" fill="{colour}"/>',
            _text(x + _GPU_WIDTH / 2, y + 26, f"{kind} {gpu}", anchor="middle", colour="#ffffff"),
            _text(
                x + _GPU_WIDTH / 2,
                y + 46,
                f"tp {tensor_rank} · pp {stage}",
                anchor="middle",
                colour="#ffffff",
                size=12,
            ),
            "</g>",
        ]
        if networks > 1:
            name = plan.networks[gpu + 1] if gpu + 1 < networks else plan.networks[0]
            parts += [
                f'<line x1="{x + _GPU_WIDTH / 2}" y1="{y + _GPU_HEIGHT}" x2="{x + _GPU_WIDTH / 2}" '
                f'y2="{y + _GPU_HEIGHT + 18}" stroke="#5c6470"/>',
                f'<rect x="{x}" y="{y + _GPU_HEIGHT + 18}" width="{_GPU_WIDTH}" height="24" rx="4" '
                f'fill="#ffffff" stroke="#5c6470"/>',
                _text(
                    x + _GPU_WIDTH / 2,
                    y + _GPU_HEIGHT + 35,
                    _short(f"eth{gpu + 1} {name}"),
                    anchor="middle",
                    size=12,
                ),
            ]
    control = plan.networks[0] if plan.networks else "cluster network"
    eth0 = f"{plan.environment.socket_interface} {control}: control, API"
    parts.append(_text(2 * _MARGIN, top + _HOST_HEIGHT - 14, eth0, colour="#444444"))
    return parts


def _legend(plan: Plan, top: int) -> list[str]:
    parts: list[str] = []
    first = 0
    for stage, layers in enumerate(plan.pipeline_layers[: len(_COLOURS)]):
        y = top + 22 * stage
        weights = f", {plan.memory.weights_gib[stage]:.1f} GiB of weights a GPU" if plan.memory else ""
        parts += [
            f'<rect x="{_MARGIN}" y="{y}" width="16" height="16" rx="3" fill="{_COLOURS[stage]}"/>',
            _text(
                _MARGIN + 24,
                y + 13,
                f"pipeline stage {stage}: layers {first} to {first + layers - 1}{weights}",
            ),
        ]
        first += layers
    return parts


def _escape(text: str) -> str:
    return text.translate(_ENTITIES)


def _short(text: str, limit: int = 14) -> str:
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
