"""The key by which the members of a group know each other: a Secret that no chart renders.

Its name and its one entry are those of the chart (templates/_storage.tpl).
"""

from __future__ import annotations

import base64
import secrets

from manyhost.checks.objects import control_secret
from manyhost.cluster.connection import Connection, Object, Refused, path_of
from manyhost.cluster.target import Place, Target, size_of

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


def _labels(place: Place) -> dict[str, str]:
    return place.chart.labels(place.release) | _MADE_BY
