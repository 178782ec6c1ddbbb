"""The shapes of GPU hosts, each with what a healthy cluster of them has.

Written from public sources and not from `values/`, so that tests hold one against the other. CEA is
GoogleCloudPlatform/container-engine-accelerators, CT GoogleCloudPlatform/cluster-toolkit (v1.95). GPUs,
processors, memory and local SSD of Google's machines: "GPU machine types" in the Compute Engine
documentation. Labels, taints and names of node pools and networks: CT, examples/gke-* and
modules/compute/gke-node-pool. Schemas are reduced to what these objects use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]
ACCELERATOR = "cloud.google.com/gke-accelerator"
NODE_POOL = "cloud.google.com/gke-nodepool"
SUBBLOCK = "cloud.google.com/gce-topology-subblock"
_GPU_TAINT = ("nvidia.com/gpu", "present", "NoSchedule")
_REGISTRY = "us-docker.pkg.dev/gce-ai-infra"
_INJECTOR = ("device-injector", "gcr.io/gke-release/nri-device-injector:test")
_FUSE = ("gcsfusecsi-node", "gke.gcr.io/gcs-fuse-csi-driver:test")


@dataclass(frozen=True)
class Shape:
    """Hosts of one kind, and what their cluster has because of them.

    Attributes:
        name: of the environment.
        machine: machine type.
        labels: those that pods select the hosts by.
        gpus: GPUs of a host.
        cpus: virtual processors.
        memory_gib: memory, GiB.
        ssd_gib: local SSD for pods, GiB.
        pool: node pool; "" where the cluster is not Google's.
        version: of the kubelets.
        architecture: of the processors.
        networks: name and device mode of each additional network, in the order of the interfaces.
        daemon_sets: name and image of what prepares the hosts; an installer's image is the plugin's.
        taints: key, value, effect.
        resources: what a host offers beside GPUs and networks.
        subblock_hosts: hosts of a topology sub-block.
        extras: further objects of such a cluster.
    """

    name: str
    machine: str
    labels: dict[str, str]
    gpus: int
    cpus: int
    memory_gib: int
    ssd_gib: int
    pool: str
    version: str
    architecture: str = "amd64"
    networks: tuple[tuple[str, str], ...] = ()
    daemon_sets: tuple[tuple[str, str], ...] = ()
    taints: tuple[tuple[str, str, str], ...] = (_GPU_TAINT,)
    resources: dict[str, str] = field(default_factory=dict)
    subblock_hosts: int = 2
    extras: tuple[Object, ...] = ()

    @property
    def healthy(self) -> tuple[str, ...]:
        """Names of the four healthy hosts."""
        return tuple(self.host(n) for n in range(1, 5))

    @property
    def cordoned(self) -> str:
        """Name of the host that takes no new pods."""
        return self.host("cordoned")

    @property
    def small(self) -> str:
        """Name of the host with half of the GPUs."""
        return self.host("small")

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of all hosts with the labels."""
        return (*self.healthy, self.cordoned, self.small)

    def host(self, suffix: object) -> str:
        """Name of a host."""
        return f"{'gke' if self.pool else 'node'}-{self.name}-{suffix}"


def crd(
    group: str, version: str, kind: str, spec: Object, status: Object, *, scope: str = "Cluster"
) -> Object:
    """A CustomResourceDefinition with a schema for spec and status."""
    plural = f"{kind.lower()}s"
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    schema = {"type": "object", "properties": {"spec": spec, "status": status}}
    served = {
        "name": version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "scope": scope, "names": names, "versions": [served]},
    }


def _compute_domain() -> Object:
    """NVIDIA/k8s-dra-driver-gpu, deployments/helm, crds/resource.nvidia.com_computedomains.yaml."""
    name = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    mode = {"type": "string", "enum": ["All", "Single"], "default": "Single"}
    channel = {
        "type": "object",
        "properties": {"allocationMode": mode, "resourceClaimTemplate": name},
        "required": ["resourceClaimTemplate"],
    }
    spec = {
        "type": "object",
        "properties": {"channel": channel, "numNodes": {"type": "integer", "minimum": 0, "default": 0}},
        "required": ["channel"],
    }
    status = {"type": "object", "properties": {"status": {"type": "string"}}}
    return crd("resource.nvidia.com", "v1beta1", "ComputeDomain", spec, status, scope="Namespaced")


COMPUTE_DOMAIN = _compute_domain()
# The class that CT's claims ask for (modules/compute/gke-node-pool/resource-claim-template.yaml.tftpl).
# GKE does not publish its selector; here it takes everything of DRANET's driver (google/dranet).
MRDMA: Object = {
    "apiVersion": "resource.k8s.io/v1",
    "kind": "DeviceClass",
    "metadata": {"name": "mrdma.google.com"},
    "spec": {"selectors": [{"cel": {"expression": 'device.driver == "dra.net"'}}]},
}
_RDMA_NETWORKS = (("gvnic-1", "NetDevice"), *((f"rdma-{n}", "RDMA") for n in range(8)))
_GIB = (
    ("nccl-rdma-installer", f"{_REGISTRY}/gpudirect-gib/nccl-plugin-gib:v1.1.1"),
    _FUSE,
)

