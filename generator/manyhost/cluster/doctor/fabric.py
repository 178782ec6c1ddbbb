"""The GPU networks and the DaemonSets of the interconnect, whichever it is: what they must be is data."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from manyhost.catalog.interconnect import DaemonSet, GpuDirectTcp, Plugin
from manyhost.cluster import gke
from manyhost.cluster.connection import Forbidden, Missing, Object, path_of
from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed, skipped, warned
from manyhost.commands import Commands
from manyhost.plan import image

INTERFACES = "networking.gke.io/interfaces"  # annotation of a pod: which networks it is attached to
_API = "networking.gke.io/v1"
_SYSTEM = "kube-system"
_NOT_TRUE = ("False", "Unknown")


@check("networks", "Are the GPU networks there, in the right mode?")
def networks(sight: Sight) -> Finding | list[Finding]:
    """Network objects of the pods' annotation, and their parameter sets."""
    modes = _modes(sight)
    if not modes:
        return skipped("the pods use the cluster's network only")
    try:
        found, sets = _objects(sight)
    except Missing:
        return failed(
            "the cluster has no multi-networking: it is chosen when a cluster is made",
            gke.new_cluster(),
        )
    missing = [name for name in modes if name not in found]
    findings: list[Finding] = []
    if missing:
        there = ", ".join(sorted(found)) or "none"
        fix = _names(sight, Counter(modes.values()), found, sets)
        findings.append(failed(f"Network {', '.join(missing)} does not exist; there are: {there}", fix))
    for name, mode in modes.items():
        if name in found:
            findings += _network(name, found[name], sets, mode, sight.commands)
    unused = [
        name
        for name, item in found.items()
        if (item.get("spec") or {}).get("type") == "Device" and name not in modes
    ]
    if unused and not missing:
        findings.append(
            warned(
                f"Device networks {', '.join(sorted(unused))} are not used by the pods; "
                "on A3 Mega an additional gVNIC takes a GPU's slot",
                "ask whoever made them what they are for: "
                + sight.commands.kubectl("get", "networks.networking.gke.io", namespace="")
                + " shows them",
            )
        )
    counts = Counter(modes.values())
    told = " and ".join(f"{count} of mode {mode}" for mode, count in counts.items())
    return findings or passed(f"{len(modes)} networks of type Device, {told}")


@check("interconnect-daemons", "Do the interconnect's DaemonSets run on the hosts?")
def interconnect_daemons(sight: Sight) -> Finding | list[Finding]:
    """The installers and injectors that the interconnect needs in kube-system."""
    interconnect = sight.target.plan.interconnect
    wanted = interconnect.daemonsets if isinstance(interconnect, Plugin) else []
    if not wanted:
        return skipped(f"interconnect {interconnect.name} needs none")
    if not _hosts(sight):
        return skipped("there is no host of the right type for them to run on")
    findings: list[Finding] = []
    for entry in wanted:
        name = entry.name
        item = _daemonset(sight, name)
        if item is None:
            findings.append(failed(f"DaemonSet {name} is not in {_SYSTEM}", _install(sight, entry)))
            continue
        status = item.get("status") or {}
        desired, ready = int(status.get("desiredNumberScheduled", 0)), int(status.get("numberReady", 0))
        look = f"{sight.commands.kubectl('describe', 'daemonset', name, namespace=_SYSTEM)} says more"
        if desired == 0:
            findings.append(failed(f"DaemonSet {name} runs on no host", look))
        elif ready < sight.target.hosts:
            findings.append(failed(f"DaemonSet {name} is ready on {ready} of {desired} hosts", look))
        elif ready < desired:
            findings.append(warned(f"DaemonSet {name} is ready on {ready} of {desired} hosts", look))
    return findings or passed(f"{', '.join(entry.name for entry in wanted)} run on the hosts")


