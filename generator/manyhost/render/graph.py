"""A release as NVIDIA's Dynamo operator takes it: a DynamoGraphDeployment of the pods that the chart renders.

The operator has the launcher's place: it starts the ranks, watches and restarts them (docs/how-to/dynamo.md).
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Collection
from typing import Any

import yaml

from manyhost.catalog.dynamo import Dynamo, Pair
from manyhost.catalog.environment import RunPod
from manyhost.errors import InvalidInput
from manyhost.plan import Plan, Role
from manyhost.render import Rendered

_ENGINE = "vllm"  # the chart's name for it; the operator's is `main`
_OWN = "MANYHOST_"
_SET = f"{_OWN}SET_"
_LAUNCHER = ("/opt/manyhost", "/etc/manyhost")  # its scripts and its key
_SERVER = ("python3", "-m", "dynamo.vllm")
# Workers publish no events of their caches, which would open one more port: the router keeps its own books.
_FRONTEND = ("python3", "-m", "dynamo.frontend", "--router-mode", "kv", "--no-router-kv-events")
# It reads prompts as text and as tokens, and no weights.
_FRONTEND_RESOURCES = {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "16Gi"}}
_HELPERS = ("ResourceClaimTemplate", "ComputeDomain")
_LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/instance")
_ANNOTATIONS = ("networking.gke.io/", "devices.gke.io/", "gke-gcsfuse/")


class _Dumper(yaml.SafeDumper):
    """Writes what stands twice twice: people read the file."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def dynamo_yaml(rendered: Rendered, dynamo: Dynamo, engines: Collection[str]) -> bytes:
    """Return dynamo.yaml: what pods refer to, and the DynamoGraphDeployment.

    Args:
        rendered: The release as the chart has it, checked.
        dynamo: What is known about Dynamo.
        engines: Versions of vLLM that recipes may have.

    Raises:
        InvalidInput: Dynamo cannot serve it.
    """
    plan = rendered.plan
    _refuse(plan, dynamo)
    pair = _pair(plan, dynamo, engines)
    if plan.settings.engine.command != ["vllm"]:
        raise InvalidInput(
            "Dynamo starts its own engine",
            where=f"{plan.origin('engine.command')}: engine.command",
            fix="leave it out",
        )
    leaders = {
        leader["metadata"]["labels"].get("manyhost.dev/role", "serve"): leader
        for leader in (
            group["spec"]["leaderWorkerTemplate"]["leaderTemplate"]
            for group in _of(rendered, "LeaderWorkerSet")
        )
    }
    components = [_component(plan, role, leaders[role.name], dynamo, pair) for role in plan.roles]
    graph = {
        "apiVersion": "nvidia.com/v1beta1",
        "kind": "DynamoGraphDeployment",
        "metadata": {
            "name": rendered.release,
            "namespace": rendered.namespace,
            "annotations": {
                # LeaderWorkerSets, which the cluster has; Grove would be taken where it is installed too.
                "nvidia.com/enable-grove": "false",
                "nvidia.com/vllm-distributed-executor-backend": plan.settings.engine.executor,
            },
        },
        "spec": {
            "backendFramework": "vllm",
            "components": [_frontend(plan, components[-1], dynamo, pair), *components],
        },
    }
    objects = [*_helpers(rendered, components), graph]
    text = yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=10_000)
    head = f"# {plan.recipe} for the operator of Dynamo {pair.dynamo}: change the recipe, not this file."
    return f"{head}\n{text}".encode()


def _pair(plan: Plan, dynamo: Dynamo, engines: Collection[str]) -> Pair:
    version = plan.engine.version
    pair = dynamo.pair(version)
    if pair is None:
        near = dynamo.nearest(version)
        known = [pair.vllm for pair in dynamo.pairs if pair.vllm in engines]
        raise InvalidInput(
            f"no Dynamo serves with vLLM {version}: the nearest, {near.dynamo}, serves with {near.vllm}",
            where=f"{plan.origin('engine.version')}: engine.version",
            fix=f"use one of: {', '.join(known)}",
        )
    return pair


