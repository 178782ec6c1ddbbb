"""How a release is reached through a Gateway: what the Gateway's controller says of its objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from manyhost.catalog.chart import KINDS
from manyhost.cluster.connection import Connection, Object, Refused, path_of
from manyhost.cluster.target import Place

# Conditions that a controller writes of a route or pool that it has taken on (Gateway API, GEP-1364).
_CONDITIONS = ("Accepted", "ResolvedRefs")


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """The Gateway of a release.

    Attributes:
        gateway: Its namespace and name.
        hostnames: Host names that requests must have; any when empty.
        accepted: Whether it has taken on the HTTPRoute and the InferencePool.
        problems: Why not, one sentence each.
    """

    gateway: str
    hostnames: list[str]
    accepted: bool
    problems: list[str]


def routing(connection: Connection, place: Place) -> Routing | None:
    """Look at the route of a release; None when it has none, or nobody may look.

    Raises:
        Unreachable: No answer.
    """
    route = _own(connection, place, "HTTPRoute")
    if route is None:
        return None
    parent = route["spec"]["parentRefs"][0]
    problems = list(_problems("HTTPRoute", route))
    pool = _own(connection, place, "InferencePool")
    if pool is None:
        problems.append(f"InferencePool {place.release} is not there")
    else:
        problems += _problems("InferencePool", pool)
    return Routing(
        gateway=f"{parent.get('namespace', place.namespace)}/{parent['name']}",
        hostnames=route["spec"].get("hostnames") or [],
        accepted=not problems,
        problems=problems,
    )


def _own(connection: Connection, place: Place, kind: str) -> Object | None:
    """Return the release's object of a kind; it bears the release's name."""
    version, plural = KINDS[kind]
    path = path_of(version, plural, place.namespace)
    try:
        found = list(connection.pages(path, dict[str, Any], labels=place.selector))
    except Refused:
        return None  # no such API, or not for this user's eyes
    return next((item for item in found if item["metadata"]["name"] == place.release), None)


def _problems(kind: str, item: Object) -> Iterator[str]:
    """Say what the controllers of its Gateways have against an object, or that none has looked at it."""
    name = f"{kind} {item['metadata']['name']}"
    parents = (item.get("status") or {}).get("parents") or []
    seen = {
        condition["type"]: condition
        for parent in parents
        for condition in parent.get("conditions") or []
        if condition["type"] in _CONDITIONS
    }
    if "Accepted" not in seen:
        yield f"{name} was not taken on by any Gateway yet"
    for type_ in _CONDITIONS:
        condition = seen.get(type_)
        if condition and condition["status"] != "True":
            why = condition.get("message") or condition.get("reason") or "no reason given"
            yield f"{name}: {type_} is {condition['status']}: {' '.join(str(why).split())[:200]}"
