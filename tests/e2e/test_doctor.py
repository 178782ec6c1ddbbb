"""doctor and discover on broken clusters: each planted fault is found, and nothing else is."""

# ruff: noqa: E501  tables of cases read better on one line each

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from manyhost.cluster.doctor.quota import objects_of
from manyhost.cluster.target import from_rendered
from manyhost.render import build

from testbed import Cluster, faults
from testbed import gpu_hosts as hosts
from tests.e2e.cures import Shell, cure
from tests.e2e.place import Place, run
from tests.helpers import fixes
from tests.helpers.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
NODE, OTHERS = hosts.HEALTHY[0], hosts.HEALTHY[1:]
ZONE, BLOCK = "topology.kubernetes.io/zone", "cloud.google.com/gce-topology-block"
DRIVER = "cloud.google.com/gke-gpu-driver-version"
# Without the registry (no network in tests); a Secret that is not there is a warning of its own.
RECIPE = ("a3mega", "--skip", "image", "--skip", "hf-secret", "--output", "json")


def findings(*more: str) -> dict[str, list[tuple[str, str, str]]]:
    """Everything that is not well with the recipe, by check: status, why, fix."""
    return findings_of(*RECIPE, *more)


def findings_of(*arguments: str) -> dict[str, list[tuple[str, str, str]]]:
    """The same for any arguments of doctor."""
    outcome = run("doctor", *arguments)
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


def break_gpus(cluster: Cluster) -> None:
    for node in OTHERS:
        faults.set_healthy_gpus(cluster, node, 7)


def detach_all_but_one(cluster: Cluster) -> None:
    for node in OTHERS:
        faults.detach(cluster, node, "vpc3")


def scatter(key: str) -> Callable[[Cluster], None]:
    """Puts each host into a domain of its own."""

    def do(cluster: Cluster) -> None:
        for number, node in enumerate(hosts.A3MEGA.hosts):
            faults.set_label(cluster, node, key, f"domain-{number}")

    return do


def default_drivers(cluster: Cluster) -> None:
    for node in hosts.A3MEGA.hosts:
        faults.set_label(cluster, node, DRIVER, "default")


def limit_range(**bounds: dict[str, str]) -> Callable[[Cluster], None]:
    limits = [{"type": "Container", **bounds}]
    item = {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "tight"},
        "spec": {"limits": limits},
    }
    return lambda cluster: faults.plant(cluster, item)


def quota(**hard: str) -> Callable[[Cluster], None]:
    item = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "tight"},
        "spec": {"hard": hard},
    }
    path = "/api/v1/namespaces/default/resourcequotas/tight"

    def do(cluster: Cluster) -> None:
        faults.plant(cluster, item)
        until("quota counted", lambda: cluster.api.get(path).get("status", {}).get("used"))

    return do


def policy(cluster: Cluster) -> None:
    spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    item = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny-all"}}
    faults.plant(cluster, {**item, "spec": spec})


