"""Write the strict JSON schemas of the kinds behind a Gateway: generator/manyhost/checks/gateway.json.

python -m tools.extract_crd_schemas FOLDER

FOLDER holds the CRDs of upstream, unchanged, each as <plural>.<group>.yaml. Kept are the fields of the
version that the chart uses, closed as those of Kubernetes are (tools/extract_kubernetes_schemas.py), without
prose and without rules in CEL, which the API server applies.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from tools.extract_kubernetes_schemas import closed_object

TARGET = Path(__file__).resolve().parents[1] / "generator/manyhost/checks/gateway.json"
# Kind, group, version, plural and where its CRD is from.
KINDS = (
    (
        "InferencePool",
        "inference.networking.k8s.io",
        "v1",
        "inferencepools",
        "kubernetes-sigs/gateway-api-inference-extension v1.6.0, config/crd/bases",
    ),
    (
        "HTTPRoute",
        "gateway.networking.k8s.io",
        "v1",
        "httproutes",
        "kubernetes-sigs/gateway-api v1.6.1, config/crd/standard",
    ),
    (
        "GCPBackendPolicy",
        "networking.gke.io",
        "v1",
        "gcpbackendpolicies",
        "GoogleCloudPlatform/gke-gateway-api fc40d60, config/crd",
    ),
    (
        "HealthCheckPolicy",
        "networking.gke.io",
        "v1",
        "healthcheckpolicies",
        "GoogleCloudPlatform/gke-gateway-api fc40d60, config/crd",
    ),
)


def file_name(group: str, plural: str) -> str:
    """Return the name of the file with a CRD."""
    return f"{plural}.{group}.yaml"


def schemas(folder: Path) -> str:
    """Return the text of gateway.json from a folder of CRDs.

    Raises:
        OSError: A CRD is not there.
    """
    kinds: dict[str, Any] = {}
    for kind, group, version, plural, _ in KINDS:
        document = yaml.load((folder / file_name(group, plural)).read_text(), Loader=yaml.CSafeLoader)
        (known,) = (item for item in document["spec"]["versions"] if item["name"] == version)
        api = f"{group}/{version}"
        body = closed_object(known["schema"]["openAPIV3Schema"], api, kind, set())
        body["properties"]["metadata"] = {"$ref": "#/$defs/meta.v1.ObjectMeta"}
        kinds[f"{api}/{kind}"] = _without_defaults(body)
    document = {
        "source": "; ".join(f"{kind}: {source}" for kind, *_, source in KINDS)
        + "; made by tools/extract_crd_schemas.py",
        "kinds": kinds,
    }
    return json.dumps(document, separators=(",", ":")).replace('},"', '},\n"') + "\n"


def _without_defaults(node: Any, *, names: bool = False) -> Any:
    """Return a schema without the values that the API server fills in.

    Args:
        node: The schema, or part of one.
        names: The keys of this mapping are names of fields.
    """
    if isinstance(node, list):
        return [_without_defaults(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = node.items() if names else ((key, value) for key, value in node.items() if key != "default")
    return {key: _without_defaults(value, names=key == "properties" and not names) for key, value in kept}


if __name__ == "__main__":
    TARGET.write_text(schemas(Path(sys.argv[1])))
