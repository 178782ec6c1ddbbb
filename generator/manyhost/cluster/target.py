"""What a command is about: a recipe as a release in a namespace, rendered for exactly that."""

from __future__ import annotations

from typing import Any

import msgspec

from manyhost.catalog.chart import KINDS, Chart, Kind
from manyhost.errors import NotReady
from manyhost.plan import Plan
from manyhost.render import Rendered

Object = dict[str, Any]

LWS = KINDS["LeaderWorkerSet"]


def kind_of(item: Object) -> Kind:
    """Return where the API has an object of ours.

    Raises:
        NotReady: It is of a kind that this program does not know; Helm alone can install it.
    """
    found = KINDS.get(item["kind"])
    if found is None or found.version != item["apiVersion"]:
        raise NotReady(
            f"objects of kind {item['apiVersion']}/{item['kind']} are not known here",
            where=f"{item['kind']} {item['metadata']['name']}",
            fix="install them with kubectl or Helm, and take them out of extraObjects",
        )
    return found


class Place(msgspec.Struct, frozen=True):
    """A release of one of our charts in a namespace.

    Attributes:
        chart: The chart; it says what a release of it can have made.
        namespace: The release's namespace.
        release: Its name.
    """

    chart: Chart
    namespace: str
    release: str

    @property
    def selector(self) -> str:
        """Selects everything that the chart has made for the release, its pods included."""
        return self.chart.selector(self.release)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe, resolved and rendered for one release.

    Attributes:
        plan: What the recipe resolves to.
        values: The Helm values of the recipe.
        effective: The same over the chart's defaults: what the templates see.
        release: Name of the Helm release and of the LeaderWorkerSet.
        namespace: Where it goes.
        chart: The chart.
        objects: The manifests, as Helm renders them for this release.
    """

    plan: Plan
    values: dict[str, Any]
    effective: dict[str, Any]
    release: str
    namespace: str
    chart: Chart
    objects: list[Object]

    @property
    def place(self) -> Place:
        """The release in its namespace."""
        return Place(self.chart, self.namespace, self.release)

    @property
    def recipe(self) -> str:
        """<environment>/<recipe>."""
        return self.plan.recipe

    @property
    def group(self) -> Object:
        """The LeaderWorkerSet that clients talk to; it has the release's name."""
        return next(item for item, _ in self.sets if item["metadata"]["name"] == self.release)

    @property
    def hosts(self) -> int:
        """Hosts of all groups."""
        return sum(groups * size_of(item) for item, groups in self.sets)

    @property
    def groups(self) -> int:
        """Groups, those that only prefill included; with autoscaling, the least there will be."""
        return sum(groups for _, groups in self.sets)

    def pod(self, member: str) -> Object:
        """The pod template of "leader" or "worker"."""
        template: Object = self.group["spec"]["leaderWorkerTemplate"][f"{member}Template"]
        return template

    @property
    def service_account(self) -> str:
        """The account that the pods run as."""
        return str(self.pod("leader")["spec"].get("serviceAccountName", "default"))

    @property
    def routers(self) -> list[Object]:
        """The router's Deployment where prefill and decode are apart; else none."""
        return [item for item in self.objects if item["kind"] == "Deployment"]

    @property
    def router_labels(self) -> list[dict[str, str]]:
        """The labels that its pods are selected by; none without one."""
        return [item["spec"]["selector"]["matchLabels"] for item in self.routers]

    @property
    def service(self) -> str:
        """The Service for clients: the router's where there is one, else the leaders'."""
        return f"{self.release}-{'router' if self.routers else 'svc'}"

    @property
    def sets(self) -> list[tuple[Object, int]]:
        """Each LeaderWorkerSet with the number of its groups."""
        least = self.effective["autoscaling"]["minReplicas"]
        found = [item for item in self.objects if item["kind"] == "LeaderWorkerSet"]
        return [(item, int(item["spec"].get("replicas", least))) for item in found]

    @property
    def pods(self) -> list[tuple[Object, int]]:
        """The specs of the pods of groups, routers and CronJobs, and how many of each there are at a time."""
        found: list[tuple[Object, int]] = []
        for item, groups in self.sets:
            template = item["spec"]["leaderWorkerTemplate"]
            found.append((template["leaderTemplate"]["spec"], groups))
            found.append((template["workerTemplate"]["spec"], groups * (size_of(item) - 1)))
        found += [(item["spec"]["template"]["spec"], int(item["spec"]["replicas"])) for item in self.routers]
        return found + [(job["template"]["spec"], 1) for _, job in self.timed]

    @property
    def timed(self) -> list[tuple[Object, Object]]:
        """The spec of each CronJob, and that of its Jobs."""
        specs = [item["spec"] for item in self.objects if item["kind"] == "CronJob"]
        return [(spec, spec["jobTemplate"]["spec"]) for spec in specs]

    def only(self, kind: str) -> Object:
        """The one object of a kind."""
        return next(item for item in self.objects if item["kind"] == kind)


def size_of(group: Object) -> int:
    """Return the hosts of each group of a LeaderWorkerSet."""
    return int(group["spec"]["leaderWorkerTemplate"].get("size", 1))


def from_rendered(rendered: Rendered) -> Target:
    """Return the target of a rendering."""
    return Target(
        plan=rendered.plan,
        values=rendered.values,
        effective=rendered.chart.effective(rendered.values),
        release=rendered.release,
        namespace=rendered.namespace,
        chart=rendered.chart,
        objects=rendered.objects,
    )
