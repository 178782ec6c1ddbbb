"""Removing everything that a release made, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from manyhost.catalog.chart import KINDS
from manyhost.cluster import control
from manyhost.cluster.connection import Connection, Forbidden, Missing, path_of
from manyhost.cluster.observe import why_not_ended
from manyhost.cluster.phases import NAME, Problem, removal
from manyhost.cluster.release import Releases, Revision, deployed, newest
from manyhost.cluster.target import Place
from manyhost.commands import Commands
from manyhost.errors import Failed, InvalidInput

_LOOK_SECONDS = 0.5
# Who may not list these (the role "edit" of Kubernetes) has not made any.
_OF_ADMINISTRATORS = frozenset({"Role", "RoleBinding"})
# What controllers make for a release; it goes with its owner, some time after it.
MADE: dict[str, tuple[str, str]] = {
    "StatefulSet": ("apps/v1", "statefulsets"),
    "ControllerRevision": ("apps/v1", "controllerrevisions"),
    "Service": ("v1", "services"),
    "EndpointSlice": ("discovery.k8s.io/v1", "endpointslices"),
    "Endpoints": ("v1", "endpoints"),
}


class Item(msgspec.Struct, frozen=True):
    """An object of a release.

    Attributes:
        kind: Its kind.
        name: Its name.
        path: Where the API has it.
    """

    kind: str
    name: str
    path: str


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """All that there is of a release.

    Attributes:
        release: The release.
        namespace: Its namespace.
        revision: Helm's newest revision of it, if any.
        items: Objects that its chart made, by label.
        pods: Pods of its groups; they go with their LeaderWorkerSet.
        made: What controllers made for these; it goes with them.
        sets: Names of its LeaderWorkerSets, by which controllers label what they make.
        kinds: Kinds that were looked for.
    """

    release: str
    namespace: str
    revision: Revision | None
    items: list[Item]
    pods: list[str]
    made: list[Item]
    sets: tuple[str, ...]
    kinds: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to remove."""
        return not self.items and not self.pods and not self.made and self.revision is None


def inventory(
    connection: Connection, place: Place, *, sets: tuple[str, ...] = (), kinds: tuple[str, ...] = ()
) -> Inventory:
    """List what there is of a release; what other charts or people made is never in it.

    Args:
        connection: The cluster.
        place: The release.
        sets: LeaderWorkerSets of it that may have gone before what was made for them.
        kinds: Kinds to look for; all that the chart can make by default.

    Raises:
        InvalidInput: A release of this name exists and is another chart's.
        Unreachable: No answer.
        Refused: No permission, or another refusal.
    """
    namespace, release, labels = place.namespace, place.release, place.selector
    revision = newest(connection, place)
    if revision:
        chart = Releases(connection, namespace).chart(release)
        if chart and not place.chart.is_of(chart):
            raise InvalidInput(
                f"release {release} is of chart {chart}, which this tool did not install",
                where="release",
                fix="choose another --release; only if you want that chart's release gone: "
                + connection.commands.helm("uninstall", release),
            )
    items, looked = [], []
    for kind in kinds or place.chart.kinds:
        try:
            items += [
                Item(kind, name, path)
                for name, path, owned in _find(connection, namespace, KINDS[kind], labels)
                if not owned  # what has an owner goes with it
            ]
        except Missing:
            pass  # a cluster without LeaderWorkerSets has none of them
        except Forbidden as error:
            # Kinds that the release has none of are no business of whoever may remove it.
            if error.status == 401 or kind in _recorded(connection, place, revision):
                raise
            continue
        looked.append(kind)
    there = [item.name for item in items if item.kind == "LeaderWorkerSet"]
    tests = _find(connection, namespace, ("v1", "pods"), place.chart.test_selector(release))
    items += [Item("Pod", name, path) for name, path, _ in tests]  # of tests that failed; nothing owns them
    keys = _find(connection, namespace, ("v1", "secrets"), control.selector(place))
    items += [Item("Secret", name, path) for name, path, _ in keys]
    sets = tuple(sorted({release, *sets, *there}))
    return Inventory(
        release=release,
        namespace=namespace,
        revision=revision,
        items=items,
        pods=[name for name, _, _ in _find(connection, namespace, ("v1", "pods"), labels)],
        made=_made(connection, place, items, sets),
        sets=sets,
        kinds=tuple(looked),
    )


