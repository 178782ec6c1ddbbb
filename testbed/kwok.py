"""kwok: nodes of any shape whose pods are only told to be running. It leaves real nodes alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from testbed.machine import Machine

ANNOTATION = {"kwok.x-k8s.io/node": "fake"}  # marks the nodes that are kwok's
FAULT = "testcluster.manyhost.dev/fault"  # a pod with this label waits for the reason it names
_LEASE_SECONDS = 40
_PORT = 10250


def start(machine: Machine, programs: Path) -> None:
    """Starts kwok; nodes and pods may come before or after it."""
    cluster, pki = machine.cluster, machine.cluster.pki
    config = cluster.state / "kwok.yaml"
    config.write_text("---\n".join(json.dumps(s) + "\n" for s in _stages(programs)))
    selector = next(f"{k}={v}" for k, v in ANNOTATION.items())
    machine.start(
        *("kwok", programs / "kwok", "--config", config, "--kubeconfig", cluster.kubeconfig),
        *("--manage-nodes-with-annotation-selector", selector, "--cidr", cluster.kwok_pods),
        *("--node-ip", cluster.control_plane, "--node-port", str(_PORT)),
        *("--server-address", f"{cluster.control_plane}:{_PORT}"),
        *("--tls-cert-file", pki / "webhook/tls.crt"),
        *("--tls-private-key-file", pki / "webhook/tls.key"),
        *("--node-lease-duration-seconds", str(_LEASE_SECONDS)),
    )


def _stages(programs: Path) -> list[dict[str, Any]]:
    """kwok's own fast stages, of which a pod with the fault label gets another one."""
    stages = [yaml.safe_load(path.read_text()) for path in sorted((programs / "stages").rglob("*.yaml"))]
    for stage in stages:
        if stage["metadata"]["name"] == "pod-ready":
            key = f'.metadata.labels["{FAULT}"]'
            stage["spec"]["selector"]["matchExpressions"].append({"key": key, "operator": "DoesNotExist"})
    return [*stages, _waiting()]


def _waiting() -> dict[str, Any]:
    expressions = [
        {"key": f'.metadata.labels["{FAULT}"]', "operator": "Exists"},
        {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"},
        {"key": ".status.containerStatuses", "operator": "DoesNotExist"},
    ]
    template = f"""
conditions:
- {{lastTransitionTime: {{{{ Now | Quote }}}}, status: "True", type: Initialized}}
- lastTransitionTime: {{{{ Now | Quote }}}}
  status: "False"
  type: Ready
  reason: ContainersNotReady
- lastTransitionTime: {{{{ Now | Quote }}}}
  status: "False"
  type: ContainersReady
  reason: ContainersNotReady
containerStatuses:
{{{{ $reason := index .metadata.labels "{FAULT}" }}}}
{{{{ range .spec.containers }}}}
- image: {{{{ .image | Quote }}}}
  name: {{{{ .name | Quote }}}}
  ready: false
  restartCount: 0
  state:
    waiting:
      reason: {{{{ $reason | Quote }}}}
      message: planted by a test
{{{{ end }}}}
phase: Pending
"""
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": "pod-fault"},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
            "selector": {"matchExpressions": expressions},
            "next": {"statusTemplate": template},
        },
    }
