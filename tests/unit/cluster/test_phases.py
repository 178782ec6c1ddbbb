"""How far a host is, and why it gets no further, from pod objects."""

# ruff: noqa: E501  tables of cases read better on one line each

from __future__ import annotations

from typing import Any

import pytest
from manyhost.cluster.phases import (
    event_problem,
    host_of,
    last_script_line,
    late,
    leaving,
    overdue,
    script_line,
)
from manyhost.commands import Commands

from tests.helpers import fixes

HERE = Commands(context="c", namespace="ns", recipe="local", release="r1")
LABELS = {
    "leaderworkerset.sigs.k8s.io/group-index": "1",
    "leaderworkerset.sigs.k8s.io/worker-index": "2",
    "leaderworkerset.sigs.k8s.io/template-revision-hash": "abc",
}


def pod(status: dict[str, Any], node: str = "host-1", **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "r1-1-2", "uid": "u", "labels": LABELS, **metadata},
        "spec": {"nodeName": node} if node else {},
        "status": status,
    }


def engine(**state: Any) -> dict[str, Any]:
    return {"name": "vllm", "image": "vllm/vllm-openai:v0", "restartCount": 0, "state": state}


RUNNING = {"containerStatuses": [engine(running={})]}


@pytest.mark.parametrize(
    ("line", "phase", "seconds", "reason"),
    [
        ("manyhost phase=start member=leader rank=0 seconds=0.01", "start", 0.01, ""),
        (
            "manyhost phase=held role=worker rank=1 seconds=8 reason=\"no 'x' at /y\"",
            "held",
            8.0,
            "no 'x' at /y",
        ),
        (
            "2026-01-01T00:00:00Z manyhost phase=engine member=leader rank=0 seconds=2.5 attempt=1",
            "engine",
            2.5,
            "",
        ),
        ("manyhost phase=peers member=leader rank=0 seconds=oops", "peers", 0.0, ""),
        ("manyhost phase=peers role=leader rank=0 seconds=1", "peers", 1.0, ""),  # of an older release
    ],
)
def test_script_line(line: str, phase: str, seconds: float, reason: str) -> None:
    found = script_line(line)
    assert found is not None
    assert (found.phase, found.seconds, found.reason) == (phase, seconds, reason)


@pytest.mark.parametrize("line", ["", "INFO manyhost phase=start", "manyhost phases=1", "manyhost: error: x"])
def test_other_lines_are_no_phase(line: str) -> None:
    assert script_line(line) is None


