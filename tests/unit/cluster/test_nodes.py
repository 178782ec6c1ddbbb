"""Nodes that are billed whether or not something uses them, and the command that removes them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from manyhost.catalog import Catalog
from manyhost.catalog.recipe import Site
from manyhost.cluster import gke
from manyhost.cluster.nodes import Node, Pod, describe, group
from manyhost.cluster.target import Place
from manyhost.plan.cost import Cost

from testbed import gpu_hosts
from testbed.shapes import A3MEGA
from tests.helpers import fixes
from tests.helpers.cli import ROOT

PLACE = Place(Catalog(ROOT).chart("llm-multihost"), "n", "r")
NAMED = ("c1", "--location", "us-central1", "--project", "p1")


def nodes(*names: str, pool: str = "a3") -> list[Node]:
    made = [gpu_hosts.node(name, A3MEGA) for name in names]
    for item in made:
        item["metadata"]["labels"]["cloud.google.com/gke-nodepool"] = pool
    return [msgspec.convert(item, Node) for item in made]


def pod(node: str, name: str = "busy", *, own: bool = False, owner: str = "") -> Pod:
    labels = PLACE.chart.labels("r") if own else {"app": "other"}
    owners = [{"kind": owner}] if owner else []
    metadata = {"name": name, "namespace": "n", "labels": labels, "ownerReferences": owners}
    return msgspec.convert({"metadata": metadata, "spec": {"nodeName": node}}, Pod)


def cost(usd: float | None) -> Cost:
    return Cost(
        usd_per_hour=usd,
        usd_per_hour_by_rate={},
        region="us-east4",
        date="2026-07-30",
        source="s",
        verified=True,
    )


def test_a_pool_that_nothing_uses_is_told_with_its_price_and_the_command() -> None:
    daemons = [pod("a", "installer", owner="DaemonSet"), pod("a", "proxy", owner="Node"), pod("elsewhere")]
    (found,) = group(PLACE, nodes("a", "b"), daemons, cost(92.94), NAMED)
    assert (found.nodes, found.own, found.others, found.usd_per_hour) == (["a", "b"], 0, [], 185.88)
    assert describe(found) == (
        "node pool a3: 2 nodes are billed, 185.88 USD/h (us-east4, list of 2026-07-30, s), "
        "and nothing uses them",
        "if nobody waits for them: `gcloud container clusters resize c1 --node-pool a3 --num-nodes 0 "
        "--location us-central1 --project p1`",
    )


def test_nothing_is_advised_that_would_end_somebodys_pods() -> None:
    others = [pod("b", f"busy-{n}") for n in range(5)]
    (found,) = group(PLACE, nodes("a", "b"), others, cost(92.94), NAMED)
    text, fix = describe(found)
    assert text.endswith("others use them: n/busy-0, n/busy-1, n/busy-2 and 2 more")
    assert (found.resize, fix) == ("", "")
    (found,) = group(PLACE, nodes("a"), [pod("a", "r-0", own=True)], cost(None), NAMED)
    assert describe(found) == ("node pool a3: 1 node is billed; this release uses it", "")
    assert found.resize == ""


def test_each_pool_is_by_itself_and_nodes_without_one_are_nobodys() -> None:
    bare = msgspec.convert({"metadata": {"name": "x", "labels": {}}, "spec": {}}, Node)
    found = group(PLACE, [*nodes("a"), *nodes("b", pool="b3"), bare], [pod("a")], cost(None), NAMED)
    assert [(pool.name, pool.nodes, bool(pool.resize)) for pool in found] == [
        ("a3", ["a"], False), ("b3", ["b"], True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("context", "site", "words"),
    [
        (
            "gke_p2_europe-west4-b_c2", {},
            "c2 --node-pool a3 --num-nodes 0 --location europe-west4-b --project p2`",
        ),
        (
            "mine", {"cluster_name": "c1", "cluster_region": "us-east4"},
            "c1 --node-pool a3 --num-nodes 0 --location us-east4 --project test-project`",  # of the nodes
        ),
        ("mine", {}, "CLUSTER --node-pool a3 --num-nodes 0 --location LOCATION --project test-project`"),
    ],
)  # fmt: skip
def test_the_names_are_the_contexts_else_the_settings(context: str, site: Any, words: str) -> None:
    (pool,) = group(PLACE, nodes("a"), [], cost(None), gke.named(Site(**site), context))
    assert pool.resize == f"`gcloud container clusters resize {words}"
    fixes.check(describe(pool)[1])
