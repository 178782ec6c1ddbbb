"""Dotted paths into nested values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def at(values: Any, path: str) -> Any:
    """Return what stands at a path; None where nothing does."""
    for part in path.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def nested(parts: Iterable[str], value: Any) -> dict[str, Any]:
    """Return a value below these names, the outermost first; there is at least one."""
    for part in reversed(list(parts)):
        value = {part: value}
    found: dict[str, Any] = value
    return found


def within(path: str, block: str) -> bool:
    """Whether a path is a block itself or stands below it."""
    return path == block or path.startswith(f"{block}.")
