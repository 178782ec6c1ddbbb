"""Each planted fault can be seen, and all of them heal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from testbed import Cluster, ClusterError, faults, gpu_hosts, shapes

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
NODE = gpu_hosts.HEALTHY[0]
NETWORKS = "networks.networking.gke.io"
WEBHOOKS = "mutatingwebhookconfigurations,validatingwebhookconfigurations"
LWS = "leaderworkersets.leaderworkerset.x-k8s.io"
RULE = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "tight"}}
POLICY = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny-all"}}
PARAMETERS = "gkenetworkparamsets.networking.gke.io"


def seen(cluster: Cluster) -> dict[str, str]:
    """The facts that the faults change, as text."""

    def ask(*args: str) -> str:
        try:
            return cluster.kubectl("get", *args)
        except ClusterError as error:
            return str(error)

    path = "jsonpath={range .items[*]}{.metadata.name} {.spec.unschedulable} {.spec.taints} "
    path += "{.metadata.labels} {.status.allocatable}{'\\n'}{end}"
    ready = "jsonpath={range .items[*]}{.metadata.name} {.status.numberReady} "
    ready += "{.spec.template.spec.initContainers[*].image}{'\\n'}{end}"
    return {
        "networks": ask(NETWORKS, "-o", "name"),
        "conditions": ask(NETWORKS, "-o", "jsonpath={.items[*].status.conditions[*].status}"),
        "parameters": ask(PARAMETERS, "-o", "jsonpath={.items[*].spec}"),
        "nodes": re.sub(r',"timeAdded":"[^"]*"', "", ask("nodes", "-o", path)),
        "daemon sets": ask("daemonsets", "-n", "kube-system", "-o", ready),
        "lws": ask("deployment", "-n", "lws-system", "-o", "jsonpath={..image}"),
        "pods": ask("pods", "-o", "name"),
        "drivers": ask("csidrivers", "-o", "name"),
        "types": ask("crds", "-o", "name"),
        "classes": ask("deviceclasses", "-o", "name"),
        "rules": ask(f"limitranges,quota,networkpolicies,{WEBHOOKS}", "-A", "-o", "name"),
        "crd": ask("crd", LWS, "-o", "jsonpath={.metadata.annotations}"),
    }


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = Cluster("test-faults")
    found.up(nodes=0, gpu_hosts=True)
    yield found
    found.down()


FAULTS: dict[str, tuple[str, Callable[[Cluster], None]]] = {
    "network removed": ("networks", lambda c: faults.remove_network(c, "vpc3")),
    "parameters removed": ("parameters", lambda c: faults.remove_parameters(c, "vpc3")),
    "other device mode": ("parameters", lambda c: faults.set_device_mode(c, "vpc3", "RDMA")),
    "no network types": ("networks", faults.remove_network_types),
    "cordoned": ("nodes", lambda c: faults.cordon(c, NODE)),
    "node removed": ("nodes", lambda c: faults.remove_node(c, NODE)),
    "label removed": ("nodes", lambda c: faults.set_label(c, NODE, gpu_hosts.ACCELERATOR, None)),
    "tainted": ("nodes", lambda c: faults.add_taint(c, NODE, "broken", "yes", "NoSchedule")),
    "GPUs lost": ("nodes", lambda c: faults.set_gpus(c, NODE, 7)),
    "GPUs unhealthy": ("nodes", lambda c: faults.set_healthy_gpus(c, NODE, 7)),
    "no NIC in a network": ("nodes", lambda c: faults.detach(c, NODE, "vpc3")),
    "networks of other names": ("nodes", lambda c: faults.rename_networks(c, {"vpc3": "mine"})),
    "network not ready": (
        "conditions",
        lambda c: faults.set_network_condition(c, "vpc3", "ParamsReady", "False", "no subnet"),
    ),
    "limits": ("rules", lambda c: faults.plant(c, {**RULE, "spec": {"limits": [{"type": "Container"}]}})),
    "policy": ("rules", lambda c: faults.plant(c, {**POLICY, "spec": {"podSelector": {}}})),
    "webhook down": ("rules", lambda c: faults.break_webhook(c, "Validating")),
    "CRD of Helm": ("crd", faults.install_lws_with_helm),
    "occupied": ("pods", lambda c: faults.occupy(c, NODE)),
    "injector waits": (
        "daemon sets",
        lambda c: faults.set_daemonset_ready(c, "device-injector", ready=False),
    ),
    "installer removed": (
        "daemon sets",
        lambda c: faults.remove_daemonset(c, "nccl-tcpxo-installer"),
    ),
    "installer of another version": (
        "daemon sets",
        lambda c: faults.change_version(c, "nccl-tcpxo-installer", "v1.0.8-1"),
    ),
    "LWS of another version": ("lws", lambda c: faults.change_version(c, "lws", "v0.5.1")),
    "no GCS FUSE": ("drivers", faults.remove_csi_driver),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_seen_and_healed(cluster: Cluster, name: str) -> None:
    where, plant = FAULTS[name]
    before = seen(cluster)
    plant(cluster)
    assert seen(cluster)[where] != before[where]
    faults.heal(cluster)
    after = seen(cluster)
    assert after == before


@pytest.mark.parametrize("name", [name for name in shapes.SHAPES if name != "a3mega"])
def test_hosts_become_those_of_another_shape_and_heal_as_such(cluster: Cluster, name: str) -> None:
    shape, mega = shapes.SHAPES[name], seen(cluster)
    cluster.become(shape)
    assert cluster.shape == Cluster(cluster.name).shape == shape
    before = seen(cluster)
    assert not any(f"{host} " in before["nodes"] for host in gpu_hosts.HEALTHY[1:])  # one is of another type
    assert all(f"{host} " in before["nodes"] for host in shape.hosts)
    assert ("rdma-7" in before["networks"]) == (name in ("a3ultra", "a4"))
    faults.remove_node(cluster, shape.healthy[0])
    for item in gpu_hosts.system_objects(shape):
        gpu_hosts.remove(cluster.api, item)
    assert seen(cluster) != before
    faults.heal(cluster)
    assert seen(cluster) == before
    cluster.become(shapes.A3MEGA)
    assert seen(cluster) == mega
