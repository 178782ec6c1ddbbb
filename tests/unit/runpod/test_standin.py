"""The stand-in of RunPod's API answers as RunPod describes, where it is told to fail too."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from testbed.runpod import Fault, RunPod
from tests.helpers.shared import shared_dir

NOW = 1795694400.0  # 2026-11-26T12:00:00Z
VOLUME = {"name": "weights", "size": 1000, "dataCenter": "EU-RO-1"}
POD = {"name": "p", "image": "runpod/pytorch", "gpu": {"id": "NVIDIA H200", "count": 8}, "ports": ["22/tcp"]}
CLUSTER = {
    "name": "mh-until-20261126T1300Z",
    "type": "APPLICATION",
    "image": "runpod/pytorch",
    "compute": {"gpuTypeId": "NVIDIA H200", "gpuCountPerPod": 8, "podCount": 2},
    "env": {"TOKEN": "{{ RUNPOD_SECRET_hf }}", "OTHER": "{{ RUNPOD_SECRET_none }}"},
    "ports": ["22/tcp", "8000/tcp"],
    "startSsh": True,
}


class Account:
    """RunPod, and somebody who asks it."""

    def __init__(self) -> None:
        self.now = NOW
        shared = shared_dir()
        description = shared / "data/runpod-openapi-v2.json" if shared else None
        self.cloud = RunPod(
            lambda: self.now, description, keys={"rpa_read": "GET "}, secrets={"hf": "hf_secret"}
        )

    def ask(self, method: str, path: str, body: Any = None, key: str = "") -> tuple[int, Any, Any]:
        request = urllib.request.Request(
            f"{self.cloud.url}/v2/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {key or self.cloud.key}", "Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                text = reply.read()
                return reply.status, json.loads(text) if text else None, reply.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read()), error.headers

    def get(self, path: str) -> Any:
        status, found, _ = self.ask("GET", path)
        assert status == 200, found
        return found

    def make(self, kind: str, body: Any) -> Any:
        status, found, _ = self.ask("POST", kind, body)
        assert status == 201, found
        return found


@pytest.fixture
def account() -> Iterator[Account]:
    made = Account()
    with made.cloud:
        yield made


def test_a_cluster_has_members_that_start_in_turn(account: Account) -> None:
    cluster = account.make("clusters", CLUSTER)
    assert cluster["pods"] == {"total": 2, "byStatus": {"PROVISIONING": 2}}
    assert account.get("pods") == {"pods": []}, "a cluster's pods are listed when they are asked for"
    account.now += 60
    first, second = account.get(f"clusters/{cluster['id']}/pods")["pods"]
    assert account.get("pods?includeClusterPods=true")["pods"] == [first, second]
    assert [pod["cluster"]["rank"] for pod in (first, second)] == [0, 1]
    assert first["cluster"]["ip"] != second["cluster"]["ip"]
    assert account.get(f"pods/{first['id']}") == first
    assert {port["private"] for port in first["runtime"]["ports"]} == {22, 8000}
    seen = account.get(f"clusters/{cluster['id']}")
    assert seen["pods"]["byStatus"] == {"RUNNING": 2}
    assert seen["primary"]["podId"] == first["id"]
    assert seen["primary"]["sshEndpoint"] == f"127.0.0.1:{first['ssh']['direct']['port']}"
    env = account.cloud.environment(second["id"])
    assert (env["TOKEN"], env["OTHER"]) == ("hf_secret", "{{ RUNPOD_SECRET_none }}")
    assert (env["NODE_RANK"], env["NUM_NODES"], env["WORLD_SIZE"]) == ("1", "2", "16")
    assert env["PRIMARY_ADDR"] == env["MASTER_ADDR"] == first["cluster"]["ip"] != env["NODE_ADDR"]
    assert "hf_secret" not in json.dumps(account.get(f"pods/{second['id']}"))
    for method, path, body in (
        ("DELETE", f"pods/{first['id']}", None),
        ("PATCH", f"pods/{first['id']}", {"name": "n"}),
        ("POST", f"pods/{first['id']}/action", {"action": "stop"}),
    ):
        assert account.ask(method, path, body)[0] == 409, "its cluster is what can be changed"
    assert account.ask("DELETE", f"clusters/{cluster['id']}")[0] == 204
    assert account.ask("GET", f"pods/{first['id']}")[0] == 404


def test_names_are_changed(account: Account) -> None:
    volume = account.make("network-volumes", VOLUME)
    cluster, pod = account.make("clusters", CLUSTER), account.make("pods", POD)
    for kind, thing in (("clusters", cluster), ("pods", pod), ("network-volumes", volume)):
        assert account.ask("PATCH", f"{kind}/{thing['id']}", {"name": "new"})[1]["name"] == "new"
        assert account.get(f"{kind}/{thing['id']}")["name"] == "new"
        assert account.ask("PATCH", f"{kind}/none", {"name": "new"})[0] == 404
    if shared_dir():
        assert account.ask("PATCH", f"clusters/{cluster['id']}", {"image": "i"})[0] == 422
    assert account.cloud.alive() == ["new", "new"]


def test_a_volume_only_grows_and_keeps_its_place(account: Account) -> None:
    volume = account.make("network-volumes", VOLUME)
    path = f"network-volumes/{volume['id']}"
    assert account.ask("PATCH", path, {"size": 500})[0] == 400
    account.now += 730 * 3600
    assert account.ask("PATCH", path, {"size": 2000})[1]["size"] == 2000
    account.now += 730 * 3600
    assert account.cloud.billed(volume["id"]) == pytest.approx(70 + 140)
    mounts = {"network": [{"volumeId": volume["id"], "path": "/workspace"}]}
    assert account.make("pods", {**POD, "mounts": mounts})["dataCenterId"] == "EU-RO-1"
    elsewhere = {**POD, "mounts": mounts, "dataCenterIds": ["US-KS-2"]}
    assert account.ask("POST", "pods", elsewhere)[0] == 400


def test_actions_and_what_they_cost(account: Account) -> None:
    pod = account.make("pods", POD)
    path = f"pods/{pod['id']}"
    assert account.ask("POST", f"{path}/action", {"action": "restart"})[0] == 409, "it does not run yet"
    account.now += 3600
    assert account.get(path)["actions"] == ["stop", "restart", "terminate"]
    stopped = account.ask("POST", f"{path}/action", {"action": "stop"})[1]
    assert (stopped["status"], stopped["cost"], stopped["runtime"]) == ("EXITED", 0.0, None)
    account.now += 3600
    assert account.ask("POST", f"{path}/action", {"action": "start"})[1]["status"] == "PROVISIONING"
    account.now += 1800
    assert account.cloud.billed(pod["id"]) == pytest.approx(32 * 1.5)
    assert account.ask("POST", f"{path}/action", {"action": "terminate"})[0] == 204
    assert account.ask("GET", path)[0] == 404


def test_bills_lag(account: Account) -> None:
    cluster = account.make("clusters", CLUSTER)
    account.cloud.lag = 3600.0
    query = f"billing/clusters?clusterId={cluster['id']}"
    assert account.get(query)["records"] == []
    account.now += 2 * 3600
    (record,) = account.get(query)["records"]
    assert (record["clusterId"], record["totalAmount"]) == (cluster["id"], pytest.approx(64.0))
    assert account.cloud.billed(cluster["id"]) == pytest.approx(128.0)
    account.ask("DELETE", f"clusters/{cluster['id']}")
    account.now += 9 * 3600
    assert account.get(query)["metadata"]["totals"]["totalAmount"] == pytest.approx(128.0)
    assert account.get("billing/pods")["records"] == [], "a cluster's pods are billed with it"


def test_a_key_does_what_it_may(account: Account) -> None:
    one, other = account.make("pods", POD), account.make("pods", POD)
    own = account.cloud.environment(one["id"])["RUNPOD_API_KEY"]
    assert account.ask("GET", f"pods/{one['id']}", key=own)[0] == 200
    assert account.ask("GET", f"pods/{other['id']}", key=own)[0] == 403
    assert account.ask("GET", "pods", key=own)[0] == 403
    assert account.ask("DELETE", f"pods/{one['id']}", key="rpa_read")[0] == 403
    assert account.ask("DELETE", f"pods/{one['id']}", key=own)[0] == 204
    assert account.ask("GET", "pods", key=own)[0] == 401, "it ends with its pod"
    assert account.ask("GET", "pods", key="rpa_wrong")[0] == 401


def test_who_asks_too_often_is_told_when_to_ask_again(account: Account) -> None:
    account.cloud.limits = {"minute": (3, 60)}
    headers = [account.ask("GET", "pods")[2]["RateLimit"] for _ in range(3)]
    assert headers == [f'"minute";r={left};t=60' for left in (2, 1, 0)]
    account.now += 20
    status, _, told = account.ask("GET", "pods")
    assert (status, told["Retry-After"], told["Content-Type"]) == (429, "40", "application/problem+json")
    account.now += 40
    assert account.ask("GET", "pods")[0] == 200


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_faults_come_once_to_any_request(account: Account, method: str) -> None:
    pod = account.make("pods", POD)
    account.cloud.faults.append(Fault(f"{method} /v2/pods/", 503))
    body = {"name": "new"} if method == "PATCH" else None
    assert account.ask(method, f"pods/{pod['id']}", body)[0] == 503
    assert account.get(f"pods/{pod['id']}")["name"] == "p", "nothing was done"
    assert account.ask(method, f"pods/{pod['id']}", body)[0] < 300


def test_a_cluster_that_starts_by_half(account: Account) -> None:
    account.cloud.faults.append(Fault("POST /v2/clusters", stuck=1))
    cluster = account.make("clusters", CLUSTER)
    account.now += 3600
    seen = account.get(f"clusters/{cluster['id']}")
    assert seen["pods"]["byStatus"] == {"RUNNING": 1, "PROVISIONING": 1}
    stuck = account.get(f"clusters/{cluster['id']}/pods")["pods"][1]
    assert stuck["cluster"] == {"id": cluster["id"], "rank": None}
    assert account.cloud.billed(cluster["id"]) == pytest.approx(64.0), "and it is billed"


def test_the_catalog_has_prices_and_what_is_left(account: Account) -> None:
    (gpu,) = account.get("catalog/gpus?include=AVAILABILITY&product=CLUSTER")["gpus"]
    assert (gpu["price"]["secure"], gpu["availability"]) == (4.0, "HIGH")
    account.cloud.capacity = 0
    query = "include=AVAILABILITY&product=POD"
    assert account.get(f"catalog/gpus/NVIDIA%20H200?{query}")["availability"] == "NONE"
    assert account.ask("POST", "clusters", CLUSTER)[0] == 400
    assert account.ask("GET", "catalog/gpus?include=AVAILABILITY")[0] == 400, "of what?"
    (cpu,) = account.get("catalog/cpus")["cpus"]
    pod = account.make("pods", {"name": "c", "image": "i", "cpu": {"id": cpu["id"], "vcpuCount": 4}})
    assert pod["cost"] == pytest.approx(4 * cpu["price"]["securePerVcpu"])
    places = account.get("catalog/datacenters?include=GPU_AVAILABILITY")["dataCenters"]
    assert {place["id"] for place in places} == {"US-KS-2", "EU-RO-1"}
    assert account.ask("GET", "catalog/datacenters/MOON-1")[0] == 404


def test_keys_for_ssh_reach_pods_that_ask_for_them(account: Account) -> None:
    key = "ssh-ed25519 AAAA me"
    assert account.ask("PUT", "account/ssh-keys", {"keys": [key]})[1] == {"keys": [key]}
    with_ssh = account.make("pods", {**POD, "startSsh": True})
    without = account.make("pods", POD)
    assert account.cloud.environment(with_ssh["id"])["PUBLIC_KEY"] == key
    assert "PUBLIC_KEY" not in account.cloud.environment(without["id"])