@pytest.mark.parametrize(
    ("status", "node", "log", "phase"),
    [
        ({}, "", "", "pending"),
        ({}, "host-1", "", "scheduled"),
        ({"containerStatuses": [engine(waiting={"reason": "ContainerCreating"})]}, "host-1", "", "image"),
        (
            {
                "initContainerStatuses": [{"name": "tcpxo-daemon", "imageID": "x", "state": {"running": {}}, "started": False}],
                "containerStatuses": [engine(waiting={"reason": "PodInitializing"})],
            },
            "host-1", "", "sidecar",
        ),
        (
            {
                "initContainerStatuses": [{"name": "tcpxo-daemon", "state": {"waiting": {"reason": "PodInitializing"}}}],
                "containerStatuses": [engine(waiting={"reason": "PodInitializing"})],
            },
            "host-1", "", "image",
        ),
        (RUNNING, "host-1", "", "weights"),
        (RUNNING, "host-1", "manyhost phase=weights member=leader rank=0 seconds=1", "weights"),
        (RUNNING, "host-1", "manyhost phase=engine member=leader rank=0 seconds=1", "load"),
        (RUNNING, "host-1", "manyhost phase=serving member=leader rank=0 seconds=1", "load"),
        (RUNNING, "host-1", "manyhost phase=waiting member=leader rank=0 seconds=1", "load"),
        (RUNNING, "host-1", "manyhost phase=loading member=leader rank=0 seconds=1 step=engine", "load"),
        (RUNNING, "host-1", "manyhost phase=loading member=leader rank=0 seconds=1 step=weights", "weights"),
        (RUNNING, "host-1", "manyhost phase=held member=leader rank=0 seconds=1", "failed"),
        (RUNNING, "host-1", "manyhost phase=newer member=leader rank=0 seconds=1", "load"),
        ({"containerStatuses": [engine(terminated={"exitCode": 1})]}, "host-1", "", "failed"),
        ({**RUNNING, "conditions": [{"type": "Ready", "status": "True"}]}, "host-1", "", "ready"),
        ({"phase": "Failed", "reason": "Evicted"}, "host-1", "", "failed"),
    ],
)  # fmt: skip
def test_phase(status: dict[str, Any], node: str, log: str, phase: str) -> None:
    host = host_of(pod(status, node), HERE, last_script_line(log.splitlines()))
    assert (host.group, host.host, host.member, host.revision) == (1, 2, "worker", "abc")
    assert host.phase == phase


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (
            'waiting member=leader rank=0 seconds=1800 reason="rank 1 not seen for 1800 s"',
            "waits: rank 1 not seen for 1800 s",
        ),
        (
            "loading member=leader rank=0 seconds=90 step=engine percent=45 still=3s limit=600s",
            "engine starts, 45 %",
        ),
        (
            "loading member=leader rank=0 seconds=90 step=engine still=120s limit=600s",
            "engine starts, no progress for 120 s, given up after 600s",
        ),
        ("loading member=worker rank=1 seconds=90 step=weights still=0s limit=600s", "weights"),
    ],
)
def test_a_member_that_waits_or_loads_says_for_what_and_has_no_problem(line: str, detail: str) -> None:
    """A late host is not a lost group: deploy goes on waiting, and the next deploy deletes nothing."""
    host = host_of(pod(RUNNING), HERE, last_script_line([f"manyhost phase={line}"]))
    assert (host.detail, host.problem, host.last_words) == (detail, None, "")


def test_a_pod_on_its_way_out_has_no_problem() -> None:
    status = {"containerStatuses": [engine(terminated={"exitCode": 1})]}
    host = host_of(pod(status, deletionTimestamp="2026-01-01T00:00:00Z"), HERE)
    assert (host.phase, host.problem) == ("draining", None)


@pytest.mark.parametrize(
    ("node_ready", "finalizers", "words", "deletes_node"),
    [
        ("True", ["example.com/hold"], "finalizer example.com/hold keeps it", False),
        ("True", [], "has not, though node host-1 is ready", False),
        ("True", ["foregroundDeletion"], "has not: it waits for the rest of its group", False),
        ("Unknown", ["foregroundDeletion"], "node host-1 does not answer", True),
        ("Unknown", [], "node host-1 does not answer", True),
        ("False", [], "node host-1 does not answer", True),
        ("gone", [], "node host-1 does not exist any more", False),
        ("", [], "could not be read", False),
    ],
)
def test_a_pod_that_does_not_end_names_what_keeps_it(
    node_ready: str, finalizers: list[str], words: str, deletes_node: bool
) -> None:
    """Nobody is told to delete the node of a pod that somebody's finalizer keeps."""
    found = pod({}, deletionTimestamp="2026-01-01T00:00:00Z", finalizers=finalizers, namespace="ns")
    seconds = late(found, 1767225600.0 + 60)
    problem = overdue(found, seconds, node_ready, HERE)
    assert "should have ended 60 s ago" in problem.message
    assert words in problem.message
    assert ("delete node" in problem.fix) is deletes_node
    fixes.check(problem.fix, context="c")
    assert ("finalizers" in problem.fix) is ("example.com/hold" in finalizers)
    if "example.com/hold" in finalizers:
        patch = (
            """kubectl patch pod r1-1-2 --type merge -p '{"metadata":{"finalizers":null}}' --namespace ns"""
        )
        assert patch in problem.fix
    assert late(found, 1767225600.0 + 5) == 0.0


