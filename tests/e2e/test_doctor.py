"""doctor and discover on broken clusters: each planted fault is found, and nothing else is."""

# ruff: noqa: E501  tables of cases read better on one line each

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed import Cluster, faults
from testbed import gpu_hosts as hosts
from tests.e2e.place import Place, run, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
NODE, OTHERS = hosts.HEALTHY[0], hosts.HEALTHY[1:]
# Without the registry (no network in tests); a Secret that is not there is a warning of its own.
RECIPE = ("a3mega", "--skip", "image", "--skip", "hf-secret", "--output", "json")


def findings(*more: str) -> dict[str, list[tuple[str, str, str]]]:
    """Everything that is not well, by check: status, why, fix."""
    outcome = run("doctor", *RECIPE, *more)
    results = outcome.output.result["checks"]
    wrong: dict[str, list[tuple[str, str, str]]] = {}
    for result in results:
        if result["status"] in ("fail", "warn"):
            wrong.setdefault(result["check"], []).append((result["status"], result["why"], result["fix"]))
    failed = any(status == "fail" for found in wrong.values() for status, _, _ in found)
    assert outcome.code == (4 if failed else 0), outcome
    return wrong


@pytest.fixture(scope="module")
def broken(place: Place) -> Cluster:
    """The test cluster, whose faults are healed at the end of each test."""
    if place.own is None:
        pytest.skip("plants faults: needs the test cluster")
    return place.own


@pytest.fixture
def plant(broken: Cluster) -> Iterator[Callable[[Callable[[Cluster], None]], None]]:
    """Plants a fault and heals it afterwards."""
    planted: list[Callable[[Cluster], None]] = []

    def do(fault: Callable[[Cluster], None]) -> None:
        planted.append(fault)
        fault(broken)

    yield do
    if planted:
        extra = "/apis/networking.gke.io/v1/networks/gvnic-1"
        if _exists(broken, extra):
            broken.api.call("DELETE", extra)
        faults.heal(broken)


def test_a_healthy_cluster_has_nothing_to_say(broken: Cluster) -> None:
    assert findings() == {}
    assert run("doctor", "local", "--output", "json").code == 0


def occupy_all_but_one(cluster: Cluster) -> None:
    for node in OTHERS:
        faults.occupy(cluster, node)


def taint_all_but_one(cluster: Cluster) -> None:
    for node in OTHERS:
        faults.add_taint(cluster, node, "broken", "yes", "NoSchedule")


def cordon_all_but_one(cluster: Cluster) -> None:
    for node in OTHERS:
        faults.cordon(cluster, node)


def lose_gpus(cluster: Cluster) -> None:
    for node in OTHERS:
        faults.set_gpus(cluster, node, 7)


def lose_labels(cluster: Cluster) -> None:
    for node in (*hosts.HEALTHY, hosts.CORDONED, hosts.SMALL):
        faults.set_label(cluster, node, hosts.ACCELERATOR, "nvidia-l4")


def extra_device_network(cluster: Cluster) -> None:
    made = [item for item in hosts.networks() if item["metadata"]["name"] == "vpc8"]
    for item in made:
        cluster.api.apply({**item, "metadata": {"name": "gvnic-1"}})


def old_plugin(cluster: Cluster) -> None:
    faults.change_version(cluster, "nccl-tcpxo-installer", "v1.0.12")
    until("installer rolled", lambda: hosts.daemon_set_complete(cluster.api, "nccl-tcpxo-installer"))


def wrong_type(cluster: Cluster) -> None:
    cluster.api.patch("/apis/networking.gke.io/v1/networks/vpc3", {"spec": {"type": "L3"}})


def lws_unavailable(cluster: Cluster) -> None:
    path = "/apis/apps/v1/namespaces/lws-system/deployments/lws-controller-manager"
    cluster.api.patch(path, {"spec": {"replicas": 0}})
    until("no replica", lambda: not cluster.api.get(path)["status"].get("availableReplicas"))


