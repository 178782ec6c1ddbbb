"""Causes to plant, alone and in pairs: each drawn at random, with words that nobody could do without."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from testbed import Cluster, faults
from testbed import gpu_hosts as hosts
from tests.helpers.waiting import until

Plant = Callable[[Cluster], None]
NETWORKS = tuple(f"vpc{number}" for number in range(1, 9))
# The recipe mounts no bucket: what would mount it may be away.
DAEMON_SETS = tuple(name for name in hosts.DAEMON_SETS if not name.startswith("gcsfuse"))
_DEFAULT = "/api/v1/namespaces/default"
_NETWORK_API = "/apis/networking.gke.io/v1/networks"
_TAINTED = "had untolerated taint"  # the scheduler says no more of it
_FREE_HOSTS = {"hosts", "topology", "gpu-driver", "image-architecture"}
# The API server says one reason at a time why it would not take a pod, and its own rules come first.
_REFUSED_FIRST = {"pod-security", "limit-range"}


@dataclass(frozen=True)
class Cause:
    """Something that is wrong with a cluster.

    Attributes:
        check: The check that finds it.
        told: What was planted, for a person who reads the figures.
        words: What the finding must say, all of it.
        plant: Makes it so.
        network: The network that it is about; one with two causes is told once.
        rule: Whether only the API server's own word tells.
        stops: The kind of problem that status shows when it stops a group that is made anew, and words
            of it; empty when pods are made and find hosts all the same.
    """

    check: str
    told: str
    words: tuple[str, ...]
    plant: Plant
    network: str = ""
    rule: bool = False
    stops: tuple[str, str] = ("", "")

    def goes_with(self, other: Cause) -> bool:
        """Whether both can be told at a time: what is said of free hosts needs free hosts, for one."""
        checks = {self.check, other.check}
        first = (self.rule or other.rule) and checks & _REFUSED_FIRST
        same = self.network and self.network == other.network
        return len(checks) == 2 and not checks <= _FREE_HOSTS and not first and not same


def draw_one(rng: random.Random) -> Cause:
    """A cause that stops a group."""
    while True:
        cause = rng.choice(FAMILIES)(rng)
        if cause.stops[0]:
            return cause


def draw(rng: random.Random) -> tuple[Cause, Cause]:
    """Two causes that do not rule each other out, in the order in which they can be planted."""
    while True:
        first, second = (rng.choice(FAMILIES)(rng) for _ in range(2))
        if first.goes_with(second):
            # Pods that occupy hosts are made before a policy would refuse them.
            return (second, first) if second.check in _FREE_HOSTS else (first, second)


# ------------------------------------------------------------------ networks


def _missing(rng: random.Random) -> Cause:
    name = rng.choice(NETWORKS)
    words = (f"Network {name} does not exist",)
    return Cause("networks", f"no Network {name}", words, lambda c: faults.remove_network(c, name), name)


def _no_parameters(rng: random.Random) -> Cause:
    name = rng.choice(NETWORKS)
    words = (f"GKENetworkParamSet {name}, which does not exist",)
    return Cause(
        "networks", f"no parameters {name}", words, lambda c: faults.remove_parameters(c, name), name
    )


def _mode(rng: random.Random) -> Cause:
    name, mode = rng.choice(NETWORKS), rng.choice(("RDMA", "DPDK-VFIO"))
    words = (f"{name} has device mode {mode}, not NetDevice",)
    return Cause(
        "networks", f"{name} of mode {mode}", words, lambda c: faults.set_device_mode(c, name, mode), name
    )


def _type(rng: random.Random) -> Cause:
    name, kind = rng.choice(NETWORKS), rng.choice(("L2", "L3"))
    words = (f"Network {name} is of type {kind}, not Device",)

    def plant(cluster: Cluster) -> None:
        cluster.api.patch(f"{_NETWORK_API}/{name}", {"spec": {"type": kind}})

    return Cause("networks", f"{name} of type {kind}", words, plant, name)


def _condition(rng: random.Random) -> Cause:
    name, status = rng.choice(NETWORKS), rng.choice(("False", "Unknown"))
    kind, why = rng.choice(("Ready", "ParamsReady")), f"subnet sub-{rng.randrange(100)} is in use"

    def plant(cluster: Cluster) -> None:
        faults.set_network_condition(cluster, name, kind, status, why)

    return Cause("networks", f"{name} {kind}={status}", (name, f"({status})", why), plant, name)


# ------------------------------------------------------------------ hosts


def _all_but(rng: random.Random) -> tuple[str, ...]:
    """Healthy hosts of which one or none is left: two are needed."""
    broken = list(hosts.HEALTHY)
    rng.shuffle(broken)
    return tuple(sorted(broken[rng.randrange(2) :]))


def _on_hosts(
    told: str,
    words: tuple[str, ...],
    change: Callable[[Cluster, str], None],
    stops: str = "Insufficient nvidia.com/gpu",
    network: str = "",
) -> Family:
    def family(rng: random.Random) -> Cause:
        broken = _all_but(rng)

        def plant(cluster: Cluster) -> None:
            for node in broken:
                change(cluster, node)

        kind = "unschedulable" if stops else ""
        said = (broken[0], *words)
        return Cause("hosts", f"{told} on {len(broken)} hosts", said, plant, network, stops=(kind, stops))

    return family


def _taint(rng: random.Random) -> Cause:
    key, effect = f"team-{rng.randrange(100)}/reserved", rng.choice(("NoSchedule", "NoExecute"))
    words = (f"taint {key}=yes:{effect} is not tolerated",)
    return _on_hosts(
        f"taint {key}:{effect}",
        words,
        lambda c, node: faults.add_taint(c, node, key, "yes", effect),
        _TAINTED,
    )(rng)


def _lost(rng: random.Random) -> Cause:
    left = rng.randrange(8)
    words = (f"shows {left} GPUs where a3-megagpu-8g has 8",)
    return _on_hosts(f"{left} GPUs", words, lambda c, node: faults.set_gpus(c, node, left))(rng)


def _ill(rng: random.Random) -> Cause:
    left = rng.randrange(8)
    words = (f"{left} of its 8 GPUs are healthy",)
    return _on_hosts(f"{left} healthy GPUs", words, lambda c, n: faults.set_healthy_gpus(c, n, left))(rng)


def _detached(rng: random.Random) -> Cause:
    name = rng.choice(NETWORKS)
    words = (f"no NIC in network {name}",)
    return _on_hosts(f"no NIC in {name}", words, lambda c, node: faults.detach(c, node, name), "", name)(rng)


def _occupied(rng: random.Random) -> Cause:
    gpus = rng.randrange(1, 9)
    return _on_hosts(
        f"{gpus} GPUs taken", ("used by default/busy-",), lambda c, node: faults.occupy(c, node, gpus)
    )(rng)


def _small(rng: random.Random) -> Cause:
    name, value = rng.choice((("cpu", "48"), ("memory", "500Gi")))
    stops = f"Insufficient {name}"
    return _on_hosts(
        f"{name} {value}", (name,), lambda c, node: faults.set_resource(c, node, name, value), stops
    )(rng)


def _apart(rng: random.Random) -> Cause:
    key = rng.choice(("topology.kubernetes.io/zone", "cloud.google.com/gce-topology-block"))
    name = f"place-{rng.randrange(100)}"

    def plant(cluster: Cluster) -> None:
        for number, node in enumerate(hosts.A3MEGA.hosts):
            faults.set_label(cluster, node, key, f"{name}-{number}")

    return Cause("topology", f"{key} differs", (key, f"1 in {name}-0"), plant)


def _driver(rng: random.Random) -> Cause:
    branch = rng.choice((470, 525, 535, 550, 565, 570))

    def plant(cluster: Cluster) -> None:
        for node in hosts.A3MEGA.hosts:
            faults.set_label(cluster, node, "nvidia.com/cuda.driver.major", str(branch))

    return Cause("gpu-driver", f"driver R{branch}", (f"have driver R{branch}", "needs R580"), plant)


def _processor(rng: random.Random) -> Cause:
    name = rng.choice(("s390x", "ppc64le", "riscv64"))
    broken = _all_but(rng)

    def plant(cluster: Cluster) -> None:
        for node in broken:
            faults.set_label(cluster, node, "kubernetes.io/arch", name)

    return Cause("image-architecture", f"hosts of {name}", (broken[0], name), plant)


# ------------------------------------------------------------------ daemons, LeaderWorkerSet


def _no_daemon(rng: random.Random) -> Cause:
    name = rng.choice(DAEMON_SETS)
    words = (f"DaemonSet {name} is not in kube-system",)
    return Cause("interconnect-daemons", f"no {name}", words, lambda c: faults.remove_daemonset(c, name))


def _daemon_waits(rng: random.Random) -> Cause:
    name = rng.choice(DAEMON_SETS)
    words = (f"DaemonSet {name} is ready on 0 of",)

    def plant(cluster: Cluster) -> None:
        faults.set_daemonset_ready(cluster, name, ready=False)

    return Cause("interconnect-daemons", f"{name} waits", words, plant)


def _plugin(rng: random.Random) -> Cause:
    version = f"v1.0.{rng.randrange(1, 12)}"

    def plant(cluster: Cluster) -> None:
        faults.change_version(cluster, "nccl-tcpxo-installer", version)
        until("rolled", lambda: hosts.daemon_set_complete(cluster.api, "nccl-tcpxo-installer"))

    return Cause("interconnect-versions", f"plug-in {version}", (f"plugin is {version}",), plant)


def _lws_version(rng: random.Random) -> Cause:
    version = f"v0.{rng.randrange(1, 7)}.{rng.randrange(3)}"
    words = (version, "v0.7 or newer")
    return Cause(
        "lws-controller", f"LWS {version}", words, lambda c: faults.change_version(c, "lws", version)
    )


def _lws_silent(_: random.Random) -> Cause:
    words = ("failed calling webhook",)
    return Cause("lws-webhook", "no LWS webhook", words, lambda c: c.stop_lws_controller())


def _lws_of_helm(_: random.Random) -> Cause:
    words = ("would delete the CRD",)
    return Cause("lws-controller", "LWS of an old chart", words, faults.install_lws_with_helm)


# ------------------------------------------------------------------ the namespace


def _item(kind: str, version: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **fields}


def _limits(rng: random.Random) -> Cause:
    what, bound, words = rng.choice(
        (
            ("Container", {"max": {"memory": "300Gi"}}, "no more than 300.0 GiB memory"),
            ("Container", {"max": {"ephemeral-storage": "1Gi"}}, "ephemeral-storage"),
            ("Container", {"min": {"cpu": "4"}}, "no less than 4 cpu"),
            ("Container", {"min": {"memory": "40Gi"}}, "no less than 40.0 GiB memory"),
            ("Pod", {"max": {"memory": "900Gi"}}, "no more than 900.0 GiB memory"),
            ("Pod", {"max": {"cpu": "32"}}, "no more than 32 cpu"),
        )
    )
    name = f"limits-{rng.randrange(100)}"
    item = _item("LimitRange", "v1", name, spec={"limits": [{"type": what, **bound}]})
    told = f"LimitRange of a {what}: {bound}"
    said = (f"LimitRange {name}", words)
    harmless = "ephemeral-storage" in str(bound)  # until the pod has written that much
    stops = ("", "") if harmless else ("limits", next(iter(bound)))
    return Cause("limit-range", told, said, lambda c: faults.plant(c, item), stops=stops)


def _quota(rng: random.Random) -> Cause:
    key, value = rng.choice(
        (
            ("pods", rng.randrange(3)),
            ("requests.nvidia.com/gpu", rng.randrange(16)),
            ("requests.memory", "900Gi"),
            ("requests.cpu", "64"),
            ("limits.memory", "900Gi"),
            ("count/configmaps", 1),
            ("services", rng.randrange(1, 3)),
            ("count/leaderworkersets.leaderworkerset.x-k8s.io", 0),
            ("count/cronjobs.batch", 0),
            ("count/serviceaccounts", 1),
        )
    )
    name = f"quota-{rng.randrange(100)}"
    item = _item("ResourceQuota", "v1", name, spec={"hard": {key: str(value)}})
    path = f"{_DEFAULT}/resourcequotas/{name}"

    def plant(cluster: Cluster) -> None:
        faults.plant(cluster, item)
        until("quota counted", lambda: cluster.api.get(path).get("status", {}).get("used"))

    ours = key == "pods" or key.startswith(("requests", "limits"))
    stops = ("quota", name) if ours else ("", "")
    return Cause("quota", f"quota {key}={value}", (f"quota {name} allows", key), plant, stops=stops)


def _webhook(rng: random.Random) -> Cause:
    kind = rng.choice(("Mutating", "Validating"))
    words = ("pods.policy.example", "default/policy")
    stops = ("denied", "pods.policy.example")
    return Cause(
        "admission", f"{kind} webhook is down", words, lambda c: faults.break_webhook(c, kind), stops=stops
    )


def _rule(rng: random.Random) -> Cause:
    label = f"cost-{rng.randrange(100)}"
    message = f"every pod needs the label {label}"

    def plant(cluster: Cluster) -> None:
        faults.require_label(cluster, label, message)

    return Cause(
        "admission", f"a rule wants {label}", (message,), plant, rule=True, stops=("denied", message)
    )


def _policy(rng: random.Random) -> Cause:
    # The release's own policy opens its ingress again.
    kinds, word = rng.choice(((["Egress"], "DNS"), (["Ingress", "Egress"], "from each other")))
    name = f"deny-{rng.randrange(100)}"
    selector = rng.choice(
        ({}, {"matchExpressions": [{"key": "app.kubernetes.io/name", "operator": "Exists"}]})
    )
    spec = {"podSelector": selector, "policyTypes": kinds}
    item = _item("NetworkPolicy", "networking.k8s.io/v1", name, spec=spec)
    told = f"a policy denies {' and '.join(kinds)}"
    return Cause("network-policies", told, (name, word), lambda c: faults.plant(c, item))


def _security(rng: random.Random) -> Cause:
    level = rng.choice(("baseline", "restricted"))
    words = (f"enforces the Pod Security level {level}",)
    stops = ("denied", "violates PodSecurity")
    return Cause(
        "pod-security", f"Pod Security {level}", words, lambda c: faults.enforce(c, level), stops=stops
    )


def _name_taken(rng: random.Random) -> Cause:
    kind, name, more = rng.choice(
        (
            ("ConfigMap", "deepseek-r1-671b-scripts", {}),
            ("Service", "deepseek-r1-671b-svc", {"spec": {"ports": [{"port": 80}]}}),
            ("ServiceAccount", "deepseek-r1-671b", {}),
        )
    )
    item = _item(kind, "v1", name, **more)
    words = (kind, name, "belongs to no release")
    return Cause("conflicts", f"{kind} {name} of somebody", words, lambda c: faults.plant(c, item))


Family = Callable[[random.Random], Cause]
FAMILIES: tuple[Family, ...] = (
    _missing, _no_parameters, _mode, _type, _condition,
    _on_hosts("cordoned", ("cordoned",), faults.cordon, "unschedulable"), _taint,
    _lost, _ill, _detached, _occupied, _small,
    _apart, _driver, _processor,
    _no_daemon, _daemon_waits, _plugin, _lws_version, _lws_silent, _lws_of_helm,
    _limits, _quota, _webhook, _rule, _policy, _security, _name_taken,
)  # fmt: skip
