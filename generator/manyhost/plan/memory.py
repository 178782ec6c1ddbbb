"""Bytes on each GPU: weights, KV cache, and the tokens that fit.

Formulas follow the shapes of vLLM's models (vllm/model_executor/models: deepseek_v2.py, qwen3_moe.py,
qwen3.py); tests compare them with logged runs and with the sizes of the published checkpoints.
"""

from __future__ import annotations

import math

import msgspec

from manyhost.catalog.engine import Engine
from manyhost.catalog.environment import Host
from manyhost.catalog.model import GqaDense, GqaMoe, MlaMoe, Model
from manyhost.catalog.recipe import Parallelism
from manyhost.errors import InvalidInput
from manyhost.plan.memory_flags import MemoryFlags, experts
from manyhost.plan.overhead import Overhead, ceiling, overhead
from manyhost.plan.sizing import FP8_BLOCK

GIB = 2**30
_BF16_BYTES = 2
_KV_BYTES = {"auto": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of the GPU of a group that holds the fewest tokens, in GiB, and what fits.

    Attributes:
        usable_gib: What the engine may use.
        weights_gib: By pipeline stage.
        overhead_gib: Activations, CUDA graphs, NCCL and CUDA, as far as they count to its share.
        overhead: The same in its parts, and what is taken beside its share.
        kv_gib: What is left for the KV cache on that GPU.
        kv_bytes_per_token: On that GPU.
        kv_tokens: Tokens that fit into the KV cache of one data parallel rank.
        kv_tokens_by_stage: Tokens that would fit if each pipeline stage decided.
        concurrency: Requests of full context that fit.
        utilization: The engine's share of the memory.
        utilization_ceiling: The highest share that leaves room beside it; None where nobody has measured it.
    """

    usable_gib: float
    weights_gib: tuple[float, ...]
    overhead_gib: float
    overhead: Overhead
    kv_gib: float
    kv_bytes_per_token: int
    kv_tokens: int
    kv_tokens_by_stage: tuple[int, ...]
    concurrency: float
    utilization: float
    utilization_ceiling: float | None


class _Stage(msgspec.Struct, frozen=True):
    """A pipeline stage: weights and KV cache on one of its GPUs, in GiB, and tokens in that cache."""

    weights: float
    overhead: Overhead
    pool: float
    token_bytes: int
    tokens: int


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a GPU's memory where nobody has measured what the engine takes beside the weights.

    Attributes:
        gib: Weights by pipeline stage.
        usable_gib: What weights and KV cache may take; the whole GPU where the engine decides at its start.
    """

    gib: tuple[float, ...]
    usable_gib: float


def weights_alone(
    model: Model,
    engine: Engine,
    host: Host,
    parallelism: Parallelism,
    layers: tuple[int, ...],
    *,
    utilization: float,
) -> Weights | None:
    """Return the weights of a GPU of a group where no more is known; None where more is, or without GPUs.

    Args:
        model: The model.
        engine: It has no measured memory.
        host: The GPUs.
        parallelism: Sizes of the group.
        layers: Layers of each pipeline stage.
        utilization: Share of the memory for weights and KV cache; 0 is the engine's own.

    Raises:
        InvalidInput: The weights alone do not fit.
    """
    if not host.gpus or engine.memory is not None:
        return None
    gib = tuple(
        stage_weights_bytes(
            model,
            engine,
            parallelism,
            first_layer=sum(layers[:stage]),
            layers=count,
            is_last=stage == len(layers) - 1,
        )
        / GIB
        for stage, count in enumerate(layers)
    )
    usable = host.gpu_memory_gib * (utilization or 1)
    if max(gib) >= usable:
        raise InvalidInput(
            f"does not fit: a GPU offers {usable:.1f} GiB, and {max(gib):.1f} are weights",
            where="parallelism",
            fix="more GPUs per group (parallelism), or higher utilization",
        )
    return Weights(gib=tuple(round(each, 2) for each in gib), usable_gib=round(usable, 2))


def fit(
    model: Model,
    engine: Engine,
    host: Host,
    parallelism: Parallelism,
    layers: tuple[int, ...],
    *,
    context: int,
    utilization: float,
    kv_dtype: str,
    flags: MemoryFlags = MemoryFlags(),  # noqa: B008  frozen
) -> Memory | None:
    """Return what fits into the GPUs of one group; None on hosts without GPUs.

    Args:
        model: The model.
        engine: Its version decides padding, blocks and overhead.
        host: The GPUs.
        parallelism: Sizes of the group.
        layers: Layers of each pipeline stage.
        context: Longest request in tokens.
        utilization: Share of the memory that the engine may use; 0 is the engine's own.
        kv_dtype: Data type of the KV cache, as vLLM calls it.
        flags: What else changes the memory.

    Raises:
        InvalidInput: When not even one request of full context fits, or the KV cache of a flag.
    """
    if not host.gpus or engine.memory is None:
        return None
    usable = host.gpu_memory_gib * (utilization or engine.default_utilization)
    entry = kv_bytes_per_token_layer(model, engine, kv_dtype, parallelism.tensor)
    block = flags.block_tokens or kv_block_tokens(model, engine, kv_dtype)
    stages = []
    for stage, count in enumerate(layers):
        last = stage == len(layers) - 1
        held = count + flags.prediction_layers * last
        weights = stage_weights_bytes(
            model,
            engine,
            parallelism,
            first_layer=sum(layers[:stage]),
            layers=count,
            is_last=last,
            flags=flags,
        )
        gib = max(0.0, weights / GIB - flags.offload_gib)
        beside = overhead(model, engine.memory, parallelism, layers=held, context=context, flags=flags)
        pool = flags.kv_bytes / GIB or usable - gib - beside.inside_gib
        tokens = kv_tokens(pool * GIB, held, entry, block) * flags.context_parallel
        stages.append(_Stage(gib, beside, pool, entry * held, tokens))
    fullest = min(stages, key=lambda stage: stage.tokens)
    if flags.kv_bytes:
        usable = _with_pool(stages, flags.kv_bytes / GIB, host)
    tokens = _in_blocks(fullest, block, flags) if flags.blocks else fullest.tokens
    beside = fullest.overhead
    if tokens < context:
        raise InvalidInput(
            f"does not fit: a GPU offers {usable:.1f} GiB, {fullest.weights:.1f} are weights and about "
            f"{beside.inside_gib:.1f} activations and graphs, which leaves {tokens:,} KV tokens "
            f"for a context of {context:,}",
            where="parallelism",
            fix="more GPUs per group (parallelism), a shorter context, or higher utilization",
        )
    outside = beside.outside_gib
    return Memory(
        usable_gib=round(usable, 2),
        weights_gib=tuple(round(stage.weights, 2) for stage in stages),
        overhead_gib=round(beside.inside_gib, 2),
        overhead=_rounded(beside),
        kv_gib=round(fullest.pool, 2),
        kv_bytes_per_token=fullest.token_bytes,
        kv_tokens=tokens,
        kv_tokens_by_stage=tuple(stage.tokens for stage in stages),
        concurrency=round(tokens / context, 1),
        utilization=round(usable / host.gpu_memory_gib, 3),
        utilization_ceiling=None if outside is None else ceiling(host.gpu_memory_gib, outside),
    )


def _with_pool(stages: list[_Stage], pool_gib: float, host: Host) -> float:
    """Return what the engine uses with a KV cache of a given size: it does not look at its share then."""
    most = max(stage.weights + stage.overhead.inside_gib for stage in stages)
    if most + pool_gib > host.gpu_memory_gib:
        raise InvalidInput(
            f"{pool_gib:.1f} GiB do not fit beside {most:.1f} GiB of weights, activations and graphs "
            f"into the {host.gpu_memory_gib:.1f} GiB of a GPU",
            where="arguments.kv-cache-memory-bytes",
            fix="leave it out: what is left is the KV cache",
        )
    return most + pool_gib


def _in_blocks(fullest: _Stage, block: int, flags: MemoryFlags) -> int:
    """Return the tokens in a number of blocks of one's own, which the engine takes without looking."""
    tokens = flags.blocks * block * flags.context_parallel
    if tokens > fullest.tokens:
        raise InvalidInput(
            f"{flags.blocks:,} blocks are {tokens:,} KV tokens; {fullest.tokens:,} fit",
            where="arguments.num-gpu-blocks-override",
            fix="leave it out: all that fit are taken",
        )
    return tokens


def _rounded(found: Overhead) -> Overhead:
    return msgspec.convert(
        {
            name: value if value is None else round(value, 2)
            for name, value in msgspec.structs.asdict(found).items()
        },
        Overhead,
    )


def stage_weights_bytes(
    model: Model,
    engine: Engine,
    parallelism: Parallelism,
    *,
    first_layer: int,
    layers: int,
    is_last: bool,
    flags: MemoryFlags = MemoryFlags(),  # noqa: B008  frozen
) -> int:
    """Return the weight bytes on one GPU of a pipeline stage.

    Args:
        model: The model; its multi-token-prediction layers are loaded for speculative decoding only.
        engine: Decides which absorbed MLA matrices are kept beside the weights.
        parallelism: Heads, dense layers and the vocabulary are cut by tensor parallelism, routed experts over
            the data parallel ranks too (vllm/model_executor/layers/fused_moe/config.py).
        first_layer: Index of the stage's first layer.
        layers: Number of layers of the stage.
        is_last: Whether the stage holds the output head, and the prediction layers.
        flags: Whether experts stay whole, and how many prediction layers are loaded.
    """
    a, tensor = model.architecture, parallelism.tensor
    held = experts(model, flags, parallelism)
    match a:
        case MlaMoe():
            dense = max(0, min(a.dense_layers - first_layer, layers))
            total = layers * (_mla_bytes(a, model.weight_format, tensor) + _absorbed_bytes(a, engine, tensor))
            total += dense * _mlp(a.intermediate, a.hidden, model.weight_format) / tensor
            expert = _mlp(a.moe_intermediate, a.hidden, model.weight_format)
            gate = _BF16_BYTES * a.routed_experts * a.hidden + 4 * a.routed_experts
            sparse = gate + a.shared_experts * expert / tensor + held * expert
            total += (layers - dense) * sparse
            if is_last and flags.prediction_layers:
                attention = _mla_bytes(a, model.weight_format, tensor) + _absorbed_bytes(a, engine, tensor)
                total += flags.prediction_layers * (attention + sparse + _prediction_bytes(a, tensor))
        case GqaMoe():
            expert = _mlp(a.moe_intermediate, a.hidden, model.weight_format)
            gate = _BF16_BYTES * a.routed_experts * a.hidden
            total = layers * (_gqa_bytes(a, model.weight_format, tensor) + gate + held * expert)
        case GqaDense():
            total = layers * (
                _gqa_bytes(a, model.weight_format, tensor)
                + _mlp(a.intermediate, a.hidden, model.weight_format) / tensor
            )
    tied = isinstance(a, GqaDense) and a.tied_embeddings and first_layer == 0
    copies = (first_layer == 0) + (is_last and not tied)
    embedding = _BF16_BYTES * a.vocabulary * a.hidden / tensor
    norm = _BF16_BYTES * a.hidden * is_last
    return int(total + norm + embedding * copies)


def kv_bytes_per_token_layer(model: Model, engine: Engine, kv_dtype: str, tensor: int) -> int:
    """Return the KV cache bytes of one token in one layer on one GPU.

    MLA keeps the compressed vector and the rotary key once on every rank, padded as the engine's version
    does; grouped-query attention keeps keys and values of the rank's heads, of one head at the least.
    """
    a, width = model.architecture, _KV_BYTES[kv_dtype]
    if isinstance(a, MlaMoe):
        align = engine.kv_entry_alignment_bytes
        return math.ceil((a.kv_lora_rank + a.qk_rope_head_dim) * width / align) * align
    return 2 * max(1, a.kv_heads // tensor) * a.head_dim * width


def kv_block_tokens(model: Model, engine: Engine, kv_dtype: str) -> int:
    """Return the tokens of one KV block, which the engine's attention kernel decides."""
    latent = isinstance(model.architecture, MlaMoe)
    own = engine.kv_block_tokens_fp8 if latent and _KV_BYTES[kv_dtype] == 1 else 0
    return own or engine.kv_block_tokens


def kv_tokens(pool_bytes: float, layers: int, bytes_per_token_layer: int, block_tokens: int) -> int:
    """Return how many tokens fit into a KV pool of one GPU, in whole blocks; 0 when it is too small."""
    block = layers * bytes_per_token_layer * block_tokens
    return max(0, int(pool_bytes // block)) * block_tokens


def _matrix(rows: int, columns: int, weight_format: str) -> int:
    """Return the bytes of a linear layer's weight."""
    if weight_format == "bf16":
        return _BF16_BYTES * rows * columns
    scales = math.ceil(rows / FP8_BLOCK) * math.ceil(columns / FP8_BLOCK)
    return rows * columns + 4 * scales


def _mlp(width: int, hidden: int, weight_format: str) -> int:
    """Return the bytes of a gated feed-forward network: gate and up, then down."""
    return 2 * _matrix(width, hidden, weight_format) + _matrix(hidden, width, weight_format)


def _mla_bytes(a: MlaMoe, form: str, tensor: int) -> float:
    """Return the bytes of one layer's latent attention and norms on one GPU."""
    head_dim = a.qk_nope_head_dim + a.qk_rope_head_dim
    down = _matrix(a.q_lora_rank, a.hidden, form) + _matrix(
        a.kv_lora_rank + a.qk_rope_head_dim, a.hidden, form
    )
    norms = _BF16_BYTES * (2 * a.hidden + a.q_lora_rank + a.kv_lora_rank)
    sharded = (
        _matrix(a.heads * head_dim, a.q_lora_rank, form)
        + _matrix(a.heads * (a.qk_nope_head_dim + a.v_head_dim), a.kv_lora_rank, form)
        + _matrix(a.hidden, a.heads * a.v_head_dim, form)
    )
    return down + norms + sharded / tensor


def _absorbed_bytes(a: MlaMoe, engine: Engine, tensor: int) -> float:
    """Return the bytes a layer keeps for absorbed MLA projections on one GPU."""
    heads = a.heads / tensor
    if engine.mla_absorbed == "v0":  # W_Q_UK and W_UV_O in FP8 (vllm 0.7, attention/backends/mla/utils.py)
        return heads * a.kv_lora_rank * (a.q_lora_rank + a.hidden)
    return _BF16_BYTES * heads * a.kv_lora_rank * (a.qk_nope_head_dim + a.v_head_dim)


def _prediction_bytes(a: MlaMoe, tensor: int) -> float:
    """Return what a prediction layer has beside a layer of the model, on one GPU.

    Three norms, the projection of two hidden states to one, and its own embedding and head
    (vllm/model_executor/models/deepseek_mtp.py).
    """
    projection = _BF16_BYTES * 2 * a.hidden * a.hidden
    return projection + 3 * _BF16_BYTES * a.hidden + 2 * _BF16_BYTES * a.vocabulary * a.hidden / tensor


def _gqa_bytes(a: GqaMoe | GqaDense, form: str, tensor: int) -> float:
    """Return the bytes of one layer's grouped-query attention and norms on one GPU.

    KV heads are copied when there are more ranks than heads.
    """
    kv_heads = max(a.kv_heads / tensor, 1)
    projections = 2 * _matrix(a.heads * a.head_dim, a.hidden, form) / tensor
    keys_values = 2 * _matrix(a.head_dim, a.hidden, form) * kv_heads
    norms = _BF16_BYTES * 2 * (a.hidden + a.head_dim)
    return projections + keys_values + norms
