"""What the containers of a pod ask of their host beside GPUs, so that it does not evict them first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from manyhost.catalog import Model
from manyhost.catalog.environment import Host
from manyhost.catalog.interconnect import GpuDirectTcp
from manyhost.plan.arguments import offload_gib
from manyhost.plan.memory import GIB

# A download needs more than the weights: parts that are still incomplete, compile caches, logs.
_DOWNLOAD_SHARE = 1.4


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """Requests and limits as Kubernetes writes them; empty where the environment has no share for them."""

    requests: dict[str, str]
    limits: dict[str, str]


def resources(host: Host, model: Model, arguments: Mapping[str, Any], *, downloads: bool) -> Resources:
    """Return what the engine of one host asks for.

    Args:
        host: Its share for the engine; what it keeps in main memory for its GPUs comes on top.
        model: Its weights.
        arguments: Engine flags.
        downloads: Whether each host downloads the weights into the pod's own storage.
    """
    share = host.share
    if share is None:
        return Resources(requests={}, limits={})
    extra = offload_gib(arguments) * host.gpus
    cpu = f"{share.cpu:g}" if share.cpu == int(share.cpu) else f"{share.cpu * 1000:g}m"
    requests = {"cpu": cpu, "memory": _memory(share.memory_gib + extra)}
    if downloads and host.gpus:
        requests["ephemeral-storage"] = f"{math.ceil(model.weights_bytes * _DOWNLOAD_SHARE / GIB)}Gi"
    # Of a namespace with a default limit, a container without one would get that, and be throttled.
    limits = {"cpu": str(host.cpus)} if host.cpus else {}
    if share.memory_limit_gib:
        limits["memory"] = _memory(max(share.memory_limit_gib, share.memory_gib + extra))
    return Resources(requests=requests, limits=limits)


def daemon(interconnect: GpuDirectTcp, host: Host) -> Resources:
    """Return what the daemon of a fabric asks for; it is throttled no more than the engine."""
    cpus = {"cpu": str(host.cpus)} if host.cpus else {}
    return Resources(requests=interconnect.daemon_requests, limits=cpus | interconnect.daemon_limits)


def _memory(gib: float) -> str:
    return f"{gib:g}Gi" if gib == int(gib) else f"{math.ceil(gib * 1024)}Mi"
