"""Kubernetes schemas, and our schema of LeaderWorkerSet against the upstream CRDs."""

from __future__ import annotations

import copy
import functools
import json
import re
import warnings
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import kubernetes_validate
import pytest
import yaml
from manyhost.checks import computedomain, leaderworkerset, run
from manyhost.checks.schemas import check_object

from tests.helpers.helm import ROOT
from tests.helpers.sample import container, item, pod, pods, sample
from tests.helpers.shared import shared_dir

Object = dict[str, Any]


def messages(body: Object) -> list[str]:
    return [f"{f.where}: {f.message}; {f.fix}" for f in check_object(body)]


def test_messages_name_the_place_and_the_next_word() -> None:
    objects = sample()
    container(pod(objects, "worker"))["imagePulPolicy"] = "Always"
    assert messages(item(objects, "LeaderWorkerSet")) == [
        "LeaderWorkerSet/deepseek spec.leaderWorkerTemplate.workerTemplate.spec.containers[0]: "
        "unknown field imagePulPolicy; did you mean imagePullPolicy?"
    ]


def test_unknown_kinds_are_errors() -> None:
    assert messages({"apiVersion": "v1", "kind": "Servic", "metadata": {"name": "a"}}) == [
        "Servic/a: unknown kind v1/Servic; did you mean v1/Service?"
    ]


def test_missing_and_wrong_fields() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": "80"}]}}
    text = "\n".join(messages(service))
    assert "field metadata is missing" in text
    assert '"80" is not of type "integer"' in text


def test_nulls_are_refused() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": None}
    assert messages(service) != []


@pytest.mark.parametrize("version", ["1.32", "1.37"])
def test_rendered_objects_and_pods_are_valid_on_the_oldest_and_newest_kubernetes(
    version: str,
) -> None:
    objects = sample()
    own = {"LeaderWorkerSet", "InferencePool", "HTTPRoute"}  # of these Kubernetes has no schema
    plain = [o for o in objects if o["kind"] not in own]
    plain += [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": template["spec"]}
        for template in pods(objects)
    ]
    assert len(plain) > 6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for body in plain:
            kubernetes_validate.validate(body, version, strict=True)


def test_every_kind_decides_as_its_kubernetes() -> None:
    """The schemas are cut out of upstream's: no reference may lead nowhere, on no kind."""
    document = json.loads((ROOT / "generator/manyhost/checks/kubernetes.json").read_text())
    for kind in document["kinds"]:
        api, _, name = kind.rpartition("/")
        assert "field metadata is missing" in "\n".join(messages({"apiVersion": api, "kind": name}))
    text = json.dumps(document)
    assert set(re.findall(r"#/\$defs/([\w.]+)", text)) <= document["$defs"].keys()


# ---------------------------------------------------------------- against upstream CRDs
CHANGES: dict[str, Callable[[Object], Any]] = {
    "as rendered": lambda o: None,
    "no replicas": lambda o: o["spec"].pop("replicas", None),
    "too many replicas": lambda o: o["spec"].update(replicas=1_000_001),
    "negative replicas": lambda o: o["spec"].update(replicas=-1),
    "replicas as text": lambda o: o["spec"].update(replicas="1"),
    "unknown startup policy": lambda o: o["spec"].update(startupPolicy="Later"),
    "leader ready": lambda o: o["spec"].update(startupPolicy="LeaderReady"),
    "unknown spec field": lambda o: o["spec"].update(sizes=2),
    "no worker template": lambda o: o["spec"]["leaderWorkerTemplate"].pop("workerTemplate"),
    "no leader template": lambda o: o["spec"]["leaderWorkerTemplate"].pop("leaderTemplate"),
    "size as text": lambda o: o["spec"]["leaderWorkerTemplate"].update(size="2"),
    "size as float": lambda o: o["spec"]["leaderWorkerTemplate"].update(size=2.5),
    "restart policy": lambda o: o["spec"]["leaderWorkerTemplate"].update(restartPolicy="Always"),
    "recreate after start": lambda o: o["spec"]["leaderWorkerTemplate"].update(
        restartPolicy="RecreateGroupAfterStart"
    ),
    "subgroups": lambda o: o["spec"]["leaderWorkerTemplate"].update(
        subGroupPolicy={"subGroupSize": 1, "subGroupPolicyType": "LeaderExcluded"}
    ),
    "subgroup type": lambda o: o["spec"]["leaderWorkerTemplate"].update(
        subGroupPolicy={"subGroupPolicyType": "Nobody"}
    ),
    "partition": lambda o: o["spec"].update(
        rolloutStrategy={
            "type": "RollingUpdate",
            "rollingUpdateConfiguration": {"partition": 1, "maxSurge": "25%"},
        }
    ),
    "rollout without type": lambda o: o["spec"].update(rolloutStrategy={}),
    "rollout type": lambda o: o["spec"].update(rolloutStrategy={"type": "Recreate"}),
    "network without policy": lambda o: o["spec"].update(networkConfig={}),
    "network": lambda o: o["spec"].update(networkConfig={"subdomainPolicy": "UniquePerReplica"}),
    "network policy": lambda o: o["spec"].update(networkConfig={"subdomainPolicy": "None"}),
    "pod typo": lambda o: container(pod([o], "worker")).update(imagee="x"),
    "port as text": lambda o: container(pod([o], "worker")).update(ports=[{"containerPort": "1"}]),
    "env as number": lambda o: container(pod([o], "worker")).update(env=[{"name": "A", "value": 1}]),
    "claims kept": lambda o: o["spec"]["leaderWorkerTemplate"].update(
        persistentVolumeClaimRetentionPolicy={"whenDeleted": "Retain", "whenScaled": "Delete"}
    ),
}  # fmt: skip


