"""Nodes and objects of a healthy cluster with GPU hosts of one shape, A3 Mega if none is named.

No document gives the allocatable part of a host: here about two percent less than it has.
"""

from __future__ import annotations

from testbed.api import Api, Object, path_of
from testbed.errors import ClusterError
from testbed.kwok import ANNOTATION
from testbed.node import Kind
from testbed.shapes import A3MEGA, A3ULTRA, ACCELERATOR, SUBBLOCK, Shape, crd
from testbed.shapes import NODE_POOL as POOL_LABEL
from testbed.shapes import SYSTEM as SYSTEM_HOST
from testbed.system import wait_for

NODE_POOL = A3MEGA.pool
HEALTHY, CORDONED, SMALL = A3MEGA.healthy, A3MEGA.cordoned, A3MEGA.small
SYSTEM = SYSTEM_HOST.host(1)
DAEMON_SETS = tuple(name for name, _ in A3MEGA.daemon_sets)
CSI_DRIVER = "gcsfuse.csi.storage.gke.io"
_PRIMARY = "default"  # the pods' own network
_GROUP = "networking.gke.io"
_NETWORKING = f"/apis/{_GROUP}/v1"


def container_node(gpus: int) -> Kind:
    """A container node; with GPUs it is found, and kept free, as an A3 Mega host is."""
    if not gpus:
        return Kind()
    taints = tuple(f"{key}={value}:{effect}" for key, value, effect in A3MEGA.taints)
    return Kind(gpus, A3MEGA.labels, taints)


def node(
    name: str,
    shape: Shape = A3MEGA,
    *,
    gpus: int | None = None,
    number: int = 1,
    cordoned: bool = False,
) -> Object:
    """A host as its cluster shows it, run by kwok.

    Args:
        name: the node's name.
        shape: what it is.
        gpus: GPUs that it offers; all of its shape's if not given.
        number: place in the topology.
        cordoned: whether it takes no new pods.
    """
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": shape.architecture,
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": shape.architecture,
        **shape.labels,
    }
    spec: Object = {
        "taints": [{"key": key, "value": value, "effect": effect} for key, value, effect in shape.taints]
    }
    if cordoned:
        spec["unschedulable"] = True
    info = {"kubeletVersion": shape.version, "architecture": shape.architecture, "operatingSystem": "linux"}
    info["osImage"] = "Ubuntu 22.04.5 LTS"
    if shape.pool:
        info["osImage"] = "Container-Optimized OS from Google"
        spec["providerID"] = f"gce://test-project/us-central1-a/{name}"
        labels |= {
            "node.kubernetes.io/instance-type": shape.machine,
            "topology.kubernetes.io/region": "us-central1",
            "topology.kubernetes.io/zone": "us-central1-a",
            POOL_LABEL: shape.pool,
        }
    if shape.pool and shape.gpus:
        labels |= {
            "cloud.google.com/gke-gpu": "true",
            "cloud.google.com/gke-ephemeral-storage-local-ssd": "true",
            "cloud.google.com/gce-topology-block": "block-1",
            SUBBLOCK: f"subblock-{(number - 1) // shape.subblock_hosts + 1}",
            "cloud.google.com/gce-topology-host": f"host-{number}",
            "cloud.google.com/gke-gpu-driver-version": "latest",
        }
    offered = dict(shape.resources)
    if shape.gpus:
        offered["nvidia.com/gpu"] = str(shape.gpus if gpus is None else gpus)
        offered |= {name: "1" for network, _ in shape.networks for name in network_resources(network)}
    capacity = {
        "cpu": str(shape.cpus),
        "memory": f"{shape.memory_gib}Gi",
        "pods": "110",
        "ephemeral-storage": f"{shape.ssd_gib}Gi",
        **offered,
    }
    allocatable = {
        **capacity,
        "cpu": f"{shape.cpus * 1000 * 98 // 100}m",
        "memory": f"{shape.memory_gib * 98 // 100}Gi",
        "ephemeral-storage": f"{shape.ssd_gib * 98 // 100}Gi",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": dict(ANNOTATION)},
        "spec": spec,
        "status": {"capacity": capacity, "allocatable": allocatable, "nodeInfo": info},
    }


