"""No container is left out: one that the other checks did not see is an error by itself."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from manyhost.checks.finding import Finding
from manyhost.checks.objects import Object, place


def check(item: Object, containers: list[tuple[str, Any]], checked: Collection[int]) -> Iterator[Finding]:
    """Yield a finding for an object with containers that are in none of the pods that were checked.

    Args:
        item: An object of any shape.
        containers: All that stands in its lists of containers, each with its place.
        checked: Identities of the containers of all pods that were checked.
    """
    missed = [path for path, body in containers if id(body) not in checked]
    if missed:
        yield Finding(
            "coverage",
            place(item),
            f"looked at by no check: {', '.join(missed)}",
            "put containers into a well-formed pod template: a spec with containers",
        )
