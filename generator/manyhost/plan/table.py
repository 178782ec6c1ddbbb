"""The plan as a short table for people and as JSON for programs."""

from __future__ import annotations

from typing import Any

import msgspec

from manyhost.catalog.environment import Gke, RunPod
from manyhost.plan import arguments
from manyhost.plan.plan import Plan


def rows(plan: Plan) -> list[tuple[str, str]]:
    """Return (label, text) pairs, the facts someone checks before paying for hosts."""
    host, recipe = plan.environment.host, plan.settings
    per_host = f"{plan.gpus_per_host} x {host.gpu}" if host.gpus else "no GPU"
    result = [
        ("recipe", f"{plan.recipe}: {recipe.description}"),
        ("hosts", f"{groups(plan)} {host.machine_type} ({per_host})"),
    ]
    for role in plan.roles:
        of = "" if role.name == "serve" else f"{role.name}: "
        sizes = role.parallelism
        result.append(
            (
                "parallelism",
                f"{of}tensor {sizes.tensor} x pipeline {sizes.pipeline} x data {sizes.data}; "
                f"layers per stage {' + '.join(map(str, role.pipeline_layers))}",
            )
        )
    result += [
        ("engine", f"{plan.engine}, executor {recipe.engine.executor}, image {plan.image}"),
        ("interconnect", f"{plan.interconnect.name}; networks {', '.join(plan.networks) or 'cluster only'}"),
        ("weights", f"{plan.model.weights_bytes / 1e9:.1f} GB from {plan.weights.path or plan.model.hub_id}"),
    ]
    for role in plan.roles:
        if role.memory:
            of, m = "" if role.name == "serve" else f"{role.name}: ", role.memory
            result.append(
                (
                    "memory",
                    f"{of}per GPU {m.usable_gib:.1f} GiB usable: weights {max(m.weights_gib):.1f}, "
                    f"activations, graphs and NCCL ~{m.overhead_gib:.1f}, "
                    f"KV {m.kv_gib:.1f} = {m.kv_tokens:,} tokens "
                    f"({m.concurrency:g} requests of {recipe.context:,})",
                )
            )
            given = arguments.seats(role.arguments, plan.engine.flag_names)
            result.append(
                (
                    "seats",
                    f"{of}{plan.engine.flag_names.seats} {given or 'is up to the engine'}; "
                    f"the KV cache serves {role.seats} of "
                    f"{role.traffic.input_tokens:,} + {role.traffic.output_tokens:,} tokens",
                )
            )
        if role.weights:
            filled = f"{max(role.weights.gib):.1f} of {role.weights.usable_gib:.1f} GiB"
            result.append(
                (
                    "memory",
                    f"uncalibrated: per GPU {filled} are weights; what {plan.engine} takes beside them is "
                    "not measured, so KV tokens and seats are not known",
                )
            )
    if plan.handover:
        took = f", {plan.handover.seconds:g}s over {plan.interconnect.name}" if plan.handover.seconds else ""
        result.append(
            (
                "handover",
                f"{plan.handover.bytes / 1e6:,.1f} MB of KV cache a request of "
                f"{recipe.traffic.input_tokens:,} prompt tokens{took}",
            )
        )
    phases = ", ".join(f"{name} {seconds}s" for name, seconds in plan.cold_start)
    result.append(("cold start", f"~{sum(s for _, s in plan.cold_start)}s ({phases})"))
    again = plan.recreation
    usd = f" and {again.usd:.2f} USD" if again.usd else ""
    weights = "the weights are downloaded again" if again.downloads else "the weights are still there"
    result.append(("group made anew", f"~{again.seconds}s{usd}: {weights}"))
    result.append(("start budget", f"{plan.startup_seconds}s before a start counts as failed"))
    if host.gpus:
        held = plan.cost.usd_per_hour and plan.cost.usd_per_hour * plan.held_minutes / 60
        at_most = f" (at most {held:,.2f} USD)" if held else ""
        result.append(
            ("held at most", f"{plan.held_minutes} min without an answer{at_most}, then the hosts are freed")
        )
    if plan.capacity:
        result.append(("capacity", f"{plan.settings.capacity.mode}: {plan.capacity}"))
    result.append(("price", _price(plan)))
    return result


def _price(plan: Plan) -> str:
    cost, mode = plan.cost, plan.settings.capacity.mode
    if cost.usd_per_hour is None:
        if plan.environment.price is None and not isinstance(plan.environment.platform, Gke):
            if isinstance(plan.environment.platform, RunPod):
                return "not listed: RunPod says it to who asks"
            return "not listed: ask whoever owns the hosts"
        return f"nobody publishes one for {mode} {plan.environment.host.machine_type}: ask for a quote"
    if not cost.usd_per_hour:
        return "free: your own machine"
    others = {rate: usd for rate, usd in cost.usd_per_hour_by_rate.items() if usd != cost.usd_per_hour}
    also = f"; {', '.join(f'{rate} {usd:.2f}' for rate, usd in others.items())}" if others else ""
    if not cost.date:
        return f"{cost.usd_per_hour:.2f} USD/h, {cost.origin}"
    kind = "list" if cost.verified else "second-hand list"
    spoken = mode.replace("on-demand", "on demand")
    return f"{cost.usd_per_hour:.2f} USD/h {spoken} in {cost.region} ({kind} of {cost.date}{also})"


def groups(plan: Plan) -> str:
    """Return how many groups there are, by what they do, and their hosts."""
    if len(plan.roles) == 1:
        role = plan.roles[0]
        return f"{role.groups} group{'s' if role.groups > 1 else ''} of {role.hosts}"
    counts = [f"{role.groups} {role.name}" for role in plan.roles]
    sizes = dict.fromkeys(str(role.hosts) for role in plan.roles)
    return f"{' + '.join(counts)} groups of {' and '.join(sizes)}"


def to_json(plan: Plan) -> bytes:
    """Return the plan as stable, indented JSON; catalog entries by name, provenance included."""
    document: dict[str, Any] = {
        name: getattr(plan, name)
        for name in plan.__struct_fields__
        if name not in ("environment", "interconnect", "model", "engine", "resolved")
    }
    document |= {
        "environment": plan.environment.name,
        "interconnect": plan.interconnect.name,
        "model": plan.model.name,
        "engine": plan.engine.version,
        "hosts": plan.hosts,
        "gpus_per_host": plan.gpus_per_host,
        "cold_start": dict(plan.cold_start),
        "provenance": {key: history[-1][0] for key, history in plan.resolved.origins.items()},
    }
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2) + b"\n"
