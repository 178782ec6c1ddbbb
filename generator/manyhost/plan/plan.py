"""What a recipe resolves to: pure data, every value with its origin."""

from __future__ import annotations

from typing import Any

import msgspec

from manyhost.catalog.settings import Resolved
from manyhost.catalog.types import Engine, Environment, Interconnect, Model, Recipe
from manyhost.errors import InvalidInput
from manyhost.plan import memory, parallelism, startup

# Flags that the launch script or the chart sets itself, and where users set them instead.
RESERVED = {
    "model": "model",
    "served-model-name": "model",
    "host": "",
    "port": "",
    "tensor-parallel-size": "parallelism.tensor",
    "pipeline-parallel-size": "parallelism.pipeline",
    "data-parallel-size": "parallelism.data",
    "distributed-executor-backend": "engine.executor",
    "max-model-len": "context",
    "gpu-memory-utilization": "utilization",
    "nnodes": "parallelism",
    "node-rank": "",
    "master-addr": "",
    "master-port": "",
    "headless": "",
    "download-dir": "weights",
}

# Flags that cannot stand beside the KV connector, each with the reason.
_AGAINST_DISAGGREGATION = {
    "kv-transfer-config": "disaggregation sets it",
    "kv-offloading-size": "it puts a connector of its own in the place of NIXL",  # vllm/config/vllm.py
    "ssl-certfile": "the router before the engine speaks plain HTTP to it",
    "ssl-keyfile": "the router before the engine speaks plain HTTP to it",
}


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of the fullest GPU, in GiB, and what fits."""

    usable_gib: float
    weights_gib: tuple[float, ...]
    overhead_gib: float
    kv_gib: float
    kv_bytes_per_token: int
    kv_tokens: int
    concurrency: float


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """What a prefill group hands to a decode group for one request of the recipe's traffic.

    Attributes:
        tokens: Prompt tokens, in whole blocks.
        bytes: Their KV cache; with tensor parallelism every rank reads its own copy (MLA is not sharded).
        seconds: At what the interconnect moves into each host of a group; 0 where nobody knows, as on
            hosts without GPUs.
    """

    tokens: int
    bytes: int
    seconds: float


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe, resolved. Units are in the names; tuples are in rank or NIC order."""

    recipe: str
    description: str
    environment: Environment
    interconnect: Interconnect
    model: Model
    engine: Engine
    executor: str
    image: str
    tag: str
    digest: str
    hosts_per_group: int
    groups: int
    prefill_groups: int
    gpus_per_host: int
    tensor: int
    pipeline: int
    data: int
    pipeline_layers: tuple[int, ...]
    context_tokens: int
    arguments: dict[str, Any]
    variables: dict[str, str]
    networks: tuple[str, ...]
    bucket: str
    weights_source: str
    weights_path: str
    memory: Memory | None
    handover: Handover | None
    cold_start: tuple[tuple[str, int], ...]
    startup_seconds: int
    cost_per_hour_usd: float
    cost_region: str
    warnings: tuple[str, ...]
    settings: Recipe
    resolved: Resolved

    def origin(self, key: str) -> str:
        """Return where the value of a recipe key came from."""
        return self.resolved.origin(key)

    @property
    def hosts(self) -> int:
        """Hosts of all groups, those that only prefill included."""
        return (self.groups + self.prefill_groups) * self.hosts_per_group


