"""What runs of a release, and why something of it does not."""

from __future__ import annotations

from typing import Any

import msgspec

from manyhost.cluster.connection import Connection, Missing, Refused, path_of
from manyhost.cluster.drift import drift
from manyhost.cluster.observe import Look, Observer
from manyhost.cluster.phases import Host, Problem
from manyhost.cluster.release import Change, Unread, deployed, newest
from manyhost.cluster.routing import Routing, routing
from manyhost.cluster.target import Place

# Kubernetes tries again to make a pod after 17 minutes at the latest, and says so again.
_EVENT_SECONDS = 1200.0
NOT_MADE = {"denied", "quota", "limits", "create"}  # problems of pods that are not made


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
        service: Name of the Service.
        endpoints: Addresses behind the Service that take requests.
        routing: The Gateway that routes to it; None where clients reach the Service alone.
        problems: What events say of hosts that are not there, or not ready.
        removal: Who removes it, when it is on its way out.
        drift: Objects that were deleted or changed in the cluster since they were deployed.
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
    service: str = ""
    endpoints: list[str] = []
    routing: Routing | None = None
    problems: tuple[Problem, ...] = ()
    removal: Problem | None = None
    drift: list[Change] = []

    @property
    def ready(self) -> bool:
        """Whether every group answers."""
        return self.installed and not self.removal and self.groups > 0 and self.ready_groups == self.groups


def status(connection: Connection, place: Place) -> Status:
    """Look at a release once.

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
        problems=_problems(observer, look, connection.now()),
        removal=look.removal,
        drift=drift(connection, place.namespace, deployed(connection, place, revision))
        if revision and revision.status == "deployed"
        else [],
        service=f"{place.release}-svc" if look.exists else "",
        endpoints=_endpoints(connection, place.namespace, f"{place.release}-svc") if look.exists else [],
        routing=routing(connection, place) if look.exists else None,
    )


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
