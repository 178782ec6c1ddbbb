"""A release of prefill and decode groups, as status, deploy, doctor and logs see it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from manyhost.catalog import Catalog, resolve
from manyhost.catalog.passthrough import CHART
from manyhost.cli.progress import line
from manyhost.cli.status import _lines
from manyhost.cluster import rollout
from manyhost.cluster.chat import Server, port_of, ready_server
from manyhost.cluster.connection import Connection, Forbidden
from manyhost.cluster.doctor.hosts import requests_of
from manyhost.cluster.observe import Look, Observer
from manyhost.cluster.rollout import Event, Wait
from manyhost.cluster.status import status
from manyhost.cluster.target import Place, Target, from_rendered
from manyhost.commands import Commands
from manyhost.errors import Failed, NotReady
from manyhost.plan.cost import Cost
from manyhost.render import Renderer

from tests.helpers.cli import ROOT

PLACE = Place(Catalog(ROOT).chart(CHART), "n", "r")
LABELS = {"app.kubernetes.io/instance": "r", "app.kubernetes.io/name": "llm-multihost"}
LWS = "leaderworkerset.sigs.k8s.io"
FREE = Cost(
    usd_per_hour=0.0, usd_per_hour_by_rate={}, region="local", date="2026-01-01", source="", verified=True
)


def group_set(name: str, role: str, ready: int, replicas: int = 1, seen: int = 3) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": LABELS | {"manyhost.dev/role": role}, "generation": 3},
        "spec": {"replicas": replicas, "leaderWorkerTemplate": {"size": 1}},
        "status": {"readyReplicas": ready, "updatedReplicas": replicas, "observedGeneration": seen},
    }


def pod(name: str, role: str, uid: str, ready: bool = True) -> dict[str, Any]:
    labels = {f"{LWS}/group-index": "0", f"{LWS}/worker-index": "0", "manyhost.dev/role": role}
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {
        "metadata": {"name": name, "uid": uid, "labels": LABELS | labels},
        "spec": {"nodeName": "n"},
        "status": {"conditions": conditions},
    }


def routing(ready: int = 2, wanted: int = 2, **more: int) -> dict[str, Any]:
    """The Deployment of a router."""
    state = {
        "replicas": wanted,
        "updatedReplicas": wanted,
        "readyReplicas": ready,
        "observedGeneration": 4,
    } | more
    return {"metadata": {"name": "r-router", "generation": 4}, "spec": {"replicas": wanted}, "status": state}


def router_pod(name: str, ready: bool = True) -> dict[str, Any]:
    found = pod(name, "", name, ready)
    found["metadata"]["labels"] = LABELS | {"app.kubernetes.io/component": "router"}
    found["spec"]["containers"] = [{"name": "router", "ports": [{"name": "http", "containerPort": 9000}]}]
    return found


class Api:
    """Objects by the last word of their path."""

    commands = Commands(namespace="n", recipe="local", release="r")

    def __init__(self, **objects: list[dict[str, Any]]) -> None:
        self.objects = objects

    def now(self) -> float:
        return 0.0

    def pages(self, path: str, *_: Any, labels: str = "", **__: Any) -> Iterator[dict[str, Any]]:
        kind = path.rpartition("/")[2]
        component = "app.kubernetes.io/component="
        if kind == "pods" and component in labels:
            yield from (item for item in self.objects["pods"] if component[:-1] in item["metadata"]["labels"])
            return
        if kind in {"leaderworkersets", "pods"}:
            assert (
                labels
                == PLACE.selector
                == "app.kubernetes.io/instance=r,app.kubernetes.io/name=llm-multihost"
            )
        yield from self.objects.get(kind, [])

    def find(self, path: str, **_: Any) -> dict[str, Any] | None:
        _, kind, name = path.rsplit("/", 2)
        return next((item for item in self.objects.get(kind, []) if item["metadata"]["name"] == name), None)


def api(*, prefill_ready: bool) -> Api:
    return Api(
        leaderworkersets=[group_set("r", "decode", 1), group_set("r-prefill", "prefill", int(prefill_ready))],
        pods=[
            pod("r-0", "decode", "a"), pod("r-prefill-0", "prefill", "b", prefill_ready),
            router_pod("r-router-5d4f8c7b9d-x2k4z"), router_pod("r-router-5d4f8c7b9d-z9wq8"),
        ],
        deployments=[routing()],
    )  # fmt: skip


def look(found: Api) -> Look:
    return Observer(cast("Connection", found), PLACE).look(logs=False)


def test_a_release_is_complete_with_both_kinds_of_groups() -> None:
    seen = look(api(prefill_ready=True))
    assert seen.complete
    assert (seen.replicas, seen.wanted) == (2, {"decode": 1, "prefill": 1})
    assert [(host.role, host.group, host.pod) for host in seen.hosts] == [
        ("decode", 0, "r-0"), ("prefill", 0, "r-prefill-0"),
    ]  # fmt: skip
    assert not look(api(prefill_ready=False)).complete


def test_pods_that_are_not_there_yet_have_their_names() -> None:
    sets = [group_set("r", "decode", 0), group_set("r-prefill", "prefill", 0, replicas=2)]
    names = {host.pod: host.phase for host in look(Api(leaderworkersets=sets)).hosts}
    assert names == {"r-0": "absent", "r-prefill-0": "absent", "r-prefill-1": "absent"}


def test_a_set_that_its_controller_has_not_seen_unsettles_the_release() -> None:
    found = api(prefill_ready=True)
    found.objects["leaderworkersets"][1]["status"]["observedGeneration"] = 2
    assert not look(found).complete
    del found.objects["leaderworkersets"][1]["status"]["observedGeneration"]
    assert look(found).settled is None


def test_a_release_is_there_when_the_set_of_its_name_is() -> None:
    only = Api(leaderworkersets=[group_set("r-prefill", "prefill", 1)])
    assert not look(only).exists
    assert not look(Api()).exists


def test_status_counts_groups_of_each_duty() -> None:
    for ready in (True, False):
        found = api(prefill_ready=ready)
        said = status(cast("Connection", found), PLACE, FREE, "on-demand")
        assert (said.groups, said.ready_groups, said.ready) == (2, 1 + ready, ready)


def test_a_lost_prefill_group_is_not_the_decode_groups_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have group 0: what is told of one does not touch the other."""
    found = api(prefill_ready=True)
    events: list[Event] = []
    wait = Wait(cast("Connection", found), PLACE, timeout=60, report=events.append)
    monkeypatch.setattr(rollout, "_LOOK_SECONDS", 0)
    found.objects["pods"][1] = pod("r-prefill-0", "prefill", "b", ready=False)

    def recreate(_: float) -> None:
        found.objects["pods"][1] = pod("r-prefill-0", "prefill", "c")

    monkeypatch.setattr(rollout.time, "sleep", recreate)
    found.objects["leaderworkersets"][1]["status"]["readyReplicas"] = 1
    wait.run()
    anew = [event for event in events if event.event == "recreated"]
    assert [(event.role, event.group) for event in anew] == [("prefill", 0)]
    lines = [line(event) for event in events]
    assert any("prefill group 0 host 0 (r-prefill-0 on n)" in text for text in lines)
    assert any("prefill group 0 starts anew" in text for text in lines)


