"""Manifests of a release with every option on, as the subject of checks and seeded faults."""

from __future__ import annotations

import copy
import functools
from typing import Any

import yaml
from manyhost.checks import Allowance, Finding, FlagTable, run
from manyhost.render.shell import shell_problems

from tests.helpers.helm import CHART, ROOT, fabric, merge, render

Object = dict[str, Any]

EVERYTHING: Object = merge(
    fabric(),
    {
        "network": {
            "ncclSettings": [{"name": "NCCL_DEBUG", "value": "WARN"}],
        },
        "volumes": {"gcsMounts": [{"bucketName": "weights.example.com", "mountPath": "/gcs"}]},
        "model": {"path": "/gcs/deepseek-r1", "tp_size": 8, "pp_size": 2},
        "vllm": {
            "serverArgs": {
                "max-model-len": 32768,
                "max-num-batched-tokens": 1000000,
                "gpu-memory-utilization": 0.9,
                "enable-prefix-caching": False,
                "hf-overrides": {"rope_theta": 10000},
            }
        },
        "podDisruptionBudget": {"enabled": True},
        "networkPolicy": {"allowedNamespaces": ["gateway"]},
        "autoscaling": {"enabled": True, "minReplicas": 2},
        "janitor": {"enabled": True},
        "queue": "gpu-queue",
        "routing": "inferencepool",
        "gateway": {"name": "g", "namespace": "gateway", "endpointPicker": {"name": "epp"}},
    },
)

# The baseline violations of TCPXO, each for a reason that values/environments/a3mega.yaml gives.
ALLOWED = Allowance(
    "privileged",
    frozenset(
        {
            "capability NET_ADMIN in tcpxo-daemon",
            "hostPath volume aperture-devices",
            "hostPath volume nvidia",
            "hostPath volume proc-sys",
            "hostPath volume sys",
        }
    ),
)


@functools.cache
def _rendered() -> list[Object]:
    return render(EVERYTHING, release="deepseek")


def sample() -> list[Object]:
    """Return the manifests, a fresh copy that a test may break."""
    return copy.deepcopy(_rendered())


@functools.cache
def flags(version: str = "0.26.0") -> FlagTable:
    """Return the flags of an engine version."""
    source = ROOT / "values" / "engines" / "vllm" / f"{version}.flags.yaml"
    return FlagTable(version, yaml.load(source.read_text(), Loader=yaml.CSafeLoader))


@functools.cache
def scripts() -> frozenset[str]:
    """Return the texts of the scripts that the chart ships."""
    files = (CHART / "launcher").rglob("*")
    return frozenset(path.read_text() for path in files if path.suffix in {".py", ".sh"})


def findings(objects: list[Object], text: str = "") -> list[Finding]:
    """Check manifests as a render of a3mega does."""
    return run(
        objects,
        flags=flags(),
        environment_level=ALLOWED,
        shell=shell_problems,
        shipped_scripts=scripts(),
        manifests_text=text,
    )


def item(objects: list[Object], kind: str) -> Object:
    """Return the only object of a kind."""
    (found,) = (o for o in objects if o["kind"] == kind)
    return found


def pod(objects: list[Object], role: str) -> Object:
    """Return the pod template of a role."""
    template: Object = item(objects, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    return template[f"{role}Template"]


def pods(objects: list[Object]) -> list[Object]:
    """Return both pod templates: a fault in only one of them is also a difference."""
    return [pod(objects, "leader"), pod(objects, "worker")]


def container(template: Object, name: str = "vllm") -> Object:
    """Return a container of a pod template."""
    spec = template["spec"]
    (found,) = (c for c in [*spec.get("initContainers", []), *spec["containers"]] if c["name"] == name)
    return found


def named(items: list[Object], name: str) -> Object:
    """Return the entry with this name of a list of env, volumes or mounts."""
    (found,) = (entry for entry in items if entry["name"] == name)
    return found


def put(template: Object, flag: str, value: str) -> None:
    """Give an engine flag another value."""
    args = container(template)["args"]
    args[args.index(flag) + 1] = value
