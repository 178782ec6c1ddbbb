"""Enough free hosts of the right type, and why the others are not."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import msgspec

from manyhost.catalog.environment import Kubernetes
from manyhost.cluster.connection import path_of
from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed
from manyhost.cluster.quantity import parse, show
from manyhost.cluster.taints import advice
from manyhost.cluster.target import Place
from manyhost.commands import Commands

Amounts = dict[str, float]
_SHOWN = 4  # hosts named in a message
_KINDS = ("cordoned", "not ready", "full", "taint")  # why a host is closed, the easiest to cure first


# Only what is looked at is decoded: a thousand nodes and five thousand pods stay small.
class _Meta(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    labels: dict[str, str] | None = None


class _Taint(msgspec.Struct):
    key: str
    effect: str
    value: str = ""


class _NodeSpec(msgspec.Struct):
    unschedulable: bool = False
    taints: list[_Taint] | None = None


class _Condition(msgspec.Struct):
    type: str
    status: str


class _NodeStatus(msgspec.Struct):
    allocatable: dict[str, str] | None = None
    conditions: list[_Condition] | None = None


class _Node(msgspec.Struct):
    metadata: _Meta
    spec: _NodeSpec
    status: _NodeStatus


class _Resources(msgspec.Struct):
    requests: dict[str, str] | None = None


class _Container(msgspec.Struct):
    resources: _Resources | None = None
    restart_policy: str = msgspec.field(name="restartPolicy", default="")


class _PodSpec(msgspec.Struct):
    containers: list[_Container]
    init: list[_Container] | None = msgspec.field(name="initContainers", default=None)
    node: str = msgspec.field(name="nodeName", default="")
    overhead: dict[str, str] | None = None


class _Pod(msgspec.Struct):
    metadata: _Meta
    spec: _PodSpec


class Room(NamedTuple):
    """What a host has free.

    Attributes:
        name: The node's name.
        labels: Its labels.
        pods: How many more of the pods fit.
        reason: Why none does.
    """

    name: str
    labels: dict[str, str]
    pods: int
    reason: str


def rooms(sight: Sight) -> list[Room]:
    """Return every host that the pods select, with what it has free; read once for all checks."""
    found: list[Room] = sight.once("rooms", lambda: _rooms(sight))
    return found


def _rooms(sight: Sight) -> list[Room]:
    target = sight.target
    spec = target.pod("leader")["spec"]
    nodes = list(sight.connection.pages(path_of("v1", "nodes"), _Node, labels=_labels(spec)))
    if not nodes:
        return []
    request = requests_of(spec)
    request["pods"] = 1.0
    used, by = _usage(sight)
    spread = bool(spec.get("topologySpreadConstraints"))
    found = []
    for node in nodes:
        room, reason = 0, _closed(node, spec)
        if not reason:
            room, reason = _room(node, request, used.get(node.metadata.name, {}))
            room = min(room, target.groups) if spread else room
            others = by.get(node.metadata.name)
            reason += f", used by {', '.join(others[:2])}" if others else ""
        found.append(Room(node.metadata.name, node.metadata.labels or {}, room, reason))
    return found


def _labels(spec: dict[str, Any]) -> str:
    selector = spec.get("nodeSelector") or {}
    return ",".join(f"{key}={value}" for key, value in sorted(selector.items()))


@check("hosts", "Are enough free hosts of the right type there?")
def hosts(sight: Sight) -> Finding:
    """Allocatable minus what running pods request, for each host that the pods could go to."""
    target = sight.target
    found = rooms(sight)
    if not found:
        spec = target.pod("leader")["spec"]
        labels = _labels(spec)
        return failed(
            f"no node carries {labels}{_others(sight, spec['nodeSelector'])}"
            if labels
            else "the cluster has no node",
            _other_labels(sight),
        )
    wanted = target.hosts
    free = sum(room.pods for room in found)
    blocked = [(room.name, room.reason) for room in found if not room.pods]
    needs = f"{wanted} hosts are needed ({target.groups} group{'s' * (target.groups != 1)})"
    if free >= wanted:
        return passed(f"{needs}, {free} are free")
    blocked.sort(key=lambda item: _KINDS.index(_kind(item[1])))
    shown = "; ".join(f"{name}: {reason}" for name, reason in blocked[:_SHOWN])
    more = f"; and {len(blocked) - _SHOWN} more" if len(blocked) > _SHOWN else ""
    return failed(
        f"{needs}, {free} of {len(found)} {'is' if free == 1 else 'are'} free"
        + (f": {shown}{more}" if blocked else ""),
        _fix(blocked, target.plan.environment.host.machine_type, sight.commands),
    )


def _other_labels(sight: Sight) -> str:
    """What to do about labels that no node carries: perhaps only those of the settings are old."""
    environment = sight.target.plan.environment
    selector = environment.platform.node_selector if isinstance(environment.platform, Kubernetes) else {}
    labels = ",".join(f"{key}={value}" for key, value in selector.items())
    query = {"labelSelector": labels, "limit": 1}
    if labels and sight.connection.get(path_of("v1", "nodes"), query=query).get("items"):
        return sight.commands.discover(environment.name)
    return f"add a node pool of {environment.host.machine_type}, or choose another environment"


def requests_of(spec: dict[str, Any]) -> Amounts:
    """Return what a pod requests of a host: containers and sidecars together, or its largest init container.

    Args:
        spec: A pod's spec, as in a manifest; limits count where requests are missing.
    """
    return _amounts_of(spec, ("limits", "requests"))


def limits_of(spec: dict[str, Any]) -> Amounts:
    """Return the limits of a pod, added up as its requests are."""
    return _amounts_of(spec, ("limits",))


def _amounts_of(spec: dict[str, Any], parts: tuple[str, ...]) -> Amounts:
    """Add up a pod's amounts; of several parts of `resources` the last that has one counts."""

    def pick(container: dict[str, Any]) -> dict[str, Any]:
        resources = container.get("resources") or {}
        merged = {k: str(v) for part in parts for k, v in (resources.get(part) or {}).items()}
        return {"resources": {"requests": merged}, "restartPolicy": container.get("restartPolicy", "")}

    pod = msgspec.convert(
        {
            "containers": [pick(item) for item in spec.get("containers") or []],
            "initContainers": [pick(item) for item in spec.get("initContainers") or []],
            "overhead": spec.get("overhead"),
        },
        _PodSpec,
    )
    return _requests(pod)


