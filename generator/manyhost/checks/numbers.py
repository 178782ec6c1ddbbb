"""Numbers stay what they were: no float where a whole number was written, nothing like 1e+06."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from manyhost.checks.finding import Finding
from manyhost.checks.objects import Object, paths, place

# What Go prints for a large number that passed through a float, alone or inside JSON or a flag.
_EXPONENT = re.compile(r"(?<![\w.+-])-?\d+(?:\.\d+)?[eE]\+\d+(?![\w.])")


def check(item: Object, values: list[Any]) -> Iterator[Finding]:
    """Yield floats (no field that we render holds one) and strings with an exponent.

    Args:
        item: An object of any shape.
        values: Its leaves; most objects have none that needs a second look.
    """
    text = "\n".join(value for value in values if isinstance(value, str))
    if "e+" not in text and "E+" not in text and float not in map(type, values):
        return
    # The data of a ConfigMap is program text.
    body = {k: v for k, v in item.items() if k not in ("data", "binaryData")}
    for path, value in paths(body):
        problem = _problem(value)
        if problem:
            yield Finding("number", f"{place(item)} {path}", *problem)


def _problem(value: Any) -> tuple[str, str] | None:
    """Return what is wrong with a scalar and what to do, None if nothing is."""
    if isinstance(value, str):
        found = _EXPONENT.search(value)
        if found:
            written = f"write {float(found[0]):.0f}"
            return f"{found[0]} is a number that lost its digits on the way", written
    elif isinstance(value, float):
        message = f"{value!r} is a float where Kubernetes takes a whole number"
        return message, f"write {value:.0f}" if value.is_integer() else "write a whole number"
    return None
