"""The keys that recipes and settings have in common."""

from __future__ import annotations

from typing import Any, TypeGuard

import msgspec

from manyhost.catalog.recipe import Recipe

Layer = tuple[str, dict[str, Any]]
# Keys below these are names that people choose; they may contain dots (node labels) or dashes (flags).
OPEN = (
    "arguments",
    "roles.prefill.arguments",
    "roles.decode.arguments",
    "variables",
    "node_selector",
    "network.nccl",
)


class Key(msgspec.Struct, frozen=True):
    """One key that recipes and settings have in common.

    Attributes:
        name: Dotted.
        description: What it means, one sentence.
        default: Its default; NODEFAULT when every recipe must give it.
    """

    name: str
    description: str
    default: Any


def is_block(kind: Any) -> TypeGuard[type[msgspec.Struct]]:
    """Whether a field of this type holds keys of its own."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def keys() -> list[Key]:
    """Return every key of a recipe, depth first (an open mapping is one key)."""
    found: list[Key] = []

    def walk(kind: type[msgspec.Struct], prefix: str) -> None:
        for field in msgspec.structs.fields(kind):
            name = f"{prefix}{field.name}"
            if is_block(field.type):
                walk(field.type, f"{name}.")
                continue
            meta = getattr(field.type, "__metadata__", (None,))[0]
            default = field.default
            if field.default_factory is not msgspec.NODEFAULT:
                default = field.default_factory()
            found.append(Key(name, getattr(meta, "description", "") or "", default))

    walk(Recipe, "")
    return found


def known_keys() -> list[str]:
    """Return the names of all keys and of the blocks that hold them."""
    names = [key.name for key in keys()]
    blocks = {name.rpartition(".")[0] for name in names} - {""}
    return sorted({*names, *blocks})
