"""Whether the hosts of a group can be near each other, and whether anything holds the group together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from manyhost.catalog.interconnect import Rdma
from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed, skipped, warned
from manyhost.cluster.doctor.hosts import Room, free_rooms
from manyhost.cluster.target import size_of

ZONE = "topology.kubernetes.io/zone"
_EXCLUSIVE = "leaderworkerset.sigs.k8s.io/exclusive-topology"
_KUEUE = "kueue.x-k8s.io/podset-required-topology"
_SHOWN = 4  # domains named in a message


@check("topology", "Can the hosts of a group be had near each other, and does anything keep them so?")
def topology(sight: Sight) -> Finding:  # noqa: PLR0911  one return a finding
    """The free hosts by zone and topology block, as the chart's own rules would choose among them."""
    target, fabric = sight.target, sight.target.plan.interconnect
    sizes = [size_of(item) for item, groups in target.sets for _ in range(groups)]
    largest = max(sizes, default=1)
    if largest < 2 or not target.plan.environment.host.gpus:
        return skipped("no GPUs of different hosts talk to each other")
    if isinstance(fabric, Rdma) and fabric.compute_domain:
        return skipped("nvlink-domain looks at it")
    free = free_rooms(sight)
    if sum(room.pods for room in free) < sum(sizes):
        return skipped("there are not enough free hosts")
    key, alone = _required(sight)
    if key and not fits(domains(free, key), sizes, alone=alone):
        each = "one to itself" if alone else "one"
        return failed(
            f"every group needs {largest} hosts of {each} {key}; free are {told(domains(free, key))}",
            _look(sight, key),
        )
    preferred = target.effective["host"]["topologyKeys"]
    for near in (ZONE, *preferred[:1]):  # what is nearer than a block is a wish and no need
        found = domains(free, near)
        told_of_all = all(near in room.labels for room in free)
        if told_of_all and not fits(found, sizes):
            return warned(
                f"groups of {largest} hosts do not each fit into one {near}: free are {told(found)}",
                _look(sight, near),
            )
    zones = domains(free, ZONE)
    if len(zones) > 1 and not (key or preferred or target.effective.get("affinity")):
        return warned(
            f"the free hosts are in several zones ({told(zones)}), and nothing keeps a group in one of them",
            "let it prefer one: "
            + sight.commands.manyhost("deploy", "--set", f"chart.host.topologyKeys=[{ZONE}]"),
        )
    return passed("the hosts of each group can be near each other")


def domains(free: Iterable[Room], key: str) -> dict[str, int]:
    """Return how many pods fit into each domain of a label; hosts without the label are in none."""
    found: Counter[str] = Counter()
    for room in free:
        if key in room.labels:
            found[room.labels[key]] += room.pods
    return dict(found)


def fits(found: Mapping[str, int], sizes: Iterable[int], *, alone: bool = False) -> bool:
    """Whether groups can each be within one domain.

    Args:
        found: Hosts that each domain has.
        sizes: Hosts of each group.
        alone: Whether a domain takes one group only.
    """
    left = dict(found)
    for size in sorted(sizes, reverse=True):
        # The smallest that holds it keeps room for the next.
        name = min((name for name in left if left[name] >= size), key=lambda name: left[name], default=None)
        if name is None:
            return False
        left[name] = 0 if alone else left[name] - size
    return True


def told(found: Mapping[str, int]) -> str:
    """Return the largest domains with their free hosts, for people."""
    most = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(most) - _SHOWN} more" if len(most) > _SHOWN else ""
    return ", ".join(f"{count} in {name}" for name, count in most[:_SHOWN]) + more or "none has this label"


def _required(sight: Sight) -> tuple[str, bool]:
    """The label whose domain a group must not leave, and whether it has the domain for itself."""
    exclusive = (sight.target.group["metadata"].get("annotations") or {}).get(_EXCLUSIVE, "")
    queued = (sight.target.pod("leader")["metadata"].get("annotations") or {}).get(_KUEUE, "")
    return (exclusive, True) if exclusive else (queued, False)


def _look(sight: Sight, key: str) -> str:
    labels = sight.target.pod("leader")["spec"].get("nodeSelector") or {}
    selector = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
    select = ("--selector", selector) if selector else ()
    shown = sight.commands.kubectl("get", "nodes", *select, "--label-columns", key, namespace="")
    return f"free or add hosts in one {key}: {shown} shows them"
