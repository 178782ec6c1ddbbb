"""What a recipe resolves to: pure data, every value with its origin."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from manyhost.catalog import Catalog, Engine, Environment, Interconnect, Model, Recipe, Resolved
from manyhost.catalog.engine import FlagNames
from manyhost.catalog.environment import RunPod
from manyhost.catalog.interconnect import Sockets
from manyhost.errors import InvalidInput, ManyhostError, first
from manyhost.plan import (
    arguments,
    capacity,
    cost,
    image,
    networks,
    region,
    resources,
    roles,
    routing,
    security,
    startup,
    weights,
)
from manyhost.plan.facts import Facts, join
from manyhost.plan.memory import Memory
from manyhost.plan.roles import Handover, Role


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe, resolved. What the recipe itself says is in `settings` and nowhere else.

    Attributes:
        recipe: Its name.
        settings: The recipe with all settings applied.
        resolved: The same with the origin of every value.
        environment: Where it runs.
        interconnect: How GPUs of different hosts talk.
        model: What is served.
        engine: What serves it.
        roles: What its groups do: serve, or prefill and decode.
        image: The engine's image.
        networks: Names of the networks in NIC order.
        weights: Where every host reads them.
        handover: What moves from prefill to decode for one request.
        resources: What the engine's container asks of its host beside GPUs.
        allowed: What its pods may do.
        cold_start: Phases with their seconds, in order.
        recreation: What a group costs that is made anew.
        startup_seconds: Start budget of the engine.
        held_minutes: How long hosts may be held while nothing answers, before the janitor frees them.
        cost: List price of all hosts.
        capacity: Until when the hosts are had, for people; empty where nothing ends them.
        warnings: What may surprise; one sentence each.
    """

    recipe: str
    settings: Recipe
    resolved: Resolved
    environment: Environment
    interconnect: Interconnect
    model: Model
    engine: Engine
    roles: tuple[Role, ...]
    image: image.Image
    networks: tuple[str, ...]
    weights: weights.Source
    handover: Handover | None
    resources: resources.Resources
    allowed: security.Allowed
    cold_start: tuple[tuple[str, int], ...]
    recreation: startup.Recreation
    startup_seconds: int
    held_minutes: int
    cost: cost.Cost
    capacity: str
    warnings: tuple[str, ...]

    def origin(self, key: str) -> str:
        """Return where the value of a recipe key came from."""
        return self.resolved.origin(key)

    @property
    def hosts(self) -> int:
        """Hosts of all groups."""
        return roles.hosts(self.roles)

    @property
    def main(self) -> Role:
        """The role that clients talk to: serve, or decode."""
        return self.roles[-1]

    @property
    def gpus_per_host(self) -> int:
        """GPUs of one pod; 0 on hosts without."""
        return min(self.environment.host.gpus, self.main.ranks)


def make_plan(resolved: Resolved, catalog: Catalog) -> Plan:
    """Work out everything that follows from a resolved recipe.

    Args:
        resolved: The recipe with its settings.
        catalog: Has what the recipe names.

    Raises:
        InvalidInput: When the recipe cannot work: GPUs, heads or layers do not divide, the weights or
            one request of full context do not fit, the executor, network or fabric does not exist.
    """
    facts = join(resolved, catalog)
    try:
        return _make(resolved, facts)
    except InvalidInput as error:
        raise first([_named(resolved, each) for each in (error, *error.more)]) from None


def _named(resolved: Resolved, error: ManyhostError) -> InvalidInput:
    """Return an error of the plan with who set the key that it is about."""
    key = resolved.blamed(error.where.split(" and "))
    return InvalidInput(error.message, where=f"{_origin(resolved, key)}: {key}", fix=error.fix)


def _each(*checks: Callable[[], object]) -> None:
    """Make checks that do not need each other; raise what all of them find."""
    errors = []
    for check in checks:
        try:
            check()
        except InvalidInput as error:
            errors.append(error)
    if errors:
        raise first(errors)


def _make(resolved: Resolved, facts: Facts) -> Plan:
    recipe, host, platform = resolved.recipe, facts.environment.host, facts.environment.platform
    _each(
        lambda: image.check(recipe, facts),
        lambda: region.check(recipe.site, facts),
        lambda: capacity.check(recipe.capacity),
        lambda: arguments.check(recipe.arguments, facts.engine, facts.reserved, "arguments"),
        lambda: roles.check(recipe, facts.interconnect, facts.engine),
        lambda: _check_lengths(recipe, facts.model),
        lambda: networks.networks(recipe, host),
        lambda: weights.source(recipe, facts.model, facts.environment),
        lambda: routing.check(recipe, facts),
    )
    names = networks.networks(recipe, host)
    source = weights.source(recipe, facts.model, facts.environment)
    found = roles.roles(recipe, facts)
    routing.check_roles(found, facts)
    moved = roles.handover(recipe, facts, found)
    phases = startup.cold_start(facts.model, facts.engine, source.kind)
    in_pod = source.kind == "hub" and not recipe.ssd_host_path
    hosts = roles.hosts(found)
    price = cost.cost(recipe, facts.environment, hosts)
    per_hour = price.usd_per_hour
    again = startup.recreation(
        facts.model,
        phases,
        downloads=in_pod,
        kept=source.kind == "hub" and not in_pod,
        usd_per_hour=None if per_hour is None else per_hour * max(role.hosts for role in found) / hosts,
    )
    budget = recipe.startup_seconds or startup.budget_seconds(phases)
    return Plan(
        recipe=resolved.name,
        settings=recipe,
        resolved=resolved,
        environment=facts.environment,
        interconnect=facts.interconnect,
        model=facts.model,
        engine=facts.engine,
        roles=found,
        image=image.rented(platform) if isinstance(platform, RunPod) else image.image(recipe, facts.engine),
        networks=names,
        weights=source,
        handover=moved,
        resources=resources.resources(
            host,
            facts.model,
            found[-1].arguments,
            downloads=in_pod,
        ),
        allowed=_allowed(recipe, facts),
        cold_start=phases,
        recreation=again,
        startup_seconds=budget,
        held_minutes=startup.held_minutes(budget, recipe.start_attempts),
        cost=price,
        capacity=capacity.describe(recipe.capacity, facts.mode),
        warnings=tuple(_warnings(recipe, facts, found, moved)),
    )


