"""A pool that misses a leader, or reaches anything else, does not leave the render."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from manyhost.checks import run

from tests.charts.test_routing import APART, GKE, KINDS
from tests.helpers.helm import Object, find, merge, nest, render

LWS = "leaderworkerset.sigs.k8s.io"
Change = Callable[[Object], None]


def with_a_pool(values: Object) -> list[Object]:
    """What the chart refuses to render and somebody may write by hand: a pool where prefill is apart."""
    alone = render(merge(GKE, values, nest("roles.prefill.groups", 0)))
    return [*render(values), *(item for item in alone if item["kind"] in KINDS)]


def findings(kind: str, change: Change, values: Object = GKE) -> list[str]:
    objects = render(values) if "routing" in values else with_a_pool(values)
    change(find(objects, kind)["spec"])
    return [str(item) for item in run(objects) if item.check == "routing"]


def selector(**labels: str) -> Change:
    def change(spec: Any) -> None:
        names = {"name": f"{LWS}/name", "index": f"{LWS}/worker-index"}
        spec["selector"]["matchLabels"] = {names.get(key, key): value for key, value in labels.items()}

    return change


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"name": "r1"}, ["selects the workers of r1, which serve nothing"]),
        ({"role": "leader"}, ["selects r1-prefill, which only prefills"]),
        ({"name": "r1-prefill", "index": "0"}, ["misses the leaders of r1", "selects r1-prefill"]),
        ({"name": "r2", "index": "0"}, ["misses the leaders of r1"]),
        ({"index": "1"}, ["misses the leaders of r1", "selects the workers of r1"]),
    ],
)
def test_exactly_the_leaders_that_answer(labels: dict[str, str], words: list[str]) -> None:
    two_hosts = {"model": {"tp_size": 2}, "host": {"gpus": 1}}
    apart = any("prefill" in word for word in words)
    found = findings("InferencePool", selector(**labels), APART if apart else merge(GKE, two_hosts))
    assert len(found) == len(words)
    for line, word in zip(found, words, strict=True):
        assert line.startswith("InferencePool/r1 spec.selector: ")
        assert word in line


def test_the_port_of_the_api() -> None:
    def other(spec: Any) -> None:
        spec["targetPorts"] = [{"number": 8000}, {"number": 8001}]

    (found,) = findings("InferencePool", other)
    assert "spec.targetPorts[1]: 8001 is not the port of the API; use 8000" in found


@pytest.mark.parametrize("kind", ["HTTPRoute", "GCPBackendPolicy", "HealthCheckPolicy"])
def test_names_of_pools(kind: str) -> None:
    def other(spec: Any) -> None:
        target = spec["rules"][0]["backendRefs"][0] if kind == "HTTPRoute" else spec["targetRef"]
        target["name"] = "r2"

    (found,) = findings(kind, other)
    assert found.startswith(f"{kind}/r1 spec.")
    assert "InferencePool r2 is not among the manifests" in found


def test_pools_of_other_things_are_their_owners_affair() -> None:
    """extraObjects may hold one; only what it must never reach is said of it."""
    own = {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": "mine"},
        "spec": {"selector": {"matchLabels": {"app": "mine"}}, "targetPorts": [{"number": 9000}]},
    }
    objects = render(merge(GKE, {"extraObjects": [own]}))
    assert [item for item in run(objects) if item.check == "routing"] == []
