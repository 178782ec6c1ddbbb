"""The key by which the members of a group know each other: a Secret that no chart renders.

Its name and its one entry are those of the chart (templates/_storage.tpl).
"""

from __future__ import annotations

import base64
import secrets

from manyhost.checks.objects import control_secret
from manyhost.cluster.connection import Connection, Object, Refused, path_of
from manyhost.cluster.target import LWS, Place, Target, size_of

ENTRY = "key"
_BYTES = 32  # as long as the digest that it keys (RFC 2104)
_MADE_BY = {"app.kubernetes.io/managed-by": "manyhost"}


def needed(target: Target) -> bool:
    """Whether any group has several hosts, and so a control channel."""
    return any(size_of(item) > 1 for item, _ in target.sets)


def selector(place: Place) -> str:
    """Return a selector of what provide() makes for a release."""
    return ",".join(f"{key}={value}" for key, value in _labels(place).items())


def provide(connection: Connection, place: Place) -> None:
    """Make the key of a release, once: pods that run have the one that is there.

    Raises:
        Refused: The Secret may not be made.
    """
    name = control_secret(place.release)
    key = base64.b64encode(secrets.token_hex(_BYTES).encode()).decode()
    body: Object = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": place.namespace, "labels": _labels(place)},
        "data": {ENTRY: key},
    }
    try:
        connection.create(path_of("v1", "secrets", place.namespace), body)
    except Refused as error:
        if error.status != 409:
            raise


def bind(connection: Connection, place: Place) -> None:
    """Let the key that provide() has made go with the release's LeaderWorkerSet, whoever removes that."""
    path = path_of("v1", "secrets", place.namespace, control_secret(place.release))
    found = connection.find(path, metadata=True)
    group = connection.find(path_of(*LWS, place.namespace, place.release), metadata=True)
    if (
        not found
        or not group
        or not _labels(place).items() <= (found["metadata"].get("labels") or {}).items()
    ):
        return
    owner = {"apiVersion": LWS.version, "kind": "LeaderWorkerSet", "name": place.release}
    owner["uid"] = group["metadata"]["uid"]
    connection.merge(path, {"metadata": {"ownerReferences": [owner]}})


def _labels(place: Place) -> dict[str, str]:
    return place.chart.labels(place.release) | _MADE_BY
