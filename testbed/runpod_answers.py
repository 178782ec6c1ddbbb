"""What RunPod answers, as data."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from testbed.runpod_network import CIDR
from testbed.runpod_server import Query, Refused

PRIMARY_PORT = 29500
CPU_USD = 0.04  # a vCPU and hour
VOLUME_USD = 0.07 / 730  # a GB and hour
DATA_CENTERS = {"US-KS-2": ("US Kansas 2", "NORTH_AMERICA"), "EU-RO-1": ("EU Romania 1", "EUROPE")}
ACTIONS = {
    "PROVISIONING": ["stop", "terminate"],
    "STARTING": ["stop", "terminate"],
    "RUNNING": ["stop", "restart", "terminate"],
    "EXITED": ["start", "terminate"],
    "ERROR": ["start", "terminate"],
}
_UNSET: dict[str, Any] = {
    "args": "", "disk": 20, "mounts": {}, "ports": [], "env": {}, "registry": None, "cloud": "SECURE",
    "dataCenterId": None, "cudaVersion": None, "template": None, "locked": False,
}  # fmt: skip
_GPU = {
    "id": "NVIDIA H200", "name": "H200 SXM", "pool": "HOPPER_141", "manufacturer": "NVIDIA", "memory": 141,
    "secure": True, "community": False, "maxCount": {"secure": 8, "community": 0},
}  # fmt: skip
_CPU = {
    "id": "cpu3c", "name": "Compute-Optimized", "group": "Gen 3", "vcpu": {"min": 2, "max": 32},
    "ramGbPerVcpu": 2.0, "price": {"securePerVcpu": CPU_USD, "serverlessPerVcpu": 0.03},
}  # fmt: skip


def time(seconds: float) -> str:
    """Return a time since 1970 as RunPod writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def new_pod(identity: str, body: dict[str, Any], born: float, usd: float) -> dict[str, Any]:
    """Return what of a pod does not change by itself.

    Args:
        identity: Its own.
        body: The request; for a cluster's pod also its place there.
        born: When it was asked for.
        usd: A GPU and hour.
    """
    known = {*_UNSET, "name", "image", "gpu", "cpu", "cluster"}
    found = {**_UNSET, **{name: value for name, value in body.items() if name in known}}
    found |= {"id": identity, "createdAt": time(born), "globalNetworking": {"enabled": False}}
    if "gpu" in body:
        found["gpu"] = {"id": body["gpu"]["id"], "count": body["gpu"].get("count", 1)}
        return {**found, "cost": found["gpu"]["count"] * usd, "cudaVersion": "13.0"}
    found["cpu"] = {**body["cpu"], "memory": 2 * body["cpu"]["vcpuCount"]}
    return {**found, "cost": body["cpu"]["vcpuCount"] * CPU_USD}


def environment(pod: dict[str, Any], members: list[dict[str, Any]]) -> dict[str, str]:
    """Return what RunPod adds to a pod's environment, but for keys; `members` are its cluster's pods."""
    gpus = pod.get("gpu", {}).get("count", 0)
    found = {"RUNPOD_POD_ID": pod["id"], "RUNPOD_DC_ID": pod["dataCenterId"], "RUNPOD_GPU_COUNT": str(gpus)}
    if not members:
        return found
    first, port = members[0]["cluster"]["ip"], str(PRIMARY_PORT)
    found |= {"NODE_RANK": str(pod["cluster"]["rank"]), "NODE_ADDR": pod["cluster"]["ip"]}
    found |= {"NUM_NODES": str(len(members)), "NUM_TRAINERS": str(gpus)}
    found |= {"PRIMARY_ADDR": first, "MASTER_ADDR": first, "PRIMARY_PORT": port, "MASTER_PORT": port}
    return {**found, "HOST_NODE_ADDR": f"{first}:{port}", "WORLD_SIZE": str(len(members) * gpus)}


def tcp_ports(pod: dict[str, Any]) -> list[int]:
    """Return the ports of a pod that are forwarded as they are."""
    return [int(port.removesuffix("/tcp")) for port in pod["ports"] if port.endswith("/tcp")]


