"""teardown ends when nothing is left, not when it has asked for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from manyhost.catalog import Catalog
from manyhost.cluster import teardown as module
from manyhost.cluster.connection import Connection, Forbidden, path_of
from manyhost.cluster.release import Revision
from manyhost.cluster.target import Place
from manyhost.cluster.teardown import inventory, teardown
from manyhost.commands import Commands
from manyhost.errors import Failed

from tests.helpers.cli import ROOT

PLACE = Place(Catalog(ROOT).chart("llm-multihost"), "n", "r")
CHART = {"app.kubernetes.io/instance": "r", "app.kubernetes.io/name": "llm-multihost"}
SET = {"leaderworkerset.sigs.k8s.io/name": "r"}
LWS = path_of("leaderworkerset.x-k8s.io/v1", "leaderworkersets", "n", "r")
NOW = 1767225600.0
OWNED = {
    path_of("apps/v1", "statefulsets", "n", "r"): SET,
    path_of("apps/v1", "controllerrevisions", "n", "r-1"): SET,
    path_of("v1", "services", "n", "r"): SET,
    path_of("discovery.k8s.io/v1", "endpointslices", "n", "r-svc-x"): CHART,
    path_of("v1", "endpoints", "n", "r-svc"): CHART,
    path_of("v1", "pods", "n", "r-0"): SET | CHART,
}
STRANGE = {path_of("v1", "services", "n", "other"): {"app.kubernetes.io/instance": "other"}}


class Api:
    """Objects with labels; what the LeaderWorkerSet owns goes one object a look, after it was deleted.

    Attributes:
        stuck: Objects that never go.
        denied: Kinds that the user may not list.
        foreground: What was deleted so that it waits for what it owns.
        details: More of the metadata of some objects, and whole pods and nodes.
    """

    commands = Commands(namespace="n", recipe="local", release="r")

    def __init__(self) -> None:
        self.objects = {LWS: CHART, **OWNED, **STRANGE}
        self.stuck: set[str] = set()
        self.foreground: list[str] = []
        self.details: dict[str, dict[str, Any]] = {}
        self.denied: set[str] = set()

    def now(self) -> float:
        return NOW

    def find(self, path: str, *, metadata: bool = False) -> dict[str, Any] | None:
        name = path.rpartition("/")[2]
        found = self.details.get(path, {})
        if path not in self.objects and not found:
            return None
        return {**found, "metadata": {"name": name, "namespace": "n", **found.get("metadata", {})}}

    def pages(
        self, path: str, kind: Any, *, labels: str = "", metadata: bool = False
    ) -> Iterator[dict[str, Any]]:
        if path.rpartition("/")[2] in self.denied:
            raise Forbidden("no", status=403)
        if path.endswith("/pods") and LWS in self.foreground:
            going = next((item for item in OWNED if item in self.objects and item not in self.stuck), LWS)
            if going not in self.stuck:
                self.objects.pop(going, None)
        wanted = dict(item.split("=") for item in labels.split(","))
        for item, own in list(self.objects.items()):
            if item.rpartition("/")[0] == path and wanted.items() <= own.items():
                owners = [{"name": "r"}] if item in OWNED else []
                yield {"metadata": {"name": item.rpartition("/")[2], "ownerReferences": owners}}

    def delete(self, path: str, *, foreground: bool = False) -> bool:
        if foreground:
            self.foreground.append(path)
        return path in self.objects


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0)
    return Api()


def remove(api: Api, timeout: float) -> list[str]:
    said: list[str] = []
    connection = cast("Connection", api)
    teardown(connection, PLACE, inventory(connection, PLACE), timeout=timeout, report=said.append)
    return said


def test_it_waits_for_what_controllers_made(api: Api) -> None:
    said = remove(api, 60)
    assert api.objects == STRANGE
    assert LWS in api.foreground
    assert said == [
        "LeaderWorkerSet r deleted", "waiting for 1 pod to end", "waiting for what belonged to them to go",
    ]  # fmt: skip


@pytest.mark.parametrize("path", OWNED)
def test_what_does_not_go_is_named(path: str, api: Api) -> None:
    api.stuck.add(path)
    with pytest.raises(Failed, match=r"still there after 0 s: ") as error:
        remove(api, 0.05)
    assert path.rpartition("/")[2] in error.value.message
    assert error.value.exit_code == 1


@pytest.mark.parametrize("ready", ["True", "Unknown"])
def test_what_keeps_it_is_named(ready: str, api: Api) -> None:
    """A finalizer, by name; a node is given up for lost only when the cluster says so."""
    pod = path_of("v1", "pods", "n", "r-0")
    api.stuck = {pod}
    finalizers = ["example.com/hold"] if ready == "True" else []
    metadata = {"deletionTimestamp": "2025-12-31T23:50:00Z", "finalizers": finalizers}
    api.details[pod] = {"metadata": metadata, "spec": {"nodeName": "host-1"}}
    node = path_of("v1", "nodes", "", "host-1")
    api.details[node] = {"status": {"conditions": [{"type": "Ready", "status": ready}]}}
    with pytest.raises(Failed) as error:
        remove(api, 0.05)
    if ready == "True":
        assert "finalizer example.com/hold keeps it" in error.value.message
        assert "node" not in error.value.fix
    else:
        assert "node host-1 does not answer" in error.value.message
        assert "kubectl delete node host-1" in error.value.fix


def test_the_finalizer_of_a_set_is_named_while_it_is_waited_for(api: Api) -> None:
    api.stuck = {LWS}
    collector = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["foregroundDeletion"]}
    api.details[LWS] = {"metadata": collector}
    with pytest.raises(Failed, match="still there after") as error:
        remove(api, 0.05)
    assert "finalizer" not in error.value.message
    api.details[LWS]["metadata"]["finalizers"] = ["example.com/hold"]
    said: list[str] = []
    found = inventory(cast("Connection", api), PLACE)
    with pytest.raises(Failed, match=r"example\.com/hold keeps it") as error:
        teardown(cast("Connection", api), PLACE, found, timeout=0.05, report=said.append)
    assert "kubectl patch leaderworkerset r --type merge" in error.value.fix
    assert sum("example.com/hold" in line for line in said) == 1


def test_a_deployment_that_crosses_it_ends_it(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both would wait for each other; this one says who came in between."""
    connection = cast("Connection", api)
    found = inventory(connection, PLACE)
    again = Revision("r", 1, "pending-install")
    monkeypatch.setattr(module, "newest", lambda *_: again)
    monkeypatch.setattr(module.Releases, "__init__", lambda *_: None)
    monkeypatch.setattr(module.Releases, "chart", lambda *_: "llm-multihost")
    with pytest.raises(Failed, match=r"deploys it again .* revision 1 \(pending-install\)"):
        teardown(connection, PLACE, found, timeout=600, report=lambda _: None)


