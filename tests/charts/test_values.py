"""Every value has an effect; values.yaml, the schema and the README say the same."""

import copy
import json

import pytest
import yaml

from tests.helpers.helm import (
    CHART,
    RenderError,
    fabric,
    merge,
    nest,
    notes,
    render,
    render_text,
)

VALUES = yaml.load((CHART / "values.yaml").read_text(), Loader=yaml.CSafeLoader)
SCHEMA = json.loads((CHART / "values.schema.json").read_text())

# Keys that the schema lets through only for the templates to refuse them, and Helm's own.
NOT_IN_VALUES = {"targetPlatform", "global", "network.subnetworks[]", "gpuPlatformSettings.ncclBuildType"}

# Values that only confirm what follows from others: a wrong one is refused, the right one adds nothing.
ONLY_REFUSED = {"job.gpus": 24}


def leaves(values, schema, path=""):
    """What values.yaml holds: the schema says where a value ends."""
    for key, value in values.items():
        inner = schema["properties"][key]
        if "properties" in inner:
            yield from leaves(value, inner, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def fields(schema, path=""):
    """All that can be set, the fields of list entries ("list[].field") and of references included."""
    while "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
    if schema.get("properties"):
        for key, inner in schema["properties"].items():
            yield from fields(inner, f"{path}.{key}".lstrip("."))
    elif isinstance(schema.get("items"), dict):
        found = list(fields(schema["items"], f"{path}[]"))
        yield from [path] if found == [f"{path}[]"] else found
    else:
        yield path


LEAVES = list(leaves(VALUES, SCHEMA))
FIELDS = set(fields(SCHEMA)) - NOT_IN_VALUES

# How to change each of them: the new value, and what must be switched on for it to be read.
TCPXO = fabric("tcpxo")
SOCKETS = merge(TCPXO, nest("network.interconnect", "none"))
OWN_PLUGIN = merge(TCPXO, nest("gpuPlatformSettings.useHostPlugin", False))
RDMA = {
    "network": {"interconnect": "roce"},
    "gpuPlatformSettings": {
        "env": [{"name": "X", "value": "x"}],
        "folders": [{"name": "gib", "hostPath": "/gib", "enginePath": "/usr/local/gib"}],
        "deviceClaim": {"deviceClass": "rdma", "count": 8},
    },
}
BUCKET = nest("volumes.gcsMounts", [{"bucketName": "weights"}])
FOLDER = nest("volumes.hostMounts", [{"name": "a", "hostPath": "/a", "mountPath": "/b"}])
NFS = {"nfs": {"server": "a", "path": "/"}}
EXTRA = nest("volumes.extra", [{"name": "a", "mountPath": "/b", "volume": NFS}])
PDB = merge(nest("podDisruptionBudget.enabled", True), nest("vllm.replicaCount", 3))
HPA = nest("autoscaling.enabled", True)
JANITOR = nest("janitor.enabled", True)
ONE_STAGE = {"model": {"tp_size": 16, "pp_size": 1}}
APART = merge(ONE_STAGE, nest("roles.prefill.groups", 1))
TOLERATION = nest("host.tolerations", [{"key": "a", "operator": "Exists"}])
NCCL = nest("network.ncclSettings", [{"name": "A", "value": "1"}])
ENV = nest("vllm.env", [{"name": "A", "value": "1"}])
SECRET_KEY = nest("vllm.envFrom", [{"name": "A", "secret": "s", "key": "k"}])
CONFIG_MAP = nest("vllm.envFrom", [{"configMap": "c"}])
WORKLOAD = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine"}}
GATEWAY = {"routing": "inferencepool", "gateway": {"name": "g", "endpointPicker": {"name": "p"}}}
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
    "model.staged": ("other/model", {}),
    "model.servedName": ("served", {}),
    "model.tp_size": (16, {}),
    "model.pp_size": (4, {}),
    "model.dp_size": (2, {}),
    "host.environment": ("other", SOCKETS),
    "host.gpus": (4, nest("model.tp_size", 4)),
    "host.networks": (["default"], SOCKETS),
    "host.nodeSelector": ({"a": "b"}, {}),
    "host.tolerations[].key": ("b", TOLERATION),
    "host.tolerations[].operator": ("Equal", TOLERATION),
    "host.tolerations[].value": ("x", TOLERATION),
    "host.tolerations[].effect": ("NoSchedule", TOLERATION),
    "host.tolerations[].tolerationSeconds": (9, TOLERATION),
    "host.topologyKeys": ([], {}),
    "host.resources.requests": ({"cpu": 1}, {}),
    "host.resources.limits": ({"cpu": 1}, {}),
    "network.interconnect": ("tcpxo", SOCKETS),
    "network.hostNetwork": (True, {}),
    "network.subnetworks": ([f"n{i}" for i in range(9)], SOCKETS),
    "network.socketInterface": ("eth1", {}),
    "network.ncclSettings[].name": ("B", NCCL),
    "network.ncclSettings[].value": ("2", NCCL),
    "gpuPlatformSettings.useHostPlugin": (False, TCPXO),
    "gpuPlatformSettings.ncclPluginImage": ("a/b:1", OWN_PLUGIN),
    "gpuPlatformSettings.rxdmImage": ("a/b:1", TCPXO),
    "gpuPlatformSettings.daemonResources.requests": ({"cpu": 1}, TCPXO),
    "gpuPlatformSettings.daemonResources.limits": ({"cpu": 1}, TCPXO),
    "gpuPlatformSettings.devices": (["/dev/x"], TCPXO),
    "gpuPlatformSettings.libraries": ("/lib", TCPXO),
    "gpuPlatformSettings.profile": ("/profile.sh", TCPXO),
    "gpuPlatformSettings.env[].name": ("Y", RDMA),
    "gpuPlatformSettings.env[].value": ("y", RDMA),
    "gpuPlatformSettings.folders[].name": ("b", RDMA),
    "gpuPlatformSettings.folders[].hostPath": ("/b", RDMA),
    "gpuPlatformSettings.folders[].enginePath": ("/b", RDMA),
    "gpuPlatformSettings.folders[].daemonPath": ("/b", TCPXO),
    "gpuPlatformSettings.folders[].readOnly": (True, RDMA),
    "gpuPlatformSettings.capabilities": (["IPC_LOCK"], RDMA),
    "gpuPlatformSettings.extendedResources": ({"a/b": "1"}, RDMA),
    "gpuPlatformSettings.deviceClaim.deviceClass": ("other", RDMA),
    "gpuPlatformSettings.deviceClaim.count": (4, RDMA),
    "gpuPlatformSettings.computeDomain": (True, RDMA),
    "volumes.ssdMountPath": ("/scratch", {}),
    "volumes.ssdHostPath": ("/mnt/ssd", {}),
    "volumes.shmSize": ("1Gi", {}),
    "volumes.gcsMounts[].bucketName": ("other", BUCKET),
    "volumes.gcsMounts[].mountPath": ("/weights", BUCKET),
    "volumes.gcsMounts[].onlyDir": ("models", BUCKET),
    "volumes.gcsMounts[].readOnly": (True, BUCKET),
    "volumes.gcsMountOptions": (["implicit-dirs"], BUCKET),
    "volumes.hostMounts[].name": ("b", FOLDER),
    "volumes.hostMounts[].hostPath": ("/c", FOLDER),
    "volumes.hostMounts[].mountPath": ("/c", FOLDER),
    "volumes.hostMounts[].readOnly": (False, FOLDER),
    "volumes.extra[].name": ("b", EXTRA),
    "volumes.extra[].mountPath": ("/c", EXTRA),
    "volumes.extra[].subPath": ("c", EXTRA),
    "volumes.extra[].readOnly": (False, EXTRA),
    "volumes.extra[].volume": ({"emptyDir": {}}, EXTRA),
    "vllm.replicaCount": (2, {}),
    "vllm.engine": ("sglang", nest("job.image", {"repository": "other/image", "tag": "own-1"})),
    "vllm.executor": ("ray", nest("job.image.repository", "other/image")),
    "vllm.command": (["python3", "-m", "vllm"], {}),
    "vllm.serverArgs": ({"max-model-len": 1}, {}),
    "vllm.env[].name": ("B", ENV),
    "vllm.env[].value": ("2", ENV),
    "vllm.envFrom[].name": ("B", SECRET_KEY),
    "vllm.envFrom[].secret": ("other", SECRET_KEY),
    "vllm.envFrom[].configMap": ("other", CONFIG_MAP),
    "vllm.envFrom[].key": ("other", SECRET_KEY),
    "vllm.service.type": ("NodePort", {}),
    "vllm.service.annotations": ({"a": "b"}, {}),
    "vllm.service.ports.http": (9000, {}),
    "routing": ("service", GATEWAY),
    "gateway.name": ("other", GATEWAY),
    "gateway.namespace": ("other", GATEWAY),
    "gateway.hostnames": (["a.example.com"], GATEWAY),
    "gateway.timeoutSeconds": (60, GATEWAY),
    "gateway.gke": (True, GATEWAY),
    "gateway.endpointPicker.name": ("other", GATEWAY),
    "gateway.endpointPicker.port": (80, GATEWAY),
    "gateway.endpointPicker.failureMode": ("FailClose", GATEWAY),
    "roles.prefill.groups": (1, ONE_STAGE),
    "roles.prefill.tp_size": (8, APART),
    "roles.prefill.dp_size": (2, APART),
    "roles.prefill.serverArgs": ({"max-num-seqs": 1}, APART),
    "roles.decode.tp_size": (32, APART),
    "roles.decode.dp_size": (2, APART),
    "roles.decode.serverArgs": ({"max-num-seqs": 1}, APART),
    "roles.handover.buffer": ("", APART),
    "roles.handover.env[].name": ("UCX_LOG_LEVEL", APART),
    "roles.handover.env[].value": ("all", APART),
    "roles.router.replicas": (3, APART),
    "roles.router.image": ("example.com/python:1", APART),
    "roles.router.maxRequests": (10, APART),
    "roles.router.maxBodyMiB": (1, APART),
    "roles.router.resources.requests": ({"cpu": 1}, APART),
    "roles.router.resources.limits": ({"memory": "2Gi"}, APART),
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
    "podDisruptionBudget.enabled": (True, nest("vllm.replicaCount", 2)),
    "queueTopology.required": ("a/b", nest("queue", "gpus")),
    "queueTopology.preferred": ("a/b", nest("queue", "gpus")),
    "podDisruptionBudget.minAvailable": (2, PDB),
    "networkPolicy.enabled": (False, {}),
    "networkPolicy.allowedNamespaces": (["a"], {}),
    "networkPolicy.metricsNamespaces": (["a"], nest("networkPolicy.allowedNamespaces", ["b"])),
    "autoscaling.enabled": (True, {}),
    "autoscaling.minReplicas": (2, HPA),
    "autoscaling.maxReplicas": (9, HPA),
    "autoscaling.metric": ("m", HPA),
    "autoscaling.targetValue": (1, HPA),
    "janitor.enabled": (True, {}),
    "janitor.schedule": ("0 * * * *", JANITOR),
    "janitor.image": ("a/b:1", JANITOR),
    "janitor.heldMinutes": (1, JANITOR),
    "janitor.resources.requests": ({"cpu": 1}, JANITOR),
    "janitor.resources.limits": ({"cpu": 1}, JANITOR),
    "security.privileged": (True, {}),
    "security.runAsUser": (0, {}),
    "security.runAsGroup": (0, {}),
    "security.fsGroup": (0, {}),
    "imagePullSecrets": (["s"], {}),
    "priorityClassName": ("high", {}),
    "runtimeClassName": ("nvidia", {}),
    "schedulerName": ("mine", {}),
    "affinity.nodeAffinity": ({"a": "b"}, {}),
    "affinity.podAffinity": ({"a": "b"}, {}),
    "affinity.podAntiAffinity": ({"a": "b"}, {}),
    "topologySpreadConstraints": ([{"maxSkew": 1}], {}),
    "extraObjects": ([WORKLOAD], {}),
    "podAnnotations": ({"a": "b"}, {}),
    "podLabels": ({"a": "b"}, {}),
}


