"""Multi-networking annotations that GKE accepts, and that say what the pod needs.

Annotation format: GoogleCloudPlatform/gke-networking-api; a pod on the host network has all of
the host's NICs, and the annotations have no effect there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from manyhost.checks.finding import Finding
from manyhost.checks.names import is_subdomain
from manyhost.checks.objects import Context, Group, Pod

INTERFACES = "networking.gke.io/interfaces"
DEFAULT_INTERFACE = "networking.gke.io/default-interface"
DEVICES = "devices.gke.io/container."

_DEVICE_LINES = re.compile(r"(\s*- path: /dev/[\w/.-]+\s*)+")


def check(context: Context) -> Iterator[Finding]:
    """Yield findings about the network and device annotations of each pod."""
    for pod in context.pods:
        where = pod.at("metadata.annotations")
        if pod.spec.get("hostNetwork"):
            yield from _check_host_network(pod, where, grouped=id(pod) in context.in_groups)
        else:
            yield from _check_interfaces(pod, where)
        yield from _check_devices(pod, where)
    for group in context.groups:
        yield from _check_same(group)


def _check_host_network(pod: Pod, where: str, *, grouped: bool) -> Iterator[Finding]:
    if INTERFACES in pod.annotations:
        yield Finding(
            "network",
            where,
            f"{INTERFACES} has no effect with hostNetwork",
            "remove it, or set network.hostNetwork to false",
        )
    # Members of a group find each other by name. Any other pod may do without, if it says so.
    policy = pod.spec.get("dnsPolicy", "ClusterFirst")
    if policy != "ClusterFirstWithHostNet" and (grouped or policy == "ClusterFirst"):
        yield Finding(
            "network",
            pod.at("spec.dnsPolicy"),
            "a pod on the host network finds no cluster names with this DNS policy",
            "set ClusterFirstWithHostNet" if grouped else "set ClusterFirstWithHostNet or Default",
        )


def _check_interfaces(pod: Pod, where: str) -> Iterator[Finding]:
    text, default = pod.annotations.get(INTERFACES), pod.annotations.get(DEFAULT_INTERFACE)
    if text is None:
        if default is not None:
            yield Finding("network", where, f"{DEFAULT_INTERFACE} without {INTERFACES}", "give both or none")
        return
    where = f"{where}[{INTERFACES}]"
    try:
        items = json.loads(text)
        interfaces = [item["interfaceName"] for item in items]
        networks = [item["network"] if "network" in item else item["interface"] for item in items]
    except (ValueError, TypeError, KeyError) as error:
        yield Finding(
            "network",
            where,
            f"not a JSON list of interfaceName and network: {type(error).__name__}: {error}",
            "build it with toJson from a list",
        )
        return
    wanted = [f"eth{index}" for index in range(len(interfaces))]
    if interfaces != wanted:
        yield Finding(
            "network",
            where,
            f"interfaces are {', '.join(map(str, interfaces))}",
            f"name them in order: {', '.join(wanted)}",
        )
    for network in sorted({str(n) for n in networks if networks.count(n) > 1}):
        yield Finding("network", where, f"network {network} stands twice", "use each network once")
    for network in networks:
        if not is_subdomain(network):
            yield Finding("network", where, f"{network!r} is not a Network name", "use DNS names")
    if default not in interfaces:
        yield Finding("network", where, f"{DEFAULT_INTERFACE} is {default}, not one of them", "use eth0")
    for container in pod.containers:
        chosen = container.value("MANYHOST_INTERFACE")
        if chosen is not None and chosen not in interfaces:
            yield Finding(
                "network",
                f"{container.where}.env",
                f"MANYHOST_INTERFACE is {chosen}, which the pod does not have",
                f"use one of {', '.join(map(str, interfaces))}",
            )


def _check_devices(pod: Pod, where: str) -> Iterator[Finding]:
    names = {container.name for container in pod.containers}
    for key, value in pod.annotations.items():
        if not key.startswith(DEVICES):
            continue
        name = key.removeprefix(DEVICES)
        if name not in names:
            yield Finding(
                "network",
                where,
                f"{key} names no container of the pod",
                f"use one of {', '.join(sorted(names))}",
            )
        if not _DEVICE_LINES.fullmatch(value):
            yield Finding("network", f"{where}[{key}]", "not a list of device paths", "- path: /dev/...")


def _check_same(group: Group) -> Iterator[Finding]:
    keys = {
        key
        for pod in (group.leader, group.worker)
        for key in pod.annotations
        if key in (INTERFACES, DEFAULT_INTERFACE) or key.startswith(DEVICES)
    }
    for key in sorted(keys):
        if group.leader.annotations.get(key) != group.worker.annotations.get(key):
            yield Finding(
                "network",
                group.worker.at(f"metadata.annotations[{key}]"),
                "differs between leader and worker",
                "make them equal",
            )
