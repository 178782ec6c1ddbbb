"""Which settings write which Helm value: the words of a recipe for those of the chart, and back."""

from __future__ import annotations

from manyhost.catalog.paths import within

# Helm value -> the settings that render/templates/values.yaml.j2 writes it from; a fact has none.
WRITTEN: dict[str, tuple[str, ...]] = {
    "clusterName": ("site.cluster_name",),
    "gateway.endpointPicker.failureMode": ("gateway.picker.failure_mode",),
    "gateway.endpointPicker.name": ("gateway.picker.name",),
    "gateway.endpointPicker.port": ("gateway.picker.port",),
    "gateway.gke": (),
    "gateway.name": ("gateway.name",),
    "gateway.namespace": ("gateway.namespace",),
    "gateway.timeoutSeconds": ("gateway.timeout_seconds",),
    "gpuPlatformSettings.capabilities": (),
    "gpuPlatformSettings.computeDomain": (),
    "gpuPlatformSettings.deviceClaim": (),
    "gpuPlatformSettings.devices": (),
    "gpuPlatformSettings.env": (),
    "gpuPlatformSettings.folders": (),
    "gpuPlatformSettings.libraries": (),
    "gpuPlatformSettings.profile": (),
    "host.environment": ("environment",),
    "host.gpus": (),
    "host.networks": (),
    "host.nodeSelector": ("node_selector",),
    "job.image.digest": ("engine.digest",),
    "job.image.repository": ("engine.image", "site.artifact_registry"),
    "job.image.tag": ("engine.tag",),
    "lifecycle.drainSeconds": ("drain_seconds",),
    "lifecycle.peerWaitSeconds": ("startup_seconds",),
    "lifecycle.stallSeconds": ("stall_seconds",),
    "lifecycle.startAttempts": ("start_attempts",),
    "lifecycle.startupSeconds": ("startup_seconds",),
    "model.dp_size": ("parallelism.data",),
    "model.name": ("model",),
    "model.path": ("weights.path",),
    "model.pp_size": ("parallelism.pipeline",),
    "model.servedName": ("model",),
    "model.staged": ("model", "weights.source"),
    "model.tp_size": ("parallelism.tensor",),
    "network.hostNetwork": ("network.host_network",),
    "network.interconnect": ("network.interconnect",),
    "network.ncclSettings": ("network.nccl",),
    "network.socketInterface": (),
    "network.subnetworks": ("network.subnetworks",),
    "recipe": (),
    "roles.decode.dp_size": ("roles.decode.data",),
    "roles.decode.serverArgs": ("roles.decode.arguments",),
    "roles.decode.tp_size": ("roles.decode.tensor",),
    "roles.handover": (),
    "roles.prefill.dp_size": ("roles.prefill.data",),
    "roles.prefill.groups": ("roles.prefill.groups",),
    "roles.prefill.serverArgs": ("roles.prefill.arguments",),
    "roles.prefill.tp_size": ("roles.prefill.tensor",),
    "routing": ("routing",),
    "vllm.command": ("engine.command",),
    "vllm.engine": ("engine.name",),
    "vllm.env": ("variables",),
    "vllm.executor": ("engine.executor",),
    "vllm.replicaCount": ("groups",),
    "vllm.serverArgs": ("arguments",),
    "volumes.gcsMounts": ("site.gcs_bucket",),
    "volumes.hostMounts": ("host_mounts",),
    "volumes.ssdHostPath": ("ssd_host_path",),
}


def written(path: str) -> str:
    """Return the entry that a Helm value is or stands below; empty when no setting and no fact writes it."""
    return next((entry for entry in WRITTEN if within(path, entry)), "")
