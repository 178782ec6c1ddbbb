"""Nodes and objects of a healthy A3 Mega cluster."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.api import Api
from tests.cluster.machine import Machine
from tests.cluster.node import Kind

ACCELERATOR = {"cloud.google.com/gke-accelerator": "nvidia-h100-mega-80gb"}
TAINT = "nvidia.com/gpu=present:NoSchedule"


def container_node(gpus: int) -> Kind:
    """A container node; with GPUs it is found, and kept free, as an A3 Mega host is."""
    return Kind(gpus, dict(ACCELERATOR), (TAINT,)) if gpus else Kind()


def start(machine: Machine, programs: Path) -> None: ...
def install(api: Api) -> None: ...
def wait(api: Api) -> None: ...