def old_lws_of_helm(cluster: Cluster) -> None:
    faults.install_lws_with_helm(cluster)
    faults.change_version(cluster, "lws", "v0.6.2")


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
    "hosts with lost GPUs": (lose_gpus, "hosts", "shows 7 GPUs where a3-megagpu-8g has 8", f"kubectl describe node {OTHERS[0]}"),
    "hosts with unhealthy GPUs": (break_gpus, "hosts", "7 of its 8 GPUs are healthy", "whoever runs the hosts drains and replaces"),
    "hosts that are not attached to a network": (
        detach_all_but_one, "hosts", "no NIC in network vpc3: it offers no networking.gke.io.networks/vpc3", "gcloud container node-pools describe",
    ),
    "parameters of a network that are not ready": (
        lambda c: faults.set_network_condition(c, "vpc4", "ParamsReady", "False", "subnet vpc4 not found"),
        "networks", "the parameters of Network vpc4 are not ready (False): subnet vpc4 not found", "describe gkenetworkparamsets.networking.gke.io vpc4",
    ),
    "a network that is not ready": (
        lambda c: faults.set_network_condition(c, "vpc4", "Ready", "False", "vpc4 has no subnet"),
        "networks", "Network vpc4 is not ready (False): vpc4 has no subnet", "describe networks.networking.gke.io vpc4",
    ),
    "a network of which nothing is known": (
        lambda c: faults.set_network_condition(c, "vpc4", "Ready", "Unknown", "waiting"),
        "networks", "Network vpc4 is not ready (Unknown): waiting", "describe networks.networking.gke.io vpc4",
    ),
    "hosts in different zones": (scatter(ZONE), "topology", f"fit into one {ZONE}: free are 1 in domain-0", f"--label-columns {ZONE}"),
    "hosts in different blocks": (scatter(BLOCK), "topology", f"fit into one {BLOCK}: free are 1 in domain-0", f"--label-columns {BLOCK}"),
    "a driver older than the image's CUDA": (
        default_drivers, "gpu-driver", "have driver R535; CUDA 13.0 in vllm/vllm-openai:v0.33.0 needs R580", "engine.tag=v0.26.0-cu129",
    ),
    "a LimitRange with a low maximum": (
        limit_range(max={"memory": "500Gi"}), "limit-range", "container vllm may have no more than 500.0 GiB memory", "kubectl patch limitrange tight --type json",
    ),
    "a LimitRange with a high minimum": (
        limit_range(min={"memory": "8Gi"}), "limit-range", "container tcpxo-daemon may have no less than 8.0 GiB memory", "kubectl patch limitrange tight --type json",
    ),
    "a LimitRange with a ratio": (
        limit_range(maxLimitRequestRatio={"memory": "1"}), "limit-range", "container vllm may limit memory to 1 times its request", "kubectl patch limitrange tight --type json",
    ),
    "a quota of objects": (
        quota(**{"count/statefulsets.apps": "1"}), "quota", "allows 1 count/statefulsets.apps, 0 are used and 2 are needed", "kubectl patch quota tight",
    ),
    "a mutating webhook that is down": (
        lambda c: faults.break_webhook(c, "Mutating"), "admission", "default/policy does not exist", "kubectl describe mutatingwebhookconfigurations policy",
    ),
    "a validating webhook that is down": (
        lambda c: faults.break_webhook(c, "Validating"), "admission", "default/policy does not exist", "kubectl describe validatingwebhookconfigurations policy",
    ),
    "a policy that denies everything": (policy, "network-policies", "deny-all cuts the members of a group from each other", "kubectl apply -f - --namespace default"),
    "an LWS that Helm's next upgrade would take away": (
        faults.install_lws_with_helm, "lws-controller", "would delete the CRD, and every group with it", "helm.sh/resource-policy=keep",
    ),
    "an old LWS of Helm": (old_lws_of_helm, "lws-controller", "v0.7 or newer", "helm.sh/resource-policy=keep --overwrite"),
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
def test_a_planted_fault_is_found_and_nothing_else_and_cured(
    name: str, plant: Any, shell: Shell, tmp_path: Path
) -> None:
    fault, check, why, fix = FAULTS[name]
    plant(fault)
    found = findings()
    assert list(found) == [check], found
    assert any(why in text for _, text, _ in found[check]), found
    advised = next(command for _, _, command in found[check] if fix in command)
    cure(name, advised, shell, nothing_is_wrong, tmp_path)


def nothing_is_wrong() -> None:
    until("nothing is wrong", lambda: not findings(), 30)


# name: (fault, the setting in its fix; without one the fix has one command, and that is run)
CURES: dict[str, tuple[Callable[[Cluster], None], str]] = {
    "a policy that denies everything": (policy, ""),
    "an LWS that Helm's next upgrade would take away": (faults.install_lws_with_helm, ""),
    "a LimitRange with a low maximum": (limit_range(max={"memory": "500Gi", "cpu": "64"}), ""),
    "a LimitRange with a ratio": (limit_range(maxLimitRequestRatio={"memory": "1"}), ""),
    "a quota of objects": (quota(**{"count/statefulsets.apps": "1"}), ""),
    "a driver older than the image's CUDA": (
        default_drivers,
        "engine.version=v0.26.0 --set engine.tag=v0.26.0-cu129",
    ),
}


@pytest.mark.parametrize("name", CURES)
def test_the_fix_cures(name: str, plant: Any, broken: Cluster) -> None:
    fault, setting = CURES[name]
    plant(fault)
    ((_, _, fix),) = (item for items in findings().values() for item in items)
    if setting:
        assert f"--set {setting}" in fix
        assert findings(*f"--set {setting}".split()) == {}
        return
    (command,) = fixes.commands(fix)
    environment = {**os.environ, "PATH": f"{broken.programs}:{os.environ['PATH']}"}
    shell = ["bash", "-euo", "pipefail", "-c"]
    subprocess.run([*shell, command], env=environment, check=True, timeout=60)
    try:
        assert findings() == {}
    finally:
        own = "kubectl delete networkpolicy deepseek-r1-671b-opens --ignore-not-found -n default"
        subprocess.run([*shell, own], env=environment, check=True, timeout=60)


