"""The NVLink domain of interconnect gib-imex: who makes its channels, and whether hosts share one."""

from __future__ import annotations

from collections import Counter

from manyhost.catalog.interconnect import Rdma
from manyhost.cluster import gke
from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed, skipped
from manyhost.cluster.doctor.hosts import free_rooms
from manyhost.commands import line

_DOMAINS = "resource.nvidia.com/v1beta1"
_CLAIMS = "resource.k8s.io/v1"
# Hosts of a sub-block are of one NVLink domain (GoogleCloudPlatform/cluster-toolkit, examples/gke-a4x).
_SUBBLOCK = "cloud.google.com/gce-topology-subblock"
_DRIVER = (
    "upgrade", "--install", "nvidia-dra-driver-gpu", "nvidia-dra-driver-gpu",
    "--repo", "https://helm.ngc.nvidia.com/nvidia", "--create-namespace",
    "--set", "nvidiaDriverRoot=/home/kubernetes/bin/nvidia", "--set", "resources.gpus.enabled=false",
    "--set", "kubeletPlugin.tolerations[0].operator=Exists",
)  # fmt: skip


@check("nvlink-domain", "Can the hosts of a group share an NVLink domain, and claim their RDMA NICs?")
def nvlink_domain(sight: Sight) -> Finding | list[Finding]:
    """The driver's API, the class of the NICs, and enough free hosts in one sub-block."""
    fabric = sight.target.plan.interconnect
    if not isinstance(fabric, Rdma) or not fabric.compute_domain:
        return skipped(f"interconnect {fabric.name} has none")
    findings: list[Finding] = []
    if sight.connection.find(f"/apis/{_DOMAINS}") is None:
        install = sight.commands._replace(namespace="nvidia-dra-driver-gpu").helm(*_DRIVER)
        findings.append(
            failed(
                f"the cluster does not serve ComputeDomain {_DOMAINS}",
                f"whoever runs the cluster installs its driver: {install}",
            )
        )
    if sight.connection.find(f"/apis/{_CLAIMS}") is None:
        findings.append(
            failed(
                f"the cluster does not serve {_CLAIMS}: Kubernetes 1.34 or newer is needed",
                f"upgrade it, on GKE: {gke.clusters('upgrade', *sight.gke, '--master')}",
            )
        )
    elif fabric.device_class and sight.find(_CLAIMS, "deviceclasses", fabric.device_class) is None:
        findings.append(
            failed(
                f"DeviceClass {fabric.device_class} does not exist: the node pool has no managed DRANET",
                "make a node pool with --accelerator-network-profile=auto "
                "--node-labels=cloud.google.com/gke-networking-dra-driver=true; "
                + line("gcloud", "container", "node-pools", "list", "--cluster", *sight.gke)
                + " lists those there are",
            )
        )
    return findings or _domain(sight)


def _domain(sight: Sight) -> Finding:
    sizes: Counter[str] = Counter()
    for room in free_rooms(sight):
        sizes[room.labels.get(_SUBBLOCK, "")] += room.pods
    wanted = max(role.hosts for role in sight.target.plan.roles)
    largest = max((count for name, count in sizes.items() if name), default=0)
    if sizes.total() < wanted:
        return skipped("there are not enough free hosts")
    if largest < wanted:
        return failed(
            f"no {wanted} free hosts carry the same {_SUBBLOCK}: "
            "the pods of a group ask for one NVLink domain",
            "free hosts of one sub-block, or add some: "
            + sight.commands.kubectl("get", "nodes", "--label-columns", _SUBBLOCK, namespace="")
            + " shows them",
        )
    return passed(f"{largest} free hosts are of one NVLink domain")
