"""How long a cold start takes; probe budgets come from it."""

from __future__ import annotations

import math

from manyhost.catalog import Engine, Model

# Bytes per second into one host. Each is cautious: a budget that is too small restarts a healthy group.
READ_RATES = {
    # "up to 30 minutes" for R1 (AI-Hypercomputer/gpu-recipes, inference READMEs)
    "hub": 0.38e9,
    # 140 GB in 35 s when tuned (GoogleCloudPlatform/accelerated-platforms,
    # AchievingFasterPodStartup.md); a quarter of it
    "bucket": 1.0e9,
    "folder": 2.0e9,
}
_PULL_GIB_PER_SECOND = 0.15
_SCHEDULE_SECONDS = 30
_IMPORT_SECONDS = (
    60  # process start, imports, model class, NCCL: 24-47 s measured (docs/reference/gpu-comparison.md)
)
_MARGIN = 2


def cold_start(model: Model, engine: Engine, source: str) -> tuple[tuple[str, int], ...]:
    """Return the phases of a cold start on one host with their seconds, in order.

    Args:
        model: Its weights are read once by every host.
        engine: Its image is pulled, and it compiles.
        source: hub, bucket or folder.
    """
    return (
        ("schedule", _SCHEDULE_SECONDS),
        ("image", math.ceil(engine.image_gib / _PULL_GIB_PER_SECOND)),
        ("import", _IMPORT_SECONDS),
        ("weights", math.ceil(model.weights_bytes / READ_RATES[source])),
        ("compile", engine.compile_seconds),
    )


def budget_seconds(phases: tuple[tuple[str, int], ...]) -> int:
    """Return the start-up budget of the engine: twice its own phases, in whole minutes, at least ten."""
    own = sum(seconds for name, seconds in phases if name not in ("schedule", "image"))
    return max(600, math.ceil(own * _MARGIN / 60) * 60)