def changed(values, path, value):
    """A copy of values with one of them changed; in lists that of the first entry."""
    result = copy.deepcopy(values)
    *above, last = path.replace("[]", ".0").split(".")
    node = result
    for key in above:
        node = node[int(key) if key.isdigit() else key]
    node[last] = value
    return result


def test_the_table_above_is_complete():
    assert set(MUTATIONS) | set(ONLY_REFUSED) == FIELDS
    assert {path for path in LEAVES if not any(field.startswith(path) for field in FIELDS)} == set()


@pytest.mark.parametrize("path", MUTATIONS)
def test_every_value_has_an_effect(path):
    value, base = MUTATIONS[path]
    before = merge(VALUES, base)
    after = changed(before, path, value)
    assert render(after) != render(before) or notes(after) != notes(before)


@pytest.mark.parametrize("path", ONLY_REFUSED)
def test_what_only_confirms_is_refused_when_it_does_not(path):
    with pytest.raises(RenderError, match=f"{path}: "):
        render(nest(path, ONLY_REFUSED[path]))


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
            if node.get("type") == "object" and path not in {
                "$.properties.global",
                "$.definitions.kubernetes",
            }:
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
    values = merge(OWN_PLUGIN, PDB, HPA, BUCKET, nest("autoscaling.minReplicas", 2))
    assert render_text(values) == render_text(values)