# CEA gpudirect-tcpxo, nri_device_injector; CT examples/gke-a3-megagpu; GKE version from
# AI-Hypercomputer/gpu-recipes, docs/configuring-environment-gke-a3-mega.md.
A3MEGA = Shape(
    name="a3mega",
    machine="a3-megagpu-8g",
    labels={ACCELERATOR: "nvidia-h100-mega-80gb"},
    gpus=8,
    cpus=208,
    memory_gib=1872,
    ssd_gib=6000,
    pool="a3-megagpu-8g-a3-megagpu-pool",
    version="v1.32.4-gke.1767000",
    networks=tuple((f"vpc{n}", "NetDevice") for n in range(1, 9)),
    daemon_sets=(
        _INJECTOR,
        ("nccl-tcpxo-installer", f"{_REGISTRY}/gpudirect-tcpxo/nccl-plugin-gpudirecttcpx-dev:v1.0.15"),
        _FUSE,
    ),
)

# CEA gpudirect-tcpx/nccl-tcpx-installer.yaml; CT examples/gke-a3-highgpu.
A3HIGH = Shape(
    name="a3high",
    machine="a3-highgpu-8g",
    labels={ACCELERATOR: "nvidia-h100-80gb"},
    gpus=8,
    cpus=208,
    memory_gib=1872,
    ssd_gib=6000,
    pool="a3-highgpu-8g-a3-highgpu-pool",
    version="v1.33.4-gke.1036000",
    networks=tuple((f"vpc{n}", "NetDevice") for n in range(1, 5)),
    daemon_sets=(
        _INJECTOR,
        ("nccl-tcpx-installer", f"{_REGISTRY}/gpudirect-tcpx/nccl-plugin-gpudirecttcpx-dev:v3.1.9"),
        _FUSE,
    ),
)

# CEA gpudirect-rdma/nccl-rdma-installer.yaml; CT examples/gke-a3-ultragpu; device modes as in
# GoogleCloudPlatform/kubernetes-engine-samples, ai-ml/verl-on-gke/network-mapping.yaml.
A3ULTRA = Shape(
    name="a3ultra",
    machine="a3-ultragpu-8g",
    labels={ACCELERATOR: "nvidia-h200-141gb"},
    gpus=8,
    cpus=224,
    memory_gib=2952,
    ssd_gib=12000,
    pool="a3-ultragpu-8g-a3-ultragpu-pool",
    version="v1.31.7-gke.1265000",
    networks=_RDMA_NETWORKS,
    daemon_sets=_GIB,
)

# CEA gpudirect-rdma (the same installer); CT examples/gke-a4.
A4 = Shape(
    name="a4",
    machine="a4-highgpu-8g",
    labels={ACCELERATOR: "nvidia-b200"},
    gpus=8,
    cpus=224,
    memory_gib=3968,
    ssd_gib=12000,
    pool="a4-highgpu-8g-a4-pool",
    version="v1.32.4-gke.1236000",
    networks=_RDMA_NETWORKS,
    daemon_sets=_GIB,
)

# CT examples/gke-a4x (managed DRANET: no additional networks; up to 18 hosts of one NVLink domain in a
# sub-block); CEA gpudirect-rdma/nccl-rdma-installer-a4x.yaml.
A4X = Shape(
    name="a4x",
    machine="a4x-highgpu-4g",
    labels={
        ACCELERATOR: "nvidia-gb200",
        "cloud.google.com/gke-networking-dra-driver": "true",
    },
    gpus=4,
    cpus=140,
    memory_gib=884,
    ssd_gib=12000,
    pool="a4x-highgpu-4g-a4x-pool",
    version="v1.35.1-gke.1616000",
    architecture="arm64",
    daemon_sets=(
        ("nccl-rdma-installer", f"{_REGISTRY}/gpudirect-gib/nccl-plugin-gib-arm64:v1.1.0"),
        _FUSE,
    ),
    taints=(_GPU_TAINT, ("kubernetes.io/arch", "arm64", "NoSchedule")),
    subblock_hosts=18,
    extras=(COMPUTE_DOMAIN, MRDMA),
)

# Nodes like NVIDIA's DGX H100 (its user guide) with the GPU operator's labels (NVIDIA/k8s-device-plugin,
# docs of gpu-feature-discovery) and the RDMA shared device plug-in as the NVIDIA Network Operator sets it up
# (docs.nvidia.com/networking, "Network Operator with RDMA shared device plug-in").
KUBERNETES = Shape(
    name="kubernetes",
    machine="",
    labels={
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
        "nvidia.com/cuda.driver-version.major": "580",
    },
    gpus=8,
    cpus=224,
    memory_gib=2048,
    ssd_gib=28000,
    pool="",
    version="v1.34.1",
    resources={"rdma/rdma_shared_device_a": "63"},
)

# A machine without GPUs. Where real nodes run beside these, pods of tests belong on the real ones.
SYSTEM = Shape(
    name="system",
    machine="e2-standard-8",
    labels={},
    gpus=0,
    cpus=8,
    memory_gib=32,
    ssd_gib=100,
    pool="system",
    version=A3MEGA.version,
    taints=(("components.gke.io/gke-managed-components", "true", "NoSchedule"),),
)

SHAPES = {shape.name: shape for shape in (A3MEGA, A3ULTRA, A4, A3HIGH, A4X, KUBERNETES)}
