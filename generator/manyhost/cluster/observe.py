"""One look at a release: its LeaderWorkerSet, its pods, and what their launch scripts say."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from manyhost.cluster.connection import Connection, Missing, Object, Refused, path_of
from manyhost.cluster.phases import (
    ENGINE_CONTAINER,
    ROLE,
    Host,
    Problem,
    ScriptLine,
    event_problem,
    host_of,
    last_script_line,
    late,
    leaving,
    overdue,
    removal,
    timestamp,
)
from manyhost.cluster.router import Router, is_router, router_of
from manyhost.cluster.target import LWS, Place, size_of
from manyhost.cluster.threads import pool

_LOGS_AT_ONCE = 8
_LOGS_A_LOOK = 32  # with more hosts than that starting, a look shows the logs of the first ones
_LOG_BYTES = 1 << 20


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """A release at one moment.

    Attributes:
        exists: Whether the LeaderWorkerSet of its name exists.
        replicas: Groups wanted.
        size: Hosts of all groups wanted.
        ready_groups: Groups that the controller counts as ready.
        updated_groups: Groups that run the newest template.
        wanted: Groups wanted, by role.
        settled: Whether the controller has seen the newest specification; None when its version does not say.
        hosts: Every host that should exist or does, by role, group and host.
        removal: Who removes it, when a LeaderWorkerSet of it is on its way out.
        created: When its youngest LeaderWorkerSet was made, by the API server's clock.
        sets: Its LeaderWorkerSets, the one that clients talk to first.
        router: What clients talk to, where prefill and decode are apart.
    """

    exists: bool
    replicas: int = 0
    size: int = 0
    ready_groups: int = 0
    updated_groups: int = 0
    wanted: dict[str, int] = {}
    settled: bool | None = None
    hosts: tuple[Host, ...] = ()
    removal: Problem | None = None
    created: float = 0.0
    sets: tuple[Object, ...] = ()
    router: Router | None = None

    @property
    def complete(self) -> bool:
        """Whether all groups run the newest template, every host is ready, and so is the router."""
        return (
            self.exists
            and not self.removal
            and (self.router is None or self.router.complete)
            and self.settled is not False
            and self.ready_groups == self.updated_groups == self.replicas
            and len(self.hosts) == self.size
            and all(host.phase == "ready" for host in self.hosts)
        )


class Observer:
    """Looks at one release again and again; remembers how far it has read the logs.

    Args:
        connection: The cluster.
        place: The release.
    """

    def __init__(self, connection: Connection, place: Place) -> None:
        self._connection = connection
        self._place = place
        self._namespace = place.namespace
        self._release = place.release
        self._labels = place.selector
        self._place = place
        # Its sets, their StatefulSets and pods: r, r-prefill, r-0, r-0-1; of its router the Deployment,
        # ReplicaSets and pods, whose names end with what Kubernetes picks; not those of a release r-x.
        picked = "[bcdfghjklmnpqrstvwxz2456789]"
        self._ours = re.compile(
            rf"{re.escape(place.release)}((-prefill)?(-\d+){{0,2}}|-router(-{picked}{{6,10}}(-{picked}{{5}})?)?)"
        )
        self._lines: dict[str, ScriptLine] = {}  # by pod uid
        self._read: set[str] = set()

    def look(self, *, logs: bool = True) -> Look:
        """Look once.

        Args:
            logs: Also read the launch scripts' lines of hosts that run and are not ready.

        Raises:
            Unreachable: The API server does not answer.
            Refused: It refuses.
        """
        labels = self._labels
        sets = sets_of(self._connection, self._place)
        if all(item["metadata"]["name"] != self._release for item in sets):
            return Look(exists=False)
        pods = list(
            self._connection.pages(path_of("v1", "pods", self._namespace), dict[str, Any], labels=labels)
        )
        if logs:
            self._read_logs([pod for pod in pods if _talks(pod)])
        groups: dict[tuple[str, int], list[Host]] = {}
        for pod in pods:
            if is_router(pod):
                continue
            kept = why_not_ended(self._connection, pod)
            host = host_of(pod, self._connection.commands, self._lines.get(pod["metadata"]["uid"]), kept)
            groups.setdefault(host.place, []).append(host)
        known = {(*place, host.host): host for place, hosts in groups.items() for host in leaving(hosts)}
        wanted = {}
        total = 0
        for item in sets:
            role = item["metadata"]["labels"].get(ROLE, "")
            wanted[role] = int(item["spec"].get("replicas", 1))
            size = size_of(item)
            total += wanted[role] * size
            for group in range(wanted[role]):
                for index in range(size):
                    pod_name = f"{item['metadata']['name']}-{group}" + (f"-{index}" if index else "")
                    host = Host(role=role, group=group, host=index, pod=pod_name)
                    known.setdefault((role, group, index), host)
        states = [item.get("status") or {} for item in sets]
        removals = (removal("LeaderWorkerSet", item["metadata"], self._connection.commands) for item in sets)
        return Look(
            exists=True,
            replicas=sum(wanted.values()),
            size=total,
            ready_groups=sum(int(state.get("readyReplicas", 0)) for state in states),
            updated_groups=sum(int(state.get("updatedReplicas", 0)) for state in states),
            wanted=wanted,
            settled=_settled(sets),
            hosts=tuple(known[key] for key in sorted(known)),
            created=max(timestamp(item["metadata"].get("creationTimestamp", "")) for item in sets),
            removal=next(filter(None, removals), None),
            sets=tuple(sorted(sets, key=lambda item: item["metadata"]["name"] != self._release)),
            router=router_of(self._connection, self._place, pods) if "decode" in wanted else None,
        )

    def events(self, since: float) -> list[Problem]:
        """Explain the namespace's recent Warning events about this release's objects.

        Args:
            since: Only events last seen at or after this time of the API server's clock.
        """
        path = path_of("v1", "events", self._namespace)
        found = []
        for event in self._connection.pages(path, dict[str, Any], fields="type=Warning"):
            if not self._ours.fullmatch((event.get("involvedObject") or {}).get("name", "")):
                continue
            last = event.get("lastTimestamp") or event.get("eventTime") or ""
            if timestamp(last) + 1 < since:  # timestamps have whole seconds
                continue
            problem = event_problem(event, self._connection.commands)
            if problem:
                found.append(problem)
        return found

    def tail(self, pod: str, lines: int = 8, container: str = ENGINE_CONTAINER) -> list[str]:
        """Return the last lines of a container's log, of its former life when it has just ended."""
        path = path_of("v1", "pods", self._namespace, pod, "log")
        for previous in ("true", None):
            query = {"container": container, "tailLines": lines, "previous": previous}
            try:
                text = self._connection.text(path, query=query)
            except Refused:
                continue
            if text.strip():
                return text.rstrip().splitlines()
        return []

    def _read_logs(self, pods: list[Object]) -> None:
        if not pods:
            return
        with pool(_LOGS_AT_ONCE) as threads:
            list(threads.map(self._read_log, pods[:_LOGS_A_LOOK]))

    def _read_log(self, pod: Object) -> None:
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        query: dict[str, Any] = {"container": ENGINE_CONTAINER, "limitBytes": _LOG_BYTES}
        if uid in self._read:
            query["sinceSeconds"] = 10  # read before: only what is new; a look comes every second or two
        try:
            text = self._connection.text(path_of("v1", "pods", self._namespace, name, "log"), query=query)
        except (Missing, Refused):
            return  # the container has gone, or its node does not answer
        self._read.add(uid)
        line = last_script_line(text.splitlines())
        if line:
            self._lines[uid] = line


