"""Reading a cluster's facts into values/local.yaml, so that nobody types network names."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

from manyhost.catalog import Environment, yaml_reader
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
    notes: list[str] = []
    settings: dict[str, Any] = {}
    nodes = list(
        connection.pages(
            path_of("v1", "nodes"),
            dict[str, Any],
            labels=",".join(f"{key}={value}" for key, value in environment.node_selector.items()),
            metadata=True,
        )
    )
    if not nodes:
        raise NotReady(
            f"no node is a {environment.host.machine_type} of environment {environment.name}",
            where="nodes",
            fix="kubectl get nodes --label-columns cloud.google.com/gke-accelerator; "
            "add a node pool, or choose another environment",
        )
    pools = Counter((node["metadata"].get("labels") or {}).get(_POOL, "") for node in nodes)
    if len(pools) == 1 and "" not in pools:
        settings["node_selector"] = {_POOL: next(iter(pools))}
    elif len(pools) > 1:
        listed = ", ".join(f"{name or 'no pool'} ({count})" for name, count in pools.most_common())
        notes.append(
            f"hosts are in several node pools: {listed}; all may be used unless you set node_selector"
        )
    if environment.networks:
        settings["network"] = {"subnetworks": _networks(connection, environment)}
    site = _site(connection.context) or _site(connection.cluster)
    if site:
        settings["site"] = site
    lws = _lws_version(connection)
    if lws is None:
        notes.append("no LeaderWorkerSet controller is to be seen; manyhost doctor says how to install it")
    return Found(
        kubernetes=str(connection.get("/version")["gitVersion"]),
        lws=lws or "",
        nodes=len(nodes),
        settings=settings,
        notes=notes,
    )


def edit(text: str, settings: dict[str, Any]) -> str:
    """Return a settings file with some keys changed; every other line, comments included, stays.

    Args:
        text: The file as it is; may be empty.
        settings: Nested keys with their new values.

    Raises:
        InvalidInput: The file is no valid settings file, or is written in a way that cannot be edited safely.
    """
    where = "values/local.yaml"
    before = _mapping(text, where)
    # Rebuilt, so that what the file says twice by an alias is not the same object twice.
    wanted = msgspec.to_builtins(before)
    lines = text.splitlines()
    for keys, value in _leaves(settings):
        if _put(wanted, keys, value):
            _set(lines, keys, value)
    result = "\n".join(lines) + "\n" if lines else ""
    try:
        safe = _mapping(result, where) == wanted or before == wanted
    except InvalidInput:
        safe = False
    if not safe:
        wanted_text = yaml.safe_dump(settings, default_flow_style=True, width=10_000).strip()
        raise InvalidInput(
            "it is not written in plain block style, so changing it could lose something",
            where=where,
            fix=f"set these keys by hand: {wanted_text}",
        )
    return result


def _leaves(settings: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[list[str], Any]]:
    """Yield each value with the keys that lead to it; node labels are one value."""
    for key, value in settings.items():
        if isinstance(value, dict) and key != "node_selector":
            yield from _leaves(value, (*above, key))
        else:
            yield [*above, key], value


def _put(mapping: dict[str, Any], keys: list[str], value: Any) -> bool:
    """Set a nested key; return whether that changed anything."""
    for key in keys[:-1]:
        if not isinstance(mapping.get(key), dict):
            mapping[key] = {}
        mapping = mapping[key]
    changed = bool(mapping.get(keys[-1]) != value)
    mapping[keys[-1]] = value
    return changed


def difference(before: str, after: str) -> str:
    """Return the unified diff of two settings files; empty when they are equal."""
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), "values/local.yaml", "values/local.yaml (new)", lineterm=""
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
            fix="gcloud container clusters create NAME --enable-dataplane-v2 --enable-multi-networking",
        ) from None
    modes = {item["metadata"]["name"]: (item.get("spec") or {}).get("deviceMode", "") for item in sets}
    devices = []
    for item in networks:
        spec = item.get("spec") or {}
        if spec.get("type") != "Device":
            continue
        mode = modes.get((spec.get("parametersRef") or {}).get("name", ""), "")
        devices.append((mode, item["metadata"]["name"]))
    wanted = environment.networks[1:]
    own = [pair for pair in devices if pair[0] == environment.network_device_mode]
    if (
        environment.network_device_mode == "RDMA"
    ):  # the second gVNIC of these machines comes before the RDMA NICs
        own = sorted(pair for pair in devices if pair[0] == "NetDevice") + own
    if len(own) != len(wanted):
        listed = (
            ", ".join(f"{name} ({mode or 'no parameter set'})" for mode, name in sorted(devices)) or "none"
        )
        raise NotReady(
            f"{environment.host.machine_type} needs {len(wanted)} networks of mode "
            f"{environment.network_device_mode}, the cluster has {len(own)}: {listed}",
            where="networks.networking.gke.io",
            fix="kubectl get networks.networking.gke.io,gkenetworkparamsets.networking.gke.io",
        )
    own.sort(key=lambda pair: (pair[0] != "NetDevice", _natural(pair[1])))
    return [_PRIMARY, *(name for _, name in own)]


def _natural(name: str) -> list[tuple[int, str]]:
    """vpc2 before vpc10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name) if part]