@pytest.mark.parametrize(
    ("status", "kind", "words", "fix"),
    [
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
              "message": "0/4 nodes are available: 4 Insufficient nvidia.com/gpu. no new claims, preemption: x"}]},
            "unschedulable", "fits no host: 0/4 nodes are available: 4 Insufficient nvidia.com/gpu", "manyhost doctor",
        ),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
              "message": "0/4 nodes are available: 4 node(s) had untolerated taint {a: b}."}]},
            "unschedulable", "untolerated taint", "ask whoever set it",
        ),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
              "message": "0/4 nodes are available: 2 node(s) had untolerated taint {nvidia.com/gpu: present}, "
              "2 node(s) were unschedulable."}]},
            "unschedulable", "were unschedulable", "uncordon them: `manyhost doctor local --release r1 --namespace ns --context c`",
        ),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
              "message": "0/4 nodes are available: 4 node(s) had untolerated taint {nvidia.com/gpu: present}."}]},
            "unschedulable", "untolerated taint", "leave nvidia.com/gpu",
        ),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
              "message": "0/9 nodes are available: 1 Insufficient nvidia.com/gpu, 3 node(s) didn't match Pod's "
              "node affinity/selector, 5 node(s) had untolerated taint(s). preemption: 0/9 nodes are available."}]},
            "unschedulable", "untolerated taint(s)",
            "`manyhost doctor local --release r1 --namespace ns --context c` says which taints",
        ),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
              "message": "0/9 nodes are available: 2 Insufficient nvidia.com/gpu, 3 Insufficient memory, "
              "4 node(s) didn't match Pod's node affinity/selector."}]},
            "unschedulable", "3 Insufficient memory", "free resources on the hosts",
        ),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
              "message": "0/4 nodes are available: 4 node(s) didn't match Pod's node affinity/selector."}]},
            "unschedulable", "affinity/selector", "manyhost doctor",
        ),
        (
            {"containerStatuses": [engine(waiting={"reason": "ImagePullBackOff", "message": "not\nfound"})]},
            "image", "image vllm/vllm-openai:v0 of vllm cannot be pulled: not found", "registry",
        ),
        (
            {"containerStatuses": [engine(waiting={"reason": "CreateContainerConfigError", "message": 'secret "x" not found'})]},
            "config", 'secret "x" not found', "describe",
        ),
        (
            {"containerStatuses": [engine(terminated={"exitCode": 137, "reason": "OOMKilled"})]},
            "crash", "ended with code 137 (OOMKilled); killed by signal 9: out of memory", "kubectl logs r1-1-2 -c vllm",
        ),
        (
            {"containerStatuses": [{**engine(waiting={"reason": "CrashLoopBackOff"}),
              "lastState": {"terminated": {"exitCode": 2, "reason": "Error"}}}]},
            "crash", "ended with code 2", "--previous",
        ),
        (
            {"containerStatuses": [engine(terminated={"exitCode": 1, "message": "rank 1: died (signal 9)"})]},
            "crash", "rank 1: died (signal 9); killed by signal 9: out of memory", "kubectl logs",
        ),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
            "evicted", "was evicted (Evicted): The node was low on resource: memory.", "kubectl describe pod r1-1-2",
        ),
        (
            {**RUNNING, "conditions": [{"type": "DisruptionTarget", "status": "True",
              "reason": "PreemptionByScheduler", "message": "preempted by a pod of priority 9"}]},
            "evicted", "was evicted (PreemptionByScheduler): preempted by a pod", "kubectl describe pod",
        ),
        (
            {**RUNNING, "conditions": [{"type": "Ready", "status": "Unknown"}]},
            "lost", "node host-1 does not answer", "describe node host-1",
        ),
    ],
)  # fmt: skip
def test_problem(status: dict[str, Any], kind: str, words: str, fix: str) -> None:
    problem = host_of(pod(status), HERE).problem
    assert problem is not None
    assert problem.kind == kind
    assert words in problem.message
    assert "\n" not in problem.message
    assert fix in problem.fix
    fixes.check(problem.fix, context="c")


