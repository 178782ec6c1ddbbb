"""The GPU networks and the DaemonSets of the interconnect."""

from __future__ import annotations

import json
from typing import Any

from manyhost.cluster.connection import Missing, path_of
from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed, skipped, warned

_API = "networking.gke.io/v1"
_SYSTEM = "kube-system"
_PRIMARY = {"default", "pod-network"}  # the cluster's own network, under its name and its older one


@check("networks", "Are the GPU networks there, in the right mode?")
def networks(sight: Sight) -> Finding | list[Finding]:
    """Network objects of the pods' annotation, and their parameter sets."""
    wanted = _wanted(sight)
    if not wanted:
        return skipped("the pods use the cluster's network only")
    environment = sight.target.plan.environment
    fix = f"manyhost discover {environment.name} fills in the names that this cluster has"
    try:
        found = {item["metadata"]["name"]: item for item in sight.list(_API, "networks")}
        sets = {item["metadata"]["name"]: item for item in sight.list(_API, "gkenetworkparamsets")}
    except Missing:
        return failed(
            "the cluster has no multi-networking: it is chosen when a cluster is made",
            "gcloud container clusters create NAME --enable-dataplane-v2 --enable-multi-networking",
        )
    extra = [name for name in wanted if name not in _PRIMARY]
    missing = [name for name in extra if name not in found]
    findings: list[Finding] = []
    if missing:
        there = ", ".join(sorted(found)) or "none"
        findings.append(failed(f"Network {', '.join(missing)} does not exist; there are: {there}", fix))
    for name in extra:
        if name in found:
            findings += _network(name, found[name], sets, environment.network_device_mode)
    unused = [
        name
        for name, item in found.items()
        if (item.get("spec") or {}).get("type") == "Device" and name not in extra
    ]
    if unused and not missing:
        findings.append(
            warned(
                f"Device networks {', '.join(sorted(unused))} are not used by the pods; "
                "an additional gVNIC takes a GPU's slot on this machine type",
                "kubectl get networks.networking.gke.io",
            )
        )
    return findings or passed(f"{len(extra)} networks of type Device, mode {environment.network_device_mode}")


@check("interconnect-daemons", "Do the interconnect's DaemonSets run on the hosts?")
def interconnect_daemons(sight: Sight) -> Finding | list[Finding]:
    """The installers and injectors that the interconnect needs in kube-system."""
    names = sight.target.plan.interconnect.daemonsets
    if not names:
        return skipped(f"interconnect {sight.target.plan.interconnect.name} needs none")
    if not _hosts(sight):
        return skipped("there is no host of the right type for them to run on")
    findings: list[Finding] = []
    for name in names:
        item = _daemonset(sight, name)
        if item is None:
            findings.append(
                failed(
                    f"DaemonSet {name} is not in {_SYSTEM}",
                    "kubectl apply -f https://raw.githubusercontent.com/GoogleCloudPlatform/"
                    f"container-engine-accelerators/master/{_MANIFESTS.get(name, '')}",
                )
            )
            continue
        status = item.get("status") or {}
        desired, ready = int(status.get("desiredNumberScheduled", 0)), int(status.get("numberReady", 0))
        look = f"kubectl -n {_SYSTEM} rollout status daemonset {name}"
        if desired == 0:
            findings.append(
                failed(f"DaemonSet {name} runs on no host", f"kubectl -n {_SYSTEM} describe ds {name}")
            )
        elif ready < sight.target.groups * sight.target.size:
            findings.append(failed(f"DaemonSet {name} is ready on {ready} of {desired} hosts", look))
        elif ready < desired:
            findings.append(warned(f"DaemonSet {name} is ready on {ready} of {desired} hosts", look))
    return findings or passed(f"{', '.join(names)} run on the hosts")


