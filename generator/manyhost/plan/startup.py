"""How long a cold start takes; probe budgets come from it."""

from __future__ import annotations

import math

import msgspec

from manyhost.catalog import Engine, Model

# Bytes per second into one host. Each is cautious: a budget that is too small restarts a healthy group.
READ_RATES = {
    # "up to 30 minutes" for R1, from the image to the loaded model (AI-Hypercomputer/gpu-recipes, inference
    # READMEs): it holds the reading after the download, too
    "hub": 0.38e9,
    # 140 GB in 35 s when tuned (GoogleCloudPlatform/accelerated-platforms,
    # AchievingFasterPodStartup.md); a quarter of it
    "bucket": 1.0e9,
    # "200-400 MB/s typical" of a standard network volume (runpod/docs, storage/network-volumes.mdx)
    "volume": 0.3e9,
    # R1's shards of 4.2 GB at 1.5 to 2 s each (vllm-project/vllm#19332); three a second on 8 x H200,
    # 12 GB/s (vllm-project/vllm#14965, sgl-project/sglang#3416)
    "folder": 2.0e9,
}
_PULL_GIB_PER_SECOND = 0.15
_SCHEDULE_SECONDS = 30
# Process start, imports, model class, NCCL. /health less "init engine" of each start in benchmarks/gpu:
# 26 to 41 s, and 65 s at the first start of a machine, with weights that need no reading.
_IMPORT_SECONDS = 60
_MARGIN = 2
_HELD_MARGIN_SECONDS = 1800  # nodes that come late, an image that is pulled


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


class Recreation(msgspec.Struct, frozen=True, kw_only=True):
    """What one group costs until it answers again after it was made anew on its hosts.

    Attributes:
        seconds: Its cold start, less the image, which the hosts still have.
        usd: List price of the group's hosts for that time; None where nobody publishes it.
        downloads: Whether the weights are downloaded once more.
    """

    seconds: int
    usd: float | None
    downloads: bool


def recreation(
    model: Model,
    phases: tuple[tuple[str, int], ...],
    *,
    downloads: bool,
    kept: bool,
    usd_per_hour: float | None,
) -> Recreation:
    """Return what it costs to make a group anew.

    Args:
        model: Its weights are read again.
        phases: Its cold start.
        downloads: Whether weights come from the hub into the pod's own volume, which ends with it.
        kept: Whether a download stays on the host.
        usd_per_hour: Price of the group's hosts.
    """
    seconds = sum(duration for name, duration in phases if name not in ("image", "weights"))
    weights = dict(phases)["weights"]
    seconds += math.ceil(model.weights_bytes / READ_RATES["folder"]) if kept else weights
    usd = None if usd_per_hour is None else round(usd_per_hour * seconds / 3600, 2)
    return Recreation(seconds=seconds, usd=usd, downloads=downloads)


def budget_seconds(phases: tuple[tuple[str, int], ...]) -> int:
    """Return the start-up budget of the engine: twice its own phases, in whole minutes, at least ten."""
    own = sum(seconds for name, seconds in phases if name not in ("schedule", "image"))
    return max(600, math.ceil(own * _MARGIN / 60) * 60)


def held_minutes(startup_seconds: int, attempts: int) -> int:
    """Return how long hosts may be held while nothing answers: the budget of all attempts, and a margin."""
    return math.ceil((startup_seconds * attempts + _HELD_MARGIN_SECONDS) / 60)
