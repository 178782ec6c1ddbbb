"""Preflight: would this recipe work on this cluster? Reads only, and costs nothing."""

from __future__ import annotations

from collections.abc import Iterable

from manyhost.cluster.connection import Connection
from manyhost.cluster.doctor import (
    access,
    admission,
    fabric,
    gib_imex,
    hosts,
    image_lock,
    limits,
    lws,
    names,
    policies,
    quota,
    registry,
    routing,
    scaling,
    storage,
    topology,
)
from manyhost.cluster.doctor.check import CHECKS, Check, Result, Sight, run, verdict
from manyhost.cluster.target import Target
from manyhost.errors import InvalidInput, NotReady

__all__ = ["CHECKS", "Check", "Result", "examine", "require", "verdict"]

_MODULES = (
    access,
    limits,
    quota,
    lws,
    names,
    admission,
    policies,
    hosts,
    topology,
    image_lock,
    fabric,
    gib_imex,
    storage,
    routing,
    scaling,
    registry,
)  # imported for their checks


def examine(connection: Connection, target: Target, *, skip: Iterable[str] = ()) -> list[Result]:
    """Run every check but the skipped ones.

    Raises:
        InvalidInput: A name in skip is no check.
    """
    without = set(skip)
    unknown = without - set(CHECKS)
    if unknown:
        raise InvalidInput(
            f"there is no check {', '.join(sorted(unknown))}",
            where="--skip",
            fix=f"one of {', '.join(CHECKS)}",
        )
    return run(Sight(connection, target), [item for item in CHECKS.values() if item.name not in without])


def require(connection: Connection, target: Target) -> None:
    """Run the cheap checks that a deployment needs.

    Raises:
        NotReady: One of them fails; the message is the first one's.
    """
    results = run(Sight(connection, target), [item for item in CHECKS.values() if item.cheap])
    wrong = [result for result in results if result.status == "fail"]
    if wrong:
        doctor = connection.commands.manyhost("doctor")
        more = f" (and {len(wrong) - 1} more: {doctor})" if len(wrong) > 1 else ""
        raise NotReady(f"{wrong[0].why}{more}", where=wrong[0].check, fix=wrong[0].fix)