def test_a_reader_without_secrets_gets_status(monkeypatch: pytest.MonkeyPatch) -> None:
    found = api(prefill_ready=True)
    pages = found.pages

    def refuse(path: str, *_: Any, **options: Any) -> Iterator[dict[str, Any]]:
        if path.endswith("/secrets"):
            raise Forbidden("secrets is forbidden", status=403)
        return pages(path, **options)

    monkeypatch.setattr(found, "pages", refuse)
    said = status(cast("Connection", found), PLACE, FREE, "on-demand")
    assert (said.ready, said.revision, said.helm) == (True, 0, "may not be read")


def test_status_says_why_pods_are_not_made() -> None:
    """The events know; those of a release whose name begins alike are not ours."""
    found = api(prefill_ready=True)
    found.objects["pods"].pop(0)
    found.objects["leaderworkersets"][0]["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    text = "create Pod r-0 in StatefulSet r failed error: exceeded quota: tight, requested: pods=1"
    events = [
        {"reason": "FailedCreate", "message": text, "lastTimestamp": "2026-01-01T00:10:00Z",
         "involvedObject": {"kind": "StatefulSet", "name": name, "namespace": "n"}}
        for name in ("r", "r-other")
    ]  # fmt: skip
    found.objects["events"] = events
    (problem,) = status(cast("Connection", found), PLACE, FREE, "on-demand").problems
    assert (problem.kind, problem.message) == ("quota", f"r: the pod is not created: {text}")
    found.objects["pods"].insert(0, pod("r-0", "decode", "a", ready=False))  # it is there after all
    assert status(cast("Connection", found), PLACE, FREE, "on-demand").problems == ()


def test_a_group_that_was_made_anew_three_times_carries_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    found = api(prefill_ready=False)
    ended = {"exitCode": 1, "reason": "Error", "message": "rank 0: CUDA error (exit 1)"}
    numbers = iter(range(100))

    def next_life(_: float) -> None:
        number = next(numbers)
        again = pod("r-prefill-0", "prefill", f"life-{number // 2}", ready=False)
        if number % 2:
            again["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            again["status"]["containerStatuses"] = [{"name": "vllm", "state": {"terminated": ended}}]
        found.objects["pods"][1] = again

    monkeypatch.setattr(rollout.time, "sleep", next_life)
    monkeypatch.setattr(Observer, "_read_logs", lambda *_: None)
    with pytest.raises(Failed, match=r"made anew 3 times .* rank 0: CUDA error"):
        Wait(cast("Connection", found), PLACE, timeout=60, report=lambda _: None).run()


def test_a_group_whose_worker_comes_twice_was_made_anew_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a leader goes, a worker may come for it, and go with it: a group lives as long as its leader."""
    found = api(prefill_ready=False)
    found.objects["leaderworkersets"] = [group_set("r", "serve", 0)]
    found.objects["leaderworkersets"][0]["spec"]["leaderWorkerTemplate"]["size"] = 2
    lives = iter([("old", "b"), ("new", "b"), ("new", "c"), ("new", "c")])
    events: list[Event] = []

    def members(leader: str, worker: str, *, ready: bool) -> None:
        other = pod("r-0-1", "serve", worker, ready=ready)
        other["metadata"]["labels"][f"{LWS}/worker-index"] = "1"
        found.objects["pods"] = [pod("r-0", "serve", leader, ready=ready), other]

    def next_look(_: float) -> None:
        leader, worker = next(lives, ("new", "c"))
        ready = (leader, worker) == ("new", "c")
        members(leader, worker, ready=ready)
        found.objects["leaderworkersets"][0]["status"]["readyReplicas"] = int(ready)

    members("old", "a", ready=False)
    monkeypatch.setattr(rollout.time, "sleep", next_look)
    monkeypatch.setattr(rollout, "_RECREATIONS", 2)
    Wait(cast("Connection", found), PLACE, timeout=60, report=events.append).run()
    assert [event.group for event in events if event.event == "recreated"] == [0]


def test_a_release_is_complete_with_its_router() -> None:
    """Its pods are no hosts of groups; each of them must run the newest template and take requests."""
    found = api(prefill_ready=True)
    seen = look(found)
    assert seen.complete
    assert seen.router is not None
    assert (seen.router.ready, seen.router.wanted, len(seen.hosts)) == (2, 2, 2)
    for state in ({"observedGeneration": 3}, {"updatedReplicas": 1}, {"replicas": 3}):
        found.objects["deployments"] = [routing(**state)]
        assert not look(found).complete
    found.objects["deployments"] = [routing()]
    found.objects["pods"][3] = router_pod("r-router-5d4f8c7b9d-z9wq8", ready=False)
    assert not look(found).complete
    found.objects.update(deployments=[])
    assert not look(found).complete  # somebody has deleted it


def test_status_shows_the_router() -> None:
    found = api(prefill_ready=True)
    found.objects["endpointslices"] = []
    said = status(cast("Connection", found), PLACE, FREE, "on-demand")
    assert (said.service, said.ready) == ("r-router", True)
    assert "  router  r-router: 2 of 2 ready" in list(_lines(said, Api.commands))
    waiting = router_pod("r-router-5d4f8c7b9d-z9wq8", ready=False)
    state = {"waiting": {"reason": "ErrImagePull", "message": "no such tag"}}
    waiting["status"]["containerStatuses"] = [{"name": "router", "image": "x:1", "state": state}]
    found.objects["pods"][3] = waiting
    said = status(cast("Connection", found), PLACE, FREE, "on-demand")
    assert not said.ready
    text = "\n".join(_lines(said, Api.commands))
    assert "  router  r-router: 1 of 2 ready" in text
    assert "image x:1 of router cannot be pulled: no such tag" in text


def test_a_reader_without_deployments_is_told_of_the_routers_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    found = api(prefill_ready=True)

    def refuse(path: str, **_: Any) -> None:
        raise Forbidden(f"{path} is forbidden", status=403)

    monkeypatch.setattr(found, "find", refuse)
    seen = look(found).router
    assert seen is not None
    assert (seen.ready, seen.wanted, seen.complete) == (2, 2, True)


def test_deploy_waits_for_the_router(monkeypatch: pytest.MonkeyPatch) -> None:
    found = api(prefill_ready=True)
    events: list[Event] = []
    found.objects["pods"][3] = router_pod("r-router-5d4f8c7b9d-z9wq8", ready=False)

    def wake(_: float) -> None:
        found.objects["pods"][3] = router_pod("r-router-5d4f8c7b9d-z9wq8")

    monkeypatch.setattr(rollout.time, "sleep", wake)
    Wait(cast("Connection", found), PLACE, timeout=60, report=events.append).run()
    told = [line(event).split(" s  ")[-1].strip() for event in events if event.event == "router"]
    assert told == ["r-router: 1 of 2 ready", "r-router: 2 of 2 ready"]
    assert events[-1].event == "ready"


def test_a_wait_says_that_the_router_is_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    found = api(prefill_ready=True)
    found.objects["pods"].pop()
    monkeypatch.setattr(rollout, "_LOOK_SECONDS", 0.1)
    with pytest.raises(Failed, match=r"r-router: 1 of 2 ready"):
        Wait(cast("Connection", found), PLACE, timeout=1, report=lambda _: None).run()


@pytest.mark.parametrize(
    ("name", "ours"),
    [("r-router", True), ("r-router-5d4f8c7b9d", True), ("r-router-5d4f8c7b9d-x2k4z", True), ("r-0-1", True),
     ("r-prefill-0", True), ("r-x-0", False), ("r-router-0", False), ("r-router-x-0", False)],
)  # fmt: skip
def test_events_of_the_router_are_ours(name: str, ours: bool) -> None:
    found = api(prefill_ready=True)
    subject = {"kind": "Pod", "name": name, "namespace": "n"}
    event = {"reason": "FailedMount", "message": "m", "lastTimestamp": "2026-01-01T00:10:00Z"}
    found.objects["events"] = [event | {"involvedObject": subject}]
    assert len(Observer(cast("Connection", found), PLACE).events(0.0)) == ours


def test_chat_goes_to_the_router_where_there_is_one() -> None:
    """To one that is ready; where there is none at all, to a leader."""
    found = api(prefill_ready=True)
    found.objects["pods"][2] = router_pod("r-router-5d4f8c7b9d-x2k4z", ready=False)
    assert ready_server(cast("Connection", found), PLACE) == Server("r-router-5d4f8c7b9d-z9wq8", 9000)
    found.objects["pods"][3] = router_pod("r-router-5d4f8c7b9d-z9wq8", ready=False)
    with pytest.raises(NotReady, match="no router of release r is ready"):
        ready_server(cast("Connection", found), PLACE)


def ending(found: Api, *finalizers: str) -> None:
    metadata = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": list(finalizers), "namespace": "n"}
    found.objects["leaderworkersets"][0]["metadata"] |= metadata


@pytest.mark.parametrize("revision", [None, "3"])
def test_a_wait_for_what_is_being_removed_ends_at_once(revision: str | None) -> None:
    """It says who, as far as the cluster knows, and what keeps it."""
    found = api(prefill_ready=True)
    ending(found, "foregroundDeletion", "example.com/hold")
    if revision:
        labels = {"version": revision, "status": "deployed"}
        found.objects["secrets"] = [{"metadata": {"name": "s", "labels": labels}}]
    assert not look(found).complete
    with pytest.raises(Failed) as error:
        Wait(cast("Connection", found), PLACE, timeout=4740, report=lambda _: None).run()
    text = error.value.message
    assert "LeaderWorkerSet r is being removed since 2026-01-01T00:00:00Z" in text
    assert "finalizer example.com/hold keeps it" in text
    assert "foregroundDeletion" not in text
    assert ("by hand (Helm still has revision 3, deployed)" in text) is bool(revision)
    assert ("a teardown or helm uninstall" in text) is not bool(revision)
    assert "kubectl patch leaderworkerset r --type merge" in error.value.fix


def test_a_wait_for_what_has_gone_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = api(prefill_ready=False)
    monkeypatch.setattr(rollout.time, "sleep", lambda _: found.objects.pop("leaderworkersets", None))
    with pytest.raises(Failed, match="its LeaderWorkerSet r has gone: removed by a teardown"):
        Wait(cast("Connection", found), PLACE, timeout=4740, report=lambda _: None).run()


def test_status_of_what_is_being_removed_is_not_ready() -> None:
    found = api(prefill_ready=True)
    ending(found)
    said = status(cast("Connection", found), PLACE, FREE, "on-demand")
    assert said.removal is not None
    assert not said.ready


def target(*assignments: str) -> Target:
    catalog = Catalog(ROOT)
    renderer = Renderer(catalog)
    resolved = resolve(catalog, "local/tiny-r1-disaggregated", assignments=assignments)
    return from_rendered(renderer.render(resolved, release="r"))


def test_a_target_counts_all_groups_and_talks_to_decode() -> None:
    found = target("groups=3", "roles.prefill.groups=2")
    assert (found.groups, found.hosts) == (5, 5)
    assert [(item["metadata"]["name"], count) for item, count in found.sets] == [("r", 3), ("r-prefill", 2)]
    assert found.group["metadata"]["name"] == "r"
    assert port_of(found.pod("leader")) == 8000
    assert requests_of(found.pod("leader")["spec"])["cpu"] == pytest.approx(0.1)
    assert found.service == "r-router"
    assert target("roles.prefill.groups=0", "roles.prefill.tensor=null").service == "r-svc"


def test_plans_in_json_say_both() -> None:
    from manyhost.plan import table

    document = json.loads(table.to_json(target().plan))
    assert [(role["name"], role["groups"]) for role in document["roles"]] == [("prefill", 1), ("decode", 1)]
    assert document["handover"] == {"bytes": 294912, "seconds": 0.0, "tokens": 64}


def test_a_wait_ends_when_the_janitor_frees_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No groups are wanted any more and none is missing: that is not ready."""
    found = api(prefill_ready=False)
    found.objects["leaderworkersets"][0]["status"]["readyReplicas"] = 0
    note = json.dumps({"at": "2026-01-01T00:00:00Z", "why": "the lease of ada ended", "groups": 1})

    def free(_: float) -> None:
        for item in found.objects["leaderworkersets"]:
            item["spec"]["replicas"] = 0
            item["status"] |= {"readyReplicas": 0, "updatedReplicas": 0}
            item["metadata"]["annotations"] = {"manyhost.dev/released": note}
        found.objects["pods"] = []

    monkeypatch.setattr(rollout.time, "sleep", free)
    wait = Wait(cast("Connection", found), PLACE, timeout=60, report=lambda _: None)
    with pytest.raises(
        Failed, match="its hosts were freed while this waited: the lease of ada ended"
    ) as error:
        wait.run()
    assert error.value.fix.startswith("cure it; `manyhost deploy ")
