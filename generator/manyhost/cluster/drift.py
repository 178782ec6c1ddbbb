"""What differs between the objects of a release in the cluster and those that were deployed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from manyhost.catalog.chart import KINDS
from manyhost.cluster.connection import Connection, Forbidden, Object, path_of
from manyhost.cluster.lease import is_released, unnumbered
from manyhost.cluster.quantity import parse
from manyhost.cluster.release import Change
from manyhost.cluster.threads import pool

_AT_ONCE = 6
_SHOWN = 80  # characters of a value in a message


def drift(connection: Connection, namespace: str, objects: list[Object]) -> list[Change]:
    """Compare live objects with their manifests; what the manifests do not say may be anything.

    Args:
        connection: The cluster.
        namespace: The release's namespace.
        objects: The manifests. Those of kinds that are not ours, or that the user may not read, are left out.

    Returns:
        create for an object that has gone, update for one that was changed.
    """

    def look(item: Object) -> Change | None:
        name = item["metadata"]["name"]
        try:
            live = connection.find(_path(item, namespace))
        except Forbidden:
            return None
        if live is None:
            return Change("create", item["kind"], name, "", drift=True)
        found = [
            f"{path}: {_show(here)} in the cluster, {_show(wanted)} deployed"
            for path, here, wanted in _differences(_part(item), live)
            if path != "spec.replicas" or not _is_released(live)
        ]
        return Change("update", item["kind"], name, "\n".join(found), drift=True) if found else None

    known = [item for item in objects if item["kind"] in KINDS]
    with pool(_AT_ONCE) as threads:
        return [change for change in threads.map(look, known) if change]


def heal(connection: Connection, namespace: str, objects: list[Object]) -> None:
    """Bring objects that were changed in the cluster back to their manifests.

    Helm's own upgrade does not: of a LeaderWorkerSet it compares the old manifest with the new one only.
    """
    for item in objects:
        path = _path(item, namespace)
        live = connection.find(path)
        patch = _patch(_part(item), live) if live else None
        if patch:
            connection.merge(path, patch)


def _path(item: Object, namespace: str) -> str:
    version, plural = KINDS[item["kind"]]
    return path_of(version, plural, namespace, item["metadata"]["name"])


def _part(item: Object) -> Object:
    return {
        key: value for key, value in unnumbered(item).items() if key not in {"apiVersion", "kind", "status"}
    }


def _is_released(live: Object) -> bool:
    return live.get("kind") == "LeaderWorkerSet" and is_released(live)


def _differences(wanted: Any, live: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield path, live value and wanted value of everything wanted that is not so."""
    if isinstance(wanted, dict) and isinstance(live, dict):
        for key, value in wanted.items():
            yield from _differences(value, live.get(key), f"{path}.{key}" if path else key)
    elif isinstance(wanted, list) and isinstance(live, list) and len(wanted) == len(live):
        for index, (left, right) in enumerate(zip(wanted, live, strict=True)):
            name = left.get("name", index) if isinstance(left, dict) else index
            yield from _differences(left, right, f"{path}[{name}]")
    elif not _same(wanted, live):
        yield path, live, wanted


def _patch(wanted: Object, live: Object) -> Object:
    """Return the JSON merge patch (RFC 7386) that makes all that is wanted so; lists are replaced whole."""
    found: Object = {}
    for key, value in wanted.items():
        here = live.get(key)
        if isinstance(value, dict) and isinstance(here, dict):
            below = _patch(value, here)
            if below:
                found[key] = below
        elif next(_differences(value, here), None):
            found[key] = value
    return found


def _same(wanted: Any, live: Any) -> bool:
    """Whether two values mean the same to the API: it drops empty ones and rewrites quantities."""
    if wanted == live or (not wanted and not live):
        return True
    if isinstance(wanted, (dict, list)) or isinstance(live, (dict, list)) or live is None:
        return False
    try:
        return parse(str(wanted)) == parse(str(live))
    except ValueError:
        return False


def _show(value: Any) -> str:
    if value is None:
        return "nothing"
    text = " ".join(str(value).split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