def test_hosts_of_another_architecture(plant: Any) -> None:
    """The published image has no build for ARM; nothing but a label keeps its pods off such hosts."""
    published = ("a3mega/deepseek-r1-671b-published", *RECIPE[1:], "--set", "engine.tag=v0.7.3")
    plant(lambda cluster: faults.set_label(cluster, NODE, "kubernetes.io/arch", "arm64"))
    found = findings_of(*published)
    assert list(found) == ["image-architecture"], found
    ((status, why, fix),) = found["image-architecture"]
    assert (status, f"{NODE}: arm64" in why) == ("fail", True)
    setting = "node_selector.kubernetes.io/arch=amd64"
    assert f"--set {setting}" in fix
    assert findings_of(*published, "--set", setting) == {}


def test_a_release_makes_as_many_objects_as_the_quota_check_says(
    broken: Cluster, place: Place, namespace: str
) -> None:
    """A quota of exactly these lets it in, and doctor has nothing to say; one less, and it has."""
    here = ("--namespace", namespace)
    target = from_rendered(build("a3mega/deepseek-r1-671b", namespace=namespace))
    counted = {key: n for key, n in objects_of(target).items() if key.startswith("count/") and n}
    jobs, kept = counted.pop("count/jobs.batch"), counted.pop("count/pods")  # which come and go
    until("what every namespace has", lambda: place.names("configmaps,serviceaccounts", "-n", namespace) == {
        "configmap/kube-root-ca.crt", "serviceaccount/default"})  # fmt: skip
    before = {key: len(place.names(key.removeprefix("count/"), "-n", namespace)) for key in counted}
    hard = ",".join(f"{key}={int(n) + before[key]}" for key, n in counted.items())
    hard += f",count/jobs.batch={jobs:g},count/pods={3 + kept:g}"
    place.kube("create", "quota", "exact", "-n", namespace, f"--hard={hard}")

    def used() -> dict[str, str]:
        found: dict[str, str] = place.get("quota", "exact", "-n", namespace).get("status", {}).get("used", {})
        return found

    until("quota counted", used)
    assert findings(*here) == {}
    run("deploy", "a3mega", *here, "--timeout", "60").ok()
    until(
        "all counted",
        lambda: used().items() >= {key: str(int(n) + before[key]) for key, n in counted.items()}.items(),
    )
    # An upgrade needs one more of Helm's records, and nothing else: the key is there.
    secrets = int(counted["count/secrets"]) + before["count/secrets"]
    found = findings(*here)
    assert [why for _, why, _ in found.get("quota", [])] == [
        f"quota exact allows {secrets} count/secrets, {secrets - 1} are used and 2 are needed"
    ]
    run("teardown", "a3mega", *here, "--yes", "--timeout", "60").ok()


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