def _requests(pod: _PodSpec) -> Amounts:
    total: Amounts = {}
    peak: Amounts = {}
    for item in pod.init or ():
        amounts = _amounts(item)
        if item.restart_policy == "Always":
            _add(total, amounts)
            continue
        for name, amount in amounts.items():
            peak[name] = max(peak.get(name, 0.0), amount + total.get(name, 0.0))
    for item in pod.containers:
        _add(total, _amounts(item))
    for name, amount in peak.items():
        total[name] = max(total.get(name, 0.0), amount)
    _add(total, {name: parse(value) for name, value in (pod.overhead or {}).items()})
    return total


def _amounts(container: _Container) -> Amounts:
    requests = (container.resources.requests if container.resources else None) or {}
    return {name: parse(value) for name, value in requests.items()}


def _add(total: Amounts, more: Amounts) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0.0) + amount


def _usage(sight: Sight) -> tuple[dict[str, Amounts], dict[str, list[str]]]:
    """Return what running pods of others request on each node, and who holds its GPUs."""
    target = sight.target
    used: dict[str, Amounts] = {}
    by: dict[str, list[str]] = {}
    fields = "status.phase!=Succeeded,status.phase!=Failed,spec.nodeName!="
    for pod in sight.connection.pages(path_of("v1", "pods"), _Pod, fields=fields):
        meta = pod.metadata
        if _is_own(meta, target.place):
            continue  # an upgrade replaces them
        amounts = _requests(pod.spec)
        amounts["pods"] = 1.0
        _add(used.setdefault(pod.spec.node, {}), amounts)
        if any("/gpu" in name for name in amounts):
            by.setdefault(pod.spec.node, []).append(f"{meta.namespace}/{meta.name}")
    return used, by


def _is_own(meta: _Meta, place: Place) -> bool:
    own = place.chart.labels(place.release).items()
    return meta.namespace == place.namespace and own <= (meta.labels or {}).items()


