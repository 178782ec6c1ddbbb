"""The logs of one host's engine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from manyhost.cluster.connection import Connection, Missing, Refused, path_of
from manyhost.cluster.phases import ENGINE_CONTAINER
from manyhost.errors import NotReady

_LOOKS = 6  # a second apart


def pod_name(release: str, group: int, host: int) -> str:
    """The pod of a host: the LeaderWorkerSet controller names them so."""
    return f"{release}-{group}-{host}" if host else f"{release}-{group}"


def why_ended(connection: Connection, namespace: str, pod: str, uid: str, container: str) -> str:
    """Say why a log that was followed has come to its end.

    Args:
        connection: The cluster.
        namespace: The pod's namespace.
        pod: Its name.
        uid: Its uid when the log began.
        container: The container.
    """
    for _ in range(_LOOKS):  # the node tells the end of a container a moment after its log has ended
        found = connection.find(path_of("v1", "pods", namespace, pod))
        if found is None:
            return f"pod {pod} has been removed"
        if found["metadata"]["uid"] != uid or found["metadata"].get("deletionTimestamp"):
            return f"pod {pod} has ended and its group is made anew: the log of the new one is another"
        for item in (found.get("status") or {}).get("containerStatuses") or ():
            states = [(item.get(key) or {}).get("terminated") for key in ("state", "lastState")]
            ended = next((state for state in states if state), None)
            if item["name"] == container and ended:
                return f"container {container} of {pod} has ended with code {ended.get('exitCode')}"
        time.sleep(1)
    return f"the cluster has ended the log of {pod}"


def uid_of(connection: Connection, namespace: str, pod: str) -> str:
    """The uid of a pod; empty when there is none."""
    found = connection.find(path_of("v1", "pods", namespace, pod), metadata=True)
    return str(found["metadata"]["uid"]) if found else ""


def logs(
    connection: Connection,
    namespace: str,
    pod: str,
    *,
    follow: bool = False,
    previous: bool = False,
    tail: int | None = None,
    container: str = ENGINE_CONTAINER,
) -> Iterator[bytes]:
    """Yield the log of a pod's container in pieces.

    Args:
        connection: The cluster.
        namespace: The pod's namespace.
        pod: Its name.
        follow: Go on until the container ends.
        previous: The container's former life.
        tail: Only so many last lines.
        container: The engine's by default.

    Raises:
        NotReady: There is no such pod, or its container has no log yet.
        Unreachable: The connection is lost.
    """
    query: dict[str, Any] = {"container": container, "tailLines": tail}
    query |= {"follow": "true"} if follow else {}
    query |= {"previous": "true"} if previous else {}
    try:
        yield from connection.stream(path_of("v1", "pods", namespace, pod, "log"), query=query)
    except Missing:
        raise NotReady(
            f"there is no pod {pod} in namespace {namespace}",
            fix=f"{connection.commands.manyhost('status')} says which there are",
        ) from None
    except Refused as error:
        if error.status == 400:
            status = connection.commands.manyhost("status")
            raise NotReady(f"no log yet: {error.message}", fix=f"{status} says how far it is") from None
        raise