def test_faults_in_a_namespace(broken: Cluster, place: Place, namespace: str, shell: Shell) -> None:
    """Quota, Pod Security, names in the way, another chart's release, the Secret: found, and cured."""
    here = ("--namespace", namespace)
    assert findings(*here) == {}

    def advised(check: str, *, alone: bool = False, more: tuple[str, ...] = ()) -> list[str]:
        """The commands of a check's fix; only a command alone is one that a program may run."""
        (fix,) = (fix for _, _, fix in findings(*here, *more)[check])
        assert fixes.cures(fix) is alone, fix
        return fixes.commands(fix)

    place.kube("create", "quota", "tight", "-n", namespace, "--hard=requests.nvidia.com/gpu=8,pods=1")
    until("quota counted", lambda: "hard" in place.get("quota", "tight", "-n", namespace).get("status", {}))
    found = findings(*here)
    assert list(found) == ["quota"]
    assert any("requests.nvidia.com/gpu" in why and "16 are needed" in why for _, why, _ in found["quota"])
    for _, _, fix in found["quota"]:
        shell(fixes.commands(fix)[0])
    until("quota raised", lambda: not findings(*here), 30)
    place.kube("delete", "quota", "tight", "-n", namespace)

    place.kube("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=baseline")
    found = findings(*here)
    assert list(found) == ["pod-security"]
    assert "enforces the Pod Security level baseline" in found["pod-security"][0][1]
    (make,) = advised("pod-security")
    own = "deepseek-r1-671b-privileged"
    shell(make)
    try:
        assert findings("--namespace", own) == {}
    finally:
        place.kube("delete", "namespace", own, "--wait=false")
    place.kube("label", "namespace", namespace, "pod-security.kubernetes.io/enforce-")

    place.kube("create", "configmap", "deepseek-r1-671b-scripts", "-n", namespace)
    found = findings(*here)
    assert list(found) == ["conflicts"]
    assert "belongs to no release" in found["conflicts"][0][1]
    shell(advised("conflicts")[0])
    assert findings(*here) == {}

    run("deploy", "a3mega", *here, "--timeout", "60").ok()
    record = ("secret", "sh.helm.release.v1.deepseek-r1-671b.v1", "-n", namespace)
    place.kube("label", *record, "status=pending-install", "--overwrite")
    found = findings(*here)
    assert list(found) == ["release"]
    shell(advised("release")[0])
    assert findings(*here) == {}

    results = run("doctor", "a3mega", "--skip", "image", "--output", "json", *here).output.result["checks"]
    (secret,) = [item for item in results if item["check"] == "hf-secret"]
    assert secret["status"] == "warn"
    assert "--from-literal=hf_api_token" in secret["fix"]
    assert fixes.cures(secret["fix"])
    place.kube("create", "secret", "generic", "hf-secret", "-n", namespace)
    results = run("doctor", "a3mega", "--skip", "image", "--output", "json", *here).output.result["checks"]
    (keyless,) = [item for item in results if item["check"] == "hf-secret"]
    assert "has no key hf_api_token" in keyless["why"]
    assert fixes.cures(keyless["fix"])
    shell(fixes.commands(keyless["fix"])[0])
    results = run("doctor", "a3mega", "--skip", "image", "--output", "json", *here).output.result["checks"]
    assert [item["status"] for item in results if item["check"] == "hf-secret"] == ["pass"]
    place.kube("delete", "secret", "hf-secret", "-n", namespace)
    shell(fixes.commands(secret["fix"])[0])
    results = run("doctor", "a3mega", "--skip", "image", "--output", "json", *here).output.result["checks"]
    assert [item["status"] for item in results if item["check"] == "hf-secret"] == ["pass"]
    absent = f"{namespace}-absent"
    missing = findings("--namespace", absent)
    assert list(missing) == ["namespace"]
    (fix,) = (fix for _, _, fix in missing["namespace"])
    assert fixes.cures(fix)
    shell(fixes.commands(fix)[0])
    try:
        assert findings("--namespace", absent) == {}
    finally:
        place.kube("delete", "namespace", absent, "--wait=false")


def test_a_person_without_permissions(
    broken: Cluster, namespace: str, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An administrator runs the command that names the user and what they lack."""
    here = ("--namespace", namespace)
    monkeypatch.setenv("KUBECONFIG", str(broken.kubeconfig_for_nobody()))
    found = findings(*here)
    assert [check for check, items in found.items() if any(status == "fail" for status, _, _ in items)] == [
        "permissions"
    ]
    fix = found["permissions"][0][2]
    assert fix.startswith("ask an administrator for ")
    monkeypatch.setenv("KUBECONFIG", str(broken.kubeconfig))
    shell(fixes.commands(fix)[0])
    monkeypatch.setenv("KUBECONFIG", str(broken.kubeconfig_for_nobody()))
    until("permissions are there", lambda: "permissions" not in findings(*here), 30)


def test_discover(
    plant: Any, broken: Cluster, shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Other network names are found in NIC order; comments of the person's file stay; then doctor agrees."""
    local = tmp_path / "mine.yaml"
    local.write_text("# ours\nsite:\n  gcs_bucket: ''  # none yet\ncontext: 16384\n")
    monkeypatch.setenv("MANYHOST_LOCAL", str(local))

    # 6 to 13: not in the order of the alphabet
    names = {f"vpc{number}": f"mine-gpunet-{number + 5}-subnet" for number in range(1, 9)}
    plant(lambda cluster: faults.rename_networks(cluster, names))
    try:
        found = findings()
        assert list(found) == ["networks"]
        ((_, _, fix),) = found["networks"]
        assert fixes.cures(fix)
        dry = run("discover", "a3mega", "--dry-run").ok()
        found = run("discover", "a3mega", "--dry-run", "--output", "json").ok().output.result
        assert found["written"] is False
        assert found["diff"] in dry.out
        assert "+a3mega:" in dry.out
        assert "+    subnetworks:" in dry.out
        assert "gpunet" not in local.read_text()
        shell(fixes.commands(fix)[0])
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