@check(
    "interconnect-versions",
    "Do the host's plugin and the pods' daemon belong together?",
    needs=("api", "interconnect-daemons"),
)
def interconnect_versions(sight: Sight) -> Finding:
    """The installer's image against the pairs in the catalog."""
    plan, values = sight.target.plan, sight.target.effective
    releases = plan.interconnect.releases
    if not releases:
        return skipped(f"interconnect {plan.interconnect.name} has no versions to match")
    settings = values["gpuPlatformSettings"]
    daemon = str(settings["rxdmImage"]).rsplit(":", 1)[-1]
    where = "the host's plugin"
    plugin = ""
    if settings["useHostPlugin"]:
        for name in plan.interconnect.daemonsets:
            plugin = plugin or _plugin_tag(_daemonset(sight, name), plan.interconnect.plugin_repository)
        if not plugin:
            return warned("the version of the host's plugin cannot be told from the installer's image")
    else:
        where, plugin = "the pods' plugin", str(settings["ncclPluginImage"]).rsplit(":", 1)[-1]
    pair = next((item for item in releases if item.daemon == daemon), None)
    if pair is None:
        return warned(f"daemon {daemon} is in no release of the catalog; {where} is {plugin}")
    if pair.plugin != plugin:
        installer = next((n for n in plan.interconnect.daemonsets if "installer" in n), "INSTALLER")
        return failed(
            f"{where} is {plugin}; daemon {daemon} belongs to {pair.plugin}",
            f"kubectl -n {_SYSTEM} set image daemonset/{installer} "
            f"'*={plan.interconnect.plugin_repository}:{pair.plugin}'",
        )
    return passed(f"plugin {plugin} and daemon {daemon} are one release")


_MANIFESTS = {
    "nccl-tcpxo-installer": "gpudirect-tcpxo/nccl-tcpxo-installer.yaml",
    "device-injector": "nri_device_injector/nri-device-injector.yaml",
}


def _wanted(sight: Sight) -> list[str]:
    annotations = sight.target.pod("leader")["metadata"].get("annotations") or {}
    text = annotations.get("networking.gke.io/interfaces")
    return [item["network"] for item in json.loads(text)] if text else []


def _network(name: str, item: dict[str, Any], sets: dict[str, Any], mode: str) -> list[Finding]:
    spec = item.get("spec") or {}
    look = f"kubectl describe networks.networking.gke.io {name}"
    if spec.get("type") != "Device":
        return [failed(f"Network {name} is of type {spec.get('type') or 'none'}, not Device", look)]
    reference = (spec.get("parametersRef") or {}).get("name", "")
    if reference not in sets:
        return [
            failed(
                f"Network {name} refers to GKENetworkParamSet {reference or 'none'}, which does not exist",
                "kubectl get gkenetworkparamsets.networking.gke.io",
            )
        ]
    found = (sets[reference].get("spec") or {}).get("deviceMode") or "none"
    if found != mode:
        return [
            failed(
                f"GKENetworkParamSet {reference} has device mode {found}, not {mode}",
                f"kubectl describe gkenetworkparamsets.networking.gke.io {reference}",
            )
        ]
    for condition in (item.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "Ready" and condition.get("status") == "False":
            return [failed(f"Network {name} is not ready: {condition.get('message', '')}", look)]
    return []


def _hosts(sight: Sight) -> bool:
    """Whether any node carries the labels that the pods select."""
    selector = sight.target.pod("leader")["spec"].get("nodeSelector") or {}
    labels = ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
    query = {"labelSelector": labels or None, "limit": 1}
    return bool(sight.connection.get(path_of("v1", "nodes"), query=query).get("items"))


def _daemonset(sight: Sight, name: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = sight.once(
        f"daemonset {name}", lambda: sight.find("apps/v1", "daemonsets", name, _SYSTEM)
    )
    return found


def _plugin_tag(daemonset: dict[str, Any] | None, repository: str) -> str:
    """The tag of the plugin image that a DaemonSet installs; empty when it is none."""
    spec = ((daemonset or {}).get("spec") or {}).get("template", {}).get("spec") or {}
    for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        image, _, tag = str(container.get("image", "")).partition("@")[0].rpartition(":")
        if image == repository:
            return tag
    return ""
