"""Reads what the start of a release's groups has left behind in the cluster: pods, logs, events."""

from __future__ import annotations

from typing import Any

from manyhost.cluster.connection import Connection, Missing, Object, Refused, path_of
from manyhost.cluster.phases import ENGINE_CONTAINER
from manyhost.cluster.router import is_router
from manyhost.cluster.target import Place
from manyhost.cluster.threads import pool
from manyhost.cluster.timeline import Timeline, planned_start, timelines
from manyhost.plan import Plan
from manyhost.plan.cost import cost

_LOGS_AT_ONCE = 8
_LOG_BYTES = 4 << 20  # from the log's beginning; a start of an engine that reports each shard has some 100 KB


def starts(connection: Connection, place: Place, plan: Plan) -> tuple[Timeline, ...]:
    """Return the start of every group of a release.

    Args:
        connection: The cluster.
        place: The release.
        plan: Its cold start, and what a host costs.

    Raises:
        Unreachable: No answer.
        Refused: Pods may not be listed.
    """
    found = connection.pages(path_of("v1", "pods", place.namespace), dict[str, Any], labels=place.selector)
    pods = [pod for pod in found if not is_router(pod) and not pod["metadata"].get("deletionTimestamp")]
    with pool(_LOGS_AT_ONCE) as threads:
        logs = list(threads.map(lambda pod: _log(connection, place.namespace, pod), pods))
    return timelines(
        pods,
        {pod["metadata"]["uid"]: log for pod, log in zip(pods, logs, strict=True)},
        _pulls(connection, place.namespace),
        planned_start(plan),
        cost(plan.settings, plan.environment, 1).usd_per_hour,
        connection.now(),
    )


def _log(connection: Connection, namespace: str, pod: Object) -> str:
    path = path_of("v1", "pods", namespace, pod["metadata"]["name"], "log")
    query = {"container": ENGINE_CONTAINER, "limitBytes": _LOG_BYTES, "timestamps": "true"}
    try:
        return connection.text(path, query=query)
    except (Missing, Refused):
        return ""  # the container has not begun or has gone, or its node does not answer


def _pulls(connection: Connection, namespace: str) -> dict[str, str]:
    """What kubelets said of the engines' image, by the pod's uid; clusters keep that for about an hour."""
    path = path_of("v1", "events", namespace)
    try:
        events = list(connection.pages(path, dict[str, Any], fields="reason=Pulled"))
    except Refused:
        return {}  # not every reader may see them
    return {
        event["involvedObject"].get("uid", ""): event.get("message", "")
        for event in events
        if event["involvedObject"].get("fieldPath", "") == f"spec.containers{{{ENGINE_CONTAINER}}}"
    }
