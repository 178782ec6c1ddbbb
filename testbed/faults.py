"""Faults to plant in the healthy objects of GPU hosts, and one way to heal them all.

Each function changes one thing of what `gpu_hosts` made and returns when it can be observed;
`heal` brings everything back. A cluster with faults is up: only `heal` or `down` ends them.
"""

from __future__ import annotations

from testbed import gpu_hosts, kwok, lws
from testbed.api import Api, Object, path_of
from testbed.cluster import Cluster
from testbed.errors import ClusterError
from testbed.system import wait_for

_NETWORKING = "/apis/networking.gke.io/v1"
_KUBE_SYSTEM = "/apis/apps/v1/namespaces/kube-system/daemonsets"
_BUSY = {"testcluster.manyhost.dev/busy": "true"}
_CONTROLLERS = "node.kubernetes.io/"  # taints that the control plane puts and takes itself
_AMOUNTS = ("capacity", "allocatable")
_PLANTED = {"testcluster.manyhost.dev/planted": "true"}
_NAMESPACED = {
    **dict.fromkeys(("LimitRange", "ResourceQuota", "ConfigMap", "Service", "ServiceAccount"), "v1"),
    "NetworkPolicy": "networking.k8s.io/v1",
}
_ADMISSION = "admissionregistration.k8s.io/v1"
_ADMITTING = (
    *("mutatingwebhookconfigurations", "validatingwebhookconfigurations"),
    *("validatingadmissionpolicybindings", "validatingadmissionpolicies"),
)
_DEFAULT = "/api/v1/namespaces/default"
_SECURITY = "pod-security.kubernetes.io/enforce"
_HELM = ("meta.helm.sh/release-name", "meta.helm.sh/release-namespace")
_KEEP = "helm.sh/resource-policy"
_LWS_CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/leaderworkersets.leaderworkerset.x-k8s.io"
_LWS = "/apis/apps/v1/namespaces/lws-system/deployments/lws-controller-manager"


def remove_network(cluster: Cluster, name: str) -> None:
    """Deletes a Network object; its parameter set stays."""
    cluster.api.call("DELETE", f"{_NETWORKING}/networks/{name}")


def remove_parameters(cluster: Cluster, name: str) -> None:
    """Deletes a GKENetworkParamSet object; the Network that names it stays."""
    cluster.api.call("DELETE", f"{_NETWORKING}/gkenetworkparamsets/{name}")


def set_device_mode(cluster: Cluster, name: str, mode: str) -> None:
    """Gives a parameter set another device mode: NetDevice, RDMA or DPDK-VFIO."""
    body = {"spec": {"deviceMode": mode}}
    cluster.api.patch(f"{_NETWORKING}/gkenetworkparamsets/{name}", body)


def remove_network_types(cluster: Cluster) -> None:
    """Deletes the network CRDs: a cluster without multi-networking."""
    gpu_hosts.remove_network_types(cluster.api)


def cordon(cluster: Cluster, node: str, *, cordoned: bool = True) -> None:
    """Keeps new pods off a node, or lets them on again."""
    cluster.api.patch(f"/api/v1/nodes/{node}", {"spec": {"unschedulable": cordoned}})


def remove_node(cluster: Cluster, node: str) -> None:
    """Deletes a kwok node, with the pods on it."""
    cluster.api.call("DELETE", f"/api/v1/nodes/{node}")


def set_label(cluster: Cluster, node: str, key: str, value: str | None) -> None:
    """Changes a node's label; None removes it."""
    cluster.api.patch(f"/api/v1/nodes/{node}", {"metadata": {"labels": {key: value}}})


def add_taint(cluster: Cluster, node: str, key: str, value: str, effect: str) -> None:
    """Adds a taint to a node."""
    path = f"/api/v1/nodes/{node}"
    taints = cluster.api.get(path)["spec"].get("taints", [])
    taints.append({"key": key, "value": value, "effect": effect})
    cluster.api.patch(path, {"spec": {"taints": taints}})


def set_gpus(cluster: Cluster, node: str, count: int) -> None:
    """Changes how many GPUs a kwok node has, as when some fell off the bus."""
    set_resource(cluster, node, "nvidia.com/gpu", str(count))


def set_healthy_gpus(cluster: Cluster, node: str, count: int) -> None:
    """Changes how many of a kwok node's GPUs can be used, as when the device plug-in found others broken."""
    cluster.api.patch(
        f"/api/v1/nodes/{node}/status", {"status": {"allocatable": {"nvidia.com/gpu": str(count)}}}
    )


def set_resource(cluster: Cluster, node: str, name: str, value: str | None) -> None:
    """Changes what a kwok node offers of a resource; None: it has no such resource."""
    amount = {name: value}
    status = {"status": {"capacity": amount, "allocatable": amount}}
    cluster.api.patch(f"/api/v1/nodes/{node}/status", status)


