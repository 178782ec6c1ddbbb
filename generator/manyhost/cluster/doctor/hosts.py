"""Enough free hosts of the right type, and why the others are not."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import msgspec

from manyhost.catalog.environment import Gke, Host, Kubernetes
from manyhost.cluster.connection import Forbidden, path_of
from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed
from manyhost.cluster.doctor.fabric import attachable
from manyhost.cluster.quantity import parse, show
from manyhost.cluster.taints import advice
from manyhost.cluster.target import Place
from manyhost.commands import line

Amounts = dict[str, float]
_SHOWN = 4  # hosts named in a message
# Why a host is closed, the easiest to cure first.
_KINDS = ("cordoned", "not ready", "gpu", "network", "full", "taint")
_GPU = "nvidia.com/gpu"
# A node has one of each network that it is attached to, with .IP behind the name and without, and GKE makes
# pods ask for both of each network of their annotation (NVIDIA/cluster-readiness-engine; llm-d/llm-d#1730).
_NETWORK = "networking.gke.io.networks/"
_MACHINE, _POOL = "node.kubernetes.io/instance-type", "cloud.google.com/gke-nodepool"
# "Report faulty hosts"
_FAULTY = "https://docs.cloud.google.com/ai-hypercomputer/docs/manage/manage-gke-clusters"


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


class _Capacity(msgspec.Struct):
    gpus: str = msgspec.field(name=_GPU, default="0")


class _NodeInfo(msgspec.Struct):
    kubelet: str = msgspec.field(name="kubeletVersion", default="")
    system: str = msgspec.field(name="osImage", default="")


class _NodeStatus(msgspec.Struct):
    allocatable: dict[str, str] | None = None
    capacity: _Capacity = msgspec.field(default_factory=_Capacity)
    conditions: list[_Condition] | None = None
    info: _NodeInfo = msgspec.field(name="nodeInfo", default_factory=_NodeInfo)


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
        kind: Which kind of reason there is that none does.
        reason: Why none does.
        kubelet: Version of its kubelet.
        system: Its operating system.
    """

    name: str
    labels: dict[str, str]
    pods: int
    kind: str
    reason: str
    kubelet: str
    system: str


def rooms(sight: Sight) -> list[Room]:
    """Return every host that the pods select, with what it has free; read once for all checks."""
    found: list[Room] = sight.once("rooms", lambda: _rooms(sight))
    return found


def free_rooms(sight: Sight) -> list[Room]:
    """Return the hosts that take at least one of the pods; none to who may not look, as check hosts says."""
    try:
        return [room for room in rooms(sight) if room.pods]
    except Forbidden as error:
        if error.status == 401:
            raise
        return []


