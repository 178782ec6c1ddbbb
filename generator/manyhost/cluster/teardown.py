"""Removing everything that a release made, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from manyhost.cluster.connection import Connection, Missing, path_of
from manyhost.cluster.phases import NAME
from manyhost.cluster.release import Releases, Revision, is_ours, newest
from manyhost.cluster.target import CHART, KINDS
from manyhost.errors import Failed, InvalidInput

_LOOK_SECONDS = 0.5


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
    """

    release: str
    namespace: str
    revision: Revision | None
    items: list[Item]
    pods: list[str]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to remove."""
        return not self.items and not self.pods and self.revision is None


def inventory(connection: Connection, namespace: str, release: str) -> Inventory:
    """List what there is of a release; what other charts or people made is never in it.

    Raises:
        InvalidInput: A release of this name exists and is another chart's.
        Unreachable: No answer.
        Refused: No permission, or another refusal.
    """
    revision = newest(connection, namespace, release)
    if revision:
        chart = Releases(connection, namespace).chart(release)
        if chart and not is_ours(chart):
            raise InvalidInput(
                f"release {release} is of chart {chart}, which this tool did not install",
                where="release",
                fix=f"helm uninstall {release} --namespace {namespace}, if that is what you want",
            )
    items = []
    selector = f"app.kubernetes.io/instance={release},app.kubernetes.io/name={CHART}"
    for kind, (version, plural) in KINDS.items():
        path = path_of(version, plural, namespace)
        try:
            found = list(connection.pages(path, dict[str, Any], labels=selector, metadata=True))
        except Missing:
            continue  # a cluster without LeaderWorkerSets has none of them
        for item in found:
            name = item["metadata"]["name"]
            if item["metadata"].get("ownerReferences"):
                continue  # goes with its owner
            items.append(Item(kind, name, path_of(version, plural, namespace, name)))
    return Inventory(
        release=release,
        namespace=namespace,
        revision=revision,
        items=items,
        pods=_pods(connection, namespace, release),
    )


def teardown(
    connection: Connection, found: Inventory, *, timeout: float, report: Callable[[str], None]
) -> None:
    """Remove what inventory() has listed and wait until it is gone.

    Args:
        connection: The cluster.
        found: The inventory.
        timeout: Seconds to wait for the pods to end; they may finish the requests they have.
        report: Receives one line a step.

    Raises:
        Failed: Something is still there when time is up.
        RemoteError: Helm or the API server fails.
    """
    end = time.monotonic() + timeout
    if found.revision:
        Releases(connection, found.namespace).uninstall(found.release)
        report(f"helm release {found.release} uninstalled")
    for item in found.items:
        if connection.delete(item.path) and not found.revision:
            report(f"{item.kind} {item.name} deleted")
    _forget(connection, found)
    # Left to themselves, workers are told to end only when their leader has gone: their containers would
    # start once more in between and then take the whole grace period to end.
    path = path_of("apps/v1", "statefulsets", found.namespace)
    sets = list(connection.pages(path, dict[str, Any], labels=f"{NAME}={found.release}", metadata=True))
    for one in sets:
        connection.delete(path_of("apps/v1", "statefulsets", found.namespace, one["metadata"]["name"]))
    left = _left(connection, found)
    said = -1
    while left and time.monotonic() < end:
        pods = sum(1 for text in left if text.startswith("pod "))
        if pods and pods != said:
            report(f"waiting for {pods} pod{'s' if pods > 1 else ''} to end")
            said = pods
        time.sleep(_LOOK_SECONDS)
        left = _left(connection, found)
    if left:
        raise Failed(
            f"still there after {timeout:.0f} s: {', '.join(left[:5])}",
            where=f"release {found.release}",
            fix="run teardown again with a longer --timeout",
        )


def _pods(connection: Connection, namespace: str, release: str) -> list[str]:
    path = path_of("v1", "pods", namespace)
    pods = connection.pages(path, dict[str, Any], labels=f"{NAME}={release}", metadata=True)
    return sorted(pod["metadata"]["name"] for pod in pods)


def _forget(connection: Connection, found: Inventory) -> None:
    """Remove Helm's record of a release that was cut off half-way, which uninstall may leave."""
    path = path_of("v1", "secrets", found.namespace)
    selector = f"owner=helm,name={found.release}"
    if found.revision is None:
        return
    for secret in list(connection.pages(path, dict[str, Any], labels=selector, metadata=True)):
        connection.delete(path_of("v1", "secrets", found.namespace, secret["metadata"]["name"]))


def _left(connection: Connection, found: Inventory) -> list[str]:
    now = inventory(connection, found.namespace, found.release)
    return [f"{item.kind} {item.name}" for item in now.items] + [f"pod {name}" for name in now.pods]