@check(
    "interconnect-versions",
    "Does the host's plugin belong to the catalog, and to the pods' daemon?",
    needs=("api", "interconnect-daemons"),
)
def interconnect_versions(sight: Sight) -> Finding:
    """The installer's image against the releases in the catalog."""
    interconnect = sight.target.plan.interconnect
    if not isinstance(interconnect, Plugin) or not interconnect.releases:
        return skipped(f"interconnect {interconnect.name} has no versions to match")
    settings = sight.target.effective["gpuPlatformSettings"]
    where, plugin = "the pods' plugin", _tag(settings["ncclPluginImage"])
    if settings["useHostPlugin"]:
        where, plugin = "the host's plugin", _host_plugin(sight, interconnect)
        if not plugin:
            return warned("the version of the host's plugin cannot be told from the installer's image")
    if isinstance(interconnect, GpuDirectTcp):
        return _pair(sight, interconnect, where, plugin, _tag(settings["rxdmImage"]))
    known = [release.plugin for release in interconnect.releases]
    if plugin not in known:
        installer = next((d for d in interconnect.daemonsets if d.installs_plugin), None)
        fix = _install(sight, installer) if installer and settings["useHostPlugin"] else ""
        return warned(f"{where} is {plugin}; the catalog knows {', '.join(known)}", fix)
    return passed(f"{where} is {plugin}")


def _install(sight: Sight, entry: DaemonSet) -> str:
    apply = sight.commands.kubectl("apply", "-f", entry.manifest, namespace="")
    return f"whoever runs the cluster installs it: {apply}"


def _pair(sight: Sight, interconnect: GpuDirectTcp, where: str, plugin: str, daemon: str) -> Finding:
    """Hold plugin and daemon against the releases: they exchange buffers, so they belong together."""
    pair = next((item for item in interconnect.releases if item.daemon == daemon), None)
    if pair is None:
        return warned(f"daemon {daemon} is in no release of the catalog; {where} is {plugin}")
    if pair.plugin != plugin:
        return failed(
            f"{where} is {plugin}; daemon {daemon} belongs to {pair.plugin}",
            _other_plugin(sight, interconnect, pair.plugin),
        )
    plan = sight.target.plan
    nccl = image.lock(plan.settings, plan.engine).nccl
    brings = f"; PyTorch in {plan.image} brings {nccl}" if nccl else ""
    return passed(f"plugin {plugin} and daemon {daemon} are one release, for NCCL {pair.nccl}{brings}")


def _other_plugin(sight: Sight, interconnect: GpuDirectTcp, tag: str) -> str:
    """What to do about a plugin of another release than the daemon's; the host's serves everybody on it."""
    image = f"{interconnect.plugin_repository}:{tag}"
    for entry in interconnect.daemonsets:
        container = _plugin_container(_daemonset(sight, entry.name), interconnect.plugin_repository)
        if entry.installs_plugin and container:
            words = ("set", "image", f"daemonset/{entry.name}", f"{container['name']}={image}")
            change = sight.commands.kubectl(*words, namespace=_SYSTEM)
            return f"set network.release to the plugin's, or if nobody else is on these hosts: {change}"
    return "set network.release to the release of both"


def _names(sight: Sight, wanted: Counter[str], found: dict[str, Any], sets: dict[str, Any]) -> str:
    """What to do about names of networks that do not exist: perhaps the cluster has others in their place."""
    there = Counter(_mode(item, sets) for item in found.values())
    if all(there[mode] == count for mode, count in wanted.items()):
        return sight.commands.discover(sight.target.plan.environment.name)
    shown = sight.commands.kubectl("get", gke.NETWORKS, namespace="")
    return f"whoever runs the cluster makes those that are missing: {shown} shows what there is"


def _mode(network: dict[str, Any], sets: dict[str, Any]) -> str:
    """The device mode of a network; empty when it is none of devices."""
    spec = network.get("spec") or {}
    parameters = sets.get((spec.get("parametersRef") or {}).get("name", "")) or {}
    return str((parameters.get("spec") or {}).get("deviceMode", "")) if spec.get("type") == "Device" else ""


def attachable(sight: Sight) -> list[str]:
    """Return the networks beside the cluster's own that pods could get on a host that is attached to them.

    A network that is missing or not ready is no host's fault.
    """
    try:
        found, sets = _objects(sight)
    except (Missing, Forbidden):
        return []
    return [
        name
        for name, mode in _modes(sight).items()
        if name in found and not _network(name, found[name], sets, mode, sight.commands)
    ]