def _site(context: str) -> dict[str, str]:
    """Project, region and name in a GKE context's name."""
    parts = context.split("_")
    if parts[0] != "gke" or len(parts) != 4:
        return {}
    return {
        "project_id": parts[1],
        "cluster_region": "-".join(parts[2].split("-")[:2]),
        "cluster_name": parts[3],
    }


def _lws_version(connection: Connection) -> str | None:
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


# ---------------------------------------------------------------- the file
def _mapping(text: str, where: str) -> dict[str, Any]:
    document = yaml_reader.parse(text, where)
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InvalidInput("must be a mapping of names to values", where=where)
    return document


def _set(lines: list[str], keys: list[str], value: Any) -> None:
    """Set a key of block-style YAML, touching only its own lines."""
    start, end, indent = 0, len(lines), 0
    for depth, key in enumerate(keys):
        place = _block(lines, start, end, indent, key)
        last = depth == len(keys) - 1
        if place is None:
            lines[end:end] = _rendered(keys[depth:], value, indent)
            return
        first, after = place
        if last:
            lines[first:after] = _rendered([key], value, indent)
            return
        start, end = first + 1, after
        inner = [len(line) - len(line.lstrip()) for line in lines[start:end] if _is_content(line)]
        indent = inner[0] if inner else indent + 2


def _block(lines: list[str], start: int, end: int, indent: int, key: str) -> tuple[int, int] | None:
    """The lines of a key at an indentation: its own and what is nested below."""
    pattern = re.compile(
        rf"^ {{{indent}}}(?:{re.escape(key)}|\"{re.escape(key)}\"|'{re.escape(key)}')\s*:(?:\s|$)"
    )
    for number in range(start, end):
        if not pattern.match(lines[number]):
            continue
        after = number + 1
        last = number
        while after < end:
            line = lines[after]
            if _is_content(line):
                depth = len(line) - len(line.lstrip())
                sequence = depth == indent and line.lstrip().startswith("- ")
                if depth <= indent and not sequence:
                    break
                last = after
            after += 1
        return number, last + 1
    return None


def _is_content(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _rendered(keys: list[str], value: Any, indent: int) -> list[str]:
    """A key with its value on one line, below the keys that lead to it."""
    lines = [f"{' ' * (indent + 2 * depth)}{key}:" for depth, key in enumerate(keys[:-1])]
    text = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=10_000).strip()[1:-1]
    return [*lines, f"{' ' * (indent + 2 * (len(keys) - 1))}{keys[-1]}: {text}"]