def test_the_last_words_of_a_pod_on_its_way_out_are_kept() -> None:
    """The group is made anew within a second: this is all that will ever tell why."""
    ended = engine(terminated={"exitCode": 1, "reason": "Error", "message": "rank 1: gone (signal 9)"})
    host = host_of(pod({"containerStatuses": [ended]}, deletionTimestamp="2026-01-01T00:00:00Z"), HERE)
    assert "rank 1: gone (signal 9)" in host.last_words
    line = script_line('manyhost phase=attempt member=leader rank=0 seconds=3 reason="rank 1: x (signal 9)"')
    assert "out of memory" in host_of(pod(RUNNING), HERE, line).last_words
    assert host_of(pod(RUNNING), HERE).last_words == ""


def test_a_clean_end_is_no_crash() -> None:
    assert host_of(pod({"containerStatuses": [engine(terminated={"exitCode": 0})]}), HERE).problem is None


NOON, LATER = "2026-01-01T12:00:00Z", "2026-01-01T12:00:05Z"


@pytest.mark.parametrize(
    ("leader", "counts"),
    [
        ({"creationTimestamp": NOON}, True),
        (
            {"creationTimestamp": LATER},
            False,
        ),  # of the group that comes; the worker is still the former one's
        ({"creationTimestamp": NOON, "deletionTimestamp": LATER}, False),
        (None, False),
    ],
)
def test_what_a_group_on_its_way_out_has_said_is_no_verdict(
    leader: dict[str, Any] | None, counts: bool
) -> None:
    line = script_line('manyhost phase=held member=worker rank=2 seconds=3 reason="weights missing"')
    worker = host_of(pod(RUNNING, creationTimestamp=NOON), HERE, line)
    labels = LABELS | {"leaderworkerset.sigs.k8s.io/worker-index": "0"}
    others = [host_of(pod(RUNNING, name="r1-1", uid="v", labels=labels, **leader), HERE)] if leader else []
    *_, host = leaving([*others, worker])
    if counts:
        assert host == worker
        assert host.problem is not None
    else:
        assert (host.phase, host.detail, host.problem) == ("draining", "goes with its group", None)


def test_held_has_no_patience() -> None:
    line = script_line('manyhost phase=held member=leader rank=0 seconds=3 reason="weights missing"')
    problem = host_of(pod(RUNNING), HERE, line).problem
    assert problem is not None
    assert (problem.kind, problem.patience) == ("held", 0)
    assert "weights missing" in problem.message


@pytest.mark.parametrize(
    ("reason", "message", "kind"),
    [
        ("FailedCreate", 'create Pod x failed: admission webhook "v" denied the request: no', "denied"),
        ("FailedCreate", "create Pod x failed: exceeded quota: q, requested: pods=1", "quota"),
        ("FailedCreatePodSandBox", 'failed to set up pod network: network "vpc3" not found', "network"),
        (
            "FailedCreate",
            'pods "x" is forbidden: maximum memory usage per Container is 1Gi, but limit is 9Gi',
            "limits",
        ),
        ("FailedCreate", 'failed calling webhook "w": connection refused', "denied"),
        ("FailedCreate", 'pods "x" is forbidden: violates PodSecurity "restricted:latest"', "denied"),
        ("FailedUpdate", "Failed to update leader statefulset r1: conflict", "update"),
        ("Evicted", "The node was low on resource: memory", "evicted"),
        ("FailedMount", "MountVolume.SetUp failed for volume gcs-0: driver not found", "volume"),
        ("BackOff", "Back-off pulling image", ""),
    ],
)
def test_events(reason: str, message: str, kind: str) -> None:
    subject = {"kind": "StatefulSet", "name": "r1-0", "namespace": "ns"}
    problem = event_problem({"reason": reason, "message": message, "involvedObject": subject}, HERE)
    assert (problem.kind if problem else "") == kind
    if problem:
        fixes.check(problem.fix, context="c")