def _rooms(sight: Sight) -> list[Room]:
    target = sight.target
    spec = target.pod("leader")["spec"]
    request = requests_of(spec)
    request["pods"] = 1.0
    request |= {f"{_NETWORK}{name}{of}": 1.0 for name in attachable(sight) for of in ("", ".IP")}
    used, by = _usage(sight)
    spread = bool(spec.get("topologySpreadConstraints"))
    host = target.plan.environment.host
    found = []
    for node in sight.connection.pages(path_of("v1", "nodes"), _Node, labels=_labels(spec)):
        name, info = node.metadata.name, node.status.info
        room = 0
        kind, reason = _closed(node, spec) or _lacking(node, request, host)
        if not kind:
            room, reason = _room(node, request, used.get(name, {}))
            room = min(room, target.groups) if spread else room
            kind = "" if room else "full"
            others = by.get(name)
            reason += f", used by {', '.join(others[:2])}" if others else ""
        found.append(Room(name, node.metadata.labels or {}, room, kind, reason, info.kubelet, info.system))
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
    blocked = [room for room in found if not room.pods]
    needs = f"{wanted} hosts are needed ({target.groups} group{'s' * (target.groups != 1)})"
    if free >= wanted:
        return passed(f"{needs}, {free} are free")
    blocked.sort(key=lambda room: _KINDS.index(room.kind))
    shown = "; ".join(f"{room.name}: {room.reason}" for room in blocked[:_SHOWN])
    more = f"; and {len(blocked) - _SHOWN} more" if len(blocked) > _SHOWN else ""
    return failed(
        f"{needs}, {free} of {len(found)} {'is' if free == 1 else 'are'} free"
        + (f": {shown}{more}" if blocked else ""),
        _fix(sight, blocked),
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


def _closed(node: _Node, spec: dict[str, Any]) -> tuple[str, str] | None:
    """Why nothing new goes to a node, and the kind of it; None when something may."""
    ready = next((c.status for c in node.status.conditions or () if c.type == "Ready"), "Unknown")
    if ready != "True":
        return "not ready", "not ready"
    # A cordon is a taint too, and one that is named last: lifting it alone would not open the others.
    cordon = ", and it is cordoned" if node.spec.unschedulable else ""
    for taint in node.spec.taints or ():
        if taint.effect == "PreferNoSchedule" or taint.key == "node.kubernetes.io/unschedulable":
            continue
        if not any(_tolerates(t, taint) for t in spec.get("tolerations") or []):
            value = f"={taint.value}" if taint.value else ""
            return "taint", f"taint {taint.key}{value}:{taint.effect} is not tolerated{cordon}"
    if node.spec.unschedulable:
        return "cordoned", "cordoned"
    if not _affine(node.metadata.labels or {}, spec):
        return "full", "not among the target nodes"
    return None


def _lacking(node: _Node, request: Amounts, host: Host) -> tuple[str, str]:
    """What a node should have and has not, whoever uses it; empty texts when it has everything."""
    has, wanted = node.status.allocatable or {}, request.get(_GPU, 0.0)
    healthy, shown = parse(has.get(_GPU, "0")), parse(node.status.capacity.gpus)
    if healthy < wanted <= shown:
        return "gpu", f"{healthy:g} of its {shown:g} GPUs are healthy"
    # A machine of another type has fewer by right.
    machine = (node.metadata.labels or {}).get(_MACHINE, host.machine_type)
    if shown < wanted and machine == host.machine_type:
        return "gpu", f"shows {shown:g} GPUs where {host.machine_type} has {host.gpus}"
    missing = [name for name in request if name.startswith(_NETWORK) and parse(has.get(name, "0")) < 1]
    if missing:
        network = missing[0].removeprefix(_NETWORK).removesuffix(".IP")
        return "network", f"has no NIC in network {network}: it offers no {missing[0]}"
    return "", ""


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
    allocatable = node.status.allocatable or {}
    fewest, short = 1 << 30, ""
    for name, amount in request.items():
        if amount <= 0:
            continue
        total = parse(allocatable.get(name, "0"))
        left = total - used.get(name, 0.0)
        if left < amount and not short:
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


def _fix(sight: Sight, blocked: list[Room]) -> str:
    """What cures each kind of obstacle, the ones that one command cures first."""
    machine, commands = sight.target.plan.environment.host.machine_type, sight.commands
    kinds: dict[str, list[Room]] = {}
    for room in blocked:
        kinds.setdefault(room.kind, []).append(room)
    found = []
    for kind in _KINDS:
        closed = kinds.get(kind, [])
        names = [room.name for room in closed[:_SHOWN]]
        if names and kind == "cordoned":
            uncordon = commands.kubectl("uncordon", *names, namespace="")
            found.append(f"unless somebody drains them on purpose: {uncordon}")
        elif names and kind == "not ready":
            found.append(f"{commands.kubectl('describe', 'node', *names, namespace='')} says why")
        elif names and kind == "gpu":
            found.append(_repair(sight, names))
        elif names and kind == "network":
            found.append(_attach(sight, closed[0]))
        elif names and kind == "full":
            found.append(f"free the hosts, or add nodes of {machine} to the node pool")
        elif names and kind == "taint":
            keys = dict.fromkeys(room.reason.split()[1].partition(":")[0] for room in closed)
            found += [advice(key.partition("=")[0], commands) for key in keys]
    return "; ".join(found) or f"add nodes of {machine} to the node pool"


def _repair(sight: Sight, names: list[str]) -> str:
    """Whose business a broken GPU is: draining a host ends everybody's pods on it."""
    whose = "whoever runs the hosts drains and replaces them"
    if isinstance(sight.target.plan.environment.platform, Gke):
        whose += f", and reports them to Google ({_FAULTY})"
    look = sight.commands.kubectl("describe", "node", *names, namespace="")
    return f"{look} tells what the driver says; {whose}"


def _attach(sight: Sight, room: Room) -> str:
    """Where to see which networks a node pool is attached to; it has them from its birth."""
    pool = room.labels.get(_POOL, "POOL")
    fields = "yaml(networkConfig.additionalNodeNetworkConfigs)"
    pools = ("container", "node-pools", "describe", pool, "--cluster", *sight.gke, "--format", fields)
    return (
        f"{line('gcloud', *pools)} must list the VPC and the subnet of the network's GKENetworkParamSet; "
        "a node pool without them has to be made anew"
    )
