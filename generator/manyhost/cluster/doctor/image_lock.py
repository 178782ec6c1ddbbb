"""Whether the hosts can run what is inside the engine's image, as far as somebody has read what that is."""

from __future__ import annotations

import re

from manyhost.catalog import Catalog
from manyhost.catalog.engine import Engine, ImageLock, numbers
from manyhost.catalog.environment import Gke
from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed, skipped
from manyhost.cluster.doctor.hosts import Room, free_rooms
from manyhost.commands import line
from manyhost.plan import image

_ARCHITECTURE, _POOL = "kubernetes.io/arch", "cloud.google.com/gke-nodepool"
_GKE_DRIVER, _ACCELERATOR = "cloud.google.com/gke-gpu-driver-version", "cloud.google.com/gke-accelerator"
# Labels of GPU feature discovery, the newer name first (NVIDIA/k8s-device-plugin, docs/gpu-feature-discovery)
_DRIVER = ("nvidia.com/cuda.driver-version.major", "nvidia.com/cuda.driver.major")
# It puts the image's forward-compatible library of the driver first (vllm-project/vllm, vllm/envs.py).
_COMPATIBILITY = "VLLM_ENABLE_CUDA_COMPATIBILITY"
_SHOWN = 3  # hosts named in a message


@check("image-architecture", "Is the engine's image built for the hosts' processors?")
def image_architecture(sight: Sight) -> Finding:
    """The image lock against the label of the free hosts, since nothing else keeps pods off them."""
    built = _lock(sight).architectures
    if not built:
        return skipped(f"nobody has read what {sight.target.plan.image} is built for")
    free = free_rooms(sight)
    wrong = [room for room in free if room.labels.get(_ARCHITECTURE, built[0]) not in built]
    if not wrong:
        return passed(f"{sight.target.plan.image} is built for {' and '.join(built)}")
    has = " and ".join(sorted({room.labels[_ARCHITECTURE] for room in wrong}))
    enough = sum(room.pods for room in free) - sum(room.pods for room in wrong) >= sight.target.hosts
    return failed(
        f"{_named(wrong)}: {has}, and {sight.target.plan.image} is built for {' and '.join(built)}",
        "keep the pods off them: "
        + sight.commands.manyhost("deploy", "--set", f"node_selector.{_ARCHITECTURE}={built[0]}")
        if enough
        else f"set engine.image and engine.tag to an image for {has}, or add hosts of {built[0]}",
    )


@check("gpu-driver", "Is the hosts' GPU driver new enough for the image's CUDA?")
def gpu_driver(sight: Sight) -> Finding:
    """The image lock against what the labels of the free hosts tell of their driver."""
    plan = sight.target.plan
    if plan.engine.device != "cuda":
        return skipped("the engine needs no GPU")
    lock = _lock(sight)
    if not lock.minimum_driver:
        return skipped(f"nobody has read which driver {plan.image} needs")
    if str(plan.settings.variables.get(_COMPATIBILITY, "0")) not in ("", "0"):
        return skipped(f"{_COMPATIBILITY} is set: the image brings what an older driver lacks")
    told = [(room, branch) for room in free_rooms(sight) if (branch := _branch(sight, room))]
    if not told:
        return skipped("no free host tells its driver")
    old = [(room, branch) for room, branch in told if branch < lock.minimum_driver]
    if not old:
        return passed(f"drivers from R{min(branch for _, branch in told)} on run CUDA {lock.cuda}")
    branches = " and ".join(f"R{branch}" for branch in sorted({branch for _, branch in old}))
    return failed(
        f"{_named([room for room, _ in old])} have driver {branches}; CUDA {lock.cuda} in {plan.image} needs "
        f"R{lock.minimum_driver} or newer",
        _newer(sight, [room for room, _ in old], min(branch for _, branch in old), lock),
    )


def _branch(sight: Sight, room: Room) -> int:
    """The branch of a host's NVIDIA driver, as far as its labels tell; 0 when they do not."""
    for label in _DRIVER:
        if room.labels.get(label, "").isdigit():
            return int(room.labels[label])
    platform = sight.target.plan.environment.platform
    minor = re.match(r"v(\d+\.\d+)\.", room.kubelet)
    if not isinstance(platform, Gke) or not minor or "Container-Optimized OS" not in room.system:
        return 0
    chosen = room.labels.get(_GKE_DRIVER, "")
    return next((by.get(minor[1], 0) for name, by in platform.gpu_drivers.items() if name == chosen), 0)


def _newer(sight: Sight, old: list[Room], branch: int, lock: ImageLock) -> str:
    """Another image that the driver runs, if one is known; else, or besides, a newer driver."""
    plan = sight.target.plan
    ways = []
    if found := _runs_on(sight, branch, lock):
        engine, tag, cuda = found
        settings = ["--set", f"engine.tag={tag}"] if tag != engine.tag else []
        if engine.version != plan.engine.version:
            settings = ["--set", f"engine.version={engine.version}", *settings]
        of = "the image" if engine.version == plan.engine.version else str(engine)
        ways.append(f"take {of} with CUDA {cuda}: " + sight.commands.manyhost("deploy", *settings))
    if isinstance(plan.environment.platform, Gke):
        pools = sorted({room.labels.get(_POOL, "POOL") for room in old})
        gpus = f"type={old[0].labels.get(_ACCELERATOR, 'TYPE')},count={plan.environment.host.gpus}"
        driver = ("--accelerator", f"{gpus},gpu-driver-version=latest")
        ways += [
            "whoever runs the hosts lets GKE make them anew with another driver: "
            + line("gcloud", "container", "node-pools", "update", pool, "--cluster", *sight.gke, *driver)
            for pool in pools
        ]
    return "; or ".join(ways) or "whoever runs the hosts updates their driver"


def _runs_on(sight: Sight, branch: int, lock: ImageLock) -> tuple[Engine, str, str] | None:
    """A stock image that the driver runs: engine, tag and CUDA; of the recipe's version, or the newest."""
    plan = sight.target.plan
    others = [other for other in Catalog().engines() if other.name == plan.engine.name]
    others.sort(
        key=lambda other: (other.version == plan.engine.version, numbers(other.version)), reverse=True
    )
    for engine in others:
        if engine.device != "cuda" or plan.settings.engine.executor not in engine.stock_image_executors:
            continue
        for tag, other in engine.image_lock.items():
            if 0 < other.minimum_driver <= branch and other.minimum_driver < lock.minimum_driver:
                return engine, tag, other.cuda
    return None


def _lock(sight: Sight) -> ImageLock:
    return image.lock(sight.target.plan.settings, sight.target.plan.engine)


def _named(found: list[Room]) -> str:
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(room.name for room in found[:_SHOWN]) + more
