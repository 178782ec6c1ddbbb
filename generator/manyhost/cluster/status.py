"""What runs of a release, and why something of it does not."""

from __future__ import annotations

from typing import Any

import msgspec

from manyhost.catalog.chart import KINDS
from manyhost.cluster.connection import Connection, Missing, Refused, path_of
from manyhost.cluster.drift import drift
from manyhost.cluster.lease import Lease, Released, held_minutes, lease, released
from manyhost.cluster.observe import Look, Observer
from manyhost.cluster.phases import Host, Problem, stamp, timestamp
from manyhost.cluster.release import Change, Unread, deployed, newest
from manyhost.cluster.router import Router
from manyhost.cluster.routing import Routing, routing
from manyhost.cluster.target import Place
from manyhost.cluster.waits import Spent, Wait, spent, waits
from manyhost.plan.cost import Cost

# Kubernetes tries again to make a pod after 17 minutes at the latest, and says so again.
_EVENT_SECONDS = 1200.0
_JANITOR_SECONDS = 1800.0  # six runs of the chart's own schedule
NOT_MADE = {"denied", "quota", "limits", "create"}  # problems of pods that are not made


class Janitor(msgspec.Struct, frozen=True):
    """The CronJob that frees the hosts.

    Attributes:
        name: Its name.
        last_run: When it last ran to its end; empty when it never has.
        late: Whether it should have run since.
    """

    name: str
    last_run: str
    late: bool


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """A release at one moment.

    Attributes:
        release: The release.
        namespace: Its namespace.
        installed: Whether its LeaderWorkerSet exists.
        revision: Helm's newest revision; 0 when Helm knows no such release.
        helm: Helm's status of it: deployed, failed, ...
        groups: Groups wanted.
        ready_groups: Groups whose hosts are all ready.
        updated_groups: Groups that run the newest template.
        hosts: Every host.
        router: What clients talk to, where prefill and decode are apart.
        service: Name of the Service for clients.
        endpoints: Addresses behind the Service that take requests.
        routing: The Gateway that routes to it; None where clients reach the Service alone.
        problems: What events say of hosts that are not there, or not ready.
        removal: Who removes it, when it is on its way out.
        drift: Objects that were deleted or changed in the cluster since they were deployed.
        now: The API server's clock.
        lease: Until when the hosts are kept.
        released: When and why the janitor has taken its groups away.
        waits: Groups that do not answer, each with its deadline and its cost so far.
        spent: What its hosts cost.
        janitor: What frees the hosts, when it is on.
    """

    release: str
    namespace: str
    installed: bool
    revision: int = 0
    helm: str = ""
    groups: int = 0
    ready_groups: int = 0
    updated_groups: int = 0
    hosts: tuple[Host, ...] = ()
    router: Router | None = None
    service: str = ""
    endpoints: list[str] = []
    routing: Routing | None = None
    problems: tuple[Problem, ...] = ()
    removal: Problem | None = None
    drift: list[Change] = []
    now: str = ""
    lease: Lease | None = None
    released: Released | None = None
    waits: tuple[Wait, ...] = ()
    spent: Spent | None = None
    janitor: Janitor | None = None

    @property
    def ready(self) -> bool:
        """Whether every group answers, and the router before them."""
        groups = self.groups > 0 and self.ready_groups == self.groups
        routed = self.router is None or self.router.complete
        return self.installed and not self.removal and groups and routed


def status(connection: Connection, place: Place, cost: Cost, mode: str) -> Status:
    """Look at a release once.

    Args:
        connection: The cluster.
        place: The release.
        cost: Of one of its hosts.
        mode: How they are had (capacity.mode).

    Raises:
        Unreachable: No answer.
        Refused: No permission, or another refusal.
    """
    observer = Observer(connection, place)
    look = observer.look()
    try:
        revision, hidden = newest(connection, place), False
    except Unread:  # a reader of the namespace sees the groups all the same
        revision, hidden = None, True
    ready = {host.place: True for host in look.hosts if host.group < look.wanted.get(host.role, 0)}
    for host in look.hosts:
        if host.phase != "ready" and host.place in ready:
            ready[host.place] = False
    now, ends = connection.now(), lease(look.sets)
    service = (look.router.name if look.router else f"{place.release}-svc") if look.exists else ""
    return Status(
        release=place.release,
        namespace=place.namespace,
        installed=look.exists,
        revision=revision.revision if revision else 0,
        helm="may not be read" if hidden else revision.status if revision else "",
        groups=look.replicas,
        ready_groups=sum(ready.values()),
        updated_groups=look.updated_groups,
        hosts=look.hosts,
        problems=_problems(observer, look, now),
        removal=look.removal,
        drift=drift(connection, place.namespace, deployed(connection, place, revision))
        if revision and revision.status == "deployed"
        else [],
        router=look.router,
        service=service,
        endpoints=_endpoints(connection, place.namespace, service) if look.exists else [],
        routing=routing(connection, place) if look.exists else None,
        now=stamp(now),
        lease=ends,
        released=released(look.sets),
        waits=waits(look.hosts, look.sets, cost.usd_per_hour, now),
        spent=spent(look.hosts, look.sets, ends, cost, mode, now) if look.exists else None,
        janitor=_janitor(connection, place, now) if held_minutes(look.sets) is not None else None,
    )


def _janitor(connection: Connection, place: Place, now: float) -> Janitor | None:
    try:
        found = list(
            connection.pages(
                path_of(*KINDS["CronJob"], place.namespace), dict[str, Any], labels=place.selector
            )
        )
    except Refused:
        return None  # not every reader may see it
    if not found:
        return Janitor("", "", True)
    state = found[0].get("status") or {}
    since = state.get("lastSuccessfulTime") or found[0]["metadata"]["creationTimestamp"]
    late = bool(found[0]["spec"].get("suspend")) or now - timestamp(since) > _JANITOR_SECONDS
    return Janitor(found[0]["metadata"]["name"], state.get("lastSuccessfulTime", ""), late)


def _problems(observer: Observer, look: Look, now: float) -> tuple[Problem, ...]:
    """What events say, as long as it may still hold: pods that are not made are the absent ones."""
    if look.complete or not look.exists:
        return ()
    absent = any(host.phase == "absent" for host in look.hosts)
    try:
        found = observer.events(max(look.created, now - _EVENT_SECONDS))
    except Refused:
        return ()  # events are one explanation, which not every reader may have
    return tuple(dict.fromkeys(p for p in found if absent or p.kind not in NOT_MADE))


def _endpoints(connection: Connection, namespace: str, service: str) -> list[str]:
    path = path_of("discovery.k8s.io/v1", "endpointslices", namespace)
    found = []
    try:
        slices = list(connection.pages(path, dict[str, Any], labels=f"kubernetes.io/service-name={service}"))
    except Missing:
        return []
    for item in slices:
        ports = [port.get("port") for port in item.get("ports") or []]
        for endpoint in item.get("endpoints") or []:
            if (endpoint.get("conditions") or {}).get("ready", True):
                found += [f"{address}:{port}" for address in endpoint["addresses"] for port in ports]
    return sorted(set(found))