# name: (fault, check that finds it, words in why, words in fix)
FAULTS: dict[str, tuple[Callable[[Cluster], None], str, str, str]] = {
    "a network is missing": (
        lambda c: faults.remove_network(c, "vpc3"), "networks", "vpc3 does not exist", "kubectl get networks",
    ),
    "a parameter set is missing": (
        lambda c: faults.remove_parameters(c, "vpc5"), "networks", "GKENetworkParamSet vpc5", "gkenetworkparamsets",
    ),
    "a network in the wrong mode": (
        lambda c: faults.set_device_mode(c, "vpc2", "RDMA"), "networks", "mode RDMA, not NetDevice", "describe",
    ),
    "a network of the wrong type": (wrong_type, "networks", "vpc3 is of type L3, not Device", "describe"),
    "no multi-networking": (
        faults.remove_network_types, "networks", "no multi-networking", "--enable-multi-networking",
    ),
    "a gVNIC that takes a GPU's slot": (extra_device_network, "networks", "gvnic-1", "kubectl get networks"),
    "hosts cordoned": (cordon_all_but_one, "hosts", "cordoned", f"kubectl uncordon {OTHERS[0]}"),
    "hosts tainted": (taint_all_but_one, "hosts", "taint broken=yes:NoSchedule is not tolerated", "ask whoever set it"),
    "hosts with lost GPUs": (lose_gpus, "hosts", "7 of 7 nvidia.com/gpu free, 8 needed", ""),
    "hosts occupied": (occupy_all_but_one, "hosts", "used by default/busy-", ""),
    "hosts of another type": (lose_labels, "hosts", "no node carries", "add a node pool"),
    "the injector is not there": (
        lambda c: faults.remove_daemonset(c, "device-injector"), "interconnect-daemons", "device-injector is not in", "kubectl apply",
    ),
    "the installer waits": (
        lambda c: faults.set_daemonset_ready(c, "nccl-tcpxo-installer", ready=False),
        "interconnect-daemons", "ready on 0 of", "describe daemonset",
    ),
    "plugin and daemon apart": (
        old_plugin,
        "interconnect-versions", "belongs to v1.0.15", "set image daemonset/nccl-tcpxo-installer",
    ),
    "an old LWS": (lambda c: faults.change_version(c, "lws", "v0.5.1"), "lws-controller", "v0.7 or newer", "kubectl apply"),
    "no LWS controller": (lws_unavailable, "lws-controller", "not available", "kubectl scale deployment/lws-controller-manager"),
    "a webhook that does not answer": (
        lambda c: c.stop_lws_controller(), "lws-webhook", "failed calling webhook", "lws-system",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_nothing_else(name: str, plant: Any) -> None:
    fault, check, why, fix = FAULTS[name]
    plant(fault)
    found = findings()
    assert list(found) == [check], found
    assert any(why in text for _, text, _ in found[check]), found
    assert any(fix in command for _, _, command in found[check]), found


def test_no_lws(plant: Any, broken: Cluster) -> None:
    """The CRD gone: one finding, and what builds on it is left out."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/leaderworkersets.leaderworkerset.x-k8s.io"
    saved = broken.api.get(path)
    broken.api.call("DELETE", path)
    try:
        until("gone", lambda: not _served(broken))
        found = findings()
        assert list(found) == ["lws-api"]
        assert "does not serve" in found["lws-api"][0][1]
        assert "manifests.yaml" in found["lws-api"][0][2]
        refused = run("deploy", "a3mega")
        assert refused.code == 4
        assert "does not serve LeaderWorkerSet" in refused.err
    finally:
        clean = {
            key: saved["metadata"][key]
            for key in ("name", "annotations", "labels")
            if key in saved["metadata"]
        }
        clean.pop("managedFields", None)
        until("CRD is gone", lambda: not _exists(broken, path))
        broken.api.apply({**{k: saved[k] for k in ("apiVersion", "kind", "spec")}, "metadata": clean})
        until("served again", lambda: _served(broken))
        broken.stop_lws_controller()  # its caches lost the type
        broken.start_lws_controller()


def test_a_bucket_without_the_driver(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    plant(faults.remove_csi_driver)
    found = findings("--set", "site.gcs_bucket=some-bucket")
    assert found["gcs-driver"][0][0] == "fail"
    assert "GcsFuseCsiDriver=ENABLED" in found["gcs-driver"][0][2]
    # Nobody may be asked about the bucket here: that is a warning, never a failure.
    assert {status for check, items in found.items() if check != "gcs-driver" for status, _, _ in items} == {
        "warn"
    }


def test_faults_in_a_namespace(broken: Cluster, place: Place, namespace: str) -> None:
    """Quota, Pod Security, names in the way, another chart's release, the Secret."""
    here = ("--namespace", namespace)
    assert findings(*here) == {}
    place.kube("create", "quota", "tight", "-n", namespace, "--hard=requests.nvidia.com/gpu=8,pods=1")
    until("quota counted", lambda: "hard" in place.get("quota", "tight", "-n", namespace).get("status", {}))
    found = findings(*here)
    assert list(found) == ["quota"]
    assert any("requests.nvidia.com/gpu" in why and "16 are needed" in why for _, why, _ in found["quota"])
    place.kube("delete", "quota", "tight", "-n", namespace)

    place.kube("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=baseline")
    found = findings(*here)
    assert list(found) == ["namespace"]
    assert "enforces the Pod Security level baseline" in found["namespace"][0][1]
    place.kube("label", "namespace", namespace, "pod-security.kubernetes.io/enforce-")

    place.kube("create", "configmap", "deepseek-r1-671b-scripts", "-n", namespace)
    found = findings(*here)
    assert list(found) == ["conflicts"]
    assert "belongs to no release" in found["conflicts"][0][1]
    place.kube("delete", "configmap", "deepseek-r1-671b-scripts", "-n", namespace)

    labels = "owner=helm,name=deepseek-r1-671b,status=pending-install,version=1"
    place.kube("create", "secret", "generic", "sh.helm.release.v1.deepseek-r1-671b.v1", "-n", namespace)
    place.kube(
        "label", "secret", "sh.helm.release.v1.deepseek-r1-671b.v1", "-n", namespace, *labels.split(",")
    )
    found = findings(*here)
    assert list(found) == ["release"]
    place.kube("delete", "secret", "sh.helm.release.v1.deepseek-r1-671b.v1", "-n", namespace)

    results = run("doctor", "a3mega", "--skip", "image", "--output", "json", *here).output.result["checks"]
    (secret,) = [item for item in results if item["check"] == "hf-secret"]
    assert secret["status"] == "warn"
    assert "--from-literal=hf_api_token" in secret["fix"]
    place.kube("create", "secret", "generic", "hf-secret", "-n", namespace, "--from-literal=hf_api_token=x")
    results = run("doctor", "a3mega", "--skip", "image", "--output", "json", *here).output.result["checks"]
    assert [item["status"] for item in results if item["check"] == "hf-secret"] == ["pass"]
    missing = findings("--namespace", "no-such-namespace")
    assert list(missing) == ["namespace"]


def test_a_person_without_permissions(broken: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(broken.kubeconfig_for_nobody()))
    found = findings()
    assert [check for check, items in found.items() if any(status == "fail" for status, _, _ in items)] == [
        "permissions"
    ]
    assert "create rolebinding" in found["permissions"][0][2]


def test_discover(plant: Any, broken: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Other network names are found in NIC order; comments of the person's file stay; then doctor agrees."""
    local = tmp_path / "mine.yaml"
    local.write_text("# ours\nsite:\n  gcs_bucket: ''  # none yet\ncontext: 16384\n")
    monkeypatch.setenv("MANYHOST_LOCAL", str(local))

    # 6 to 13: not in the order of the alphabet
    names = {f"vpc{number}": f"mine-gpunet-{number + 5}-subnet" for number in range(1, 9)}
    plant(lambda cluster: faults.rename_networks(cluster, names))
    try:
        assert list(findings()) == ["networks"]
        dry = run("discover", "a3mega", "--dry-run").ok()
        found = run("discover", "a3mega", "--dry-run", "--output", "json").ok().output.result
        assert found["written"] is False
        assert found["diff"] in dry.out
        assert "+a3mega:" in dry.out
        assert "+    subnetworks:" in dry.out
        assert "gpunet" not in local.read_text()
        run("discover", "a3mega", "--yes").ok()
        text = local.read_text()
        assert text.startswith("# ours\nsite:\n  gcs_bucket: ''  # none yet\ncontext: 16384\n")
        wanted = ", ".join(f"mine-gpunet-{n}-subnet" for n in range(6, 14))
        assert f"[default, {wanted}]" in text
        assert hosts.NODE_POOL in text
        assert findings() == {}
        assert "says the same already" in run("discover", "a3mega", "--yes").ok().out
        faults.remove_network(broken, "mine-gpunet-7-subnet")
        few = run("discover", "a3mega", "--yes")
        assert few.code == 4
        assert "the cluster has 7" in few.err
        assert local.read_text() == text
    finally:
        for n in range(6, 14):
            for plural in ("networks", "gkenetworkparamsets"):
                path = f"/apis/networking.gke.io/v1/{plural}/mine-gpunet-{n}-subnet"
                if _exists(broken, path):
                    broken.api.call("DELETE", path)


def _exists(cluster: Cluster, path: str) -> bool:
    from testbed import ClusterError

    try:
        cluster.api.get(path)
    except ClusterError:
        return False
    return True


def _served(cluster: Cluster) -> bool:
    return _exists(cluster, "/apis/leaderworkerset.x-k8s.io/v1/leaderworkersets")
