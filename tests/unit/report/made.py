"""Runs in folders, as manyhost bench writes them, of whatever speed and fault a test wants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manyhost.benchmark import store
from manyhost.benchmark.bench import cost_inputs, describe
from manyhost.benchmark.measurement import measurement, summary
from manyhost.benchmark.points import Point, points
from manyhost.benchmark.result import Figure, Run

from tests.unit.benchmark import sample

GPUS = "a3mega/deepseek-r1-671b"


def loads(recipe: str, scenario: str, count: int) -> list[Point]:
    return list(points(sample.plan(recipe), sample.CATALOG.scenario(scenario, recipe)))[:count]


def series(
    running: float, waiting: float = 0.0, kv_usage: float = 0.3, tokens: float = 50.0, count: int = 20
) -> dict[str, list[float]]:
    """Return what the engines' counters said once a second, the load's end included."""
    return {
        "seconds": [float(second) for second in range(count)],
        "running": [running] * (count - 1) + [0.0],
        "waiting": [waiting] * count,
        "kv_usage": [kv_usage] * count,
        "preemptions": [0.0] * count,
        "generation_tokens": [900 + tokens * second for second in range(count)],
        "prompt_tokens": [0.0] * count,
        "resident_bytes": [1e9] * count,
    }


def document(point: Point, seconds: float, recipe: str, **changes: Any) -> dict[str, Any]:
    """Return the client's JSON of a measurement that takes so many seconds."""
    plan = sample.plan(recipe)
    found = sample.document(point, trained=plan.model.trained)
    version = plan.engine.version.removeprefix("v").removesuffix("-cpu")
    server = {"version": version, "model": plan.model.served_name, "context": plan.settings.context}
    found["server"] = {**server, "cache_config": {}}
    found |= {"seconds": seconds, "series": series(4)} | changes
    requests = found["requests"]
    last = round(seconds * 1e6) - requests["e2e_us"][-1]  # it is sent so late that all take so long
    return found | {"requests": requests | {"start_us": [*requests["start_us"][:-1], last]}}


def written(
    folder: Path,
    seconds: Sequence[Sequence[float]],
    *,
    recipe: str = sample.RECIPE,
    scenario: str = "ramp",
    gpus: Sequence[Figure] = (),
    **changes: Any,
) -> Path:
    """Write a run and return its folder.

    Args:
        folder: Where.
        seconds: Of each point the duration of each measurement.
        recipe: What is measured.
        scenario: The load.
        gpus: What a Prometheus has seen of them.
        changes: Fields of the client's JSON, of every measurement.
    """
    plan = sample.plan(recipe)
    deployment = describe(plan, {}, release="r", namespace="n")
    summaries = []
    for point, times in zip(loads(recipe, scenario, len(seconds)), seconds, strict=True):
        measured = [
            measurement(
                point,
                again,
                sample.evidence(document(point, took, recipe, **changes)),
                sample.wanted(point, recipe),
                tool="vllm",
                place="job",
                node="host-1",
                gpus=gpus,
            )
            for again, took in enumerate(times)
        ]
        for each in measured:
            store.save(folder, each, deployment)
        summaries.append(summary(point, measured))
    run = Run(
        id=folder.name,
        scenario=scenario,
        program="0.1.0",
        started="2027-01-15T08:00:00.000Z",
        updated="2027-01-15T09:00:00.000Z",
        complete=True,
        deployment=deployment,
        cost=cost_inputs(plan),
        points=summaries,
    )
    store.save_run(folder, run)
    return folder