def _closed(node: _Node, spec: dict[str, Any]) -> str:
    """Why nothing new goes to a node; empty when something may."""
    ready = next((c.status for c in node.status.conditions or () if c.type == "Ready"), "Unknown")
    if ready != "True":
        return "not ready"
    # A cordon is a taint too, and one that is named last: lifting it alone would not open the others.
    cordon = ", and it is cordoned" if node.spec.unschedulable else ""
    for taint in node.spec.taints or ():
        if taint.effect == "PreferNoSchedule" or taint.key == "node.kubernetes.io/unschedulable":
            continue
        if not any(_tolerates(t, taint) for t in spec.get("tolerations") or []):
            value = f"={taint.value}" if taint.value else ""
            return f"taint {taint.key}{value}:{taint.effect} is not tolerated{cordon}"
    if node.spec.unschedulable:
        return "cordoned"
    if not _affine(node.metadata.labels or {}, spec):
        return "not among the target nodes"
    return ""


def _tolerates(toleration: dict[str, Any], taint: _Taint) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.effect:
        return False
    if not toleration.get("key"):
        return toleration.get("operator") == "Exists"
    if toleration["key"] != taint.key:
        return False
    return toleration.get("operator") == "Exists" or str(toleration.get("value", "")) == taint.value


def _affine(labels: dict[str, str], spec: dict[str, Any]) -> bool:
    """Required node affinity with the operators that the chart uses (In, Exists)."""
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    terms = affinity.get("nodeSelectorTerms") or []
    return not terms or any(
        all(
            item["key"] in labels
            and (item["operator"] == "Exists" or labels[item["key"]] in item.get("values", []))
            for item in term.get("matchExpressions") or []
        )
        for term in terms
    )


def _room(node: _Node, request: Amounts, used: Amounts) -> tuple[int, str]:
    """How many pods fit on a node, and what is short when none does."""
    allocatable = {name: parse(value) for name, value in (node.status.allocatable or {}).items()}
    fewest, short = 1 << 30, ""
    for name, amount in request.items():
        if amount <= 0:
            continue
        left = allocatable.get(name, 0.0) - used.get(name, 0.0)
        if left < amount and not short:
            total = allocatable.get(name, 0.0)
            short = f"{show(name, max(left, 0.0))} of {show(name, total)} {name} free"
            short += f", {show(name, amount)} needed"
        fewest = min(fewest, max(0, int((left + 1e-6) // amount)))
    return fewest, short


def _others(sight: Sight, selector: dict[str, str]) -> str:
    """Which values the first label of a selector has instead."""
    if not selector:
        return ""
    key = next((key for key in selector if "accelerator" in key), next(iter(selector)))
    seen: Counter[str] = Counter()
    for item in sight.connection.pages(path_of("v1", "nodes"), _NodeLabels, labels=key, metadata=True):
        seen[(item.metadata.labels or {}).get(key, "")] += 1
    if not seen:
        return f"; no node has the label {key}"
    return "; there are " + ", ".join(f"{count} with {value}" for value, count in seen.most_common(4))


class _NodeLabels(msgspec.Struct):
    metadata: _Meta


def _fix(blocked: list[tuple[str, str]], machine: str, commands: Commands) -> str:
    """What cures each kind of obstacle, the ones that one command cures first."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for name, reason in blocked:
        kinds.setdefault(_kind(reason), []).append((name, reason))
    found = []
    for kind in _KINDS:
        names = [name for name, _ in kinds.get(kind, [])[:_SHOWN]]
        if names and kind == "cordoned":
            uncordon = commands.kubectl("uncordon", *names, namespace="")
            found.append(f"unless somebody drains them on purpose: {uncordon}")
        elif names and kind == "not ready":
            found.append(f"{commands.kubectl('describe', 'node', *names, namespace='')} says why")
        elif names and kind == "full":
            found.append(f"free the hosts, or add nodes of {machine} to the node pool")
        elif names and kind == "taint":
            keys = dict.fromkeys(reason.split()[1].partition(":")[0] for _, reason in kinds[kind])
            found += [advice(key.partition("=")[0], commands) for key in keys]
    return "; ".join(found) or f"add nodes of {machine} to the node pool"


def _kind(reason: str) -> str:
    return next((kind for kind in _KINDS if reason.startswith(kind)), "full")