def occupy(cluster: Cluster, node: str, gpus: int = 8, *, name: str = "") -> None:
    """Puts a running pod of somebody else on a kwok node, with its GPUs."""
    limits = {"limits": {"nvidia.com/gpu": str(gpus)}}
    container = {"name": "busy", "image": "busy:1", "resources": limits}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name or f"busy-{node}", "namespace": "default", "labels": _BUSY},
        "spec": {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 0},
    }
    cluster.api.apply(pod)


def detach(cluster: Cluster, node: str, network: str) -> None:
    """Takes a network from a kwok node: its node pool has no NIC in it."""
    for name in gpu_hosts.network_resources(network):
        set_resource(cluster, node, name, None)


def rename_networks(cluster: Cluster, names: dict[str, str]) -> None:
    """Gives additional networks other names, as other tools do: the objects, and what the hosts offer."""
    for item in gpu_hosts.networks(cluster.shape):
        new = names.get(item["metadata"]["name"])
        if new is None:
            continue
        spec = dict(item["spec"])
        if item["kind"] == "Network":
            cluster.api.delete(item)
            spec["parametersRef"] = {**spec["parametersRef"], "name": new}
        cluster.api.apply({**item, "metadata": {"name": new}, "spec": spec})
    for node in cluster.shape.hosts:
        amounts: dict[str, str | None] = {}
        for old, new in names.items():
            amounts |= dict.fromkeys(gpu_hosts.network_resources(old))
            amounts |= dict.fromkeys(gpu_hosts.network_resources(new), "1")
        status = {"status": dict.fromkeys(_AMOUNTS, amounts)}
        cluster.api.patch(f"/api/v1/nodes/{node}/status", status)


def set_network_condition(cluster: Cluster, name: str, kind: str, status: str, message: str) -> None:
    """Gives a Network one condition that is not the healthy one; the parameters' is their set's too."""
    network = next(
        i for i in gpu_hosts.networks(cluster.shape) if i["metadata"]["name"] == name and "type" in i["spec"]
    )
    parameters = {**network, "kind": "GKENetworkParamSet"}
    healthy = {"ParamsReady": ("True", ""), "Ready": ("True", "")}
    if kind == "ParamsReady":
        gpu_hosts.set_conditions(cluster.api, parameters, {"Ready": (status, message)})
        healthy["Ready"] = ("False", "params are not ready")
        message = "GKENetworkParamSet is not ready"
    gpu_hosts.set_conditions(cluster.api, network, {**healthy, kind: (status, message)})


def plant(cluster: Cluster, item: Object) -> None:
    """Creates an object of somebody else that `heal` takes away again."""
    metadata = {**item["metadata"], "labels": _PLANTED}
    if item["kind"] in _NAMESPACED:
        metadata.setdefault("namespace", "default")
    cluster.api.apply({**item, "metadata": metadata})


def break_webhook(cluster: Cluster, kind: str) -> None:
    """Registers a webhook that must be asked about every pod of `default`, and that nothing answers.

    Args:
        cluster: the cluster.
        kind: Mutating or Validating.
    """
    service = {"namespace": "default", "name": "policy", "path": "/", "port": 443}
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    hook = {
        "name": "pods.policy.example",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "timeoutSeconds": 2,
        "clientConfig": {"service": service},
        "rules": [rule],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
    }
    made = {"apiVersion": _ADMISSION, "kind": f"{kind}WebhookConfiguration", "metadata": {"name": "policy"}}
    plant(cluster, {**made, "webhooks": [hook]})


def require_label(cluster: Cluster, label: str, message: str) -> None:
    """Makes a rule of the cluster that pods of `default` have a label, and returns when it holds."""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    wanted = f"has(object.metadata.labels) && '{label}' in object.metadata.labels"
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": wanted, "message": message}],
    }
    where = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}
    binding = {"policyName": "labels", "validationActions": ["Deny"], "matchResources": where}
    for kind, what in (("ValidatingAdmissionPolicy", spec), ("ValidatingAdmissionPolicyBinding", binding)):
        made = {"apiVersion": _ADMISSION, "kind": kind, "metadata": {"name": "labels"}, "spec": what}
        plant(cluster, made)
    wait_for("the rule holds", lambda: not _admits(cluster.api))


def enforce(cluster: Cluster, level: str) -> None:
    """Lets Pod Security refuse pods of `default` that are not of a level: baseline or restricted."""
    cluster.api.patch(_DEFAULT, {"metadata": {"labels": {_SECURITY: level}}})


def install_lws_with_helm(cluster: Cluster) -> None:
    """Marks the CRD of LeaderWorkerSet as Helm does that of a chart up to v0.7.0."""
    cluster.api.patch(_LWS_CRD, {"metadata": {"annotations": dict.fromkeys(_HELM, "lws")}})


