"""What a release waits for, until when, and what that costs."""

from __future__ import annotations

from typing import Any

import pytest
from manyhost.cluster.lease import Lease
from manyhost.cluster.phases import host_of, newest, script_line, stamp
from manyhost.cluster.waits import spent, waits
from manyhost.commands import Commands
from manyhost.plan.cost import Cost

from tests.unit.scripts.test_janitor import janitor

NOW = 1767225600.0  # 2026-01-01T00:00:00Z
HOUR = 3600.0
HERE = Commands(namespace="n", recipe="local")
LWS = "leaderworkerset.sigs.k8s.io"


def ago(minutes: float) -> str:
    return stamp(NOW - minutes * 60)


def group(*, ready: int = 0, held: str = "60", age: float = 600) -> Any:
    notes = {"manyhost.dev/held-minutes": held} if held else {}
    metadata = {"name": "r", "creationTimestamp": ago(age), "annotations": notes}
    return {"metadata": metadata, "spec": {"replicas": 1}, "status": {"readyReplicas": ready}}


def pod(
    index: int = 0,
    *,
    placed: float | None = 30,
    runs: float | None = None,
    started: bool = False,
    group: int = 0,
) -> Any:
    """A host's pod that got its node and whose engine runs since some minutes ago."""
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": ago(placed or 0)}
    waiting = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    state: Any = {"running": {"startedAt": ago(runs)}} if runs is not None else {"waiting": {}}
    status: Any = {"conditions": [scheduled if placed is not None else waiting]}
    if placed is not None:
        status["containerStatuses"] = [
            {"name": "vllm", "state": state, "started": started, "restartCount": 0}
        ]
    return {
        "metadata": {
            "name": f"r-{group}-{index}",
            "uid": "u",
            "creationTimestamp": ago(600),
            "labels": {f"{LWS}/group-index": str(group), f"{LWS}/worker-index": str(index)},
        },
        "spec": {
            "nodeName": "n" if placed is not None else "",
            "containers": [{"name": "vllm", "startupProbe": {"periodSeconds": 5, "failureThreshold": 720}}],
        },
        "status": status,
    }


def look(*pods: Any, sets: Any = None, price: float | None = 90.0) -> Any:
    return waits([host_of(item, HERE) for item in pods], sets or [group()], price, NOW)


def test_a_start_ends_when_the_kubelet_gives_it_up() -> None:
    (wait,) = look(pod(0, runs=20), pod(1, placed=15, runs=10))
    assert (wait.what, wait.since, wait.hosts) == ("starts", ago(30), 2)
    assert (wait.until, wait.then) == (stamp(NOW - 20 * 60 + HOUR), "the group is made anew")
    assert wait.usd == 90.0 * (30 + 15) / 60


def test_a_start_that_has_no_end_of_its_own_ends_with_the_janitors_patience() -> None:
    (wait,) = look(pod(0, runs=20, started=True))
    assert (wait.until, wait.then) == (ago(-40), "the janitor frees the hosts")


def test_a_group_that_gave_up_is_held() -> None:
    line = script_line("manyhost phase=held member=leader rank=0 seconds=9 reason=weights")
    (wait,) = waits([host_of(pod(runs=20), HERE, line)], [group()], None, NOW)
    assert (wait.what, wait.usd) == ("held", None)
    assert (wait.until, wait.then) == (ago(-40), "the janitor frees the hosts")


def test_hosts_that_wait_for_others_cost_too() -> None:
    (wait,) = look(pod(0, placed=50), pod(1, placed=None))
    assert (wait.what, wait.hosts, wait.usd) == ("waits for hosts", 1, 75.0)
    assert (wait.until, wait.then) == (ago(-10), "the janitor frees the hosts")


@pytest.mark.parametrize(
    ("item", "why"), [(group(ready=1), "other groups answer"), (group(held=""), "no janitor looks after it")]
)
def test_why_there_is_no_deadline(item: Any, why: str) -> None:
    (wait,) = look(pod(0, placed=None), sets=[item])
    assert (wait.until, wait.then) == ("", why)
    assert (wait.since, wait.hosts, wait.usd) == ("", 0, 0.0)


def test_a_group_that_answers_waits_for_nothing() -> None:
    ready = pod()
    ready["status"]["conditions"].append({"type": "Ready", "status": "True", "lastTransitionTime": ago(1)})
    assert look(ready) == ()
    assert [wait.group for wait in look(ready, pod(group=1))] == [1]


@pytest.mark.parametrize("item", [pod(), pod(runs=3), pod(placed=None), group(), group(age=1)])
def test_the_janitor_sees_the_same_last_change(item: Any) -> None:
    assert newest(item) == janitor.newest(item)


def cost(usd: float | None) -> Cost:
    return Cost(
        usd_per_hour=usd,
        usd_per_hour_by_rate={},
        region="us-east4",
        date="2026-07-30",
        source="s",
        verified=True,
    )


def test_what_the_hosts_cost() -> None:
    hosts = [host_of(pod(0), HERE), host_of(pod(1), HERE), host_of(pod(2, placed=None), HERE)]
    found = spent(hosts, [group(age=120)], Lease(ago(-60), "ada"), cost(90.0), "spot", NOW)
    assert (found.hosts, found.usd_per_hour, found.since) == (2, 180.0, ago(120))
    assert (found.usd_so_far, found.usd_until_end) == (360.0, 180.0)
    assert (found.mode, found.region, found.date) == ("spot", "us-east4", "2026-07-30")
    unknown = spent(hosts, [group()], None, cost(None), "on-demand", NOW)
    assert (unknown.usd_per_hour, unknown.usd_so_far, unknown.usd_until_end) == (None, None, None)
