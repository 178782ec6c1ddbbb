"""Numbers stay what they were: no float where a whole number was written, nothing like 1e+06."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from manyhost.checks.finding import Finding
from manyhost.checks.objects import Context, place

# What Go prints for a large number that passed through a float, alone or inside JSON or a flag.
_EXPONENT = re.compile(r"(?<![\w.+-])-?\d+(?:\.\d+)?[eE]\+\d+(?![\w.])")


def check(context: Context) -> Iterator[Finding]:
    """Yield floats (no field that we render holds one) and strings with an exponent."""
    for item in context.objects:
        where = place(item)
        # The data of a ConfigMap is program text.
        body = {k: v for k, v in item.items() if k not in ("data", "binaryData")}
        yield from _walk(body, where, "")


def _walk(node: Any, where: str, path: str) -> Iterator[Finding]:
    if isinstance(node, str):
        if "e+" in node or "E+" in node:
            yield from _text(node, where, path)
    elif isinstance(node, dict):
        for key, value in node.items():
            if isinstance(value, str | dict | list | float):
                yield from _walk(value, where, f"{path}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            if isinstance(value, str | dict | list | float):
                yield from _walk(value, where, f"{path}[{index}]")
    elif isinstance(node, float):
        yield Finding(
            "number",
            f"{where} {path.lstrip('.')}",
            f"{node!r} is a float where Kubernetes takes a whole number",
            f"write {node:.0f}" if node.is_integer() else "write a whole number",
        )


def _text(text: str, where: str, path: str) -> Iterator[Finding]:
    found = _EXPONENT.search(text)
    if found:
        yield Finding(
            "number",
            f"{where} {path.lstrip('.')}",
            f"{found[0]} is a number that lost its digits on the way",
            f"write {float(found[0]):.0f}",
        )
