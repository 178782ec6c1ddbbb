"""The nodes that a recipe selects: they are billed whether or not something uses them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from manyhost.cluster import gke
from manyhost.cluster.connection import Connection, path_of
from manyhost.cluster.target import Place
from manyhost.plan.cost import Cost

POOL = "cloud.google.com/gke-nodepool"
_SHOWN = 3  # of the pods that use a pool


# Only what is looked at is decoded: a thousand nodes and five thousand pods stay small.
class _Owner(msgspec.Struct):
    kind: str = ""


class _Meta(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    created: str = msgspec.field(name="creationTimestamp", default="")
    owners: list[_Owner] | None = msgspec.field(name="ownerReferences", default=None)


class _Spec(msgspec.Struct):
    provider: str = msgspec.field(name="providerID", default="")
    node: str = msgspec.field(name="nodeName", default="")


class Node(msgspec.Struct):
    """A node, with what is looked at."""

    metadata: _Meta
    spec: _Spec

    @property
    def name(self) -> str:
        """Its name."""
        return self.metadata.name

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return self.metadata.labels or {}

    @property
    def annotations(self) -> dict[str, str]:
        """Its annotations."""
        return self.metadata.annotations or {}

    @property
    def created(self) -> str:
        """When it was made."""
        return self.metadata.created

    @property
    def project(self) -> str:
        """Its Google Cloud project (gce://PROJECT/ZONE/NAME); empty when its provider is another one."""
        parts = self.spec.provider.split("/")
        return parts[2] if self.spec.provider.startswith("gce://") and len(parts) == 5 else ""


class Pod(msgspec.Struct):
    """A pod, with what is looked at."""

    metadata: _Meta
    spec: _Spec


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """A node pool with hosts of the recipe's type.

    Attributes:
        name: Its name.
        nodes: Its nodes.
        own: How many pods of the release are on them.
        others: Pods of others on them (namespace/name), DaemonSets left out.
        usd_per_hour: List price of the nodes; None where nobody publishes one.
        price: Whose price it is: region, date and source of the list.
        resize: The command that removes the nodes, in backticks; empty while something uses them.
    """

    name: str
    nodes: list[str]
    own: int
    others: list[str]
    usd_per_hour: float | None
    price: str
    resize: str


def selected(connection: Connection, selector: Mapping[str, str]) -> list[Node]:
    """Return the nodes that carry some labels.

    Raises:
        Unreachable: No answer.
        Refused: No permission, or another refusal.
    """
    labels = ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
    return list(connection.pages(path_of("v1", "nodes"), Node, labels=labels))


def pools(
    connection: Connection, place: Place, nodes: Sequence[Node], cost: Cost, named: Sequence[str]
) -> list[Pool]:
    """Return the node pools of some nodes with who uses them.

    Args:
        connection: The cluster.
        place: The release that counts as one's own.
        nodes: The nodes.
        cost: Of one of them.
        named: The cluster, as gcloud's commands want it named.

    Raises:
        Unreachable: No answer.
        Refused: No permission, or another refusal.
    """
    if not any(POOL in node.labels for node in nodes):
        return []
    fields = "status.phase!=Succeeded,status.phase!=Failed,spec.nodeName!="
    pods = connection.pages(path_of("v1", "pods"), Pod, fields=fields)
    return group(place, nodes, pods, cost, named)


def group(
    place: Place, nodes: Iterable[Node], pods: Iterable[Pod], cost: Cost, named: Sequence[str]
) -> list[Pool]:
    """Return the node pools of some nodes; see pools()."""
    by_pool: dict[str, list[Node]] = {}
    for node in nodes:
        if POOL in node.labels:
            by_pool.setdefault(node.labels[POOL], []).append(node)
    pool_of = {node.name: pool for pool, members in by_pool.items() for node in members}
    own, others = dict.fromkeys(by_pool, 0), {pool: list[str]() for pool in by_pool}
    for pod in pods:
        pool = pool_of.get(pod.spec.node)
        if pool is None or any(owner.kind in {"DaemonSet", "Node"} for owner in pod.metadata.owners or ()):
            continue  # what runs on every node keeps none
        if _is_own(pod, place):
            own[pool] += 1
        else:
            others[pool].append(f"{pod.metadata.namespace}/{pod.metadata.name}")
    return [
        Pool(
            name=pool,
            nodes=sorted(node.name for node in members),
            own=own[pool],
            others=sorted(others[pool]),
            usd_per_hour=None if cost.usd_per_hour is None else round(cost.usd_per_hour * len(members), 2),
            price=f"{cost.region}, {cost.origin}" if cost.usd_per_hour else "",
            resize="" if own[pool] or others[pool] else _resize(pool, members[0], named),
        )
        for pool, members in sorted(by_pool.items())
    ]


def _is_own(pod: Pod, place: Place) -> bool:
    labels = place.chart.labels(place.release).items()
    return pod.metadata.namespace == place.namespace and labels <= (pod.metadata.labels or {}).items()


def _resize(pool: str, node: Node, named: Sequence[str]) -> str:
    project = () if "--project" in named or not node.project else ("--project", node.project)
    cluster, *rest = named
    return gke.clusters("resize", cluster, "--node-pool", pool, "--num-nodes", "0", *rest, *project)


def describe(pool: Pool) -> tuple[str, str]:
    """Return in a sentence what a pool costs and who uses it, and what to do about it."""
    count = len(pool.nodes)
    nodes = f"{count} node{'s' * (count != 1)}"
    price = f", {pool.usd_per_hour:,.2f} USD/h ({pool.price})" if pool.usd_per_hour else ""
    text = f"node pool {pool.name}: {nodes} {'are' if count != 1 else 'is'} billed{price}"
    if pool.others:
        shown = ", ".join(pool.others[:_SHOWN])
        more = f" and {len(pool.others) - _SHOWN} more" if len(pool.others) > _SHOWN else ""
        return f"{text}; others use {'them' if count != 1 else 'it'}: {shown}{more}", ""
    if pool.own:
        return f"{text}; this release uses {'them' if count != 1 else 'it'}", ""
    text = f"{text}, and nothing uses {'them' if count != 1 else 'it'}"
    return text, f"if nobody waits for {'them' if count != 1 else 'it'}: {pool.resize}"
