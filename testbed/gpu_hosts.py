"""Nodes and objects of a healthy GKE cluster with A3 Mega hosts.

Sources: machine shapes from "GPU machine types" in the Compute Engine documentation; labels, taint,
network names and DaemonSets from GoogleCloudPlatform/cluster-toolkit (examples/gke-a3-megagpu,
modules/compute/gke-node-pool) and GoogleCloudPlatform/container-engine-accelerators
(gpudirect-tcpxo, nri_device_injector); versions from AI-Hypercomputer/gpu-recipes
(docs/configuring-environment-gke-a3-mega.md). The schemas are reduced to what these objects use.
No document gives the allocatable part of a host: here about two percent less than it has.
"""

from __future__ import annotations

from testbed.api import Api, Object
from testbed.errors import ClusterError
from testbed.kwok import ANNOTATION
from testbed.node import Kind
from testbed.system import wait_for

ACCELERATOR = "cloud.google.com/gke-accelerator"
MEGA = "nvidia-h100-mega-80gb"
NODE_POOL = "a3-megagpu-8g-a3-megagpu-pool"
GKE_VERSION = "v1.32.4-gke.1767000"
TCPXO_VERSION = "v1.0.15"
NETWORKS = ("default", *(f"vpc{n}" for n in range(1, 9)))
HEALTHY = tuple(f"gke-a3mega-{n}" for n in range(1, 5))
CORDONED, SMALL, OTHER, SYSTEM = (
    "gke-a3mega-cordoned",
    "gke-a3mega-small",
    "gke-a3ultra-1",
    "gke-system-1",
)
DAEMON_SETS = ("device-injector", "nccl-tcpxo-installer", "gcsfusecsi-node")
CSI_DRIVER = "gcsfuse.csi.storage.gke.io"
_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
_GROUP = "networking.gke.io"


def container_node(gpus: int) -> Kind:
    """A container node; with GPUs it is found, and kept free, as an A3 Mega host is."""
    if not gpus:
        return Kind()
    taint = f"{_TAINT['key']}={_TAINT['value']}:{_TAINT['effect']}"
    return Kind(gpus, {ACCELERATOR: MEGA}, (taint,))


def node(
    name: str,
    *,
    machine: str = "a3-megagpu-8g",
    pool: str = NODE_POOL,
    accelerator: str = MEGA,
    gpus: int = 8,
    cpus: int = 208,
    memory_gib: int = 1872,
    ssd_gib: int = 6000,
    number: int = 1,
    cordoned: bool = False,
) -> Object:
    """A host as GKE shows it, run by kwok.

    Args:
        name: the node's name.
        machine: the machine type.
        pool: the node pool.
        accelerator: GPU type label; "" for a host without GPUs.
        gpus: GPUs that it offers.
        cpus: virtual processors.
        memory_gib: memory, GiB.
        ssd_gib: local SSD for pods, GiB.
        number: place in the topology; two hosts share a sub-block.
        cordoned: whether it takes no new pods.
    """
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": "amd64",
        "node.kubernetes.io/instance-type": machine,
        "topology.kubernetes.io/region": "us-central1",
        "topology.kubernetes.io/zone": "us-central1-a",
        "cloud.google.com/gke-nodepool": pool,
    }
    capacity = {"cpu": str(cpus), "memory": f"{memory_gib}Gi", "pods": "110"}
    capacity["ephemeral-storage"] = f"{ssd_gib}Gi"
    allocatable = {
        **capacity,
        "cpu": f"{cpus * 1000 * 98 // 100}m",
        "memory": f"{memory_gib * 98 // 100}Gi",
        "ephemeral-storage": f"{ssd_gib * 98 // 100}Gi",
    }
    spec: Object = {"providerID": f"gce://test-project/us-central1-a/{name}"}
    if cordoned:
        spec["unschedulable"] = True
    if accelerator:
        labels |= {
            ACCELERATOR: accelerator,
            "cloud.google.com/gke-gpu": "true",
            "cloud.google.com/gke-ephemeral-storage-local-ssd": "true",
            "cloud.google.com/gce-topology-block": "block-1",
            "cloud.google.com/gce-topology-subblock": f"subblock-{(number + 1) // 2}",
            "cloud.google.com/gce-topology-host": f"host-{number}",
        }
        spec["taints"] = [dict(_TAINT)]
        offered = {"nvidia.com/gpu": str(gpus)}
        offered |= {f"{_GROUP}.networks/{name}.IP": "1" for name in NETWORKS[1:]}
        capacity |= offered
        allocatable |= offered
    else:
        # where real nodes run beside these, pods of tests belong on the real ones
        spec["taints"] = [
            {"key": "components.gke.io/gke-managed-components", "value": "true", "effect": "NoSchedule"}
        ]
    info = {"kubeletVersion": GKE_VERSION, "architecture": "amd64", "operatingSystem": "linux"}
    info["osImage"] = "Container-Optimized OS from Google"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": dict(ANNOTATION)},
        "spec": spec,
        "status": {"capacity": capacity, "allocatable": allocatable, "nodeInfo": info},
    }


