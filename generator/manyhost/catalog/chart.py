"""A Helm chart as everything else sees it: its folder, what it can make, and how that is labelled.

A chart says of itself in the annotations of its Chart.yaml what no template can be asked for:
    manyhost.dev/kinds       kinds of the objects that it can make, separated by blanks
    manyhost.dev/name-limit  most characters of a release's name
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from manyhost.catalog import yaml_reader
from manyhost.catalog.merge import merge
from manyhost.errors import InvalidInput

_LINE = re.compile(r"( *)(?:# ?(?P<comment>.*)|(?P<key>[\w-]+):.*)")


class Kind(NamedTuple):
    """Where the API has the objects of a kind."""

    version: str
    plural: str


# Every kind that our charts make, or may.
KINDS = {
    "ComputeDomain": Kind("resource.nvidia.com/v1beta1", "computedomains"),
    "ConfigMap": Kind("v1", "configmaps"),
    "CronJob": Kind("batch/v1", "cronjobs"),
    "DaemonSet": Kind("apps/v1", "daemonsets"),
    "Deployment": Kind("apps/v1", "deployments"),
    "GCPBackendPolicy": Kind("networking.gke.io/v1", "gcpbackendpolicies"),
    "HTTPRoute": Kind("gateway.networking.k8s.io/v1", "httproutes"),
    "HealthCheckPolicy": Kind("networking.gke.io/v1", "healthcheckpolicies"),
    "HorizontalPodAutoscaler": Kind("autoscaling/v2", "horizontalpodautoscalers"),
    "InferencePool": Kind("inference.networking.k8s.io/v1", "inferencepools"),
    "Job": Kind("batch/v1", "jobs"),
    "LeaderWorkerSet": Kind("leaderworkerset.x-k8s.io/v1", "leaderworkersets"),
    "NetworkPolicy": Kind("networking.k8s.io/v1", "networkpolicies"),
    "PersistentVolumeClaim": Kind("v1", "persistentvolumeclaims"),
    "PodDisruptionBudget": Kind("policy/v1", "poddisruptionbudgets"),
    "PodMonitor": Kind("monitoring.coreos.com/v1", "podmonitors"),
    "PodMonitoring": Kind("monitoring.googleapis.com/v1", "podmonitorings"),
    "PrometheusRule": Kind("monitoring.coreos.com/v1", "prometheusrules"),
    "ResourceClaimTemplate": Kind("resource.k8s.io/v1", "resourceclaimtemplates"),
    "Role": Kind("rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": Kind("rbac.authorization.k8s.io/v1", "rolebindings"),
    "Rules": Kind("monitoring.googleapis.com/v1", "rules"),
    "Service": Kind("v1", "services"),
    "ServiceAccount": Kind("v1", "serviceaccounts"),
    "StatefulSet": Kind("apps/v1", "statefulsets"),
}


class Chart(msgspec.Struct, frozen=True, dict=True):
    """One of our charts.

    Attributes:
        name: Its name in Chart.yaml; the label app.kubernetes.io/name of all that it makes.
        path: Its folder.
        kinds: Kinds of the objects that it can make.
        name_limit: Most characters of a release's name.
    """

    name: str
    path: Path
    kinds: tuple[str, ...]
    name_limit: int

    def labels(self, release: str) -> dict[str, str]:
        """Return the labels of everything that the chart makes for a release, its pods included."""
        return {"app.kubernetes.io/instance": release, "app.kubernetes.io/name": self.name}

    def selector(self, release: str) -> str:
        """Return these labels as a selector."""
        return ",".join(f"{key}={value}" for key, value in self.labels(release).items())

    def test_selector(self, release: str) -> str:
        """Return a selector of what `helm test` makes, which is none of the release's own objects."""
        return f"app.kubernetes.io/instance={release},app.kubernetes.io/name={self.name}-test"

    def is_of(self, installed: str) -> bool:
        """Whether the chart of an installed release is this one: its name, with or without version."""
        return installed == self.name or installed.startswith(f"{self.name}-")

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The chart's own values."""
        return yaml_reader.read_mapping(self.path / "values.yaml", f"{self.name}/values.yaml")

    def effective(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return values laid over the chart's own: what the templates see."""
        return merge(self.defaults, values)

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of its values."""
        document: dict[str, Any] = json.loads((self.path / "values.schema.json").read_text())
        return document

    @cached_property
    def comments(self) -> dict[str, str]:
        """What each of its values means, by dotted path: the comments above the keys of values.yaml."""
        return comments((self.path / "values.yaml").read_text())


def comments(text: str) -> dict[str, str]:
    """Return the comment above each key of a YAML text, by dotted path."""
    found: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    block: list[str] = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if not match:
            block = []
        elif match["key"] is None:
            block.append(match["comment"])
        else:
            indent = len(match[1])
            stack = [item for item in stack if item[0] < indent]
            stack.append((indent, match["key"]))
            found[".".join(key for _, key in stack)] = " ".join(block)
            block = []
    return found


def load(path: Path) -> Chart:
    """Read a chart's facts from its folder.

    Raises:
        InvalidInput: When the folder is no chart of ours.
    """
    where = f"charts/{path.name}/Chart.yaml"
    document = yaml_reader.read_mapping(path / "Chart.yaml", where)
    annotations = document.get("annotations") or {}
    try:
        kinds = tuple(annotations["manyhost.dev/kinds"].split())
        limit = int(annotations["manyhost.dev/name-limit"])
    except (KeyError, ValueError) as error:
        raise InvalidInput(f"says nothing of {error}", where=where) from None
    return Chart(name=document["name"], path=path, kinds=kinds, name_limit=limit)
