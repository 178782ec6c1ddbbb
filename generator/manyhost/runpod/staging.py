"""Weights onto a network volume from this machine, through RunPod's S3 endpoint: what is checked before."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from posixpath import normpath, relpath

from manyhost.errors import NotReady
from manyhost.plan import Plan
from manyhost.runpod.launch import ENGINE_GB, platform
from manyhost.runpod.launch import volume as wanted_volume
from manyhost.runpod.models import Volume
from manyhost.runpod.s3 import S3, NoVolume
from manyhost.runpod.volume_folder import VolumeFolder
from manyhost.weights import manifest

STREAMS = 8  # files at once
_KNOWN_SECONDS = 120.0  # until an endpoint knows a volume that has just been made
_EVERY_SECONDS = 3.0


def place(
    plan: Plan, volume: Volume | None, wanted: str, stocked: Sequence[str], again: Callable[..., str]
) -> str:
    """Return the data center to stage in.

    Args:
        plan: Of the recipe.
        volume: The network volume, if there is one.
        wanted: What the user has said; empty for nothing.
        stocked: Where there are GPUs, the best stocked first.
        again: Returns a command of this program about the same things.

    Raises:
        NotReady: It has no S3 endpoint, or the volume is elsewhere.
    """
    able = platform(plan).s3_data_centers
    known = ", ".join(able) or "none that the environment names"
    if volume and wanted not in {"", volume.data_center}:
        raise NotReady(
            f"the volume {volume.id} is in {volume.data_center}",
            where="--data-center",
            fix=f"leave it out, or remove the volume first: {again('down', '--volume')}",
        )
    chosen = volume.data_center if volume else wanted
    if chosen and chosen not in able:
        raise NotReady(
            f"{chosen} has no S3 endpoint; these have one: {known}",
            where=f"the volume {volume.id}" if volume else "--data-center",
            fix=f"let a CPU pod stage: {again('up')}",
        )
    if chosen:
        return chosen
    for one in stocked:
        if one in able:
            return one
    free = f"GPUs are free in {', '.join(stocked)} only" if stocked else "no GPUs are free anywhere now"
    raise NotReady(
        f"{free}; these have an S3 endpoint: {known}", where="RunPod", fix="choose one with --data-center"
    )


def size(plan: Plan, volume: Volume | None, again: Callable[..., str]) -> int:
    """Return the size of the volume, GB, that is there or would be made.

    Raises:
        NotReady: Weights and engine do not fit.
    """
    have = volume.size if volume else wanted_volume(plan, "", "").size
    need = plan.model.weights_bytes / 1e9 + ENGINE_GB
    if volume and have < need:
        raise NotReady(
            f"has {have} GB, weights and engine need {need:.0f}",
            where=f"the volume {volume.id}",
            fix=f"let it grow in RunPod's console, or remove it: {again('down', '--volume')}",
        )
    return have


def look(s3: S3, plan: Plan, volume: Volume | None) -> None:
    """See that the endpoint takes the key, and knows the volume if there is one.

    Raises:
        NotReady: It does not.
        RemoteError: It fails.
    """
    if volume:
        s3.listed(volume.id, f"{_folder(plan)}/{manifest.MARK}")
    else:
        s3.volumes()


def folder(
    s3: S3,
    plan: Plan,
    volume: Volume,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> VolumeFolder:
    """Return the model's folder on a volume, which may just have been made.

    Args:
        s3: The endpoint.
        plan: Of the recipe.
        volume: Where.
        sleep: How to wait, seconds.
        clock: Seconds of a clock that only goes on.

    Raises:
        NoVolume: The endpoint does not get to know it.
    """
    end = clock() + _KNOWN_SECONDS
    while True:
        try:
            look(s3, plan, volume)
        except NoVolume:
            if clock() > end:
                raise
            sleep(_EVERY_SECONDS)
            continue
        capacity = (volume.size - ENGINE_GB) * 10**9
        return VolumeFolder(s3, volume.id, _folder(plan), capacity)


def _folder(plan: Plan) -> str:
    """Return the model's folder, from where the volume is mounted."""
    inside = relpath(normpath(plan.weights.path), normpath(platform(plan).volume_path))
    return "" if inside == "." else inside
