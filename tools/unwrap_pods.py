"""Write the pods of rendered manifests as objects of their own, for tools that know no LeaderWorkerSet.

python -m tools.unwrap_pods MANIFESTS FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from manyhost.checks.objects import name_of, pod_templates
from manyhost.render import parse_manifests


def write(objects: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Write each pod template of each LeaderWorkerSet into a file and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for item in (item for item in objects if item["kind"] == "LeaderWorkerSet"):
        for pod in pod_templates(item):
            name = f"{name_of(item)}-{pod.labels['role']}"
            metadata = {"name": name, "namespace": item["metadata"]["namespace"], **pod.body["metadata"]}
            body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.spec}
            path = folder / f"{name}.yaml"
            path.write_text(yaml.safe_dump(body))
            written.append(path)
    return written


if __name__ == "__main__":
    for file in write(parse_manifests(Path(sys.argv[1]).read_text()), Path(sys.argv[2])):
        print(file)
