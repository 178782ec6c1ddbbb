"""Renders charts in tests: in process by default, or with the Helm 3 and Helm 4 binaries."""

from __future__ import annotations

import functools
import json
import os
import pickle
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart
from helm_python.errors import HelmError

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "llm-multihost"

Object = dict[str, Any]


class RenderError(Exception):
    """Helm refused the values or the release; the text is what the user would read."""


def helm_binaries() -> dict[str, Path]:
    """Return the Helm binaries that are here, by "helm3" and "helm4".

    `make tools` unpacks them to .tools/; names on $PATH count too.
    """
    found = {}
    for name in ("helm3", "helm4"):
        path = shutil.which(name, path=f"{ROOT / '.tools'}{os.pathsep}{os.environ['PATH']}")
        if path:
            found[name] = Path(path)
    return found


@functools.cache
def _load(chart: Path) -> Chart:
    return Chart.load(chart)


def render_text(
    values: Object | None = None,
    release: str = "r1",
    namespace: str = "default",
    engine: str = "sdk",
    chart: Path = CHART,
    options: tuple[str, ...] = (),
    tests: bool = False,
) -> str:
    """Render the chart and return the manifests as one text, without NOTES.txt.

    Args:
        values: What a user's values file would hold.
        release: Name of the release.
        namespace: Namespace of the release.
        engine: "sdk" (in process), "helm3" or "helm4".
        chart: Folder of the chart.
        options: More arguments of `helm template`; for the binaries only.
        tests: With what `helm test` makes.

    Raises:
        RenderError: Helm refused.
    """
    if engine == "sdk":
        assert not options, "only the binaries take command line options"
        try:
            files = _load(chart).render(values or {}, name=release, namespace=namespace)
        except HelmError as error:
            raise RenderError(str(error)) from None
        return "\n---\n".join(
            text
            for name, text in sorted(files.items())
            if not name.endswith("NOTES.txt") and (tests or "/templates/tests/" not in name)
        )
    command = [str(helm_binaries()[engine]), "template", release, str(chart)]
    command += ["--namespace", namespace, "--values", "-", *([] if tests else ["--skip-tests"]), *options]
    done = subprocess.run(
        command,
        input=json.dumps(values or {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode:
        raise RenderError(done.stderr)
    return done.stdout


def render(
    values: Object | None = None,
    release: str = "r1",
    namespace: str = "default",
    engine: str = "sdk",
    chart: Path = CHART,
    options: tuple[str, ...] = (),
    tests: bool = False,
) -> list[Object]:
    """Render the chart and return its objects, ordered by kind and name; see render_text."""
    text = render_text(values, release, namespace, engine, chart, options, tests)
    objects = [item for part in re.split(r"(?<=\n)---\n", text) for item in pickle.loads(_parsed(part))]
    return sorted(objects, key=lambda item: (item["kind"], item["metadata"]["name"]))


@functools.lru_cache(maxsize=1000)
def _parsed(text: str) -> bytes:
    """Return the objects of a part of manifests, pickled: many tests have it, and each gets its own copy."""
    return pickle.dumps([item for item in yaml.load_all(text, Loader=yaml.CSafeLoader) if item])


def fabric(name: str = "tcpxo") -> Object:
    """Return the Helm values of an interconnect and its hosts, as the first recipe with it renders them."""
    for path in sorted((ROOT / "recipes").glob("*/*/values.yaml")):
        values: Object = yaml.safe_load(path.read_text())
        if values["network"]["interconnect"] == name:
            return {
                "host": {key: values["host"][key] for key in ("environment", "networks")},
                "network": {"interconnect": name},
                "gpuPlatformSettings": values["gpuPlatformSettings"],
            }
    raise AssertionError(f"no recipe has the interconnect {name}")


def notes(values: Object | None = None, release: str = "r1", namespace: str = "default") -> str:
    """Return what NOTES.txt says for these values."""
    files = _load(CHART).render(values or {}, name=release, namespace=namespace)
    return next(text for name, text in files.items() if name.endswith("NOTES.txt"))


def find(objects: list[Object], kind: str) -> Object:
    """Return the one object of a kind."""
    (item,) = (item for item in objects if item["kind"] == kind)
    return item


def kinds(objects: list[Object]) -> list[str]:
    """Return the kinds of the objects, ordered."""
    return sorted(item["kind"] for item in objects)


def pod(objects: list[Object], role: str = "leader") -> Object:
    """Return the pod template of a role."""
    template: Object = find(objects, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"][f"{role}Template"]
    return template


def engine_container(objects: list[Object], role: str = "leader") -> Object:
    """Return the engine's container of a role."""
    (item,) = (c for c in pod(objects, role)["spec"]["containers"] if c["name"] == "vllm")
    return dict(item)


def env(objects: list[Object], role: str = "leader") -> dict[str, str]:
    """Return the engine's plain environment variables, without those that differ between members."""
    return variables(engine_container(objects, role))


def variables(container: Object) -> dict[str, str]:
    """Return a container's plain environment variables as Kubernetes hands them over, as env does."""
    return {
        item["name"]: expand(item["value"])
        for item in container["env"]
        if "value" in item and not item["value"].startswith("$(LWS_")
    }


def args(objects: list[Object], role: str = "leader") -> list[str]:
    """Return the engine's arguments as Kubernetes hands them over."""
    return [expand(item) for item in engine_container(objects, role)["args"]]


def expand(text: str) -> str:
    """Expand a value as the kubelet does where no variable is defined.

    The rules of k8s.io/kubernetes third_party/forked/golang/expansion: "$$" is one dollar sign, and
    a reference to an unknown variable stays as it is. A live reference is a mistake in these tests.
    """
    result = ""
    position = 0
    while position < len(text):
        if text.startswith("$$", position):
            result += "$"
            position += 2
        else:
            assert not (text.startswith("$(", position) and ")" in text[position:]), text
            result += text[position]
            position += 1
    return result


def nest(path: str, value: Any) -> Object:
    """Return {"a": {"b": value}} for the path "a.b"."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


def merge(*parts: Object) -> Object:
    """Merge values as Helm does: maps recursively, anything else by replacement."""
    result: Object = {}
    for part in parts:
        for key, value in part.items():
            old = result.get(key)
            both = isinstance(old, dict) and isinstance(value, dict)
            result[key] = merge(old, value) if both else value
    return result
