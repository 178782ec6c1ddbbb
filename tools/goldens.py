"""Golden files: each recipe's manifests as parsed and sorted YAML, under tests/golden/.

Formatting, order and comments do not count; the texts of the chart's launcher, which change often and have
tests of their own, are named instead of repeated.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

CHECKSUM = "manyhost.dev/scripts-checksum"


def manifests_text(objects: list[dict[str, Any]], scripts: Path) -> str:
    """Return manifests as a golden file, sorted by kind and name.

    Args:
        objects: Parsed manifests of one release.
        scripts: Folder of the chart's launcher; their texts in a ConfigMap are replaced by their names.
    """
    names = _names(scripts)
    result = sorted(copy.deepcopy(objects), key=lambda item: (item["kind"], item["metadata"]["name"]))
    for item in result:
        if item["kind"] == "ConfigMap":
            item["data"] = {name: names.get(text, text) for name, text in item["data"].items()}
        if item["kind"] == "CronJob":
            for container in item["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]:
                container["command"] = [names.get(word, word) for word in container["command"]]
        template = item.get("spec", {}).get("leaderWorkerTemplate", {})
        for role in ("leaderTemplate", "workerTemplate"):
            annotations = template.get(role, {}).get("metadata", {}).get("annotations", {})
            if CHECKSUM in annotations:
                annotations[CHECKSUM] = "the checksum of launcher/"
    return "---\n".join(_dump(item) for item in result)


def _names(scripts: Path) -> dict[str, str]:
    """Return by the text of each of the launcher's files what stands for it."""
    return {
        path.read_text(): f"the text of launcher/{path.relative_to(scripts).as_posix()}"
        for path in sorted(scripts.rglob("*"), reverse=True)
        if path.suffix in {".py", ".sh"}
    }


def folder_name(recipe: str) -> str:
    """Return the golden folder of a recipe: <environment>__<recipe>."""
    return recipe.replace("/", "__")


def _dump(document: dict[str, Any]) -> str:
    return str(yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=True, allow_unicode=True, width=100))
