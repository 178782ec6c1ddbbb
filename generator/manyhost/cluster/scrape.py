"""Reading the counters of a release's engines, each through a tunnel to the leader of its group."""

from __future__ import annotations

import http.client
import time
from typing import Any

from manyhost.cluster.chat import Server, port_of, tunnel
from manyhost.cluster.connection import Connection, Forbidden, path_of
from manyhost.cluster.figures import Reading, counts
from manyhost.cluster.phases import ROLE, WORKER, is_ready
from manyhost.cluster.router import is_router
from manyhost.cluster.target import Place
from manyhost.cluster.threads import pool
from manyhost.errors import Failed, NotReady, RemoteError

_AT_ONCE = 8
_ANSWER_SECONDS = 10.0  # an engine writes its metrics in milliseconds, whatever it computes


def scrape(connection: Connection, place: Place) -> tuple[list[Reading], int]:
    """Read every ready leader once.

    Returns:
        What each of them says, in the order of their names, and how many hosts the release has.

    Raises:
        NotReady: No group is ready.
        Forbidden: Tunnels are not allowed.
        RemoteError: The API server is away, or none of the leaders answers.
        Failed: They answer, and count by other names.
    """
    path = path_of("v1", "pods", place.namespace)
    pods = list(connection.pages(path, dict[str, Any], labels=place.selector))
    members = [pod for pod in pods if not is_router(pod)]
    leaders = [pod for pod in members if pod["metadata"]["labels"].get(WORKER) == "0" and is_ready(pod)]
    if not leaders:
        raise NotReady(
            f"no group of release {place.release} is ready",
            fix=f"{connection.commands.manyhost('status')} says why",
        )
    leaders.sort(key=lambda pod: str(pod["metadata"]["name"]))
    with pool(_AT_ONCE) as threads:
        found = list(threads.map(lambda pod: _read(connection, place, pod), leaders))
    problems = [problem for _, problem in found if problem]
    if len(problems) == len(found):
        raise problems[0]
    if not any(reading.counts for reading, _ in found):
        raise Failed("its engines have no counters by the names of vLLM", where=f"release {place.release}")
    hosts = sum(bool((pod.get("spec") or {}).get("nodeName")) for pod in members)
    return [reading for reading, _ in found], hosts


def _read(connection: Connection, place: Place, pod: dict[str, Any]) -> tuple[Reading, RemoteError | None]:
    name = pod["metadata"]["name"]
    role = pod["metadata"]["labels"].get(ROLE, "")
    try:
        with tunnel(connection, place.namespace, Server(name, port_of(pod)), _ANSWER_SECONDS) as client:
            client.request("GET", "/metrics")
            answer = client.getresponse()
            text = answer.read().decode(errors="replace")
        return Reading(name, role, time.monotonic(), counts(text) if answer.status == 200 else {}), None
    except Forbidden:
        raise
    except RemoteError as error:
        problem = error
    except (OSError, http.client.HTTPException) as error:
        problem = RemoteError(
            f"leader {name} does not say what it does: {str(error) or type(error).__name__}",
            fix=f"{connection.commands.manyhost('status')} says what has become of it",
        )
    return Reading(name, role, time.monotonic(), {}), problem
