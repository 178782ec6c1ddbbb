"""The router of a release whose prefill and decode groups are apart."""

from __future__ import annotations

from typing import Any

import msgspec

from manyhost.catalog.chart import KINDS
from manyhost.cluster.connection import Connection, Forbidden, Object, path_of
from manyhost.cluster.phases import Problem, host_of, is_ready
from manyhost.cluster.target import Place

CONTAINER = "router"
_COMPONENT = "app.kubernetes.io/component"
_DEPLOYMENT = KINDS["Deployment"]


class Router(msgspec.Struct, frozen=True, kw_only=True):
    """Where clients of such a release go.

    Attributes:
        name: Of its Deployment and its Service.
        wanted: Pods wanted.
        ready: Pods that take requests.
        settled: Whether all of them run the newest template.
        problems: Why one does not come up.
    """

    name: str
    wanted: int = 0
    ready: int = 0
    settled: bool = False
    problems: tuple[tuple[str, Problem], ...] = ()

    @property
    def complete(self) -> bool:
        """Whether all pods take requests."""
        return self.settled and 0 < self.wanted == self.ready

    @property
    def text(self) -> str:
        """How many are ready, for people."""
        return f"{self.name}: {self.ready} of {self.wanted} ready"


def is_router(pod: Object) -> bool:
    """Whether a pod of a release is its router's; all others are members of groups."""
    return (pod["metadata"].get("labels") or {}).get(_COMPONENT) == "router"


def selector(place: Place) -> str:
    """Return what selects the router's pods."""
    return f"{place.selector},{_COMPONENT}=router"


def router_of(connection: Connection, place: Place, pods: list[Object]) -> Router:
    """Return the router of a release that must have one.

    Args:
        connection: The cluster.
        place: The release.
        pods: Its pods, of groups too.

    Raises:
        Unreachable: No answer.
        Refused: No permission, or another refusal.
    """
    name = f"{place.release}-router"
    own = [pod for pod in pods if is_router(pod)]
    hosts = [host_of(pod, connection.commands) for pod in own]
    problems = tuple((host.pod, host.problem) for host in hosts if host.problem)
    ready = sum(map(is_ready, own))
    try:
        found: dict[str, Any] = connection.find(path_of(*_DEPLOYMENT, place.namespace, name)) or {}
    except Forbidden:  # a reader of pods is told about pods
        return Router(name=name, wanted=len(own), ready=ready, settled=True, problems=problems)
    state = found.get("status") or {}
    wanted = int((found.get("spec") or {}).get("replicas", 0))
    seen = int(state.get("observedGeneration", 0)) >= int((found.get("metadata") or {}).get("generation", 1))
    settled = seen and state.get("replicas", 0) == state.get("updatedReplicas", 0) == wanted
    return Router(name=name, wanted=wanted, ready=ready, settled=settled, problems=problems)
