"""The NVLink domain of interconnect gib-imex: who makes its channels, and whether hosts share one."""

from __future__ import annotations

from collections import Counter

from manyhost.catalog.interconnect import Rdma
from manyhost.cluster import gke
from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed, skipped
from manyhost.cluster.doctor.hosts import rooms

_DOMAINS = "resource.nvidia.com/v1beta1"
_CLAIMS = "resource.k8s.io/v1"
# Hosts of a sub-block are of one NVLink domain (GoogleCloudPlatform/cluster-toolkit, examples/gke-a4x).
_SUBBLOCK = "cloud.google.com/gce-topology-subblock"
_DRIVER = (
    "helm upgrade --install nvidia-dra-driver-gpu nvidia-dra-driver-gpu "
    "--repo https://helm.ngc.nvidia.com/nvidia --namespace nvidia-dra-driver-gpu --create-namespace "
    "--set nvidiaDriverRoot=/home/kubernetes/bin/nvidia "
    "--set resources.gpus.enabled=false --set kubeletPlugin.tolerations[0].operator=Exists"
)


@check("nvlink-domain", "Can the hosts of a group share an NVLink domain, and claim their RDMA NICs?")
def nvlink_domain(sight: Sight) -> Finding | list[Finding]:
    """The driver's API, the class of the NICs, and enough free hosts in one sub-block."""
    fabric = sight.target.plan.interconnect
    if not isinstance(fabric, Rdma) or not fabric.compute_domain:
        return skipped(f"interconnect {fabric.name} has none")
    findings: list[Finding] = []
    if sight.connection.find(f"/apis/{_DOMAINS}") is None:
        findings.append(failed(f"the cluster does not serve ComputeDomain {_DOMAINS}", _DRIVER))
    if sight.connection.find(f"/apis/{_CLAIMS}") is None:
        findings.append(
            failed(
                f"the cluster does not serve {_CLAIMS}: Kubernetes 1.34 or newer is needed",
                f"gcloud container clusters upgrade {_cluster(sight)} --master",
            )
        )
    elif fabric.device_class and sight.find(_CLAIMS, "deviceclasses", fabric.device_class) is None:
        findings.append(
            failed(
                f"DeviceClass {fabric.device_class} does not exist: the node pool has no managed DRANET",
                f"gcloud container node-pools list --cluster {_cluster(sight)}; make one with "
                "--accelerator-network-profile=auto "
                "--node-labels=cloud.google.com/gke-networking-dra-driver=true",
            )
        )
    return findings or _domain(sight)


def _cluster(sight: Sight) -> str:
    """The cluster as gcloud wants it named; the settings' or the context's words."""
    site, found = sight.target.plan.settings.site, gke.parse(sight.connection.context)
    name = found.cluster if found else site.cluster_name or sight.connection.context
    location = found.location if found else site.cluster_region
    return f"{name} --location {location}" if location else name


def _domain(sight: Sight) -> Finding:
    sizes: Counter[str] = Counter()
    for room in rooms(sight):
        sizes[room.labels.get(_SUBBLOCK, "")] += room.pods
    wanted = max(role.hosts for role in sight.target.plan.roles)
    largest = max((count for name, count in sizes.items() if name), default=0)
    if sizes.total() < wanted:
        return skipped("there are not enough free hosts")
    if largest < wanted:
        return failed(
            f"no {wanted} free hosts carry the same {_SUBBLOCK}: "
            "the pods of a group ask for one NVLink domain",
            f"kubectl get nodes --label-columns {_SUBBLOCK}",
        )
    return passed(f"{largest} free hosts are of one NVLink domain")
