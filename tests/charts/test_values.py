"""Every value has an effect; values.yaml, the schema and the README say the same."""

import json

import pytest
import yaml

from tests.helpers.helm import CHART, merge, nest, render, render_text

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())

# Keys that the schema lets through only for the templates to refuse them, and Helm's own.
NOT_IN_VALUES = {"targetPlatform", "global", "network.subnetworks[]", "gpuPlatformSettings.ncclBuildType"}

# Values that only confirm what follows from others: a wrong one is refused, the right one adds nothing.
WITHOUT_EFFECT = {"job.gpus"}


def leaves(values, schema, path=""):
    for key, value in values.items():
        inner = schema["properties"][key]
        if "properties" in inner:
            yield from leaves(value, inner, f"{path}{key}.")
        else:
            yield f"{path}{key}"


LEAVES = list(leaves(VALUES, SCHEMA))

# How to change each leaf: the new value, and what must be switched on for it to be read.
TCPXO = nest("network.interconnect", "tcpxo")
OWN_PLUGIN = merge(TCPXO, nest("gpuPlatformSettings.useHostPlugin", False))
BUCKET = nest("volumes.gcsMounts", [{"bucketName": "weights"}])
PDB = nest("podDisruptionBudget.enabled", True)
POLICY = nest("networkPolicy.enabled", True)
HPA = nest("autoscaling.enabled", True)
ONE_STAGE = {"model": {"tp_size": 16, "pp_size": 1}}
APART = merge(ONE_STAGE, nest("disaggregation.prefillGroups", 1))
MUTATIONS = {
    "job.image.repository": ("other/image", {}),
    "job.image.tag": ("v1", {}),
    "job.image.digest": ("sha256:" + "0" * 64, {}),
    "job.image.pullPolicy": ("Always", {}),
    "clusterName": ("c", {}),
    "queue": ("q", {}),
    "targetNodes": (["n"], {}),
    "recipe": ("a/b", {}),
    "mode": ("nccl", {}),
    "huggingface.secretName": ("other", {}),
    "huggingface.secretData.token": ("other", {}),
    "model.name": ("other/model", {}),
    "model.path": ("/gcs/model", {}),
    "model.servedName": ("served", {}),
    "model.tp_size": (16, {}),
    "model.pp_size": (4, {}),
    "model.dp_size": (2, {}),
    "host.environment": ("other", {}),
    "host.gpus": (4, nest("model.tp_size", 4)),
    "host.networks": (["default"], {}),
    "host.nodeSelector": ({"a": "b"}, {}),
    "host.tolerations": ([], {}),
    "host.topologyKeys": ([], {}),
    "host.resources.requests": ({"cpu": 1}, {}),
    "host.resources.limits": ({"cpu": 1}, {}),
    "network.interconnect": ("tcpxo", {}),
    "network.hostNetwork": (True, {}),
    "network.subnetworks": ([f"n{i}" for i in range(9)], {}),
    "network.socketInterface": ("eth1", {}),
    "network.ncclSettings": ([{"name": "A", "value": "1"}], {}),
    "gpuPlatformSettings.useHostPlugin": (False, TCPXO),
    "gpuPlatformSettings.ncclPluginImage": ("a/b:1", OWN_PLUGIN),
    "gpuPlatformSettings.rxdmImage": ("a/b:1", TCPXO),
    "volumes.ssdMountPath": ("/scratch", {}),
    "volumes.ssdHostPath": ("/mnt/ssd", {}),
    "volumes.shmSize": ("1Gi", {}),
    "volumes.gcsMounts": ([{"bucketName": "weights"}], {}),
    "volumes.gcsMountOptions": (["implicit-dirs"], BUCKET),
    "volumes.hostMounts": ([{"name": "a", "hostPath": "/a", "mountPath": "/b"}], {}),
    "vllm.replicaCount": (2, {}),
    "vllm.executor": ("ray", {}),
    "vllm.command": (["python3", "-m", "vllm"], {}),
    "vllm.serverArgs": ({"max-model-len": 1}, {}),
    "vllm.env": ([{"name": "A", "value": "1"}], {}),
    "vllm.service.type": ("NodePort", {}),
    "vllm.service.annotations": ({"a": "b"}, {}),
    "vllm.service.ports.http": (9000, {}),
    "lifecycle.startupSeconds": (1, {}),
    "lifecycle.peerWaitSeconds": (1, {}),
    "lifecycle.stallSeconds": (1, {}),
    "lifecycle.drainSeconds": (1, {}),
    "lifecycle.startAttempts": (1, {}),
    "rollout.maxUnavailable": (2, {}),
    "rollout.maxSurge": (1, {}),
    "exclusiveTopologyKey": ("a/b", {}),
    "serviceAccount.create": (False, {}),
    "serviceAccount.name": ("other", {}),
    "serviceAccount.annotations": ({"a": "b"}, {}),
    "podDisruptionBudget.enabled": (True, {}),
    "podDisruptionBudget.minAvailable": (2, PDB),
    "networkPolicy.enabled": (True, {}),
    "networkPolicy.allowedNamespaces": (["a"], POLICY),
    "autoscaling.enabled": (True, {}),
    "autoscaling.minReplicas": (2, HPA),
    "autoscaling.maxReplicas": (9, HPA),
    "autoscaling.metric": ("m", HPA),
    "autoscaling.targetValue": (1, HPA),
    "security.privileged": (True, {}),
    "security.runAsUser": (0, {}),
    "security.runAsGroup": (0, {}),
    "security.fsGroup": (0, {}),
    "podAnnotations": ({"a": "b"}, {}),
    "podLabels": ({"a": "b"}, {}),
    "disaggregation.prefillGroups": (1, ONE_STAGE),
    "disaggregation.buffer": ("", APART),
    "disaggregation.env": ([{"name": "UCX_TLS", "value": "all"}], APART),
}


def test_the_table_above_is_complete():
    assert set(MUTATIONS) == set(LEAVES) - WITHOUT_EFFECT


@pytest.mark.parametrize("path", MUTATIONS)
def test_every_value_has_an_effect(path):
    value, base = MUTATIONS[path]
    assert render(merge(base, nest(path, value))) != render(base)


def test_the_schema_and_values_yaml_have_the_same_keys():
    def keys(schema, path=""):
        for key, inner in schema["properties"].items():
            if "properties" in inner:
                yield from keys(inner, f"{path}{key}.")
            else:
                yield f"{path}{key}"

    assert set(keys(SCHEMA)) - set(LEAVES) == NOT_IN_VALUES
    assert set(LEAVES) <= set(keys(SCHEMA))


def test_the_schema_is_closed_everywhere():
    def walk(node, path):
        if isinstance(node, dict):
            if node.get("type") == "object" and path != "$.properties.global":
                assert "additionalProperties" in node, path
                if "properties" in node:
                    assert node["additionalProperties"] is False, path
            for key, inner in node.items():
                walk(inner, f"{path}.{key}")
        elif isinstance(node, list):
            for inner in node:
                walk(inner, path)

    walk(SCHEMA, "$")


def test_values_left_empty_in_a_file_mean_their_default():
    published = {"clusterName": None, "queue": None, "huggingface": {"secretName": None}}
    objects = render(published)
    assert "annotations" not in next(o for o in objects if o["kind"] == "LeaderWorkerSet")["metadata"]


def test_rendering_is_deterministic():
    values = merge(OWN_PLUGIN, PDB, POLICY, HPA, BUCKET)
    assert render_text(values) == render_text(values)