@functools.cache
def upstream(pattern: str) -> jsonschema_rs.Draft202012Validator:
    folder = shared_dir()
    crds = sorted((folder / "crds").glob(pattern)) if folder else []
    if not crds:
        pytest.skip("no upstream CRDs beside the checkout")
    crd = yaml.load(crds[0].read_text(), Loader=yaml.CSafeLoader)
    return jsonschema_rs.Draft202012Validator(closed(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]))


def closed(schema: Any) -> Any:
    """Return an OpenAPI schema of a CRD as a JSON schema that refuses unknown fields."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    body = {k: closed(v) for k, v in schema.items() if k not in ("description", "default", "format")}
    if "properties" in schema:
        body["properties"] = {k: closed(v) for k, v in schema["properties"].items()}
        body.setdefault("additionalProperties", False)
    return body


@pytest.mark.parametrize("name", CHANGES)
def test_our_schema_decides_as_the_upstream_crd(name: str) -> None:
    body = copy.deepcopy(item(sample(), "LeaderWorkerSet"))
    # The CRD leaves the metadata of templates open to any field; ours does not.
    CHANGES[name](body)
    valid = upstream("leaderworkersets*v0.10.0.yaml").is_valid(body)
    assert (messages(body) == []) == valid, messages(body)


DOMAINS: dict[str, Callable[[Object], Any]] = {
    "as it is": lambda o: None,
    "one channel": lambda o: o["spec"]["channel"].update(allocationMode="Single"),
    "all channels": lambda o: o["spec"]["channel"].update(allocationMode="All"),
    "some channels": lambda o: o["spec"]["channel"].update(allocationMode="Some"),
    "no spec": lambda o: o["spec"].clear(),
    "no channel": lambda o: o["spec"].pop("channel"),
    "no template": lambda o: o["spec"]["channel"].pop("resourceClaimTemplate"),
    "no name": lambda o: o["spec"]["channel"]["resourceClaimTemplate"].clear(),
    "name as number": lambda o: o["spec"]["channel"]["resourceClaimTemplate"].update(name=1),
    "unknown field": lambda o: o["spec"].update(nodes=2),
    "no nodes": lambda o: o["spec"].pop("numNodes"),
    "negative nodes": lambda o: o["spec"].update(numNodes=-1),
    "nodes as text": lambda o: o["spec"].update(numNodes="2"),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_our_schema_of_compute_domains_decides_as_the_upstream_crd(name: str) -> None:
    body: Object = {
        "apiVersion": "resource.nvidia.com/v1beta1",
        "kind": "ComputeDomain",
        "metadata": {"name": "d"},
        "spec": {"numNodes": 2, "channel": {"resourceClaimTemplate": {"name": "d-channel"}}},
    }
    DOMAINS[name](body)
    valid = upstream("computedomains*.yaml").is_valid(body)
    assert (messages(body) == []) == valid, messages(body)


# ----------------------------------------------------------------------- webhook rules
def lws(spec: Object, annotations: dict[str, str] | None = None) -> list[str]:
    body = copy.deepcopy(item(sample(), "LeaderWorkerSet"))
    template = body["spec"]["leaderWorkerTemplate"]
    template.update(spec.pop("leaderWorkerTemplate", {}))
    body["spec"].update(spec)
    body["metadata"]["annotations"] = annotations or {}
    return [f.message for f in run([body]) if f.check == "lws"]


def rollout(unavailable: Any, surge: Any) -> Object:
    configuration = {"maxUnavailable": unavailable, "maxSurge": surge}
    return {"rolloutStrategy": {"type": "RollingUpdate", "rollingUpdateConfiguration": configuration}}


def test_a_rollout_must_be_able_to_move() -> None:
    assert lws(rollout(1, 0)) == []
    assert lws(rollout(0, 1)) == []
    assert lws(rollout(0, "25%")) == []
    assert lws({**rollout(0, 0), "replicas": 0}) == []
    assert len(lws(rollout(0, 0))) == 1
    assert len(lws(rollout("0%", 0))) == 1


@pytest.mark.parametrize(
    ("size", "sub", "kind", "accepted"),
    [
        (4, 2, "LeaderWorker", True),
        (5, 2, "LeaderWorker", True),  # the leader goes with the first subgroup
        (4, 3, "LeaderWorker", True),
        (5, 3, "LeaderWorker", False),
        (5, 2, "LeaderExcluded", True),
        (4, 2, "LeaderExcluded", False),
        (2, 3, "LeaderWorker", False),
    ],
)
def test_subgroups_must_divide(size: int, sub: int, kind: str, accepted: bool) -> None:
    policy = {"subGroupSize": sub, "subGroupPolicyType": kind}
    found = lws({"leaderWorkerTemplate": {"size": size, "subGroupPolicy": policy}})
    assert (found == []) == accepted


def test_subgroup_topology_needs_subgroups() -> None:
    key = "leaderworkerset.sigs.k8s.io/subgroup-exclusive-topology"
    assert lws({}, {key: "cloud.google.com/gke-nodepool"}) == [f"{key} needs a subGroupPolicy"]


def test_pods_are_counted_in_32_bits() -> None:
    big = {"replicas": 1_000_000, "leaderWorkerTemplate": {"size": 4096}}
    assert lws(big) == ["replicas x size is over 2147483647"]


@pytest.mark.parametrize("schema", [leaderworkerset.SCHEMA, computedomain.SCHEMA])
def test_schema_is_closed_at_every_level(schema: Object) -> None:
    waiting: list[Any] = [schema]
    while waiting:
        schema = waiting.pop()
        if isinstance(schema, dict):
            assert "properties" not in schema or schema["additionalProperties"] is False
            waiting.extend(schema.values())
