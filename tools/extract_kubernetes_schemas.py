"""The strict JSON schemas of the Kubernetes kinds that manyhost's charts may render (make generate).

Source: the data of the PyPI package kubernetes-validate (Apache-2.0), which is generated from the
OpenAPI document of Kubernetes. Only the definitions that these kinds reach are kept, without
descriptions, and made stricter: no unknown field and no null anywhere, no pod template without a
spec, no object without apiVersion, kind and metadata. The package itself is 108 MB and is needed
here only, not at run time.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import re
from typing import Any

# The oldest Kubernetes that the environments run: a field that came later is refused, because an
# older API server would drop or refuse it.
KUBERNETES = "1.32.0"
# For kinds that the oldest does not have; whoever renders them needs a cluster that does.
NEWER = "1.34.0"

# No Secret: it is never rendered.
KINDS = {
    "v1/ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "v1/PersistentVolumeClaim": "io.k8s.api.core.v1.PersistentVolumeClaim",
    "v1/Pod": "io.k8s.api.core.v1.Pod",
    "v1/Service": "io.k8s.api.core.v1.Service",
    "v1/ServiceAccount": "io.k8s.api.core.v1.ServiceAccount",
    "apps/v1/DaemonSet": "io.k8s.api.apps.v1.DaemonSet",
    "apps/v1/Deployment": "io.k8s.api.apps.v1.Deployment",
    "apps/v1/StatefulSet": "io.k8s.api.apps.v1.StatefulSet",
    "autoscaling/v2/HorizontalPodAutoscaler": "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    "batch/v1/CronJob": "io.k8s.api.batch.v1.CronJob",
    "batch/v1/Job": "io.k8s.api.batch.v1.Job",
    "networking.k8s.io/v1/NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
    "policy/v1/PodDisruptionBudget": "io.k8s.api.policy.v1.PodDisruptionBudget",
    "rbac.authorization.k8s.io/v1/Role": "io.k8s.api.rbac.v1.Role",
    "rbac.authorization.k8s.io/v1/RoleBinding": "io.k8s.api.rbac.v1.RoleBinding",
    "resource.k8s.io/v1/ResourceClaimTemplate": "io.k8s.api.resource.v1.ResourceClaimTemplate",
}
# Used inside the schemas that are our own, and for pods inside kinds that have no schema.
PARTS = (
    "io.k8s.api.core.v1.PodSpec",
    "io.k8s.api.core.v1.PodTemplateSpec",
    "io.k8s.api.core.v1.PersistentVolumeClaim",
    "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
)


def short(name: str) -> str:
    """Return the definition's name without the prefix that all of them share."""
    return re.sub(r"^io\.k8s\.(api|apimachinery\.pkg\.(apis|api|util))\.", "", name)


def strict(node: Any, found: set[str]) -> Any:
    """Return the schema without prose and nulls, closed; add the definitions it refers to."""
    if isinstance(node, list):
        return [strict(item, found) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[1]
        found.add(name)
        return {"$ref": f"#/$defs/{short(name)}"}
    kept: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("description", "format") or key.startswith("x-kubernetes"):
            continue
        if key == "type" and isinstance(value, list):
            types = [item for item in value if item != "null"]
            kept[key] = types[0] if len(types) == 1 else types
        elif key == "properties":
            kept[key] = {name: strict(item, found) for name, item in value.items()}
        else:
            kept[key] = strict(value, found)
    if "properties" in kept:
        kept["additionalProperties"] = False
    return kept


def closed_object(definition: Any, api: str, kind: str, found: set[str]) -> dict[str, Any]:
    """Return the schema of a whole object, which says what it is and has what the API server wants."""
    body: dict[str, Any] = strict(definition, found)
    properties = body["properties"]
    properties["apiVersion"] = {"const": api}
    properties["kind"] = {"const": kind}
    properties.pop("status", None)
    needed = {"apiVersion", "kind", "metadata"} | ({"spec"} & properties.keys())
    body["required"] = sorted({*body.get("required", []), *needed})
    return body


def definitions_of(version: str) -> dict[str, Any]:
    """Return all definitions of a Kubernetes version by name."""
    folder = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema"
    source = folder / f"v{version}-local-strict" / "_definitions.json"
    definitions: dict[str, Any] = json.loads(source.read_text())["$defs"]
    return definitions


def schemas() -> str:
    """Return the text of generator/manyhost/checks/kubernetes.json."""
    definitions = definitions_of(NEWER) | definitions_of(KUBERNETES)
    waiting, done, kinds = set(PARTS), dict[str, Any](), dict[str, Any]()
    for api_kind, name in KINDS.items():
        api, _, kind = api_kind.rpartition("/")
        kinds[api_kind] = closed_object(definitions[name], api, kind, waiting)
    while waiting:
        name = waiting.pop()
        found: set[str] = set()
        done[short(name)] = strict(definitions[name], found)
        waiting |= {item for item in found if short(item) not in done}
    done["core.v1.PodTemplateSpec"]["required"] = ["spec"]
    done["batch.v1.JobTemplateSpec"]["required"] = ["spec"]
    document = {
        "source": f"PyPI kubernetes-validate {importlib.metadata.version('kubernetes-validate')},"
        f" Kubernetes {KUBERNETES} and {NEWER}; made by tools/extract_kubernetes_schemas.py",
        "kinds": kinds,
        "$defs": dict(sorted(done.items())),
    }
    return json.dumps(document, separators=(",", ":")).replace('},"', '},\n"') + "\n"