def make_plan(
    resolved: Resolved,
    environment: Environment,
    interconnect: Interconnect,
    model: Model,
    engine: Engine,
) -> Plan:
    """Work out everything that follows from a resolved recipe.

    Raises:
        InvalidInput: When the recipe cannot work: GPUs, heads or layers do not divide, the weights or
            one request of full context do not fit, the executor, network or fabric does not exist.
    """
    recipe = resolved.recipe
    warnings: list[str] = []
    try:
        _check_executor(recipe, engine)
        _check_arguments(recipe)
        _check_disaggregation(recipe, interconnect, engine)
        networks = _networks(recipe, environment)
        parallelism.check_model_fits_ranks(recipe.parallelism, model.architecture)
        hosts = parallelism.hosts_per_group(recipe.parallelism, environment.host)
        if recipe.context > model.max_context_tokens:
            raise InvalidInput(
                f"{recipe.context} tokens is more than the model's {model.max_context_tokens}",
                where="context",
            )
        source, path = _weights(recipe, model)
        layers = parallelism.pipeline_layers(model.architecture.layers, recipe.parallelism.pipeline)
        utilization = recipe.utilization or engine.default_utilization
        fit = _memory(recipe, environment, model, engine, layers, utilization)
        handover = _handover(recipe, environment, model, engine, interconnect, hosts)
    except InvalidInput as error:
        raise InvalidInput(
            error.message, where=f"{_origin(resolved, error.where)}: {error.where}", fix=error.fix
        ) from None
    if fit and fit.concurrency < _seats(recipe):
        warnings.append(
            f"KV cache holds {fit.kv_tokens:,} tokens: {fit.concurrency:.1f} requests of full context; "
            f"max-num-seqs {_seats(recipe)} relies on shorter ones"
        )
    if recipe.parallelism.tensor > environment.host.gpus > 0:
        warnings.append(
            f"tensor {recipe.parallelism.tensor} spans hosts: every layer waits for the network; "
            f"tensor {environment.host.gpus} x pipeline is faster on all links measured"
        )
    if handover and handover.seconds * 1000 > recipe.objectives.ttft_ms:
        warnings.append(
            f"handing over the KV cache of one request takes {handover.seconds:.1f} s over "
            f"{interconnect.name}, more than the {recipe.objectives.ttft_ms} ms to the first token"
        )
    region, price = _price(recipe, environment)
    phases = startup.cold_start(model, engine, source)
    image, tag = _image(recipe, engine)
    gpus = environment.host.gpus
    ranks = recipe.parallelism.tensor * recipe.parallelism.pipeline * recipe.parallelism.data
    return Plan(
        recipe=resolved.name,
        description=recipe.description,
        environment=environment,
        interconnect=interconnect,
        model=model,
        engine=engine,
        executor=recipe.engine.executor,
        image=image,
        tag=tag,
        digest=recipe.engine.digest,
        hosts_per_group=hosts,
        groups=recipe.groups,
        prefill_groups=recipe.disaggregation.prefill_groups,
        gpus_per_host=min(gpus, ranks),
        tensor=recipe.parallelism.tensor,
        pipeline=recipe.parallelism.pipeline,
        data=recipe.parallelism.data,
        pipeline_layers=layers,
        context_tokens=recipe.context,
        arguments=_arguments(recipe, gpus > 0),
        variables=dict(recipe.variables),
        networks=networks,
        bucket=recipe.site.gcs_bucket,
        weights_source=source,
        weights_path=path,
        memory=fit,
        handover=handover,
        cold_start=phases,
        startup_seconds=recipe.startup_seconds or startup.budget_seconds(phases),
        cost_per_hour_usd=round(price * hosts * (recipe.groups + recipe.disaggregation.prefill_groups), 2),
        cost_region=region,
        warnings=tuple(warnings),
        settings=recipe,
        resolved=resolved,
    )


def _origin(resolved: Resolved, key: str) -> str:
    origin = resolved.origin(key)
    return f"recipes/{resolved.name}/recipe.yaml" if origin == "default" else origin


def _check_executor(recipe: Recipe, engine: Engine) -> None:
    executor = recipe.engine.executor
    if executor not in engine.executors:
        raise InvalidInput(
            f"vLLM {engine.version} has no multi-host executor {executor!r}",
            where="engine.executor",
            fix=f"use one of: {', '.join(engine.executors)}",
        )
    own_image = bool(recipe.engine.image or recipe.site.artifact_registry)
    if executor not in engine.stock_image_executors and not own_image:
        raise InvalidInput(
            f"the stock image {engine.image}:{engine.tag} does not contain Ray",
            where="engine.executor",
            fix="use executor mp, or name an image that has Ray (engine.image)",
        )


