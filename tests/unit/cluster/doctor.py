"""What tests of doctor's checks are made of: targets, nodes, and API servers that have certain objects."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import msgspec
from manyhost.cluster.doctor import Result
from manyhost.cluster.target import Target, from_rendered
from manyhost.render import build

from testbed import gpu_hosts
from testbed.shapes import A3MEGA, SUBBLOCK, Shape

RECIPE = "a3mega/deepseek-r1-671b"
LABELS = {
    "zone": "topology.kubernetes.io/zone",
    "block": "cloud.google.com/gce-topology-block",
    "subblock": SUBBLOCK,
    "pool": "cloud.google.com/gke-nodepool",
    "driver": "cloud.google.com/gke-gpu-driver-version",
    "architecture": "kubernetes.io/arch",
}
NOBODY = "http://127.0.0.1:9"

Reply = tuple[int, dict[str, str], Any]
Examine = Callable[..., Result]
ResultsOf = Callable[..., list[Result]]
Serve = Callable[[Callable[[str, str, Any], Reply]], str]


@functools.cache
def a_target(*assignments: str, recipe: str = RECIPE) -> Target:
    """The target of a recipe with settings; nobody may change it."""
    return from_rendered(build(recipe, assignments=assignments))


def a_local_target(*assignments: str) -> Target:
    return from_rendered(
        build(
            "local/tiny-r1",
            assignments=["host_mounts=[]", "weights.source=hub", "weights.path=", *assignments],
        )
    )


def with_pods(**fields: Any) -> Target:
    """The target with these fields in the specs of both kinds of pod, and with no other pods."""
    target = a_target("chart.janitor.enabled=false")
    objects = json.loads(json.dumps(target.objects))
    group = next(item for item in objects if item["kind"] == "LeaderWorkerSet")["spec"][
        "leaderWorkerTemplate"
    ]
    for role in ("leaderTemplate", "workerTemplate"):
        group[role]["spec"].update(fields)
    return msgspec.structs.replace(target, objects=objects)


def a_range(kind: str = "Container", name: str = "bounds", **bounds: dict[str, str]) -> dict[str, Any]:
    """A LimitRange with one entry; `default` and others as the API names them."""
    return {"metadata": {"name": name}, "spec": {"limits": [{"type": kind, **bounds}]}}


def lists(**items: list[Any]) -> Callable[[str, str, Any], Reply]:
    """An API server whose collections are these; others are empty, and there are no single objects."""

    def answer(method: str, path: str, headers: Any) -> Reply:
        return 200, {}, {"metadata": {}, "items": items.get(path.partition("?")[0].rpartition("/")[2], [])}

    return answer


def a_host(number: int = 1, shape: Shape = A3MEGA, **labels: str | None) -> dict[str, Any]:
    """A healthy host as the cluster shows it; a label that is None is not there.

    Args:
        number: In its name and its topology.
        shape: What it is.
        labels: More labels; zone, block and the like for short.
    """
    node = gpu_hosts.node(shape.host(number), shape, number=number)
    node["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    for name, value in labels.items():
        key = LABELS.get(name, name)
        if value is None:
            node["metadata"]["labels"].pop(key, None)
        else:
            node["metadata"]["labels"][key] = value
    return node


def networks(**conditions: tuple[str, str]) -> dict[str, list[Any]]:
    """The Network objects of A3 Mega and their parameter sets, all with these conditions."""
    found: dict[str, list[Any]] = {"networks": [], "gkenetworkparamsets": []}
    told = [{"type": kind, "status": status, "message": why} for kind, (status, why) in conditions.items()]
    for item in gpu_hosts.networks():
        found[f"{item['kind'].lower()}s"].append({**item, "status": {"conditions": told}})
    return found
