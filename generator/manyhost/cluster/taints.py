"""Whose a taint is. None of them is manyhost's, so that nobody is told to take one off."""

from __future__ import annotations

from manyhost.commands import Commands

# Set and taken off by Kubernetes, GKE and the autoscaler as a node's state changes
# (kubernetes.io, "Taints and Tolerations"; GKE: "Node taints", cluster-autoscaler FAQ).
_PASSING = (
    "node.kubernetes.io/",
    "node.cloudprovider.kubernetes.io/",
    "node-lifecycle.kubernetes.io/",
    "cloud.google.com/impending-node-termination",
    "ToBeDeletedByClusterAutoscaler",
    "DeletionCandidateOfClusterAutoscaler",
)
_GPU = "nvidia.com/gpu"  # GKE sets it on every GPU node


def advice(key: str, commands: Commands) -> str:
    """Say what to do about a taint that the pods do not tolerate.

    Args:
        key: The taint's key.
        commands: Builds the commands of fixes.
    """
    if key.startswith(_PASSING):
        look = commands.kubectl("describe", "nodes", namespace="")
        return f"{key} goes by itself when the node has recovered: {look} tells why it has not"
    if key == _GPU:
        return f"leave {key}: it keeps pods without GPUs off GPU hosts; add hosts of the recipe's own type"
    return (
        f"{key} is somebody's reservation: ask whoever set it whether these pods may run there, and then add "
        "it to platform.tolerations of the environment's file"
    )