def _check_arguments(recipe: Recipe) -> None:
    seats = recipe.arguments.get("max-num-seqs", 1)
    if isinstance(seats, int) and (seats < 1 or seats is True):
        raise InvalidInput("must be a whole number from 1", where="arguments.max-num-seqs")
    for name in recipe.arguments:
        plain = name.removeprefix("no-")
        if plain in RESERVED:
            key = RESERVED[plain]
            raise InvalidInput(
                "is set by manyhost itself",
                where=f"arguments.{name}",
                fix=f"remove it and set {key}" if key else "remove it",
            )


def _check_disaggregation(recipe: Recipe, interconnect: Interconnect, engine: Engine) -> None:
    """Refuse what prefill and decode engines of their own cannot work with."""
    if not recipe.disaggregation.prefill_groups:
        return
    key = "disaggregation.prefill_groups"
    if not interconnect.disaggregation.supported:
        raise InvalidInput(
            f"prefill and decode cannot be apart over {interconnect.name}: "
            f"{interconnect.disaggregation.reason}",
            where=key,
            fix="set it to 0: one engine over all hosts of a group",
        )
    if not engine.nixl:
        raise InvalidInput(
            f"vLLM {engine.version} cannot hand KV caches over: it has no NIXL connector",
            where=key,
            fix="set it to 0, or use a newer engine.version",
        )
    if recipe.parallelism.pipeline > 1:
        # vllm/distributed/kv_transfer/kv_connector/v1/nixl/base_worker.py raises for consumers
        raise InvalidInput(
            "NIXL hands KV caches over to engines of one pipeline stage only",
            where="parallelism.pipeline",
            fix="set it to 1 and raise parallelism.tensor, or disaggregation.prefill_groups to 0",
        )
    if recipe.engine.executor != "mp":
        raise InvalidInput("prefill and decode apart need the executor mp", where="engine.executor")
    for name in recipe.arguments:
        reason = _AGAINST_DISAGGREGATION.get(name.removeprefix("no-").split(".")[0])
        if reason:
            raise InvalidInput(
                f"cannot stand beside disaggregation.prefill_groups: {reason}",
                where=f"arguments.{name}",
                fix="remove one of them",
            )


