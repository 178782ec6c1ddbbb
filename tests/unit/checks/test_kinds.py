"""Pods of every kind are checked, and a container that is not is an error by itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from manyhost.checks import Allowance, Finding, run
from manyhost.checks.schemas import check_object
from manyhost.render.shell import shell_problems

from tests.helpers.sample import container, findings, flags, item, sample

Object = dict[str, Any]
RESTRICTED = Allowance("restricted")


def a_pod(**spec: Any) -> Object:
    """Return a template of a restricted pod that has nothing to do with an engine."""
    body = {
        "name": "load",
        "image": "example.com/load:1",
        "command": ["load", "--rate", "2"],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    labels = {"metadata": {"labels": {"app": "load"}}}
    return {**labels, "spec": {"restartPolicy": "Always", "containers": [body], **spec}}


SELECTOR = {"matchLabels": {"app": "load"}}
# Kind -> its API and what is around the pod template.
KNOWN: dict[str, tuple[str, Callable[[Object], Object]]] = {
    "Pod": ("v1", lambda pod: pod | {"metadata": {"name": "a", **pod["metadata"]}}),
    "Deployment": ("apps/v1", lambda pod: {"spec": {"selector": SELECTOR, "template": pod}}),
    "DaemonSet": ("apps/v1", lambda pod: {"spec": {"selector": SELECTOR, "template": pod}}),
    "StatefulSet": (
        "apps/v1",
        lambda pod: {"spec": {"selector": SELECTOR, "serviceName": "a", "template": pod}},
    ),
    "Job": ("batch/v1", lambda pod: {"spec": {"template": pod}}),
    "CronJob": (
        "batch/v1",
        lambda pod: {"spec": {"schedule": "@daily", "jobTemplate": {"spec": {"template": pod}}}},
    ),
}
UNKNOWN: dict[str, tuple[str, Callable[[Object], Object]]] = {
    "ReplicaSet": ("apps/v1", lambda pod: {"spec": {"selector": SELECTOR, "template": pod}}),
    "JobSet": (
        "jobset.x-k8s.io/v1alpha2",
        lambda pod: {"spec": {"replicatedJobs": [{"name": "a", "template": {"spec": {"template": pod}}}]}},
    ),
    "PodTemplate": ("v1", lambda pod: {"template": pod}),
    "List": ("v1", lambda pod: {"items": [{"apiVersion": "v1", "kind": "Pod", **pod}]}),
}


def of_kind(kind: str, pod: Object) -> Object:
    api, around = (KNOWN | UNKNOWN)[kind]
    return {"apiVersion": api, "kind": kind, "metadata": {"name": "a"}} | around(copy.deepcopy(pod))


def check(objects: list[Object]) -> list[Finding]:
    return run(objects, flags=flags(), environment_level=RESTRICTED, shell=shell_problems)


@pytest.mark.parametrize("kind", KNOWN)
def test_a_restricted_pod_of_any_kind_is_accepted(kind: str) -> None:
    assert check([of_kind(kind, a_pod())]) == []


@pytest.mark.parametrize("kind", [*KNOWN, *UNKNOWN])
@pytest.mark.parametrize("where", ["containers", "initContainers", "ephemeralContainers"])
def test_a_privileged_pod_on_the_host_network_is_found_in_any_kind(kind: str, where: str) -> None:
    extra = {"name": "helper", "image": "x", "securityContext": {"privileged": True}}
    pod = a_pod(hostNetwork=True)
    pod["spec"].setdefault(where, []).append(extra)
    found = [f for f in check([of_kind(kind, pod)]) if f.check == "pod-security"]
    assert {f.message.removesuffix(" is not allowed in this environment") for f in found[:-1]} == {
        "hostNetwork",
        "privileged container helper",
    }
    assert all(f.where.startswith(f"{kind}/a ") and f.where.endswith("spec") for f in found)


@pytest.mark.parametrize("kind", [*KNOWN, *UNKNOWN])
def test_every_rule_about_pods_holds_in_any_kind(kind: str) -> None:
    pod = a_pod(serviceAccountName="nobody", volumes=[{"name": "idle", "emptyDir": {}}])
    pod["metadata"]["labels"]["bad key"] = "x"
    body = pod["spec"]["containers"][0]
    body["command"] = ["vllm", "serve", "model", "--no-such-flag"]
    body["env"] = [{"name": "HF_TOKEN", "value": "not-even-a-real-one"}]
    body["livenessProbe"] = {"exec": {"command": ["sh", "-c", "if true; then"]}}
    body["resources"] = {"requests": {"nvidia.com/gpu": "2"}, "limits": {"nvidia.com/gpu": "1"}}
    found = {f.check for f in check([of_kind(kind, pod)])} - {"schema"}
    assert found == {"name", "parallelism", "reference", "script", "secret"}
    body["command"], body["args"] = ["vllm", "serve"], ["model", "--no-such-flag"]
    assert "engine-flag" in {f.check for f in check([of_kind(kind, pod)])}


def test_beside_a_group_other_pods_need_not_look_like_an_engine() -> None:
    """No container called vllm, GPUs in one of another name, a Service of their own."""
    pod = a_pod()
    pod["spec"]["containers"][0] |= {
        "resources": {"limits": {"nvidia.com/gpu": 1}},
        "ports": [{"containerPort": 9000}],
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "load"},
        "spec": {"selector": {"app": "load"}, "ports": [{"port": 9000}]},
    }
    objects = [*sample(), of_kind("Deployment", pod), service]
    assert findings(objects) == []
    service["spec"]["ports"][0]["targetPort"] = 9001
    assert [f.where for f in findings(objects)] == ["Service/load spec.ports[0]"]


def test_a_pod_on_the_host_network_says_how_it_finds_names() -> None:
    def found(policy: Object) -> list[str]:
        objects = [of_kind("DaemonSet", a_pod(hostNetwork=True, **policy))]
        return [f.where for f in run(objects) if f.check == "network"]

    assert found({}) == found({"dnsPolicy": "ClusterFirst"}) == ["DaemonSet/a spec.template.spec.dnsPolicy"]
    assert found({"dnsPolicy": "Default"}) == found({"dnsPolicy": "ClusterFirstWithHostNet"}) == []


def test_volumes_from_claim_templates_may_be_mounted() -> None:
    pod = a_pod()
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    body = of_kind("StatefulSet", pod)
    assert [f.message for f in check([body])] == ["the pod has no volume data"]
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    body["spec"]["volumeClaimTemplates"] = [{"metadata": {"name": "data"}, "spec": claim}]
    assert check([body]) == []


def test_an_optional_config_map_may_be_missing() -> None:
    def found(**more: Any) -> list[str]:
        sources = [{"configMap": {"name": "nope", **more}}, {"secret": {"name": "nope", **more}}]
        pod = a_pod(volumes=[{"name": "v", "projected": {"sources": sources}}])
        pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "v", "mountPath": "/v"}]
        return [f.message for f in check([of_kind("Job", pod)])]

    secret = "secret nope is not among the manifests"
    assert found() == ["config map nope is not known", secret]
    assert found(optional=True) == [secret]


@pytest.mark.parametrize(("gpus", "accepted"), [(8, True), ("8", True), ("8000m", False), ("lots", False)])
def test_gpus_are_counted_in_whole_numbers(gpus: object, accepted: bool) -> None:
    pod = a_pod()
    pod["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": gpus}}
    assert (check([of_kind("Job", pod)]) == []) == accepted


@pytest.mark.parametrize(
    ("kind", "length", "accepted"),
    [("Job", 63, True), ("Job", 64, False), ("CronJob", 52, True), ("CronJob", 53, False)],
)
def test_names_leave_room_for_what_kubernetes_adds(kind: str, length: int, accepted: bool) -> None:
    body = of_kind(kind, a_pod())
    body["metadata"]["name"] = "a" * length
    assert (check([body]) == []) == accepted


def test_roles_may_have_a_colon_in_their_name() -> None:
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "llm:reader"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
    }
    assert check([role]) == []
    role["metadata"]["name"] = "llm/reader"
    assert [f.check for f in check([role])] == ["name"]


# ---------------------------------------------------------------------------- coverage
def coverage(objects: list[Object]) -> list[str]:
    return [f"{f.where}: {f.message}" for f in check(objects) if f.check == "coverage"]


def test_containers_outside_a_pod_template_are_named() -> None:
    body = {"name": "a", "image": "x", "securityContext": {"privileged": True}}
    graph = {
        "apiVersion": "example.com/v1",
        "kind": "Graph",
        "metadata": {"name": "g"},
        "spec": {"services": [{"podSpec": {"containers": [body], "initContainers": [{"image": "y"}]}}]},
    }
    (line,) = coverage([graph])
    head, _, names = line.partition(": looked at by no check: ")
    assert head == "Graph/g"
    assert sorted(names.split(", ")) == [
        "spec.services[0].podSpec.containers[a]",
        "spec.services[0].podSpec.initContainers[0]",
    ]


def test_containers_of_a_malformed_pod_are_named_and_the_other_pods_are_checked() -> None:
    objects = sample()
    template = item(objects, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    container(template["workerTemplate"])["imagePulPolicy"] = "Always"
    container(template["leaderTemplate"])["securityContext"] = {"privileged": True}
    found = findings(objects)
    assert {f.check for f in found} >= {"schema", "coverage", "pod-security"}
    (missed,) = (f.message for f in found if f.check == "coverage")
    assert "workerTemplate.spec.containers[vllm]" in missed
    assert "leaderTemplate" not in missed


def test_nothing_is_missed_in_what_the_chart_renders() -> None:
    assert coverage(sample()) == []


# ----------------------------------------------------------------------------- schemas
def test_a_compute_domain_and_its_claims() -> None:
    domain = {
        "apiVersion": "resource.nvidia.com/v1beta1",
        "kind": "ComputeDomain",
        "metadata": {"name": "d"},
        "spec": {"numNodes": 2, "channel": {"resourceClaimTemplate": {"name": "d-channel"}}},
    }
    template = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "rdma"},
        "spec": {
            "spec": {
                "devices": {
                    "requests": [
                        {
                            "name": "nics",
                            "exactly": {
                                "deviceClassName": "mrdma.google.com",
                                "allocationMode": "ExactCount",
                                "count": 4,
                            },
                        }
                    ]
                }
            }
        },
    }
    assert check([domain, template]) == []
    domain["spec"]["channel"]["allocationMod"] = "All"
    assert [f.message for f in check([domain])] == ["unknown field allocationMod"]


def test_a_claim_needs_no_kind_where_it_is_a_template_only() -> None:
    claim = {"accessModes": ["ReadWriteOnce"]}
    body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "a"}, "spec": claim}
    assert list(check_object(body)) == []
    assert [f.message for f in check_object(body | {"spec": None})] != []
    stateful = of_kind("StatefulSet", a_pod())
    stateful["spec"]["volumeClaimTemplates"] = [{"metadata": {"name": "data"}, "spec": claim}]
    assert list(check_object(stateful)) == []
