"""doctor, discover and a rehearsed deployment on clusters of every machine type, healthy and broken.

The hosts come from testbed/shapes.py, which is written from public sources and not from values/.
"""

# ruff: noqa: E501  tables of cases read better on one line each

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed import Cluster, faults, shapes
from testbed import gpu_hosts as hosts
from testbed.shapes import Shape
from tests.e2e.place import Outcome, Place, run
from tests.helpers.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
RECIPES = {  # recipes whose groups span hosts, so that the interconnect is used
    "a3ultra": ("a3ultra/deepseek-r1-671b-two-hosts",),
    "a4": ("a4", "--set", "network.interconnect=gib", "--set", "parallelism.pipeline=2"),
    "a3high": ("a3high",),
    "a4x": ("a4x",),
    "kubernetes": ("kubernetes/deepseek-r1-671b",),
}
Fault = Callable[[Cluster, Shape], None]
Finding = tuple[str, str, str]


@pytest.fixture(scope="module")
def own(place: Place) -> Iterator[Cluster]:
    """The test cluster, with A3 Mega hosts again in the end."""
    if place.own is None:
        pytest.skip("needs the test cluster's GPU hosts")
    yield place.own
    place.own.become(shapes.A3MEGA)


@pytest.fixture(scope="module", params=RECIPES)
def shape(request: pytest.FixtureRequest, own: Cluster) -> Shape:
    """The cluster's GPU hosts become those of a shape."""
    wanted = shapes.SHAPES[request.param]
    own.become(wanted)
    return wanted