def _handover(
    recipe: Recipe,
    environment: Environment,
    model: Model,
    engine: Engine,
    interconnect: Interconnect,
    hosts: int,
) -> Handover | None:
    if not recipe.disaggregation.prefill_groups:
        return None
    block = engine.kv_block_tokens
    tokens = -(-recipe.traffic.input_tokens // block) * block
    per_layer = memory.kv_bytes_per_token_layer(model.architecture, engine, _kv_dtype(recipe, engine))
    moved = tokens * per_layer * model.architecture.layers * recipe.parallelism.tensor
    rate = interconnect.disaggregation.gbytes_per_second * 1e9 if environment.host.gpus else 0.0
    return Handover(tokens=tokens, bytes=moved, seconds=round(moved / hosts / rate, 3) if rate else 0.0)


def _networks(recipe: Recipe, environment: Environment) -> tuple[str, ...]:
    names = recipe.network.subnetworks or environment.networks
    if len(names) != len(environment.networks):
        raise InvalidInput(
            f"{environment.host.machine_type} has {len(environment.networks)} networks "
            f"({', '.join(environment.networks) or 'none'}), not {len(names)} ({', '.join(names)})",
            where="network.subnetworks",
            fix="name the cluster's Network objects in NIC order: kubectl get networks.networking.gke.io",
        )
    if len(set(names)) != len(names):
        raise InvalidInput("a network is named twice", where="network.subnetworks")
    return tuple(names)


def _weights(recipe: Recipe, model: Model) -> tuple[str, str]:
    """Return the source of the weights and the folder they are read from ("" for the hub)."""
    source = recipe.weights.source
    if source == "auto":
        source = "bucket" if recipe.site.gcs_bucket else "hub"
    if source == "bucket" and not recipe.site.gcs_bucket:
        raise InvalidInput("is bucket, but no bucket is set", where="weights.source", fix="set GCS_BUCKET")
    if source == "folder" and not recipe.weights.path.startswith("/"):
        raise InvalidInput("must be an absolute path", where="weights.path")
    if source == "hub" and recipe.weights.path:
        raise InvalidInput("has no effect when weights come from the hub", where="weights.path")
    if source == "hub":
        return source, ""
    return source, recipe.weights.path or f"/gcs/models/{model.hub_id}"


def _memory(
    recipe: Recipe,
    environment: Environment,
    model: Model,
    engine: Engine,
    layers: tuple[int, ...],
    utilization: float,
) -> Memory | None:
    if not environment.host.gpus:
        return None
    per_layer = memory.kv_bytes_per_token_layer(model.architecture, engine, _kv_dtype(recipe, engine))
    usable = environment.host.gpu_memory_gib * utilization
    weights: list[float] = []
    pools: list[float] = []
    tokens: list[int] = []
    for stage, count in enumerate(layers):
        stage_bytes = memory.stage_weights_bytes(
            model,
            engine,
            tensor=recipe.parallelism.tensor,
            first_layer=sum(layers[:stage]),
            layers=count,
            is_last=stage == len(layers) - 1,
        )
        weights.append(stage_bytes / memory.GIB)
        pools.append(usable - weights[-1] - engine.overhead_gib)
        tokens.append(memory.kv_tokens(pools[-1] * memory.GIB, count, per_layer, engine.kv_block_tokens))
    fullest = tokens.index(min(tokens))
    if tokens[fullest] < recipe.context:
        raise InvalidInput(
            f"does not fit: a GPU offers {usable:.1f} GiB, {weights[fullest]:.1f} are weights and about "
            f"{engine.overhead_gib:.1f} activations and graphs, which leaves {tokens[fullest]:,} KV tokens "
            f"for a context of {recipe.context:,}",
            where="parallelism",
            fix="more GPUs per group (parallelism), a shorter context, or higher utilization",
        )
    return Memory(
        usable_gib=round(usable, 2),
        weights_gib=tuple(round(gib, 2) for gib in weights),
        overhead_gib=engine.overhead_gib,
        kv_gib=round(pools[fullest], 2),
        kv_bytes_per_token=per_layer * max(layers),
        kv_tokens=tokens[fullest],
        concurrency=round(tokens[fullest] / recipe.context, 1),
    )


def _kv_dtype(recipe: Recipe, engine: Engine) -> str:
    kv_dtype = str(recipe.arguments.get("kv-cache-dtype", "auto"))
    if kv_dtype not in engine.kv_dtypes:
        raise InvalidInput(
            f"vLLM {engine.version} cannot serve this model with it",
            where="arguments.kv-cache-dtype",
            fix=f"use one of: {', '.join(engine.kv_dtypes)}",
        )
    return kv_dtype


def _seats(recipe: Recipe) -> int:
    seats = recipe.arguments.get("max-num-seqs", 0)
    return seats if isinstance(seats, int) else 0


def _arguments(recipe: Recipe, has_gpus: bool) -> dict[str, Any]:
    """Return the engine's arguments in a fixed order: what manyhost derives, then the recipe's by name."""
    derived: dict[str, Any] = {"max-model-len": recipe.context}
    if has_gpus and recipe.utilization:
        derived["gpu-memory-utilization"] = recipe.utilization
    return derived | {name: recipe.arguments[name] for name in sorted(recipe.arguments)}


def _image(recipe: Recipe, engine: Engine) -> tuple[str, str]:
    """Return image repository and tag; a registry with a bare image name is the published form."""
    image = recipe.engine.image
    registry = recipe.site.artifact_registry.rstrip("/")
    if registry and "/" not in image:
        image = f"{registry}/{image or 'vllm-openai'}"
    return image or engine.image, recipe.engine.tag or engine.tag


def _price(recipe: Recipe, environment: Environment) -> tuple[str, float]:
    prices = environment.price.usd_per_host_hour
    for region in (recipe.site.cluster_region, recipe.site.region, environment.price.default_region):
        if region in prices:
            return region, prices[region]
    return environment.price.default_region, prices[environment.price.default_region]
