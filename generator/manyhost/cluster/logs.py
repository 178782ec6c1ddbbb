"""The logs of one host's engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from manyhost.cluster.connection import Connection, Missing, Refused, path_of
from manyhost.cluster.phases import ENGINE_CONTAINER
from manyhost.errors import NotReady


def pod_name(release: str, group: int, host: int) -> str:
    """The pod of a host: the LeaderWorkerSet controller names them so."""
    return f"{release}-{group}-{host}" if host else f"{release}-{group}"


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
            f"there is no pod {pod} in namespace {namespace}", fix="manyhost status RECIPE"
        ) from None
    except Refused as error:
        if error.status == 400:
            raise NotReady(f"no log yet: {error.message}", fix="manyhost status RECIPE") from None
        raise