def network_resources(network: str) -> tuple[str, str]:
    """What a host offers one of for each network: the device, and its address."""
    return f"{_GROUP}.networks/{network}", f"{_GROUP}.networks/{network}.IP"


def nodes(shape: Shape = A3MEGA) -> list[Object]:
    """Four healthy hosts, one cordoned, one too small, one without GPUs; on GKE one of another type."""
    made = [node(name, shape, number=n) for n, name in enumerate(shape.healthy, 1)]
    made.append(node(shape.cordoned, shape, number=5, cordoned=True))
    made.append(node(shape.small, shape, number=6, gpus=shape.gpus // 2))
    if shape.pool:
        other = A3ULTRA if shape == A3MEGA else A3MEGA
        made.append(node(other.host(1), other, number=7))
    return [*made, node(SYSTEM, SYSTEM_HOST)]


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
    status = {"type": "object", "properties": {"conditions": conditions}}
    made = [
        crd(_GROUP, "v1", kind, {"type": "object", "properties": fields}, status)
        for kind, fields in (("Network", network), ("GKENetworkParamSet", parameters))
    ]
    for item in made:
        # the group is protected: the API server asks for a word on who approved it
        item["metadata"]["annotations"] = {"api-approved.kubernetes.io": "unapproved, test cluster"}
    return made


def networks(shape: Shape = A3MEGA) -> list[Object]:
    """The pod network `default` and the shape's additional networks with their parameter sets."""
    if not shape.networks:
        return []
    pods = {"rangeNames": ["pods"]}
    own = {"vpc": f"{shape.name}-net", "vpcSubnet": f"{shape.name}-sub", "podIPv4Ranges": pods}
    wanted: list[tuple[str, str, Object]] = [(_PRIMARY, "L3", own)]
    for number, (name, mode) in enumerate(shape.networks):
        vpc, subnet = f"{shape.name}-gpunet-{number}", f"{shape.name}-gpunet-{number}-subnet"
        if mode == "RDMA":  # one VPC with a subnet for each NIC
            vpc, subnet = f"{shape.name}-rdma-net", f"{shape.name}-rdma-sub-{name.rpartition('-')[2]}"
        wanted.append((name, "Device", {"vpc": vpc, "vpcSubnet": subnet, "deviceMode": mode}))
    found: list[Object] = []
    for name, kind_of, parameters in wanted:
        reference = {"group": _GROUP, "kind": "GKENetworkParamSet", "name": name}
        spec = {"type": kind_of, "parametersRef": reference}
        for kind, body in (("GKENetworkParamSet", parameters), ("Network", spec)):
            item = {"apiVersion": f"{_GROUP}/v1", "kind": kind, "metadata": {"name": name}}
            found.append({**item, "spec": body})
    return found


def _daemon_set(name: str, image: str, shape: Shape) -> Object:
    """A DaemonSet of kube-system; an installer has the plugin's image in an init container."""
    installer = image if name.endswith("-installer") else ""
    labels = {"k8s-app": name}
    rolling: Object = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}}
    gpu_pools: list[Object] = [
        {"key": ACCELERATOR, "operator": "In", "values": [shape.labels[ACCELERATOR]]},
        {"key": POOL_LABEL, "operator": "Exists"},
    ]
    terms = {"nodeSelectorTerms": [{"matchExpressions": gpu_pools}]}
    pod: Object = {
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}},
        "priorityClassName": "system-node-critical",
        "automountServiceAccountToken": False,
        "containers": [
            {"name": "pause", "image": "gke.gcr.io/pause:3.8"}
            if installer
            else {"name": name, "image": image}
        ],
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


def system_objects(shape: Shape = A3MEGA) -> list[Object]:
    """What prepares the hosts, GCS FUSE on GKE, and what else such a cluster has."""
    made = [_daemon_set(name, image, shape) for name, image in shape.daemon_sets]
    if shape.pool:
        driver = {
            "attachRequired": False,
            "podInfoOnMount": True,
            "volumeLifecycleModes": ["Persistent", "Ephemeral"],
        }
        made.append(
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "CSIDriver",
                "metadata": {"name": CSI_DRIVER},
                "spec": driver,
            }
        )
    return [*made, *shape.extras]


