"""The objects against upstream schemas, closed: a misspelt field would be dropped in silence."""

import functools

import jsonschema_rs
import kubernetes_validate
import pytest
import yaml

from tests.charts.test_pods import CONFIGURATIONS
from tests.helpers.helm import find, merge, nest, pod, render
from tests.helpers.shared import shared_dir

VERSIONS = ["v0.6.2", "v0.9.0", "v0.10.0"]
EXTRAS = {
    "targetNodes": ["n"],
    "queue": "q",
    "exclusiveTopologyKey": "a/b",
    "security": {"runAsUser": 1, "runAsGroup": 1, "fsGroup": 1},
    "host": {"resources": {"requests": {"cpu": 1}, "limits": {"memory": "1Gi"}}},
    "rollout": {"maxUnavailable": "50%"},
    "imagePullSecrets": ["s"],
    "priorityClassName": "high",
    "runtimeClassName": "nvidia",
    "schedulerName": "mine",
    "affinity": {
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "r"}]}
    },
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "r", "whenUnsatisfiable": "ScheduleAnyway"}],
    "volumes": {
        "extra": [{"name": "w", "mountPath": "/w", "volume": {"persistentVolumeClaim": {"claimName": "w"}}}]
    },
    "vllm": {"envFrom": [{"name": "A", "secret": "s"}, {"configMap": "c"}]},
    "gpuPlatformSettings": {"daemonResources": {"limits": {"memory": "4Gi"}}},
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}}
    ],
}


def closed(node):
    """The same schema, with every object closed and Kubernetes' own extensions translated."""
    if isinstance(node, list):
        return [closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    result = {key: closed(value) for key, value in node.items() if not key.startswith("x-kubernetes")}
    if "properties" in node and "type" in node:
        result["additionalProperties"] = False
    return result


@functools.cache
def validator(version):
    folder = shared_dir()
    if folder is None:
        pytest.skip("the upstream CRDs are not here")
    name = f"leaderworkersets.leaderworkerset.x-k8s.io.lws-{version}.yaml"
    crd = yaml.load((folder / "crds" / name).read_text(), Loader=yaml.CSafeLoader)
    schema = closed(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema_rs.validator_for(schema)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_set_fits_the_crd(version, name):
    lws = find(render(merge(EXTRAS, CONFIGURATIONS[name])), "LeaderWorkerSet")
    errors = [f"{error.instance_path}: {error.message}" for error in validator(version).iter_errors(lws)]
    assert errors == []


def test_a_misspelt_field_would_be_seen():
    lws = find(render(), "LeaderWorkerSet")
    lws["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"]["containers"][0]["volumeMount"] = []
    assert not validator(VERSIONS[-1]).is_valid(lws)


OPTIONAL = {
    "podDisruptionBudget": {"enabled": True},
    "networkPolicy": {"allowedNamespaces": ["a"]},
    "autoscaling": {"enabled": True, "minReplicas": 2},
    "janitor": {"enabled": True},
}


@pytest.mark.parametrize("version", ["1.29.0", "1.37.0"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_other_objects_and_the_pods_fit_kubernetes(version, name):
    objects = render(merge(EXTRAS, OPTIONAL, CONFIGURATIONS[name]))
    pods = [{"apiVersion": "v1", "kind": "Pod", **pod(objects, role)} for role in ("leader", "worker")]
    for item in [*objects, *pods]:
        if item["kind"] != "LeaderWorkerSet":
            kubernetes_validate.validate(item, version, strict=True)


def test_claims_fit_kubernetes():
    claim = nest("gpuPlatformSettings.deviceClaim", {"deviceClass": "rdma", "count": 8})
    objects = render(merge(CONFIGURATIONS["rdma"], claim))
    template = {"apiVersion": "v1", "kind": "Pod", **pod(objects)}
    for item in [find(objects, "ResourceClaimTemplate"), template]:
        kubernetes_validate.validate(item, "1.37.0", strict=True)