def test_what_a_failed_helm_test_left_goes_too(api: Api) -> None:
    """It has no owner and not the labels of the groups' pods, and Helm forgets it at uninstall."""
    pod = path_of("v1", "pods", "n", "r-test")
    others = path_of("v1", "pods", "n", "s-test")
    labels = {"app.kubernetes.io/name": "llm-multihost-test"}
    api.objects |= {pod: labels | {"app.kubernetes.io/instance": "r"}}
    api.objects |= {others: labels | {"app.kubernetes.io/instance": "s"}}
    found = inventory(cast("Connection", api), PLACE)
    assert [item.path for item in found.items if item.kind == "Pod"] == [pod]


def test_leftovers_alone_are_not_nothing(api: Api) -> None:
    """An earlier teardown was cut off: the next one still has something to wait for."""
    del api.objects[LWS]
    found = inventory(cast("Connection", api), PLACE)
    assert (found.items, found.empty) == ([], False)
    assert {item.path for item in found.made} | {path_of("v1", "pods", "n", "r-0")} == set(OWNED)


def test_prefill_groups_belong_to_their_release_alone(api: Api) -> None:
    """What controllers made for a second LeaderWorkerSet counts, also when that has gone first."""
    prefill = path_of("leaderworkerset.x-k8s.io/v1", "leaderworkersets", "n", "r-prefill")
    made = path_of("apps/v1", "statefulsets", "n", "r-prefill")
    api.objects |= {prefill: CHART, made: {"leaderworkerset.sigs.k8s.io/name": "r-prefill"}}
    connection = cast("Connection", api)
    found = inventory(connection, PLACE)
    assert found.sets == ("r", "r-prefill")
    assert made in {item.path for item in found.made}
    del api.objects[prefill]
    assert made in {item.path for item in inventory(connection, PLACE, sets=found.sets).made}
    # A release of its own may have this name.
    assert made not in {item.path for item in inventory(connection, PLACE).made}


def test_who_may_not_see_roles_can_remove_what_they_made(api: Api) -> None:
    """The role "edit" of Kubernetes has no access to them; to everything else there must be."""
    api.denied = {"roles", "rolebindings"}
    remove(api, 60)
    assert api.objects == STRANGE
    api.denied = {"cronjobs"}
    with pytest.raises(Forbidden):
        inventory(cast("Connection", api), PLACE)