def set_daemonset_ready(cluster: Cluster, name: str, *, ready: bool) -> None:
    """Lets every pod of a kube-system DaemonSet wait for its image, or run again."""
    path = f"{_KUBE_SYSTEM}/{name}"
    labels = {kwok.FAULT: None if ready else "ImagePullBackOff"}
    cluster.api.patch(path, {"spec": {"template": {"metadata": {"labels": labels}}}})

    def settled() -> bool:
        status = cluster.api.get(path)["status"]
        wanted = status["desiredNumberScheduled"]
        return bool(
            status.get("updatedNumberScheduled", 0) == wanted
            and status.get("numberReady", 0) == (wanted if ready else 0)
        )

    wait_for(f"DaemonSet {name} {'ready' if ready else 'not ready'}", settled)


def remove_daemonset(cluster: Cluster, name: str) -> None:
    """Deletes a kube-system DaemonSet."""
    cluster.api.call("DELETE", f"{_KUBE_SYSTEM}/{name}?propagationPolicy=Background")


def change_version(cluster: Cluster, name: str, version: str) -> None:
    """Gives a DaemonSet's images, or `lws`' controller, another tag."""
    path = _LWS if name == "lws" else f"{_KUBE_SYSTEM}/{name}"

    def changed(item: Object) -> Object:
        spec = item["spec"]["template"]["spec"]
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            if "pause" not in container["image"]:
                container["image"] = f"{container['image'].rpartition(':')[0]}:{version}"
        return item

    cluster.api.change(path, changed)


def remove_csi_driver(cluster: Cluster) -> None:
    """Deletes the registration of the GCS FUSE driver."""
    cluster.api.call("DELETE", f"/apis/storage.k8s.io/v1/csidrivers/{gpu_hosts.CSI_DRIVER}")


def heal(cluster: Cluster) -> None:
    """Brings every object of the cluster's shape, and LWS, back to the healthy state.

    Pods of tests stay, those of `occupy` go.
    """
    api = cluster.api
    selector = "&".join(f"labelSelector={k}%3D{v}" for k, v in _BUSY.items())
    api.call("DELETE", f"/api/v1/namespaces/default/pods?{selector}")
    _uproot(api)
    shape = cluster.shape
    for item in [*gpu_hosts.nodes(shape), *gpu_hosts.system_objects(shape), *lws.deployment()]:
        _reset(api, item)
    gpu_hosts.install_networks(api, shape)
    gpu_hosts.wait(api, shape)
    cluster.start_lws_controller()


def _uproot(api: Api) -> None:
    """Takes away what `plant`, `enforce` and `install_lws_with_helm` have made."""
    selector = "&".join(f"labelSelector={k}%3D{v}" for k, v in _PLANTED.items())
    for plural in _ADMITTING:
        api.call("DELETE", f"/apis/{_ADMISSION}/{plural}?{selector}")
    api.patch(_DEFAULT, {"metadata": {"labels": {_SECURITY: None}}})
    for kind, version in _NAMESPACED.items():
        example = {"apiVersion": version, "kind": kind, "metadata": {"name": "", "namespace": "default"}}
        api.call("DELETE", f"{path_of(example).rstrip('/')}?{selector}")
    wait_for("pods are admitted", lambda: _admits(api))
    api.patch(_LWS_CRD, {"metadata": {"annotations": dict.fromkeys((*_HELM, _KEEP))}})


def _admits(api: Api) -> bool:
    """Whether `default` takes an ordinary pod."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "ordinary"},
        "spec": {"containers": [{"name": "ordinary", "image": "ordinary:1"}]},
    }
    try:
        api.call("POST", f"{_DEFAULT}/pods?dryRun=All", pod)
    except ClusterError:
        return False
    return True


def _reset(api: Api, item: Object) -> None:
    """Makes spec, labels and (of a node) capacity of the object exactly those of `item`."""
    path = path_of(item)
    if gpu_hosts.gone(api, path):
        api.apply(item)
        return
    if item["kind"] == "Namespace":
        return

    def healed(found: Object) -> Object:
        spec = {**found["spec"], **item["spec"]}
        if item["kind"] == "Node":
            kept = [t for t in found["spec"].get("taints", []) if t["key"].startswith(_CONTROLLERS)]
            spec["taints"] = [*item["spec"].get("taints", []), *kept]
            spec["unschedulable"] = item["spec"].get("unschedulable", False)
        metadata = {**found["metadata"], "labels": item["metadata"].get("labels", {})}
        return {**found, "metadata": metadata, "spec": spec}

    api.change(path, healed)
    if item["kind"] == "Node":
        has = api.get(path)["status"]
        amounts = {k: {**dict.fromkeys(has.get(k) or {}), **item["status"][k]} for k in _AMOUNTS}
        api.patch(f"{path}/status", {"status": amounts})