def _refuse(plan: Plan, dynamo: Dynamo) -> None:
    """Refuse what the operator or dynamo.vllm cannot do."""
    if isinstance(plan.environment.platform, RunPod):
        raise InvalidInput(
            f"environment {plan.environment.name} is no Kubernetes: there is no operator",
            where="--as dynamo",
            fix="leave it out",
        )
    if plan.engine.name != "vllm":
        raise InvalidInput(
            f"the graph starts vLLM (dynamo.vllm); the engine is {plan.engine}",
            where=f"{plan.origin('engine.name')}: engine.name",
            fix="leave --as dynamo out",
        )
    if plan.settings.routing != "service":
        raise InvalidInput(
            "Dynamo has a router of its own",
            where=f"{plan.origin('routing')}: routing",
            fix="set it to service",
        )
    for role in plan.roles:
        key = "arguments" if role.name == "serve" else f"roles.{role.name}.arguments"
        for name in role.arguments:
            if name.removeprefix("no-") in dynamo.server_flags:
                raise InvalidInput(
                    "is a flag of vLLM's own HTTP server, and Dynamo has another one",
                    where=f"{key}.{name}",
                    fix="remove it",
                )


def _of(rendered: Rendered, kind: str) -> list[dict[str, Any]]:
    return [copy.deepcopy(item) for item in rendered.objects if item["kind"] == kind]


def _component(
    plan: Plan, role: Role, template: dict[str, Any], dynamo: Dynamo, pair: Pair
) -> dict[str, Any]:
    """Return what runs one role: its pod is that of the chart, without the launcher."""
    pod = template["spec"]
    main = next(item for item in pod["containers"] if item["name"] == _ENGINE)
    pod["containers"].remove(main)
    env = {entry["name"]: entry for entry in main["env"]}
    words = _words(plan, role, main["args"], dynamo)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    shared = next(mount["name"] for mount in main["volumeMounts"] if mount["mountPath"] == "/dev/shm")  # noqa: S108
    engine = {
        "name": "main",
        "image": f"{dynamo.image}:{pair.dynamo}",
        **_start(words, env),
        "env": _env(env, spans=role.hosts > 1),
        **({"envFrom": main["envFrom"]} if "envFrom" in main else {}),
        "resources": main["resources"],
        "securityContext": _security(main["securityContext"], pod),
        "volumeMounts": [
            mount
            for mount in main["volumeMounts"]
            if mount["name"] != shared and mount["mountPath"] not in _LAUNCHER
        ],
    }
    pod["containers"].insert(0, engine)
    used = {mount["name"] for item in _containers(pod) for mount in item.get("volumeMounts", [])}
    pod["volumes"] = [volume for name, volume in volumes.items() if name in used]
    # The operator's own account finds the other components, and may read what it needs for that.
    for name in ("serviceAccountName", "automountServiceAccountToken"):
        pod.pop(name, None)
    return {
        "name": role.name,
        "type": "worker" if role.name == "serve" else role.name,
        "replicas": role.groups,
        **({"multinode": {"nodeCount": role.hosts}} if role.hosts > 1 else {}),
        "sharedMemorySize": volumes[shared]["emptyDir"]["sizeLimit"],
        "podTemplate": {"metadata": _metadata(template["metadata"]), "spec": pod},
    }


def _words(plan: Plan, role: Role, given: list[str], dynamo: Dynamo) -> list[str]:
    """Return the arguments of dynamo.vllm: vLLM's, and Dynamo's names for what its own server does."""
    renamed = [f"--{dynamo.renamed_flags.get(word.removeprefix('--'), word.removeprefix('--'))}"
               if word.startswith("--") and "=" not in word else word for word in given]  # fmt: skip
    mode = [] if role.name == "serve" else ["--disaggregation-mode", role.name]
    return ["--model", plan.weights.path or plan.model.hub_id, *mode, *renamed]


def _start(words: list[str], env: dict[str, Any]) -> dict[str, list[str]]:
    """Return command and args; where the interconnect has a profile, in a shell that has read it.

    The operator looks for the call of dynamo.vllm in a shell's args, and writes its own flags behind it.
    """
    profile = env.get(f"{_OWN}PROFILE", {}).get("value", "")
    if not profile:
        return {"command": list(_SERVER), "args": words}
    kept = [name.removeprefix(_SET) for name in env if name.startswith(_SET)]
    steps = [f". {shlex.quote(profile)}", *(f'export {name}="${{{_SET}{name}}}"' for name in kept)]
    call = shlex.join([*_SERVER, *words])
    return {"command": ["bash"], "args": ["-c", f"{' && '.join(steps)} && exec {call}"]}