def _check_lengths(recipe: Recipe, model: Model) -> None:
    if recipe.context > model.max_context_tokens:
        raise InvalidInput(
            f"{recipe.context} tokens is more than the model's {model.max_context_tokens}",
            where="context",
        )
    tokens = recipe.traffic
    if tokens.input_tokens + tokens.output_tokens > recipe.context:
        raise InvalidInput(
            f"{tokens.input_tokens} + {tokens.output_tokens} tokens of a typical request are more than the "
            f"context of {recipe.context}",
            where="traffic.input_tokens and traffic.output_tokens and context",
            fix="raise context, or set the traffic that you expect",
        )


def _allowed(recipe: Recipe, facts: Facts) -> security.Allowed:
    on = {"network.host_network"} if recipe.network.host_network else set()
    on |= {"ssd_host_path"} if recipe.ssd_host_path else set()
    mounts = [mount.name for mount in recipe.host_mounts]
    return security.allowed(
        facts.environment, facts.interconnect, on=on, mounts=mounts, exemptions=facts.exemptions
    )


def _warnings(recipe: Recipe, facts: Facts, found: tuple[Role, ...], moved: Handover | None) -> list[str]:
    warnings = []
    gpus = facts.environment.host.gpus
    if facts.engine.name != "vllm":
        warnings.append(
            f"nobody has started {facts.engine} with manyhost on GPUs: KV cache, speed and cold start are "
            "not measured, and bench does not measure them"
        )
    usual = facts.environment.interconnects[0]
    if isinstance(facts.interconnect, Sockets) and usual != facts.interconnect.name:
        most = max(role.hosts for role in found)
        if most > 1:
            measured = facts.interconnect.bandwidth
            warnings.append(
                f"network.interconnect {facts.interconnect.name}: the {most} hosts of a group talk over TCP, "
                f"about {measured.points[-1].gbytes_per_second:g} GB/s for an all-reduce, and leave "
                f"{usual} unused"
            )
    for role in found:
        name = "" if role.name == "serve" else f"{role.name}: "
        if role.memory:
            names = facts.engine.flag_names
            warnings += [f"{name}{text}" for text in _memory_warnings(role, role.memory, names)]
        if role.parallelism.tensor > gpus > 0 and not facts.interconnect.spans_hosts:
            warnings.append(
                f"{name}tensor {role.parallelism.tensor} spans hosts: every layer waits for the network; "
                f"tensor {gpus} x pipeline crosses it once a stage"
            )
    if recipe.capacity.mode != "on-demand" and not isinstance(facts.environment.platform, RunPod):
        warnings.append(
            f"capacity.mode {recipe.capacity.mode} gives no such hosts by itself: "
            "choose the node pool that has them with node_selector"
        )
    if moved and moved.seconds * 1000 > recipe.objectives.ttft_ms:
        warnings.append(
            f"handing over the KV cache of one request takes {moved.seconds:.1f} s over "
            f"{facts.interconnect.name}, more than the {recipe.objectives.ttft_ms} ms to the first token"
        )
    price = facts.environment.price
    where = cost.region(recipe, price) if price else ""
    if price and where not in price.usd_per_host_hour:
        unknown = "" if where in facts.regions else ", which is no region that we know"
        priced = ", ".join(price.usd_per_host_hour)
        warnings.append(f"no price is known for {where[:80]}{unknown}; there is one for {priced}")
    return warnings


def _memory_warnings(role: Role, fits: Memory, names: FlagNames) -> Iterator[str]:
    seats, tokens = arguments.seats(role.arguments, names), role.traffic
    if seats > role.seats:
        yield (
            f"{names.seats} {seats} is more than {fits.kv_tokens:,} KV tokens serve at "
            f"{tokens.input_tokens:,} + {tokens.output_tokens:,} tokens a request: some would be computed "
            f"twice; {role.seats} fit"
        )
    highest, beside = fits.utilization_ceiling, fits.overhead.outside_gib
    if highest is not None and fits.utilization > highest:
        yield (
            f"utilization {fits.utilization:g}: about {beside:.1f} GiB of each GPU are taken beside it under "
            f"load; {highest:g} leaves room for them"
        )


def _origin(resolved: Resolved, key: str) -> str:
    """Return who set a key; for what nobody set, the recipe that left it at its default."""
    origin = resolved.origin(key)
    return f"recipes/{resolved.name}/recipe.yaml" if origin == "default" else origin