def _modes(sight: Sight) -> dict[str, str]:
    """The device mode that each network of the pods' annotation must have, the cluster's own left out."""
    annotations = sight.target.pod("leader")["metadata"].get("annotations") or {}
    interfaces = json.loads(annotations.get(INTERFACES) or "[]")
    if not interfaces:
        return {}
    nics = sight.target.plan.environment.host.nics
    return {item["network"]: nic.mode for item, nic in zip(interfaces, nics, strict=True) if nic.mode}


def _objects(sight: Sight) -> tuple[dict[str, Object], dict[str, Object]]:
    """Network objects and their parameter sets, by name.

    Raises:
        Missing: The cluster has no multi-networking.
    """
    networks, sets = sight.list(_API, "networks"), sight.list(_API, "gkenetworkparamsets")
    return (
        {item["metadata"]["name"]: item for item in networks},
        {item["metadata"]["name"]: item for item in sets},
    )


def _network(
    name: str, item: Object, sets: dict[str, Object], mode: str, commands: Commands
) -> list[Finding]:
    spec = item.get("spec") or {}
    shown = commands.kubectl("describe", "networks.networking.gke.io", name, namespace="")
    look = f"ask whoever made it: {shown} says more"
    if spec.get("type") != "Device":
        return [failed(f"Network {name} is of type {spec.get('type') or 'none'}, not Device", look)]
    reference = (spec.get("parametersRef") or {}).get("name", "")
    if reference not in sets:
        return [
            failed(
                f"Network {name} refers to GKENetworkParamSet {reference or 'none'}, which does not exist",
                f"ask whoever made it: {commands.kubectl('get', gke.NETWORKS, namespace='')} shows all",
            )
        ]
    shown = commands.kubectl("describe", "gkenetworkparamsets.networking.gke.io", reference, namespace="")
    look_at_set = f"ask whoever made it: {shown} says more"
    found = (sets[reference].get("spec") or {}).get("deviceMode") or "none"
    if found != mode:
        return [failed(f"GKENetworkParamSet {reference} has device mode {found}, not {mode}", look_at_set)]
    # Both conditions: GoogleCloudPlatform/gke-networking-api, apis/network/v1. Ready builds on ParamsReady.
    state, why = _condition(item, "ParamsReady")
    if state in _NOT_TRUE:
        own, cause = _condition(sets[reference], "Ready")
        why = cause if own in _NOT_TRUE else why
        return [failed(f"the parameters of Network {name} are not ready ({state}): {why}", look_at_set)]
    state, why = _condition(item, "Ready")
    if state in _NOT_TRUE:
        return [failed(f"Network {name} is not ready ({state}): {why}", look)]
    return []


def _condition(item: Object, kind: str) -> tuple[str, str]:
    """Status and message of a condition; empty texts when the object has none of that type."""
    for condition in (item.get("status") or {}).get("conditions") or []:
        if condition.get("type") == kind:
            return str(condition.get("status", "")), str(condition.get("message") or "no reason is given")
    return "", ""


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


def _tag(image: str) -> str:
    return str(image).rsplit(":", 1)[-1]


def _host_plugin(sight: Sight, interconnect: Plugin) -> str:
    """The version that the installers have put on the hosts; empty when their images do not tell."""
    for entry in interconnect.daemonsets:
        if entry.installs_plugin:
            container = _plugin_container(_daemonset(sight, entry.name), interconnect.plugin_repository)
            if container:
                return str(container["image"]).partition("@")[0].rpartition(":")[2]
    return ""


def _plugin_container(daemonset: dict[str, Any] | None, repository: str) -> dict[str, Any] | None:
    """The container of a DaemonSet that installs the plugin."""
    spec = ((daemonset or {}).get("spec") or {}).get("template", {}).get("spec") or {}
    containers: list[dict[str, Any]] = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    for container in containers:
        if str(container.get("image", "")).partition("@")[0].rpartition(":")[0] == repository:
            return container
    return None
