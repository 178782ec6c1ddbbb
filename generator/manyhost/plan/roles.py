"""What groups of a release do: all of them serve, or prefill and decode are apart."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from manyhost.catalog.engine import Engine
from manyhost.catalog.interconnect import Interconnect
from manyhost.catalog.recipe import Parallelism, PrefillRole, Recipe, RoleTuning, Traffic
from manyhost.errors import InvalidInput
from manyhost.plan import arguments, memory, memory_flags, seats, sizing
from manyhost.plan.facts import Facts
from manyhost.plan.memory import Weights

RoleName = Literal["serve", "prefill", "decode"]

# Flags that cannot stand beside the KV connector, each with the reason.
_AGAINST_HANDOVER = {
    "kv-transfer-config": "it is set for prefill and decode",
    "kv-offloading-size": "it puts a connector of its own in the place of NIXL",  # vllm/config/vllm.py
    "ssl-certfile": "the router before the engine speaks plain HTTP to it",
    "ssl-keyfile": "the router before the engine speaks plain HTTP to it",
}


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """Groups of hosts that do one thing.

    Attributes:
        name: serve (whole requests), prefill (prompts) or decode (answers).
        groups: How many there are.
        hosts: Hosts of one group.
        parallelism: Sizes of one group.
        pipeline_layers: Layers of each pipeline stage.
        arguments: Engine flags by name without dashes, in order.
        memory: What fits into its GPUs; None on hosts without GPUs, and where `weights` is all that is known.
        weights: Of its GPUs, where nobody has measured what the engine takes beside them; else None.
        traffic: What stays in its KV cache of the recipe's typical request.
        seats: Requests at once that the KV cache serves at this traffic, of one data parallel rank as
            max-num-seqs; 0 where nobody knows, and on hosts without GPUs.
    """

    name: RoleName
    groups: int
    hosts: int
    parallelism: Parallelism
    pipeline_layers: tuple[int, ...]
    arguments: dict[str, Any]
    memory: memory.Memory | None
    weights: Weights | None
    traffic: Traffic
    seats: int

    @property
    def ranks(self) -> int:
        """GPUs of one group, or its hosts where they have none."""
        sizes = self.parallelism
        return sizes.tensor * sizes.pipeline * sizes.data


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """What a prefill group hands to a decode group for one request of the recipe's traffic.

    Attributes:
        tokens: Prompt tokens, in whole blocks.
        bytes: Their KV cache; with MLA every rank reads a copy of its own.
        seconds: At what the interconnect moves into each host of a group; 0 where nobody knows, as on
            hosts without GPUs.
    """

    tokens: int
    bytes: int
    seconds: float


def apart(recipe: Recipe) -> bool:
    """Whether prefill and decode are in groups of their own."""
    return recipe.roles.prefill.groups > 0


def check(recipe: Recipe, interconnect: Interconnect, engine: Engine) -> None:
    """Refuse what prefill and decode engines of their own cannot work with.

    Raises:
        InvalidInput: Naming the key.
    """
    key = "roles.prefill.groups"
    if not apart(recipe):
        for name, tuning in (("prefill", recipe.roles.prefill), ("decode", recipe.roles.decode)):
            if tuning.tensor or tuning.data or tuning.arguments:
                raise InvalidInput(
                    f"there are no {name} groups: every group does both",
                    where=f"roles.{name}",
                    fix=f"set {key}, or set the same for all groups",
                )
        return
    if not interconnect.kv_handover.supported:
        raise InvalidInput(
            f"prefill and decode cannot be apart over {interconnect.name}: {interconnect.kv_handover.reason}",
            where=key,
            fix="set it to 0: one engine over all hosts of a group",
        )
    if not engine.nixl:
        raise InvalidInput(
            f"{engine} cannot hand KV caches over: "
            + ("nobody has seen NIXL in its image" if engine.name == "vllm" else "only vLLM can, here"),
            where=f"{key} and engine.version",
            fix=f"set {key} to 0" + (", or use a newer engine.version" if engine.name == "vllm" else ""),
        )
    if recipe.parallelism.pipeline > 1:
        # vllm/distributed/kv_transfer/kv_connector/v1/nixl/base_worker.py raises for consumers
        raise InvalidInput(
            "NIXL hands KV caches over to engines of one pipeline stage only",
            where="parallelism.pipeline",
            fix=f"set it to 1 and raise parallelism.tensor, or {key} to 0",
        )
    if recipe.engine.executor != "mp":
        raise InvalidInput(
            "prefill and decode apart need the executor mp", where=f"{key} and engine.executor"
        )
    prefill, decode = _sizes(recipe, recipe.roles.prefill), _sizes(recipe, recipe.roles.decode)
    if decode.tensor % prefill.tensor:
        # docs/features/nixl_connector_compatibility.md: each decode rank reads from one prefill rank
        raise InvalidInput(
            f"decode tensor {decode.tensor} is no multiple of prefill tensor {prefill.tensor}",
            where=f"roles.{'decode' if recipe.roles.decode.tensor else 'prefill'}.tensor",
        )
    for place, given in (
        ("arguments", recipe.arguments),
        ("roles.prefill.arguments", recipe.roles.prefill.arguments),
        ("roles.decode.arguments", recipe.roles.decode.arguments),
    ):
        for name in given:
            if reason := _AGAINST_HANDOVER.get(name.removeprefix("no-").split(".")[0]):
                raise InvalidInput(
                    f"cannot stand beside {key}: {reason}", where=f"{place}.{name}", fix="remove one of them"
                )


def hosts(found: tuple[Role, ...]) -> int:
    """Return the hosts of all groups."""
    return sum(role.groups * role.hosts for role in found)


def roles(recipe: Recipe, facts: Facts) -> tuple[Role, ...]:
    """Return the roles of a release, in the order in which a request meets them.

    Raises:
        InvalidInput: When GPUs, heads or layers do not divide, or weights or one request do not fit.
    """
    if not apart(recipe):
        return (_role("serve", recipe.groups, RoleTuning(), recipe, facts),)
    prefill, decode = recipe.roles.prefill, recipe.roles.decode
    return (
        _role("prefill", prefill.groups, prefill, recipe, facts),
        _role("decode", recipe.groups, decode, recipe, facts),
    )


def _role(
    name: RoleName, groups: int, tuning: RoleTuning | PrefillRole, recipe: Recipe, facts: Facts
) -> Role:
    host, model = facts.environment.host, facts.model
    key = "arguments" if name == "serve" else f"roles.{name}.arguments"
    given = arguments.merged(recipe, facts.engine, tuning.arguments, host.gpus > 0)
    arguments.check(tuning.arguments, facts.engine, facts.reserved, key)
    sizes = _sizes(recipe, tuning)
    sizing.check_engine(sizes, facts.engine)
    sizing.check_model_fits_ranks(sizes, model, given, facts.engine.name)
    hosts = sizing.hosts_per_group(sizes, host)
    sizing.check_host_memory(given, host)
    even = sizing.pipeline_layers(model.architecture.layers, sizes.pipeline, facts.engine.name)
    layers = memory_flags.partition(recipe.variables, model, sizes, facts.engine) or even

    def place(flag: str) -> str:
        return f"{key if flag in tuning.arguments else 'arguments'}.{flag}"

    dtype = arguments.kv_dtype(given, facts.engine, place("kv-cache-dtype"))
    flags = memory_flags.MemoryFlags()
    if host.gpus and facts.engine.memory:
        flags = memory_flags.read(given, recipe.variables, model, facts.engine, sizes, place)
    try:
        fits = memory.fit(
            model,
            facts.engine,
            host,
            sizes,
            layers,
            context=recipe.context,
            utilization=recipe.utilization,
            kv_dtype=dtype,
            flags=flags,
        )
        alone = memory.weights_alone(model, facts.engine, host, sizes, layers, utilization=recipe.utilization)
    except InvalidInput as error:
        where = error.where
        if where.startswith("arguments."):
            where = place(where.removeprefix("arguments."))
        raise InvalidInput(error.message, where=where, fix=error.fix) from None
    # A prefill group hands a request on with its first token.
    traffic = recipe.traffic
    if name == "prefill":
        traffic = msgspec.structs.replace(traffic, output_tokens=1)
    return Role(
        name=name,
        groups=groups,
        hosts=hosts,
        parallelism=sizes,
        pipeline_layers=layers,
        arguments=given,
        memory=fits,
        weights=alone,
        traffic=traffic,
        seats=seats.seats(fits.kv_tokens, traffic) if fits else 0,
    )


def _sizes(recipe: Recipe, tuning: RoleTuning) -> Parallelism:
    own = recipe.parallelism
    return msgspec.structs.replace(own, tensor=tuning.tensor or own.tensor, data=tuning.data or own.data)


def handover(recipe: Recipe, facts: Facts, found: tuple[Role, ...]) -> Handover | None:
    """Return what moves from prefill to decode for one request; None where nothing does."""
    decode = found[-1]
    if decode.name != "decode":
        return None
    dtype = arguments.kv_dtype(decode.arguments, facts.engine, "arguments.kv-cache-dtype")
    own = decode.arguments.get("block-size")
    block = (
        own if isinstance(own, int) and own > 0 else memory.kv_block_tokens(facts.model, facts.engine, dtype)
    )
    tokens = -(-recipe.traffic.input_tokens // block) * block
    tensor = decode.parallelism.tensor
    per_layer = memory.kv_bytes_per_token_layer(facts.model, facts.engine, dtype, tensor)
    moved = tokens * per_layer * facts.model.architecture.layers * tensor
    rate = facts.interconnect.kv_handover.gbytes_per_second * 1e9 if facts.environment.host.gpus else 0.0
    seconds = round(moved / decode.hosts / rate, 3) if rate else 0.0
    return Handover(tokens=tokens, bytes=moved, seconds=seconds)
