"""Reading a cluster's facts into values/local.yaml, so that nobody types network names."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from typing import Any

import msgspec

from manyhost.catalog import Environment, yaml_editor
from manyhost.catalog.environment import Gke, RunPod
from manyhost.catalog.loader import LOCAL_FILE
from manyhost.cluster import gke
from manyhost.cluster.connection import Connection, Forbidden, Missing, path_of
from manyhost.errors import InvalidInput, NotReady

_POOL = "cloud.google.com/gke-nodepool"
_NETWORKS = "networking.gke.io/v1"
_PRIMARY = "default"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a cluster says about itself.

    Attributes:
        kubernetes: Version of the API server.
        lws: Version of the LeaderWorkerSet controller's image; empty when it is not to be seen.
        nodes: How many nodes carry the environment's labels.
        settings: Keys of values/local.yaml (nested) that the cluster decides.
        notes: What the user should know; one sentence each.
    """

    kubernetes: str
    lws: str
    nodes: int
    settings: dict[str, Any]
    notes: list[str]


def discover(connection: Connection, environment: Environment) -> Found:
    """Read what the environment's recipes need to know of a cluster.

    Raises:
        NotReady: It has no host of this environment, or not its networks.
        Unreachable: No answer.
        Refused: No permission, or another refusal.
    """
    platform = environment.platform
    if isinstance(platform, RunPod):
        raise InvalidInput(f"environment {environment.name} is no Kubernetes cluster", where="environment")
    notes: list[str] = []
    settings: dict[str, Any] = {}
    nodes = list(
        connection.pages(
            path_of("v1", "nodes"),
            dict[str, Any],
            labels=",".join(f"{key}={value}" for key, value in platform.node_selector.items()),
            metadata=True,
        )
    )
    if not nodes:
        raise NotReady(
            f"no node is a {environment.host.machine_type} of environment {environment.name}",
            where="nodes",
            fix="add a node pool, or choose another environment: "
            + connection.commands.kubectl(
                "get", "nodes", "--label-columns", ",".join(platform.node_selector), namespace=""
            )
            + " shows what there is",
        )
    pools = Counter((node["metadata"].get("labels") or {}).get(_POOL, "") for node in nodes)
    if len(pools) == 1 and "" not in pools:
        settings["node_selector"] = {_POOL: next(iter(pools))}
    elif len(pools) > 1:
        listed = ", ".join(f"{name or 'no pool'} ({count})" for name, count in pools.most_common())
        notes.append(
            f"hosts are in several node pools: {listed}; all may be used unless you set node_selector"
        )
    if isinstance(platform, Gke) and any(nic.mode for nic in environment.host.nics):
        settings["network"] = {"subnetworks": _networks(connection, environment)}
    site = _site(connection.context) or _site(connection.cluster)
    if site:
        settings["site"] = site
    lws = lws_version(connection)
    if lws is None:
        doctor = connection.commands._replace(recipe=environment.name).manyhost("doctor")
        notes.append(f"no LeaderWorkerSet controller is to be seen; {doctor} says how to install it")
    return Found(
        kubernetes=str(connection.get("/version")["gitVersion"]),
        lws=lws or "",
        nodes=len(nodes),
        settings=settings,
        notes=notes,
    )


def edit(text: str, settings: dict[str, Any]) -> str:
    """Return values/local.yaml with some settings changed; every other line stays.

    Raises:
        InvalidInput: The file is no valid settings file, or is written in a way that cannot be edited safely.
    """
    return yaml_editor.edit(text, settings, LOCAL_FILE, whole=("node_selector",))


def difference(before: str, after: str) -> str:
    """Return the unified diff of two settings files; empty when they are equal."""
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), LOCAL_FILE, f"{LOCAL_FILE} (new)", lineterm=""
    )
    return "\n".join(lines)


def _networks(connection: Connection, environment: Environment) -> list[str]:
    """The cluster's networks in NIC order: the pod network, then the devices by mode and number."""
    try:
        networks = list(connection.pages(path_of(_NETWORKS, "networks"), dict[str, Any]))
        sets = list(connection.pages(path_of(_NETWORKS, "gkenetworkparamsets"), dict[str, Any]))
    except Missing:
        raise NotReady(
            "the cluster has no multi-networking: it is chosen when a cluster is made",
            where="networks.networking.gke.io",
            fix=gke.new_cluster(),
        ) from None
    modes = {item["metadata"]["name"]: (item.get("spec") or {}).get("deviceMode", "") for item in sets}
    devices = []
    for item in networks:
        spec = item.get("spec") or {}
        if spec.get("type") != "Device":
            continue
        mode = modes.get((spec.get("parametersRef") or {}).get("name", ""), "")
        devices.append((mode, item["metadata"]["name"]))
    found: list[str] = []
    for mode in dict.fromkeys(nic.mode for nic in environment.host.nics if nic.mode):
        wanted = sum(nic.mode == mode for nic in environment.host.nics)
        own = sorted((name for have, name in devices if have == mode), key=_natural)
        if len(own) != wanted:
            listed = ", ".join(f"{name} ({have or 'no parameter set'})" for have, name in sorted(devices))
            raise NotReady(
                f"{environment.host.machine_type} needs {wanted} networks of mode {mode}, "
                f"the cluster has {len(own)}: {listed or 'none'}",
                where="networks.networking.gke.io",
                fix="make those that are missing: "
                f"{connection.commands.kubectl('get', gke.NETWORKS, namespace='')} shows what there is",
            )
        found += own
    return [_PRIMARY, *found]


def _natural(name: str) -> list[tuple[int, str]]:
    """vpc2 before vpc10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name) if part]


def _site(context: str) -> dict[str, str]:
    """Project, region and name in a GKE context's name."""
    found = gke.parse(context)
    if found is None:
        return {}
    return {
        "project_id": found.project,
        "cluster_region": found.region,
        "cluster_name": found.cluster,
    }


def lws_version(connection: Connection) -> str | None:
    """Return the version of the LeaderWorkerSet controller's image; None when it is not to be seen."""
    try:
        found = list(
            connection.pages(
                path_of("apps/v1", "deployments"), dict[str, Any], labels="control-plane=controller-manager"
            )
        )
    except (Missing, Forbidden):
        return None
    for item in found:
        if item["metadata"]["name"].startswith("lws"):
            image = str(item["spec"]["template"]["spec"]["containers"][0]["image"])
            return image.partition("@")[0].rpartition(":")[2]
    return None
