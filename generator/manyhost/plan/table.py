"""The plan as a short table for people and as JSON for programs."""

from __future__ import annotations

from typing import Any

import msgspec

from manyhost.plan.plan import Plan


def rows(plan: Plan) -> list[tuple[str, str]]:
    """Return (label, text) pairs, the facts someone checks before paying for hosts."""
    host = plan.environment.host
    per_host = f"{plan.gpus_per_host} x {host.gpu}" if host.gpus else "no GPU"
    result = [
        ("recipe", f"{plan.recipe}: {plan.description}"),
        (
            "hosts",
            f"{groups(plan)} of {plan.hosts_per_group} {host.machine_type} ({per_host})",
        ),
        (
            "parallelism",
            f"tensor {plan.tensor} x pipeline {plan.pipeline} x data {plan.data}; "
            f"layers per stage {' + '.join(map(str, plan.pipeline_layers))}",
        ),
        ("engine", f"vLLM {plan.engine.version}, executor {plan.executor}, image {plan.image}:{plan.tag}"),
        ("interconnect", f"{plan.interconnect.name}; networks {', '.join(plan.networks) or 'cluster only'}"),
        ("weights", f"{plan.model.weights_bytes / 1e9:.1f} GB from {plan.weights_path or plan.model.hub_id}"),
    ]
    if plan.memory:
        m = plan.memory
        result.append(
            (
                "memory",
                f"per GPU {m.usable_gib:.1f} GiB usable: weights {max(m.weights_gib):.1f}, activations and "
                f"graphs ~{m.overhead_gib:.1f}, KV {m.kv_gib:.1f} = {m.kv_tokens:,} tokens "
                f"({m.concurrency:g} requests of {plan.context_tokens:,})",
            )
        )
    if plan.handover:
        took = f", {plan.handover.seconds:g}s over {plan.interconnect.name}" if plan.handover.seconds else ""
        result.append(
            (
                "handover",
                f"{plan.handover.bytes / 1e6:,.1f} MB of KV cache a request of "
                f"{plan.settings.traffic.input_tokens:,} prompt tokens{took}",
            )
        )
    phases = ", ".join(f"{name} {seconds}s" for name, seconds in plan.cold_start)
    result.append(("cold start", f"~{sum(s for _, s in plan.cold_start)}s ({phases})"))
    result.append(("start budget", f"{plan.startup_seconds}s before a start counts as failed"))
    price = plan.environment.price
    result.append(
        (
            "price",
            f"{plan.cost_per_hour_usd:.2f} USD/h on demand in {plan.cost_region} (list of {price.date})"
            if plan.cost_per_hour_usd
            else "free: your own machine",
        )
    )
    return result


def groups(plan: Plan) -> str:
    """Return how many groups there are, by what they do."""
    if plan.prefill_groups:
        return f"{plan.prefill_groups} prefill + {plan.groups} decode groups"
    return f"{plan.groups} group{'s' if plan.groups > 1 else ''}"


def to_json(plan: Plan) -> bytes:
    """Return the plan as stable, indented JSON; catalog entries by name, provenance included."""
    document: dict[str, Any] = {
        name: getattr(plan, name)
        for name in plan.__struct_fields__
        if name not in ("environment", "interconnect", "model", "engine", "settings", "resolved")
    }
    document |= {
        "environment": plan.environment.name,
        "interconnect": plan.interconnect.name,
        "model": plan.model.name,
        "engine": plan.engine.version,
        "cold_start": dict(plan.cold_start),
        "provenance": {key: history[-1][0] for key, history in plan.resolved.origins.items()},
    }
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2) + b"\n"