def sets_of(connection: Connection, place: Place) -> list[Object]:
    """Return the LeaderWorkerSets of a release: one, or one for each role."""
    path = path_of(*LWS, place.namespace)
    try:
        return list(connection.pages(path, dict[str, Any], labels=place.selector))
    except Missing:
        return []  # a cluster without LeaderWorkerSets has none of them


def why_not_ended(connection: Connection, pod: Object) -> Problem | None:
    """Explain a pod that should have ended and has not; its node is asked, not guessed at."""
    seconds = late(pod, connection.now())
    if not seconds:
        return None
    node = (pod.get("spec") or {}).get("nodeName", "")
    ready = _node_ready(connection, node) if node else ""
    return overdue(pod, seconds, ready, connection.commands)


def _node_ready(connection: Connection, name: str) -> str:
    """Return a node's Ready condition: True, False or Unknown; "gone" without the node, empty when unread."""
    try:
        node = connection.find(path_of("v1", "nodes", "", name))
    except Refused:
        return ""  # people of one namespace may not read nodes
    if node is None:
        return "gone"
    conditions = (node.get("status") or {}).get("conditions") or []
    return next((str(item["status"]) for item in conditions if item["type"] == "Ready"), "Unknown")


def _settled(sets: list[Object]) -> bool | None:
    seen = [(item.get("status") or {}).get("observedGeneration") for item in sets]
    if None in seen:
        return None
    return all(number >= item["metadata"]["generation"] for number, item in zip(seen, sets, strict=True))


def _talks(pod: Object) -> bool:
    """Whether the engine container runs and the pod is not ready yet."""
    from manyhost.cluster.phases import is_ready

    if is_ready(pod) or pod["metadata"].get("deletionTimestamp"):
        return False
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return any(s["name"] == ENGINE_CONTAINER and "running" in (s.get("state") or {}) for s in statuses)
