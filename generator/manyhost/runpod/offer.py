"""What RunPod has of what a plan needs, and what it costs, before anything is made."""

from __future__ import annotations

import msgspec

from manyhost.errors import NotReady
from manyhost.plan import Plan
from manyhost.runpod.api import Api
from manyhost.runpod.launch import hosts, platform
from manyhost.runpod.models import Cpu, CpuType, GpuType, Stock

_ORDER: dict[Stock | None, int] = {"HIGH": 0, "MEDIUM": 1, "LOW": 2, "NONE": 3, None: 3}
# Staging hashes and writes four streams; more processors read no faster from the hub.
_VCPUS = 4
# Of a network volume, a GB a month: the first 1,000 GB, and beyond
# (runpod/docs, storage/network-volumes.mdx).
_VOLUME_USD, _BEYOND_USD, _FIRST_GB = 0.07, 0.05, 1000


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """Hosts at their price of now.

    Attributes:
        product: POD or CLUSTER.
        hosts: Pods.
        gpus: Of all of them.
        usd_per_gpu_hour: List price of one GPU.
        usd_per_hour: Of all.
        availability: NONE, LOW, MEDIUM or HIGH, of all data centers.
        data_centers: Where there is some, the best stocked first.
    """

    product: str
    hosts: int
    gpus: int
    usd_per_gpu_hour: float
    usd_per_hour: float
    availability: str
    data_centers: list[str]


def offer(api: Api, plan: Plan) -> Offer:
    """Ask RunPod for price and stock of a plan's hosts.

    Raises:
        NotReady: The catalog does not have the GPU.
    """
    count, kind = hosts(plan), platform(plan).gpu_type_id
    product = "POD" if count == 1 else "CLUSTER"
    gpu = next((item for item in api.gpus(product) if item.id == kind), None)
    if gpu is None:
        raise NotReady(f"the catalog has no {kind} for {product}", where="RunPod")
    gpus = count * (plan.gpus_per_host or 1)
    return Offer(
        product=product,
        hosts=count,
        gpus=gpus,
        usd_per_gpu_hour=gpu.price.secure,
        usd_per_hour=round(gpus * gpu.price.secure, 2),
        availability=gpu.availability or "NONE",
        data_centers=_stocked(gpu),
    )


def stager(api: Api, data_center: str) -> tuple[Cpu, float]:
    """Return the cheapest processors that can stage in a data center, and their price, USD an hour.

    Args:
        api: RunPod.
        data_center: Where; empty for anywhere.

    Raises:
        NotReady: There are none.
    """
    able = [
        item
        for item in api.cpus()
        if item.vcpu.min <= _VCPUS <= item.vcpu.max
        and (not (data_center and item.data_centers) or data_center in _stocked(item))
    ]
    if not able:
        where = data_center or "any data center"
        raise NotReady(f"no CPU pod is to be had in {where}", where="RunPod", fix="try again later")
    best = min(able, key=lambda item: item.price.secure_per_vcpu)
    return Cpu(id=best.id, vcpu_count=_VCPUS), round(best.price.secure_per_vcpu * _VCPUS, 4)


def volume_usd_per_month(size: int) -> float:
    """Return what a standard network volume of a size in GB costs, USD a month."""
    first = min(size, _FIRST_GB)
    return round(first * _VOLUME_USD + (size - first) * _BEYOND_USD, 2)


def _stocked(item: GpuType | CpuType) -> list[str]:
    rooms = [room for room in item.data_centers if _ORDER[room.availability] < _ORDER["NONE"]]
    return [room.id for room in sorted(rooms, key=lambda room: (_ORDER[room.availability], room.id))]