@pytest.fixture
def cluster(own: Cluster, shape: Shape) -> Iterator[Cluster]:
    """The cluster, whose faults are healed at the end of the test."""
    yield own
    faults.heal(own)
    assert own.shape == shape


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file of a person."""
    path = tmp_path / "mine.yaml"
    path.write_text("# ours\ncontext: 16384\n")
    monkeypatch.setenv("MANYHOST_LOCAL", str(path))
    return path


def doctor(shape: Shape, *more: str) -> dict[str, list[Finding]]:
    """Everything that is not well, by check: status, why, fix."""
    outcome = run(
        "doctor", *RECIPES[shape.name], "--skip", "image", "--skip", "hf-secret", "--output", "json", *more
    )
    wrong: dict[str, list[Finding]] = {}
    for result in outcome.output.result["checks"]:
        if result["status"] in ("fail", "warn"):
            wrong.setdefault(result["check"], []).append((result["status"], result["why"], result["fix"]))
    failed = any(status == "fail" for found in wrong.values() for status, _, _ in found)
    assert outcome.code == (4 if failed else 0), outcome
    return wrong


def rehearse(shape: Shape) -> Outcome:
    """Let the API server and the LWS webhooks judge every object."""
    return run("deploy", *RECIPES[shape.name], "--dry-run", "--output", "json")


def discovered(shape: Shape) -> dict[str, Any]:
    """What discover would write."""
    outcome = run("discover", shape.name, "--dry-run", "--output", "json").ok()
    settings: dict[str, Any] = outcome.output.result["found"]["settings"]
    return settings


# Healthy hosts


def test_doctor_has_nothing_to_say(cluster: Cluster, shape: Shape) -> None:
    assert doctor(shape) == {}


def test_discover_finds_networks_in_nic_order_and_the_node_pool(
    cluster: Cluster, shape: Shape, local: Path
) -> None:
    wanted: dict[str, Any] = {}
    if shape.pool:
        wanted["node_selector"] = {shapes.NODE_POOL: shape.pool}
    if shape.networks:
        wanted["network"] = {"subnetworks": ["default", *(name for name, _ in shape.networks)]}
    assert discovered(shape) == wanted
    before = local.read_text()
    run("discover", shape.name, "--yes").ok()
    assert local.read_text().startswith(before)
    assert (local.read_text() == before) == (not wanted)
    assert doctor(shape) == {}
    assert "says the same already" in run("discover", shape.name, "--yes").ok().out


def test_the_api_server_accepts_every_object(cluster: Cluster, shape: Shape) -> None:
    proposal = rehearse(shape).ok().output.result["proposal"]
    kinds = {change["kind"] for change in proposal["changes"]}
    assert {"LeaderWorkerSet", "Service", "ConfigMap"} <= kinds
    assert {change["action"] for change in proposal["changes"]} == {"create"}
    assert ({"ComputeDomain", "ResourceClaimTemplate"} <= kinds) == (shape is shapes.A4X)


# Broken hosts


def each(fault: Callable[[Cluster, str], None]) -> Fault:
    """The fault on every host but one: too few for a group of two."""

    def plant(cluster: Cluster, shape: Shape) -> None:
        for name in shape.hosts[1:]:
            fault(cluster, name)

    return plant


def mode(name: str, other: str) -> Fault:
    return lambda cluster, _: faults.set_device_mode(cluster, name, other)


def without(name: str) -> Fault:
    return lambda cluster, _: faults.remove_network(cluster, name)


def no_types(cluster: Cluster, _: Shape) -> None:
    faults.remove_network_types(cluster)


def no_daemon(name: str) -> Fault:
    return lambda cluster, _: faults.remove_daemonset(cluster, name)


def waiting(name: str) -> Fault:
    return lambda cluster, _: faults.set_daemonset_ready(cluster, name, ready=False)


def old(name: str, version: str) -> Fault:
    def plant(cluster: Cluster, _: Shape) -> None:
        faults.change_version(cluster, name, version)
        until(f"{name} rolled", lambda: hosts.daemon_set_complete(cluster.api, name))

    return plant


def one_gpu_lost(cluster: Cluster, shape: Shape) -> None:
    for name in shape.hosts[1:]:
        faults.set_gpus(cluster, name, shape.gpus - 1)


def another_architecture(cluster: Cluster, shape: Shape) -> None:
    for name in shape.hosts:
        faults.set_label(cluster, name, "kubernetes.io/arch", "amd64")


def apart(cluster: Cluster, shape: Shape) -> None:
    """Free hosts are of two sub-blocks; that one of them has two hosts does not help while one is taken."""
    for number, name in enumerate(shape.hosts):
        faults.set_label(cluster, name, shapes.SUBBLOCK, f"subblock-{number % 2 + 1}")
    faults.occupy(cluster, shape.healthy[0], shape.gpus)
    faults.occupy(cluster, shape.healthy[1], shape.gpus)


def extra(item: shapes.Object) -> Fault:
    return lambda cluster, _: hosts.remove(cluster.api, item)


def unlabelled(cluster: Cluster, shape: Shape) -> None:
    for name in shape.hosts:
        faults.set_label(cluster, name, "nvidia.com/gpu.present", None)


def no_rdma(cluster: Cluster, shape: Shape) -> None:
    for name in shape.hosts:
        faults.set_resource(cluster, name, "rdma/rdma_shared_device_a", None)


RDMA_FABRIC: dict[str, tuple[Fault, str, str, str]] = {
    "an RDMA network is a NetDevice": (mode("rdma-3", "NetDevice"), "networks", "rdma-3 has device mode NetDevice, not RDMA", "describe"),
    "the gVNIC is an RDMA network": (mode("gvnic-1", "RDMA"), "networks", "gvnic-1 has device mode RDMA, not NetDevice", "describe"),
    "an RDMA network is missing": (without("rdma-7"), "networks", "rdma-7 does not exist", "kubectl get networks"),
    "the gVNIC's network is missing": (without("gvnic-1"), "networks", "gvnic-1 does not exist", "kubectl get networks"),
    "no multi-networking": (no_types, "networks", "no multi-networking", "--enable-multi-networking"),
    "no installer": (no_daemon("nccl-rdma-installer"), "interconnect-daemons", "nccl-rdma-installer is not in", "nccl-rdma-installer.yaml"),
    "an old plugin": (old("nccl-rdma-installer", "v1.0.5"), "interconnect-versions", "the host's plugin is v1.0.5", "nccl-rdma-installer.yaml"),
    "a GPU lost": (one_gpu_lost, "hosts", "shows 7 GPUs where", "kubectl describe node"),
}  # fmt: skip
# environment: name: (fault, check that finds it, words in why, words in fix)
FAULTS: dict[str, dict[str, tuple[Fault, str, str, str]]] = {
    "a3ultra": RDMA_FABRIC,
    "a4": RDMA_FABRIC,
    "a3high": {
        "a network is RDMA": (mode("vpc2", "RDMA"), "networks", "vpc2 has device mode RDMA, not NetDevice", "describe"),
        "a network is missing": (without("vpc4"), "networks", "vpc4 does not exist", "kubectl get networks"),
        "no installer": (no_daemon("nccl-tcpx-installer"), "interconnect-daemons", "nccl-tcpx-installer is not in", "nccl-tcpx-installer.yaml"),
        "the injector waits": (waiting("device-injector"), "interconnect-daemons", "device-injector is ready on 0 of", "describe daemonset"),
        "plugin and daemon apart": (old("nccl-tcpx-installer", "v3.1.7"), "interconnect-versions", "daemon v2.0.12 belongs to v3.1.9", "set image daemonset/nccl-tcpx-installer"),
        "a GPU lost": (one_gpu_lost, "hosts", "shows 7 GPUs where", "kubectl describe node"),
    },
    "a4x": {
        "no installer": (no_daemon("nccl-rdma-installer"), "interconnect-daemons", "nccl-rdma-installer is not in", "nccl-rdma-installer-a4x.yaml"),
        "an old plugin": (old("nccl-rdma-installer", "v1.0.4"), "interconnect-versions", "the host's plugin is v1.0.4", "nccl-rdma-installer-a4x.yaml"),
        "a GPU lost": (one_gpu_lost, "hosts", "shows 3 GPUs where a4x-highgpu-4g has 4", "kubectl describe node"),
        "an architecture's taint of another effect": (
            each(lambda c, name: faults.add_taint(c, name, "kubernetes.io/arch", "arm64", "NoExecute")),
            "hosts", "taint kubernetes.io/arch=arm64:NoExecute is not tolerated", "ask whoever set it",
        ),
        "hosts of another architecture": (another_architecture, "hosts", "no node carries", "add a node pool"),
        "no managed DRANET": (extra(shapes.MRDMA), "nvlink-domain", "DeviceClass mrdma.google.com does not exist", "--accelerator-network-profile=auto"),
        "no DRA driver": (extra(shapes.COMPUTE_DOMAIN), "nvlink-domain", "does not serve ComputeDomain", "helm upgrade --install nvidia-dra-driver-gpu"),
        "hosts of two sub-blocks": (apart, "nvlink-domain", "no 2 free hosts carry the same cloud.google.com/gce-topology-subblock", "kubectl get nodes"),
    },
    "kubernetes": {
        "no RDMA device plug-in": (no_rdma, "hosts", "0 of 0 rdma/rdma_shared_device_a free, 1 needed", ""),
        "a GPU lost": (one_gpu_lost, "hosts", "shows 7 GPUs where", "kubectl describe node"),
        "no GPU operator": (unlabelled, "hosts", "no node carries nvidia.com/gpu.present=true", "add a node pool"),
        "a taint of the owner": (
            each(lambda c, name: faults.add_taint(c, name, "team", "other", "NoSchedule")),
            "hosts", "taint team=other:NoSchedule is not tolerated", "ask whoever set it",
        ),
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "name"),
    [(environment, name) for environment, faults_of in FAULTS.items() for name in faults_of],
    indirect=["shape"],
    scope="module",
)
def test_a_planted_fault_is_found_and_nothing_else(cluster: Cluster, shape: Shape, name: str) -> None:
    plant, check, why, fix = FAULTS[shape.name][name]
    plant(cluster, shape)
    found = doctor(shape)
    assert list(found) == [check], found
    assert any(why in text for _, text, _ in found[check]), found
    assert any(fix in command for _, _, command in found[check]), found


@pytest.mark.parametrize("shape", ["a4x"], indirect=True)
def test_a_rehearsal_without_the_drivers_api_is_refused(cluster: Cluster, shape: Shape) -> None:
    hosts.remove(cluster.api, shapes.COMPUTE_DOMAIN)
    refused = rehearse(shape)
    assert refused.code == 4
    (error,) = refused.output.envelope["errors"]
    assert "no ComputeDomain" in error["message"]
    assert "manyhost doctor" in error["fix"]


# Networks as another generation of cluster-toolkit names them: by their subnetworks


def renamed(cluster: Cluster, shape: Shape) -> list[str]:
    """Give the networks the names of their subnetworks; return these in NIC order."""
    names = {}
    for item in hosts.networks(shape):
        if "vpcSubnet" in item["spec"] and "deviceMode" in item["spec"]:
            names[item["metadata"]["name"]] = item["spec"]["vpcSubnet"].replace(shape.name, "mine")
    faults.rename_networks(cluster, names)
    return [names[name] for name, _ in shape.networks]


@pytest.mark.parametrize("shape", ["a3ultra", "a4", "a3high"], indirect=True)
def test_renamed_networks(cluster: Cluster, shape: Shape, local: Path) -> None:
    names = renamed(cluster, shape)
    assert any("-gpunet-0-subnet" in name for name in names)
    found = doctor(shape)
    assert list(found) == ["networks"], found
    assert any("manyhost discover" in fix for _, _, fix in found["networks"]), found
    run("discover", shape.name, "--yes").ok()
    assert f"[default, {', '.join(names)}]" in local.read_text()
    assert doctor(shape) == {}
    run("render", *RECIPES[shape.name], "--out", str(local.parent / "rendered")).ok()
    manifests = (local.parent / "rendered/manifests.yaml").read_text()
    assert all(name in manifests for name in names)


@pytest.mark.parametrize("shape", ["a3ultra"], indirect=True)
def test_discover_refuses_networks_that_do_not_make_a_host(
    cluster: Cluster, shape: Shape, local: Path
) -> None:
    before = local.read_text()
    faults.set_device_mode(cluster, "rdma-3", "NetDevice")
    refused = run("discover", shape.name, "--yes")
    assert refused.code == 4
    assert "a3-ultragpu-8g needs 1 networks of mode NetDevice, the cluster has 2" in refused.err
    assert local.read_text() == before


@pytest.mark.parametrize("shape", RECIPES, indirect=True)
def test_discover_without_a_host_of_the_type(cluster: Cluster, shape: Shape) -> None:
    other = "a4" if shape.name != "a4" else "a4x"
    refused = run("discover", other, "--dry-run")
    assert refused.code == 4
    assert f"environment {other}" in refused.err
