"""Names, addresses and folders of one cluster, all derived from its name and its index.

Two clusters run side by side because everything that the machine shares between them (bridge,
links, subnets, cgroups, state folder) carries the index or the name.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

MAX_INDEX = 63
MAX_NODES = 9
MARK = "manyhost-cluster"  # second word of the command line of every machine's first process
SERVICES = "10.96.0.0/16"  # lives in the nodes' own network namespaces: equal in every cluster
API_PORT = 6443
_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")


def cache_dir() -> Path:
    """The folder for everything that outlives a run: binaries, images, cluster state.

    Returns:
        `$MANYHOST_CACHE`, else `$XDG_CACHE_HOME/manyhost`, else `~/.cache/manyhost`.
    """
    if own := os.environ.get("MANYHOST_CACHE"):
        return Path(own).resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(base) / "manyhost").resolve()


def state_dir(name: str) -> Path:
    """The folder of the cluster `name`; its `kubeconfig` lies there.

    Raises:
        ValueError: the name is not one to twenty of a-z, 0-9 and '-', a letter first.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"cluster name {name!r}: use up to 20 of a-z, 0-9 and -, a letter first")
    return cache_dir() / "clusters" / name


@dataclass(frozen=True)
class Layout:
    """Where everything of one cluster is."""

    name: str
    index: int

    @property
    def state(self) -> Path:
        return state_dir(self.name)

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def bridge(self) -> str:
        return f"mh{self.index}"

    @property
    def cgroup(self) -> str:
        return f"manyhost-{self.index}"

    @property
    def gateway(self) -> str:
        """The address of this machine on the cluster's bridge."""
        return f"10.99.{self.index}.1"

    @property
    def control_plane(self) -> str:
        """The address of the API server and of the cluster DNS."""
        return f"10.99.{self.index}.2"

    @property
    def pods(self) -> str:
        return f"10.{128 + self.index}.0.0/16"

    @property
    def kwok_pods(self) -> str:
        return f"10.{128 + self.index}.128.0/17"

    def node(self, number: int) -> Node:
        """The place of container node `number`, counted from 1."""
        return Node(self, number)


@dataclass(frozen=True)
class Node:
    """Where one container node is."""

    cluster: Layout
    number: int

    @property
    def name(self) -> str:
        return f"host-{self.number}"

    @property
    def address(self) -> str:
        return f"10.99.{self.cluster.index}.{10 + self.number}"

    @property
    def pods(self) -> str:
        return f"10.{128 + self.cluster.index}.{self.number}.0/24"

    @property
    def folder(self) -> Path:
        return self.cluster.state / self.name

    @property
    def cgroup(self) -> str:
        return f"{self.cluster.cgroup}/{self.name}"
