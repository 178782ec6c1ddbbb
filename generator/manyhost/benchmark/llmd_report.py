"""A measurement as the field's benchmark report, for other tools: llm-d/llm-d-benchmark's schema 0.2.1.

Its package (PyPI, llmd-benchmark-report 0.2.1) brings pydantic and numpy, so the document is written out
here, and a test has the package validate it. Withheld numbers are left out of it as they are of ours.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from manyhost.benchmark.evidence import Statistic
from manyhost.benchmark.result import Deployment, Measurement, Metrics, Role

VERSION = "0.2.1"
_PLACES = {"serve": "replica", "prefill": "prefill", "decode": "decode"}
_TOOLS = {"vllm": "vllm-benchmark"}


def llmd_report(measured: Measurement, deployment: Deployment, run_id: str) -> dict[str, Any]:
    """Return the document."""
    name, numbers = f"{measured.point}-{measured.repetition}", measured.metrics
    return {
        "version": VERSION,
        "run": {
            "uid": f"{run_id}-{name}",
            "eid": run_id,
            "time": {"start": measured.started, "end": measured.finished},
            "description": f"{deployment.recipe}, scenario {measured.scenario}, point {measured.point}",
            "keywords": [measured.scenario, *([] if measured.passed else ["numbers-withheld"])],
        },
        "scenario": {
            "stack": [_component(role, deployment) for role in deployment.roles],
            "load": _load(measured),
        },
        "results": {"request_performance": {"aggregate": _aggregate(numbers)}} if numbers else {},
    }


def _component(role: Role, deployment: Deployment) -> dict[str, Any]:
    gpus = role.tensor * role.pipeline * role.data if deployment.gpus else 0
    return {
        "metadata": {"label": f"vllm-{role.name}", "cfg_id": _hash(role)},
        "standardized": {
            "kind": "inference_engine",
            "tool": "vllm",
            "tool_version": deployment.image,
            "role": _PLACES[role.name],
            "replicas": role.groups,
            "model": {"name": deployment.model},
            "accelerator": {
                "model": deployment.gpu,
                "count": gpus * role.groups,
                "parallelism": {"tp": role.tensor, "pp": role.pipeline, "dp": role.data},
            },
        },
        "native": {"args": role.arguments},
    }


def _load(measured: Measurement) -> dict[str, Any]:
    load = measured.load

    def length(tokens: int) -> dict[str, Any]:
        if not load.spread:
            return {"distribution": "fixed", "value": tokens}
        low, high = int(tokens * (1 - load.spread)), int(tokens * (1 + load.spread))
        return {"distribution": "uniform", "value": tokens, "min": low, "max": max(1, high)}

    standardized: dict[str, Any] = {
        "tool": _TOOLS.get(measured.client.tool, measured.client.tool),
        "tool_version": measured.client.version,
        "parallelism": max(1, len(measured.client.commands)),
        "source": "random",
        "stage": measured.point,
        "input_seq_len": length(load.input_tokens),
        "output_seq_len": length(load.output_tokens),
    }
    standardized |= {"rate_qps": load.rate} if load.rate else {}
    standardized |= {"concurrency": load.concurrency} if load.concurrency else {}
    if load.prefix_tokens:
        standardized["prefix"] = {
            "prefix_len": {"distribution": "fixed", "value": load.prefix_tokens},
            "num_groups": load.prefix_count,
            "num_users_per_group": 1,
            "num_prefixes": 1,
        }
    return {
        "metadata": {"cfg_id": _hash(load), "description": measured.scenario},
        "standardized": standardized,
        "native": {"config": {"commands": measured.client.commands}},
    }


def _aggregate(found: Metrics) -> dict[str, Any]:
    times = found.latencies
    latency = {
        "time_to_first_token": _statistics(times.ttft_ms, "ms"),
        "time_per_output_token": _statistics(times.tpot_ms, "ms/token"),
        # Gaps between chunks: of tokens only where each chunk has one.
        "inter_token_latency": _statistics(times.itl_ms, "ms/token")
        if _one_each(found.tokens_per_chunk)
        else None,
        "request_latency": _statistics(times.e2e_ms, "ms"),
    }
    done = max(1, found.completed)
    return {
        "requests": {
            "total": found.sent,
            "failures": found.sent - found.completed,
            "input_length": {"units": "count", "mean": found.input_tokens / done},
            "output_length": {"units": "count", "mean": found.output_tokens / done},
        },
        "latency": {name: value for name, value in latency.items() if value},
        "throughput": {
            "output_token_rate": {"units": "tokens/s", "mean": found.output_token_rate},
            "total_token_rate": {"units": "tokens/s", "mean": found.total_token_rate},
            "request_rate": {"units": "queries/s", "mean": found.request_rate},
        },
    }


def _one_each(tokens_per_chunk: float) -> bool:
    return abs(tokens_per_chunk - 1) <= 0.01


def _statistics(found: Statistic | None, units: str) -> dict[str, Any] | None:
    if not found or found.mean is None:  # the schema has no distribution without a mean
        return None
    fields = {
        name: value
        for name, value in msgspec.structs.asdict(found).items()
        if name != "count" and value is not None
    }
    return {"units": units, **fields}


def _hash(part: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(part, order="sorted")).hexdigest()[:32]
