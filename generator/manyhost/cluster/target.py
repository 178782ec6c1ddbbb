"""What a command is about: a recipe as a release in a namespace, rendered for exactly that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from manyhost.catalog import yaml_reader
from manyhost.plan import Plan
from manyhost.render import Rendered

Object = dict[str, Any]

LWS = ("leaderworkerset.x-k8s.io/v1", "leaderworkersets")
# Every kind that the chart can make: kind -> (apiVersion, plural).
KINDS: dict[str, tuple[str, str]] = {
    "LeaderWorkerSet": LWS,
    "Service": ("v1", "services"),
    "ServiceAccount": ("v1", "serviceaccounts"),
    "ConfigMap": ("v1", "configmaps"),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "HorizontalPodAutoscaler": ("autoscaling/v2", "horizontalpodautoscalers"),
}
CHART = "llm-multihost"


def labels(release: str) -> dict[str, str]:
    """Return the labels of everything that the chart makes for a release, its pods included."""
    return {"app.kubernetes.io/instance": release, "app.kubernetes.io/name": CHART}


def labels_of(release: str) -> str:
    """Return these labels as a selector."""
    return ",".join(f"{key}={value}" for key, value in labels(release).items())


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe, resolved and rendered for one release.

    Attributes:
        plan: What the recipe resolves to.
        values: The Helm values of the recipe.
        effective: The same over the chart's defaults: what the templates see.
        release: Name of the Helm release and of the LeaderWorkerSet.
        namespace: Where it goes.
        chart: Folder of the chart.
        objects: The manifests, as Helm renders them for this release.
    """

    plan: Plan
    values: dict[str, Any]
    effective: dict[str, Any]
    release: str
    namespace: str
    chart: Path
    objects: list[Object]

    @property
    def recipe(self) -> str:
        """<environment>/<recipe>."""
        return self.plan.recipe

    @property
    def group(self) -> Object:
        """The LeaderWorkerSet that clients talk to; it has the release's name."""
        return next(item for item, _ in self.sets if item["metadata"]["name"] == self.release)

    @property
    def size(self) -> int:
        """Hosts of one group."""
        return int(self.group["spec"]["leaderWorkerTemplate"]["size"])

    @property
    def groups(self) -> int:
        """Groups, those that only prefill included; with autoscaling, the least there will be."""
        return sum(groups for _, groups in self.sets)

    def pod(self, role: str) -> Object:
        """The pod template of "leader" or "worker"."""
        template: Object = self.group["spec"]["leaderWorkerTemplate"][f"{role}Template"]
        return template

    @property
    def service_account(self) -> str:
        """The account that the pods run as."""
        return str(self.pod("leader")["spec"].get("serviceAccountName", "default"))

    @property
    def sets(self) -> list[tuple[Object, int]]:
        """Each LeaderWorkerSet with the number of its groups."""
        least = self.effective["autoscaling"]["minReplicas"]
        found = [item for item in self.objects if item["kind"] == "LeaderWorkerSet"]
        return [(item, int(item["spec"].get("replicas", least))) for item in found]

    def only(self, kind: str) -> Object:
        """The one object of a kind."""
        return next(item for item in self.objects if item["kind"] == kind)


def from_rendered(rendered: Rendered, chart: Path) -> Target:
    """Return the target of a rendering; the chart's folder is what Helm will install."""
    return Target(
        plan=rendered.plan,
        values=rendered.values,
        effective=_merged(
            yaml_reader.read_mapping(chart / "values.yaml", f"{CHART}/values.yaml"), rendered.values
        ),
        release=rendered.release,
        namespace=rendered.namespace,
        chart=chart,
        objects=rendered.objects,
    )


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Maps merge, everything else replaces, as Helm does it."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result