def teardown(
    connection: Connection,
    place: Place,
    found: Inventory,
    *,
    timeout: float,
    report: Callable[[str], None],
) -> None:
    """Remove what inventory() has listed and wait until it is gone.

    Args:
        connection: The cluster.
        place: The release.
        found: Its inventory.
        timeout: Seconds to wait for the pods to end; they may finish the requests they have.
        report: Receives one line a step.

    Raises:
        Failed: Something is still there when time is up.
        RemoteError: Helm or the API server fails.
    """
    end = time.monotonic() + timeout
    if found.revision:
        Releases(connection, place.namespace).uninstall(place.release)
        report(f"helm release {place.release} uninstalled")
    for item in found.items:
        if connection.delete(item.path, foreground=True) and not found.revision:
            report(f"{item.kind} {item.name} deleted")
    _forget(connection, place, found)
    # Left to themselves, workers are told to end only when their leader has gone: their containers would
    # start once more in between and then take the whole grace period to end.
    for name in found.sets:
        for _, path, _ in _find(connection, place.namespace, MADE["StatefulSet"], f"{NAME}={name}"):
            connection.delete(path, foreground=True)
    said, named = "", set[str]()
    while not (left := inventory(connection, place, sets=found.sets, kinds=found.kinds)).empty:
        if left.revision:
            raise Failed(
                f"somebody deploys it again while it is being removed: Helm has revision "
                f"{left.revision.revision} ({left.revision.status}) now",
                where=f"release {left.release}",
                fix="agree on which of the two you want: "
                f"{connection.commands.manyhost('teardown')} removes the new one too",
            )
        count = len(left.pods)
        waiting = f"{count} pod{'s' * (count != 1)} to end" if count else "what belonged to them to go"
        if waiting != said:
            report(f"waiting for {waiting}")
            said = waiting
        kept = _obstacles(connection, left)
        for problem in kept:
            if problem.message.split(" ago")[-1] not in named:
                named.add(problem.message.split(" ago")[-1])
                report(f"{problem.message}\n  fix: {problem.fix}")
        if time.monotonic() > end:
            raise _still_there(connection.commands, left, timeout, kept)
        time.sleep(_LOOK_SECONDS)


def _recorded(connection: Connection, place: Place, revision: Revision | None) -> set[str]:
    """Return the kinds that a release has objects of: what Helm has recorded, any where it knows nothing."""
    objects = deployed(connection, place, revision) if revision else []
    return {item["kind"] for item in objects} or set(place.chart.kinds) - _OF_ADMINISTRATORS


def _obstacles(connection: Connection, left: Inventory) -> list[Problem]:
    """Say what keeps objects that should have gone: somebody's finalizer, or a node that does not answer."""
    found = []
    for name in left.pods:
        pod = connection.find(path_of("v1", "pods", left.namespace, name))
        problem = why_not_ended(connection, pod) if pod else None
        if problem:
            found.append(problem)
    for item in [*left.items, *left.made]:
        metadata = (connection.find(item.path, metadata=True) or {}).get("metadata") or {}
        problem = removal(item.kind, metadata, connection.commands) if metadata else None
        if problem and problem.kind == "finalizer":
            found.append(problem)
    return found


def _still_there(commands: Commands, left: Inventory, timeout: float, kept: list[Problem]) -> Failed:
    names = [f"pod {name}" for name in left.pods]
    names += [f"{item.kind} {item.name}" for item in [*left.items, *left.made]]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    text = f"still there after {timeout:.0f} s: {', '.join(names[:5]) or 'the Helm record'}{more}"
    if kept:
        return Failed(f"{text}; {kept[0].message}", where=f"release {left.release}", fix=kept[0].fix)
    fix = f"{commands.manyhost('teardown', '--yes')} goes on waiting"
    if left.pods:
        fix = f"{commands.kubectl('describe', 'pod', left.pods[0])} says what it waits for; {fix}"
    return Failed(text, where=f"release {left.release}", fix=fix)


def _find(
    connection: Connection, namespace: str, kind: tuple[str, str], labels: str
) -> list[tuple[str, str, bool]]:
    """Return name, path and whether it has an owner, of all objects of a kind with these labels."""
    version, plural = kind
    found = connection.pages(
        path_of(version, plural, namespace), dict[str, Any], labels=labels, metadata=True
    )
    return sorted(
        (
            item["metadata"]["name"],
            path_of(version, plural, namespace, item["metadata"]["name"]),
            bool(item["metadata"].get("ownerReferences")),
        )
        for item in found
    )


def _made(connection: Connection, place: Place, items: list[Item], sets: tuple[str, ...]) -> list[Item]:
    """Return what controllers made: the LeaderWorkerSet's by its label, the Service's by the chart's."""
    known = {item.path for item in items}
    found: dict[str, Item] = {}
    for kind, where in MADE.items():
        for labels in (*(f"{NAME}={name}" for name in sets), place.selector):
            for name, path, _ in _find(connection, place.namespace, where, labels):
                if path not in known:
                    found[path] = Item(kind, name, path)
    return list(found.values())


def _forget(connection: Connection, place: Place, found: Inventory) -> None:
    """Remove Helm's record of a release that was cut off half-way, which uninstall may leave."""
    path = path_of("v1", "secrets", place.namespace)
    selector = f"owner=helm,name={place.release}"
    if found.revision is None:
        return
    for secret in list(connection.pages(path, dict[str, Any], labels=selector, metadata=True)):
        connection.delete(path_of("v1", "secrets", place.namespace, secret["metadata"]["name"]))
