"""Parts of the schemas that are written by hand because Kubernetes itself does not have the kind."""

from __future__ import annotations

from typing import Any

MAX_INT32 = 2**31 - 1


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    """Return the schema of a mapping that has these fields and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": list(required),
    }


def integer(least: int, most: int = MAX_INT32) -> dict[str, Any]:
    """Return the schema of a whole number within limits."""
    return {"type": "integer", "minimum": least, "maximum": most}