def nodes() -> list[Object]:
    """Four healthy hosts, one cordoned, one too small, one of another type, one without GPUs."""
    healthy = [node(name, number=n) for n, name in enumerate(HEALTHY, 1)]
    ultra = node(
        OTHER,
        machine="a3-ultragpu-8g",
        pool="a3-ultragpu-8g-a3-ultragpu-pool",
        accelerator="nvidia-h200-141gb",
        cpus=224,
        memory_gib=2952,
        ssd_gib=12000,
        number=7,
    )
    system = node(
        SYSTEM,
        machine="e2-standard-8",
        pool="system",
        accelerator="",
        cpus=8,
        memory_gib=32,
        ssd_gib=100,
    )
    return [
        *healthy,
        node(CORDONED, number=5, cordoned=True),
        node(SMALL, number=6, gpus=4),
        ultra,
        system,
    ]


def _crd(kind: str, plural: str, spec: Object, status: Object) -> Object:
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    properties = {
        "spec": {"type": "object", "properties": spec},
        "status": {"type": "object", "properties": status},
    }
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
        "subresources": {"status": {}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{_GROUP}",
            # the group is protected: the API server asks for a word on who approved it
            "annotations": {"api-approved.kubernetes.io": "unapproved, test cluster"},
        },
        "spec": {"group": _GROUP, "scope": "Cluster", "names": names, "versions": [version]},
    }


def crds() -> list[Object]:
    """The network types, with the fields that a serving cluster uses."""
    text: Object = {"type": "string"}
    reference = dict.fromkeys(("group", "kind", "name", "namespace"), text)
    condition = dict.fromkeys(("type", "status", "reason", "message", "lastTransitionTime"), text)
    conditions = {"type": "array", "items": {"type": "object", "properties": condition}}
    ranges = {"type": "object", "properties": {"rangeNames": {"type": "array", "items": text}}}
    network = {
        "type": {"type": "string", "enum": ["L2", "L3", "Device"]},
        "parametersRef": {"type": "object", "properties": reference},
    }
    parameters = {
        "vpc": text,
        "vpcSubnet": text,
        "deviceMode": {"type": "string", "enum": ["NetDevice", "RDMA", "DPDK-VFIO"]},
        "podIPv4Ranges": ranges,
    }
    state = {"conditions": conditions}
    return [
        _crd("Network", "networks", network, state),
        _crd("GKENetworkParamSet", "gkenetworkparamsets", parameters, state),
    ]


def networks() -> list[Object]:
    """The pod network `default` and the eight GPU networks with their parameter sets."""
    found: list[Object] = []
    for number, name in enumerate(NETWORKS):
        if number:
            vpc = f"a3mega-gpunet-{number - 1}"
            parameters: Object = {"vpc": vpc, "vpcSubnet": f"{vpc}-subnet", "deviceMode": "NetDevice"}
        else:
            pods = {"rangeNames": ["pods"]}
            parameters = {"vpc": "a3mega-net", "vpcSubnet": "a3mega-sub", "podIPv4Ranges": pods}
        reference = {"group": _GROUP, "kind": "GKENetworkParamSet", "name": name}
        spec = {"type": "Device" if number else "L3", "parametersRef": reference}
        for kind, body in (("GKENetworkParamSet", parameters), ("Network", spec)):
            item = {"apiVersion": f"{_GROUP}/v1", "kind": kind, "metadata": {"name": name}}
            found.append({**item, "spec": body})
    return found


