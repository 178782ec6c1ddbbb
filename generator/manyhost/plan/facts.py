"""The facts of the world that a recipe names: its join with the catalog."""

from __future__ import annotations

import msgspec

from manyhost.catalog import Catalog, Engine, Environment, Interconnect, Model, Recipe, Resolved
from manyhost.catalog.capacity import Mode
from manyhost.catalog.dynamo import Dynamo
from manyhost.catalog.interconnect import GpuDirectTcp
from manyhost.errors import InvalidInput, nearest


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the catalog says of everything that a recipe names.

    Attributes:
        environment: Where it runs.
        interconnect: How GPUs of different hosts talk; the release to use stands first.
        model: What is served.
        engine: What serves it.
        dynamo: Releases of NVIDIA Dynamo, where routing asks for one; None elsewhere.
        recipes: A recipe for each version of the engine, empty where there is none.
        regions: Regions of Google Cloud.
        exemptions: Hardening that no release has, with the reasons.
        mode: How long hosts are had at the recipe's capacity.mode.
        reserved: Engine flags that nobody may give, with the setting that does it ("" for the launcher).
    """

    environment: Environment
    interconnect: Interconnect
    model: Model
    engine: Engine
    dynamo: Dynamo | None
    recipes: dict[str, str]
    regions: list[str]
    exemptions: dict[str, str]
    mode: Mode
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
        interconnect=_released(catalog.interconnect(fabric), resolved),
        model=catalog.model(recipe.model),
        engine=catalog.engine(recipe.engine.version, recipe.engine.name),
        dynamo=catalog.dynamo() if recipe.routing == "dynamo" else None,
        recipes=catalog.engine_recipes(recipe.engine.name),
        regions=catalog.regions(),
        exemptions=catalog.exemptions(),
        mode=catalog.capacity().modes[recipe.capacity.mode],
        reserved=catalog.reserved_flags(recipe.engine.name),
    )


def _released(interconnect: Interconnect, resolved: Resolved) -> Interconnect:
    """Put the release that a recipe names first; doctor knows the hosts' plugin by the others."""
    wanted = resolved.recipe.network.release
    if not wanted:
        return interconnect
    where = f"{resolved.origin('network.release')}: network.release"
    if not isinstance(interconnect, GpuDirectTcp):
        raise InvalidInput(
            f"pods over {interconnect.name} bring no images of a release",
            where=where,
            fix='leave it out: network.release=""',
        )
    found = [release for release in interconnect.releases if release.plugin == wanted]
    if not found:
        raise InvalidInput(
            f"{interconnect.name} has no release {wanted[:80]!r}",
            where=where,
            fix=f"choose one of: {', '.join(release.plugin for release in interconnect.releases)}",
        )
    others = [release for release in interconnect.releases if release.plugin != wanted]
    return msgspec.structs.replace(interconnect, releases=found + others)
