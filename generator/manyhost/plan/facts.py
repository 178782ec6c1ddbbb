"""The facts of the world that a recipe names: its join with the catalog."""

from __future__ import annotations

import msgspec

from manyhost.catalog import Catalog, Engine, Environment, Interconnect, Model, Recipe, Resolved
from manyhost.errors import InvalidInput, nearest


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the catalog says of everything that a recipe names.

    Attributes:
        environment: Where it runs.
        interconnect: How GPUs of different hosts talk.
        model: What is served.
        engine: What serves it.
        recipes: A recipe for each engine version, empty where there is none.
        regions: Regions of Google Cloud.
        reserved: Engine flags that nobody may give, with the setting that does it ("" for the launcher).
    """

    environment: Environment
    interconnect: Interconnect
    model: Model
    engine: Engine
    recipes: dict[str, str]
    regions: list[str]
    reserved: dict[str, str]


def _usual(environment: Environment, recipe: Recipe) -> str:
    """Return the environment's own interconnect; within one host there is nothing to connect."""
    sizes, roles = recipe.parallelism, recipe.roles
    tensor = max(sizes.tensor, roles.prefill.tensor, roles.decode.tensor)
    ranks = tensor * sizes.pipeline * max(sizes.data, roles.prefill.data, roles.decode.data)
    if ranks <= environment.host.gpus and "none" in environment.interconnects:
        return "none"
    return environment.interconnects[0]


def join(resolved: Resolved, catalog: Catalog) -> Facts:
    """Look up everything that a recipe names.

    Raises:
        InvalidInput: When the catalog has no such thing, or the environment no such interconnect.
    """
    recipe = resolved.recipe
    environment = catalog.environment(recipe.environment)
    fabric = recipe.network.interconnect or _usual(environment, recipe)
    if fabric not in environment.interconnects:
        raise InvalidInput(
            f"environment {environment.name} has no interconnect {fabric[:80]!r}",
            where=f"{resolved.origin('network.interconnect')}: network.interconnect",
            fix=nearest(fabric, environment.interconnects),
        )
    return Facts(
        environment=environment,
        interconnect=catalog.interconnect(fabric),
        model=catalog.model(recipe.model),
        engine=catalog.engine(recipe.engine.version),
        recipes=catalog.engine_recipes(),
        regions=catalog.regions(),
        reserved=catalog.reserved_flags(),
    )
