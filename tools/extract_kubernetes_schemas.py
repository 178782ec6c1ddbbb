"""Write the strict JSON schemas of the Kubernetes kinds that manyhost renders.

    python tools/extract_kubernetes_schemas.py

Source: the data of the PyPI package kubernetes-validate (Apache-2.0), which is generated from the
OpenAPI document of Kubernetes. Only the definitions that these kinds reach are kept, without
descriptions, and made stricter: no unknown field and no null anywhere. The package itself is
108 MB and is needed here only, not at run time.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import re
from pathlib import Path
from typing import Any

# The oldest Kubernetes that the environments run: a field that came later is refused, because an
# older API server would drop or refuse it.
KUBERNETES = "1.32.0"

KINDS = {
    "v1/ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "v1/Service": "io.k8s.api.core.v1.Service",
    "v1/ServiceAccount": "io.k8s.api.core.v1.ServiceAccount",
    "autoscaling/v2/HorizontalPodAutoscaler": "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    "networking.k8s.io/v1/NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
    "policy/v1/PodDisruptionBudget": "io.k8s.api.policy.v1.PodDisruptionBudget",
}
# Used inside the schema of LeaderWorkerSet, which is our own.
PARTS = (
    "io.k8s.api.core.v1.PodTemplateSpec",
    "io.k8s.api.core.v1.PersistentVolumeClaim",
    "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
)

TARGET = Path(__file__).resolve().parent.parent / "generator/manyhost/checks/kubernetes.json"


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


def main() -> None:
    """Write the schemas."""
    folder = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema"
    source = folder / f"v{KUBERNETES}-local-strict" / "_definitions.json"
    definitions = json.loads(source.read_text())["$defs"]
    waiting, done = {*KINDS.values(), *PARTS}, {}
    while waiting:
        name = waiting.pop()
        found: set[str] = set()
        done[short(name)] = strict(definitions[name], found)
        waiting |= {item for item in found if short(item) not in done}
    for api_kind, name in KINDS.items():
        api, kind = api_kind.rsplit("/", 1)
        body = done[short(name)]
        body["properties"]["apiVersion"] = {"const": api}
        body["properties"]["kind"] = {"const": kind}
        body["properties"].pop("status", None)
        body["required"] = sorted({*body.get("required", []), "apiVersion", "kind", "metadata"})
    document = {
        "source": f"PyPI kubernetes-validate {importlib.metadata.version('kubernetes-validate')},"
        f" Kubernetes {KUBERNETES}; made by tools/extract_kubernetes_schemas.py",
        "kinds": {key: short(name) for key, name in KINDS.items()},
        "$defs": dict(sorted(done.items())),
    }
    scratch = TARGET.with_suffix(".tmp")
    scratch.write_text(json.dumps(document, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    scratch.replace(TARGET)
    print(f"{TARGET.name}: {len(done)} definitions, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