def install(api: Api, shape: Shape = A3MEGA) -> None:
    """Creates everything."""
    for item in [*nodes(shape), *system_objects(shape)]:
        api.apply(item)
    install_networks(api, shape)


def install_networks(api: Api, shape: Shape = A3MEGA) -> None:
    """Creates the network types and objects; what is there already is made so, and others go."""
    wanted = networks(shape)
    if not wanted:
        remove_network_types(api)
        return
    for item in crds():
        api.apply(item)
    for kind in ("Network", "GKENetworkParamSet"):
        path = f"{_NETWORKING}/{kind.lower()}s"
        wait_for(f"API {path}", lambda p=path: api.get(p))  # type: ignore[misc]
        names = {item["metadata"]["name"] for item in wanted}
        for found in api.get(path)["items"]:
            if found["metadata"]["name"] not in names:
                api.call("DELETE", f"{path}/{found['metadata']['name']}")
    for item in wanted:
        api.apply(item)
        kinds = ("ParamsReady", "Ready") if item["kind"] == "Network" else ("Ready",)
        set_conditions(api, item, dict.fromkeys(kinds, ("True", "")))


def set_conditions(api: Api, item: Object, conditions: dict[str, tuple[str, str]]) -> None:
    """Gives a network object its conditions as GKE's controllers do: by type, status and message."""
    made = [
        {
            "type": kind,
            "status": status,
            "reason": f"{item['kind']}{'Ready' if status == 'True' else 'NotReady'}",
            "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for kind, (status, message) in conditions.items()
    ]
    api.patch(f"{path_of(item)}/status", {"status": {"conditions": made}})


def remove_network_types(api: Api) -> None:
    """Deletes the network types with all of their objects: a cluster without multi-networking."""
    for item in crds():
        remove(api, item)
    for plural in ("networks", "gkenetworkparamsets"):
        wait_for(f"end of {plural}", lambda p=plural: gone(api, f"{_NETWORKING}/{p}"))  # type: ignore[misc]


def replace(api: Api, before: Shape, after: Shape) -> None:
    """Removes the healthy objects of one shape and makes those of another."""
    kept = nodes(after)
    for item in system_objects(before):
        remove(api, item)
    names = ",".join(name for name, _ in before.daemon_sets)
    pods = f"/api/v1/namespaces/kube-system/pods?labelSelector=k8s-app+in+({names})"
    # while their nodes are there: pods of a node that is gone linger until the collector finds them
    wait_for("end of the DaemonSets' pods", lambda: not (names and api.get(pods)["items"]))
    for item in nodes(before):
        if item not in kept:
            remove(api, item)
    install(api, after)
    wait(api, after)


def wait(api: Api, shape: Shape = A3MEGA) -> None:
    """Waits until the hosts are Ready and the DaemonSets complete, the healthy state."""
    for item in nodes(shape):
        name = item["metadata"]["name"]
        taints = len(item["spec"]["taints"]) + item["spec"].get("unschedulable", False)
        wait_for(f"kwok node {name}", lambda n=name, t=taints: _is_ready(api, n, t))  # type: ignore[misc]
    for name, _ in shape.daemon_sets:
        wait_for(f"DaemonSet {name}", lambda n=name: daemon_set_complete(api, n))  # type: ignore[misc]
    for item in shape.extras:
        if item["kind"] == "CustomResourceDefinition":
            spec = item["spec"]
            path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
            wait_for(f"API {path}", lambda p=path: api.get(p))  # type: ignore[misc]


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


def remove(api: Api, item: Object) -> None:
    """Deletes an object, if it is there, and waits for its end."""
    path = path_of(item)
    if not gone(api, path):
        api.delete(item)
        wait_for(f"end of {path}", lambda: gone(api, path))


def gone(api: Api, path: str) -> bool:
    """Whether there is nothing at `path`."""
    try:
        api.get(path)
    except ClusterError:
        return True
    return False