def status(age: float) -> str:
    """Return what has become of a pod that is only a record, so many seconds after it was started."""
    return "PROVISIONING" if age < 20 else "STARTING" if age < 40 else "RUNNING"


def pod(
    record: dict[str, Any], status: str, started: float | None, now: float, ports: dict[int, int]
) -> dict[str, Any]:
    """Return a pod.

    Args:
        record: What of it does not change by itself.
        status: RunPod's word.
        started: When it was last started; None when it is stopped.
        now: The time.
        ports: Port in the pod to the public one, while it runs.
    """
    found = {**record, "status": status, "actions": ACTIONS[status], "runtime": None}
    found |= {"ssh": {"proxy": None, "direct": None}, "startedAt": None if started is None else time(started)}
    if status == "EXITED":
        found["cost"] = 0.0
    if status == "PROVISIONING" and "cluster" in record:
        found["cluster"] = {"id": record["cluster"]["id"], "rank": None}
    if status == "RUNNING":
        public = [
            {"private": port, "public": outside, "type": "tcp", "ip": "127.0.0.1"}
            for port, outside in ports.items()
        ]
        gpus = [{"util": 0, "memoryUtil": 0}] * record.get("gpu", {}).get("count", 0)
        found["runtime"] = {"uptime": int(now - (started or 0.0)), "gpus": gpus, "ports": public}
    if status == "RUNNING" and 22 in ports:
        command = f"ssh root@127.0.0.1 -p {ports[22]}"
        direct = {"host": "127.0.0.1", "port": ports[22], "username": "root", "command": command}
        found["ssh"] = {"proxy": None, "direct": direct}
    return found


def cluster(record: dict[str, Any], members: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a cluster: what of it does not change, with what its pods make of it, which are by rank."""
    statuses = Counter(member["status"] for member in members)
    primary = {"podId": members[0]["id"], "status": members[0]["status"]}
    if direct := members[0]["ssh"]["direct"]:
        primary["sshEndpoint"] = f"{direct['host']}:{direct['port']}"
    pods = {"total": len(members), "byStatus": dict(statuses)}
    return {**record, "pods": pods, "network": {"cidr": CIDR}, "primary": primary}


def log_event(when: str, number: int, line: str) -> str:
    """Return a line of a log as a server-sent event."""
    data = json.dumps({"ts": when, "source": "container", "line": line})
    return f"id: {when}/{number:012d}\ndata: {data}\n\n"


def catalog(kind: str, query: Query, usd: float, stock: str) -> list[dict[str, Any]]:
    """Return what the catalog lists.

    Args:
        kind: gpus, cpus or datacenters.
        query: As it was asked.
        usd: A GPU and hour.
        stock: How many GPUs are left, in RunPod's words.

    Raises:
        Refused: One of `include` and `product` is there without the other.
    """
    include = query.get("include", "")
    if kind == "datacenters":
        return [_data_center(name, include, stock) for name in DATA_CENTERS]
    if ("AVAILABILITY" in include) != ("product" in query):
        raise Refused(400, "include=AVAILABILITY and product go together")
    left = stock if kind == "gpus" else "HIGH"
    rooms = [{"id": i, "name": name, "availability": left} for i, (name, _) in DATA_CENTERS.items()]
    more = {"availability": left, "dataCenters": rooms} if include else {}
    if kind == "gpus":
        return [{**_GPU, "price": {"secure": usd, "community": 0.0}, **more}]
    return [{**_CPU, **more}]


def _data_center(identity: str, include: str, stock: str) -> dict[str, Any]:
    name, region = DATA_CENTERS[identity]
    found: dict[str, Any] = {"id": identity, "name": name, "region": region, "globalNetwork": True}
    found |= {"networkVolumeTypes": ["STANDARD", "HIGH_PERFORMANCE"], "compliance": ["GDPR"]}
    for what, one, left in (("gpu", _GPU, stock), ("cpu", _CPU, "HIGH")):
        if f"{what.upper()}_AVAILABILITY" in include:
            found[f"{what}Availability"] = [{"id": one["id"], "name": one["name"], "availability": left}]
    return found
