"""What a measurement's client is told (client/measure.py reads it), and what it is held to."""

from __future__ import annotations

import secrets
from typing import Any

from manyhost import __version__
from manyhost.benchmark import gate
from manyhost.benchmark.gate import Deployed, Expected
from manyhost.benchmark.points import Point
from manyhost.benchmark.runners import Runner
from manyhost.catalog.engine import version_in
from manyhost.catalog.scenario import Questions
from manyhost.plan import Plan

_WARM_UP_REQUESTS = 32
_WARM_UP_TOKENS = 64
_CALIBRATION_REQUESTS = 64  # or one for each stream
_CALIBRATION_SECONDS = 600
_SAMPLES = 300  # of the engine's counters in a measurement that just keeps the objectives
_MOST_PROCESSES = 16  # of a client; more need more pods
_SEEDS = 1 << 25
# vLLM's cache configuration (vllm:cache_config_info) by the flag that sets it.
_CACHE = {
    "block-size": "block_size",
    "enable-prefix-caching": "enable_prefix_caching",
    "gpu-memory-utilization": "gpu_memory_utilization",
    "kv-cache-dtype": "cache_dtype",
}


def spec(
    point: Point, plan: Plan, questions: Questions, runner: Runner, *, url: str, metrics: list[str]
) -> dict[str, Any]:
    """Return what the client of one measurement is told.

    Args:
        point: What to measure.
        plan: Of the service.
        questions: To ask before.
        runner: What sends the load.
        url: Of the service.
        metrics: Of each of its engines.
    """
    load = point.load
    streams = load.concurrency or load.requests
    if load.rate:  # as many as there are when requests just keep the objectives
        one = (point.slo.ttft_ms + point.slo.tpot_ms * load.output_tokens) / 1000
        streams = max(1, min(load.requests, round(load.rate * one)))
    # Each measurement sends prompts of its own: those of one that was cut off may be in the prefix cache.
    seed = secrets.randbelow(_SEEDS)
    return {
        "key": point.key,
        "url": url,
        "metrics": metrics,
        "model": plan.model.served_name,
        "tool": runner.tool,
        "distribution": runner.distribution,
        "version": "" if runner.distribution else __version__,
        "command": list(runner.words),
        "values": runner.values,
        "requests": load.requests,
        "concurrency": load.concurrency,
        "seed": seed,
        "limit_seconds": point.limit_seconds,
        "sample_seconds": max(1.0, point.estimate_seconds / _SAMPLES),
        "questions": {
            "prompts": gate.prompts(questions, trained=plan.model.trained),
            "most_tokens": min(questions.most_tokens, plan.settings.context // 2),
        },
        "warm_up": {
            "requests": min(streams, _WARM_UP_REQUESTS),
            "input_tokens": load.input_tokens,
            "output_tokens": min(load.output_tokens, _WARM_UP_TOKENS),
            "vocabulary": plan.model.architecture.vocabulary,
            "seed": seed,
        },
        "calibration": {
            "streams": streams,
            "requests": max(streams, _CALIBRATION_REQUESTS),
            "values": runner.steady,
            "most_processes": min(_MOST_PROCESSES, streams),
            "limit_seconds": _CALIBRATION_SECONDS,
            "budget_ms": gate.BUDGET_MS,
            "budget_share": gate.BUDGET_SHARE,
            "judged": list(gate.JUDGED),
        },
    }


def expected(point: Point, plan: Plan, questions: Questions, deployed: tuple[Deployed, ...]) -> Expected:
    """Return what the gate holds the evidence to."""
    arguments = plan.main.arguments
    cache = {name: str(arguments[flag]) for flag, name in _CACHE.items() if flag in arguments}
    if cache.get("cache_dtype") == "auto":
        del cache["cache_dtype"]  # the server says what it has chosen
    return Expected(
        key=point.key,
        load=point.load,
        engine=version_in(plan.engine.version).removeprefix("v"),
        model=plan.model.served_name,
        context=plan.settings.context,
        cache=cache,
        trained=plan.model.trained,
        questions=questions,
        deployed=deployed,
    )