def _env(env: dict[str, Any], *, spans: bool) -> list[dict[str, Any]]:
    """Return the engine's variables without the launcher's; every host has one address that counts."""
    found = [entry for name, entry in env.items() if name.startswith(_SET) or not name.startswith(_OWN)]
    if spans:  # the operator sets it too
        found = [entry for entry in found if entry["name"] != "VLLM_NIXL_SIDE_CHANNEL_HOST"]
    address = {"name": "VLLM_HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    return [*found] if "VLLM_HOST_IP" in env else [address, *found]


def _security(own: dict[str, Any], pod: dict[str, Any]) -> dict[str, Any]:
    """Return the container's security context: root, as in vLLM's image, where a host's folder wants it.

    Dynamo's image has a user of its own, who may not write to a folder that the kubelet has made.
    """
    host = any("hostPath" in volume for volume in pod["volumes"])
    return own if "runAsUser" in own or not host else {**own, "runAsUser": 0, "runAsGroup": 0}


def _metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return what GKE reads, and labels by which pods find each other: too few for a release's Service."""
    found = {"labels": {name: metadata["labels"][name] for name in _LABELS}}
    annotations = {
        name: value for name, value in metadata["annotations"].items() if name.startswith(_ANNOTATIONS)
    }
    return found | ({"annotations": annotations} if annotations else {})


def _frontend(plan: Plan, like: dict[str, Any], dynamo: Dynamo, pair: Pair) -> dict[str, Any]:
    """Return the HTTP server and router; it reads the tokenizer where the engines read weights."""
    pod = like["podTemplate"]["spec"]
    main = pod["containers"][0]
    mounts = [
        mount
        for mount in main["volumeMounts"]
        if f"{plan.weights.path}/".startswith(f"{mount['mountPath'].rstrip('/')}/")
    ]
    names = {mount["name"] for mount in mounts}
    volumes = [volume for volume in pod["volumes"] if volume["name"] in names]
    fuse = {
        name: value
        for name, value in like["podTemplate"]["metadata"].get("annotations", {}).items()
        if name.startswith("gke-gcsfuse/") and any("csi" in volume for volume in volumes)
    }
    container = {
        "name": "main",
        "image": f"{dynamo.image}:{pair.dynamo}",
        "command": list(_FRONTEND),
        "env": [
            entry for entry in main["env"] if entry["name"].startswith("HF_") and entry["name"] != "HF_HOME"
        ],
        "resources": _FRONTEND_RESOURCES,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        **({"volumeMounts": [{**mount, "readOnly": True} for mount in mounts]} if mounts else {}),
    }
    spec = {
        "containers": [container],
        **({"tolerations": pod["tolerations"]} if pod.get("tolerations") else {}),
        **({"volumes": volumes} if volumes else {}),
    }
    return {
        "name": "Frontend",
        "type": "frontend",
        "replicas": 1,
        "podTemplate": {**({"metadata": {"annotations": fuse}} if fuse else {}), "spec": spec},
    }


def _helpers(rendered: Rendered, components: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the chart's objects that the pods still refer to, and of scripts those that they run."""
    pods = [component["podTemplate"]["spec"] for component in components]
    named = {
        volume["configMap"]["name"] for pod in pods for volume in pod["volumes"] if "configMap" in volume
    }
    words = " ".join(word for pod in pods for item in _containers(pod) for word in item.get("command", []))
    found = [item for item in _of(rendered, "ConfigMap") if item["metadata"]["name"] in named]
    for item in found:
        item["data"] = {name: text for name, text in item["data"].items() if f"/{name}" in words}
    found += [item for kind in _HELPERS for item in _of(rendered, kind)]
    for item in found:
        item["metadata"]["labels"] = {name: item["metadata"]["labels"][name] for name in _LABELS}
    return found


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["containers"], *pod.get("initContainers", [])]
