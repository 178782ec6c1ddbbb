"""Engine arguments of a role: what manyhost derives, then the recipe's, then the role's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyhost.catalog.engine import Engine, FlagNames
from manyhost.catalog.recipe import SEATS, Recipe
from manyhost.errors import InvalidInput


def derived(engine: Engine) -> dict[str, str]:
    """Return the flags that follow from a setting, each with that setting."""
    return {engine.flag_names.context: "context", engine.flag_names.utilization: "utilization"}


def check(arguments: Mapping[str, Any], engine: Engine, reserved: Mapping[str, str], key: str) -> None:
    """Check the flags that the plan itself depends on.

    Args:
        arguments: Flags by name without dashes.
        engine: What it calls its flags, and those that the plan knows nothing of.
        reserved: Flags that are set elsewhere, with the setting that does it ("" for the launcher).
        key: Where they stand in the recipe.

    Raises:
        InvalidInput: When a flag is set by manyhost itself, or changes what the plan does not know, or the
            seats are no number.
    """
    follow = derived(engine)
    for name in arguments:
        plain = name.removeprefix("no-").replace("_", "-").lower().split(".")[0]
        setting = follow.get(plain, reserved.get(plain))
        if setting is not None:
            raise InvalidInput(
                "is set by manyhost itself",
                where=f"{key}.{name}",
                fix=f"remove it and set {setting}" if setting else "remove it",
            )
        if plain in engine.unplanned and arguments[name] is not None:
            raise InvalidInput(engine.unplanned[plain], where=f"{key}.{name}", fix="leave it out")
    flag = engine.flag_names.seats
    seats = arguments.get(flag, 1)
    if isinstance(seats, int) and (seats < 1 or seats is True):
        raise InvalidInput("must be a whole number from 1", where=f"{key}.{flag}")
    if isinstance(seats, int) and seats > SEATS:
        raise InvalidInput(f"must be at most {SEATS}", where=f"{key}.{flag}")


def merged(recipe: Recipe, engine: Engine, own: Mapping[str, Any], has_gpus: bool) -> dict[str, Any]:
    """Return the arguments of a role in a fixed order: what manyhost derives, then the others by name."""
    derived: dict[str, Any] = {engine.flag_names.context: recipe.context}
    if has_gpus and recipe.utilization:
        derived[engine.flag_names.utilization] = recipe.utilization
    given = {**recipe.arguments, **own}
    return derived | {name: given[name] for name in sorted(given) if given[name] is not None}


def seats(arguments: Mapping[str, Any], names: FlagNames) -> int:
    """Return how many requests a group runs at once; 0 where the engine decides."""
    value = arguments.get(names.seats, 0)
    return value if isinstance(value, int) else 0


def offload_gib(arguments: Mapping[str, Any]) -> float:
    """Return what the engine keeps in main memory for each GPU; 0 for what the check of flags refuses."""
    value = arguments.get("cpu-offload-gb", 0)
    return value if isinstance(value, (int, float)) else 0


def kv_dtype(arguments: Mapping[str, Any], engine: Engine, where: str) -> str:
    """Return the data type of the KV cache.

    Args:
        arguments: Flags by name without dashes.
        engine: What it can serve.
        where: The key of the flag in the recipe.

    Raises:
        InvalidInput: When this version cannot serve it.
    """
    found = str(arguments.get("kv-cache-dtype", "auto"))
    if found not in engine.kv_dtypes:
        raise InvalidInput(
            f"{engine} cannot serve this model with it",
            where=where,
            fix=f"use one of: {', '.join(engine.kv_dtypes)}",
        )
    return found