def _daemon_set(name: str, image: str, *, installer: str = "") -> Object:
    labels = {"k8s-app": name}
    rolling: Object = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}}
    gpu_pools: list[Object] = [
        {"key": ACCELERATOR, "operator": "In", "values": [MEGA]},
        {"key": "cloud.google.com/gke-nodepool", "operator": "Exists"},
    ]
    terms = {"nodeSelectorTerms": [{"matchExpressions": gpu_pools}]}
    pod: Object = {
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}},
        "priorityClassName": "system-node-critical",
        "automountServiceAccountToken": False,
        "containers": [{"name": name if not installer else "pause", "image": image}],
    }
    if installer:
        pod["initContainers"] = [{"name": name, "image": installer}]
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": "kube-system", "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": rolling,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def system_objects() -> list[Object]:
    """What prepares the hosts: device injector, TCPXO installer, GCS FUSE."""
    registry = "us-docker.pkg.dev/gce-ai-infra/gpudirect-tcpxo"
    plugin = f"{registry}/nccl-plugin-gpudirecttcpx-dev:{TCPXO_VERSION}"
    driver = {
        "attachRequired": False,
        "podInfoOnMount": True,
        "volumeLifecycleModes": ["Persistent", "Ephemeral"],
    }
    return [
        _daemon_set("device-injector", "gcr.io/gke-release/nri-device-injector:test"),
        _daemon_set("nccl-tcpxo-installer", "gke.gcr.io/pause:3.8", installer=plugin),
        _daemon_set("gcsfusecsi-node", "gke.gcr.io/gcs-fuse-csi-driver:test"),
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSIDriver",
            "metadata": {"name": CSI_DRIVER},
            "spec": driver,
        },
    ]


def install(api: Api) -> None:
    """Creates everything."""
    for item in [*nodes(), *system_objects()]:
        api.apply(item)
    install_networks(api)


def install_networks(api: Api) -> None:
    """Creates the network types and objects; what is there already is made so."""
    for item in crds():
        api.apply(item)
    for plural in ("networks", "gkenetworkparamsets"):
        wait_for(f"API {plural}", lambda p=plural: api.get(f"/apis/{_GROUP}/v1/{p}"))  # type: ignore[misc]
    for item in networks():
        api.apply(item)


def wait(api: Api) -> None:
    """Waits until the hosts are Ready and the DaemonSets complete, the healthy state."""
    for item in nodes():
        name, taints = item["metadata"]["name"], 1 + item["spec"].get("unschedulable", False)
        wait_for(f"kwok node {name}", lambda n=name, t=taints: _is_ready(api, n, t))  # type: ignore[misc]
    for name in DAEMON_SETS:
        wait_for(f"DaemonSet {name}", lambda n=name: daemon_set_complete(api, n))  # type: ignore[misc]


def _is_ready(api: Api, name: str, taints: int) -> bool:
    item = api.get(f"/api/v1/nodes/{name}")
    conditions = item["status"].get("conditions", [])
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ready and len(item["spec"].get("taints", [])) == taints


def daemon_set_complete(api: Api, name: str) -> bool:
    """Whether a kube-system DaemonSet runs its current template, ready, on all of its nodes."""
    try:
        item = api.get(f"/apis/apps/v1/namespaces/kube-system/daemonsets/{name}")
    except ClusterError:
        return False
    status, wanted = item["status"], item["status"].get("desiredNumberScheduled", 0)
    return bool(
        status.get("observedGeneration") == item["metadata"]["generation"]
        and wanted > 0
        and status.get("numberReady", 0) == wanted
        and status.get("updatedNumberScheduled", 0) == wanted
    )
