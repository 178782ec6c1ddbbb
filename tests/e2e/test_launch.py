"""The start of a group and its losses, in pods: the launch script with the stand-in engine."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from testbed import faults
from tests.e2e.place import Place, run, standin, start
from tests.helpers.output import read
from tests.helpers.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
NAME = "leaderworkerset.sigs.k8s.io/name"
LEADER, WORKER = "tiny-r1-0", "tiny-r1-0-1"
LATE_SECONDS = 20
DETECTION_SECONDS = 10
BACK_SECONDS = 90
KILL_ENGINE = "kill -9 $(pgrep -x vllm)"
# Takes the API's port as the engine would, and keeps it.
TAKE_PORT = """
import socket, time
taken = socket.create_server(("0.0.0.0", 8000))
print("taken", flush=True)
time.sleep(300)
"""


@pytest.fixture(autouse=True)
def _own_hosts(place: Place) -> None:
    if place.own is None:
        pytest.skip("the hosts of somebody else's cluster are neither cordoned nor harmed")


def pods_of(place: Place, namespace: str) -> dict[str, Any]:
    found = place.get("pods", "-n", namespace, "-l", f"{NAME}=tiny-r1")["items"]
    return {pod["metadata"]["name"]: pod for pod in found}


def uids(pods: dict[str, Any]) -> dict[str, str]:
    return {name: pod["metadata"]["uid"] for name, pod in pods.items()}


def restarts(pods: dict[str, Any]) -> int:
    return sum(c["restartCount"] for pod in pods.values() for c in pod["status"]["containerStatuses"])


def ready(pod: Any) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def log(place: Place, namespace: str, pod: str) -> str:
    """What a pod has said so far; nothing while it has no container yet."""
    with contextlib.suppress(RuntimeError):
        return place.kube("logs", "-n", namespace, pod)
    return ""


def status(here: list[str]) -> Any:
    return run("status", "local", *here, "--output", "json").ok().output.result


@contextlib.contextmanager
def full_hosts(place: Place) -> Iterator[None]:
    """No host takes new pods. (With one left, it would get both: hosts that take none do not count.)"""
    assert place.own is not None
    hosts = ("host-1", "host-2")
    for host in hosts:
        faults.cordon(place.own, host)
    try:
        yield
    finally:
        for host in hosts:
            faults.cordon(place.own, host, cordoned=False)


def leader_waits(place: Place, namespace: str) -> dict[str, Any]:
    """Give the leader a host and the worker none; wait until the one waits; return both pods."""
    assert place.own is not None
    until("both pods are there", lambda: set(pods_of(place, namespace)) == {LEADER, WORKER}, 60)
    target = {"apiVersion": "v1", "kind": "Node", "name": "host-1"}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": LEADER}, "target": target}
    place.own.api.call("POST", f"/api/v1/namespaces/{namespace}/pods/{LEADER}/binding", binding)
    until("the leader waits", lambda: "phase=peers" in log(place, namespace, LEADER), 60)
    return pods_of(place, namespace)


@contextlib.contextmanager
def command(place: Place, *args: str) -> Iterator[subprocess.Popen[str]]:
    """The command line at work; it ends with the test at the latest."""
    with start(*args, kubeconfig=place.kubeconfig) as process:
        try:
            yield process
        finally:
            process.kill()


def test_late_worker(place: Place, image: tuple[str, str], namespace: str) -> None:
    """A worker without a host delays the group: nobody gives up, restarts or is made anew."""
    here = ["--namespace", namespace, *standin(image)]
    with command(place, "deploy", "local", *here, "--timeout", "150") as deploy:
        with full_hosts(place):
            before = leader_waits(place, namespace)
            time.sleep(LATE_SECONDS)
            pods = pods_of(place, namespace)
            assert uids(pods) == uids(before)
            assert pods[WORKER]["status"]["phase"] == "Pending"
            assert not ready(pods[LEADER])
            lines = log(place, namespace, LEADER)
            assert "waiting_for=1:absent" in lines
            assert not any(f"phase={bad}" in lines for bad in ("engine", "attempt", "held", "end"))
            hosts = {host["pod"]: host for host in status(here)["hosts"]}
            assert hosts[LEADER]["detail"] == "waits for the other hosts"
            assert hosts[WORKER]["problem"]["kind"] == "unschedulable"
        begin = time.monotonic()
        out, err = deploy.communicate(timeout=90)
    assert deploy.returncode == 0, (out, err)
    print(f"worker's host {LATE_SECONDS} s late: Ready {time.monotonic() - begin:.1f} s after it came")
    after = pods_of(place, namespace)
    assert all(ready(pod) for pod in after.values())
    assert uids(after) == uids(before)
    assert restarts(after) == 0
    assert log(place, namespace, LEADER).count("phase=engine") == 1
    run("teardown", "local", *here, "--yes").ok()


def test_leader_restart(place: Place, image: tuple[str, str], namespace: str) -> None:
    """An engine that dies while it serves is started again in its pods; the other group is untouched."""
    here = ["--namespace", namespace, *standin(image)]
    run("deploy", "local", *here, "--set", "groups=2", "--timeout", "120").ok()
    before = uids(pods_of(place, namespace))
    assert set(before) == {LEADER, WORKER, "tiny-r1-1", "tiny-r1-1-1"}
    begin = time.monotonic()
    place.kube("exec", "-n", namespace, LEADER, "--", "bash", "-c", KILL_ENGINE)

    def out() -> bool:
        leader = pods_of(place, namespace).get(LEADER)
        return leader is None or leader["metadata"]["uid"] != before[LEADER] or not ready(leader)

    until("the leader takes no requests", out, DETECTION_SECONDS + 10)
    seen = time.monotonic() - begin
    said = run("chat", "local", *here, "--prompt", "hello", "--output", "json").ok().output
    assert "hello" in said.result["answer"]

    def back() -> bool:
        pods = pods_of(place, namespace)
        return uids(pods) == before and all(map(ready, pods.values()))

    until("its group is back, in the same pods", back, BACK_SECONDS)
    assert log(place, namespace, LEADER).count("phase=engine") == 2
    assert log(place, namespace, "tiny-r1-1").count("phase=engine") == 1
    print(f"leader's engine killed: seen in {seen:.1f} s, group back in {time.monotonic() - begin:.1f} s")
    assert seen <= DETECTION_SECONDS
    assert restarts(pods_of(place, namespace)) == 0
    run("teardown", "local", *here, "--yes").ok()


@pytest.mark.timeout(300)
def test_port_taken(place: Place, image: tuple[str, str], namespace: str) -> None:
    """Another process keeps the API's port in the leader's pod: held after a minute, and all say why."""
    here = ["--namespace", namespace, *standin(image)]
    taker = [place.kubectl, "--kubeconfig", str(place.kubeconfig), "exec", "-n", namespace, LEADER]
    taker += ["--", "python3", "-c", TAKE_PORT]
    more = ("--timeout", "240", "--output", "json")
    with command(place, "deploy", "local", *here, *more) as deploy:
        with full_hosts(place):  # the leader looks at its ports once the group is complete
            before = leader_waits(place, namespace)
            other = subprocess.Popen(taker, stdout=subprocess.PIPE, text=True)
            with other:
                assert other.stdout is not None
                assert other.stdout.readline() == "taken\n"
                other.kill()  # kubectl alone; the process in the pod stays
        begin = time.monotonic()
        out, err = deploy.communicate(timeout=150)
    print(f"port taken: deploy gives up {time.monotonic() - begin:.1f} s after the worker's host came")
    assert deploy.returncode == 1, (out, err)
    said = read(out)
    reason = "port 8000: Address already in use"
    assert any(reason in problem["text"] for problem in said.of_kind("problem"))
    assert reason in said.envelope["errors"][0]["message"]
    held = [line for line in log(place, namespace, LEADER).splitlines() if "phase=held" in line]
    assert [f'reason="{reason}"' in line for line in held] == [True]
    until("the worker says it too", lambda: f"leader: {reason}" in log(place, namespace, WORKER), 10)
    told = {host["pod"]: host["problem"]["message"] for host in status(here)["hosts"]}
    assert all(reason in message for message in told.values())
    time.sleep(5)
    after = pods_of(place, namespace)
    assert uids(after) == uids(before)
    assert restarts(after) == 0
    assert not any(map(ready, after.values()))
    # The other process is gone with its pod: deploying again starts the group anew.
    run("deploy", "local", *here, "--timeout", "90").ok()
    run("teardown", "local", *here, "--yes").ok()


def test_worker_host_lost(place: Place, image: tuple[str, str], namespace: str) -> None:
    """mp: the worker's host loses its power; the leader is unready in time, the group comes back."""
    here = ["--namespace", namespace, *standin(image)]
    run("deploy", "local", *here, "--timeout", "120").ok()
    before = pods_of(place, namespace)
    node = before[WORKER]["spec"]["nodeName"]
    assert place.own is not None
    begin = time.monotonic()
    place.own.kill_node(node)
    try:

        def out() -> bool:
            leader = pods_of(place, namespace).get(LEADER)
            return leader is None or not ready(leader)

        until("the leader takes no requests", out, DETECTION_SECONDS + 10)
        seen = time.monotonic() - begin
    finally:
        place.own.restore_node(node)

    def back() -> bool:
        pods = pods_of(place, namespace)
        new = not set(uids(pods).values()) & set(uids(before).values())
        return len(pods) == 2 and new and all(map(ready, pods.values()))

    until("the group is back", back, BACK_SECONDS)
    print(f"worker's host lost: seen in {seen:.1f} s, group back in {time.monotonic() - begin:.1f} s")
    assert seen <= DETECTION_SECONDS
    run("teardown", "local", *here, "--yes").ok()
