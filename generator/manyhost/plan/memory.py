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
from manyhost.plan.sizing import FP8_BLOCK

GIB = 2**30
_BF16_BYTES = 2
_KV_BYTES = {"auto": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of the fullest GPU of a group, in GiB, and what fits.

    Attributes:
        usable_gib: What the engine may use.
        weights_gib: By pipeline stage.
        overhead_gib: Activations, CUDA graphs, NCCL.
        kv_gib: What is left for the KV cache on the GPU that holds the fewest tokens.
        kv_bytes_per_token: On that GPU.
        kv_tokens: Tokens that fit into the KV cache of the group.
        concurrency: Requests of full context that fit.
    """

    usable_gib: float
    weights_gib: tuple[float, ...]
    overhead_gib: float
    kv_gib: float
    kv_bytes_per_token: int
    kv_tokens: int
    concurrency: float


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

    Raises:
        InvalidInput: When not even one request of full context fits.
    """
    if not host.gpus:
        return None
    per_layer = kv_bytes_per_token_layer(model, engine, kv_dtype, parallelism.tensor)
    usable = host.gpu_memory_gib * (utilization or engine.default_utilization)
    weights: list[float] = []
    pools: list[float] = []
    tokens: list[int] = []
    for stage, count in enumerate(layers):
        stage_bytes = stage_weights_bytes(
            model,
            engine,
            parallelism,
            first_layer=sum(layers[:stage]),
            layers=count,
            is_last=stage == len(layers) - 1,
        )
        weights.append(stage_bytes / GIB)
        pools.append(usable - weights[-1] - engine.overhead_gib)
        tokens.append(kv_tokens(pools[-1] * GIB, count, per_layer, engine.kv_block_tokens))
    fullest = tokens.index(min(tokens))
    if tokens[fullest] < context:
        raise InvalidInput(
            f"does not fit: a GPU offers {usable:.1f} GiB, {weights[fullest]:.1f} are weights and about "
            f"{engine.overhead_gib:.1f} activations and graphs, which leaves {tokens[fullest]:,} KV tokens "
            f"for a context of {context:,}",
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
        concurrency=round(tokens[fullest] / context, 1),
    )


def stage_weights_bytes(
    model: Model, engine: Engine, parallelism: Parallelism, *, first_layer: int, layers: int, is_last: bool
) -> int:
    """Return the weight bytes on one GPU of a pipeline stage.

    Args:
        model: The model; its multi-token-prediction layers are not loaded for plain serving.
        engine: Decides which absorbed MLA matrices are kept beside the weights.
        parallelism: Heads, dense layers and the vocabulary are cut by tensor parallelism, routed experts over
            the data parallel ranks too (vllm/model_executor/layers/fused_moe/config.py).
        first_layer: Index of the stage's first layer.
        layers: Number of layers of the stage.
        is_last: Whether the stage holds the output head.
    """
    a, tensor = model.architecture, parallelism.tensor
    experts = tensor * parallelism.data
    match a:
        case MlaMoe():
            dense = max(0, min(a.dense_layers - first_layer, layers))
            total = layers * (_mla_bytes(a, model.weight_format, tensor) + _absorbed_bytes(a, engine, tensor))
            total += dense * _mlp(a.intermediate, a.hidden, model.weight_format) / tensor
            expert = _mlp(a.moe_intermediate, a.hidden, model.weight_format)
            gate = _BF16_BYTES * a.routed_experts * a.hidden + 4 * a.routed_experts
            sparse = gate + a.shared_experts * expert / tensor + a.routed_experts * expert / experts
            total += (layers - dense) * sparse
        case GqaMoe():
            expert = _mlp(a.moe_intermediate, a.hidden, model.weight_format)
            gate = _BF16_BYTES * a.routed_experts * a.hidden
            total = layers * (
                _gqa_bytes(a, model.weight_format, tensor) + gate + a.routed_experts * expert / experts
            )
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


def _gqa_bytes(a: GqaMoe | GqaDense, form: str, tensor: int) -> float:
    """Return the bytes of one layer's grouped-query attention and norms on one GPU.

    KV heads are copied when there are more ranks than heads.
    """
    kv_heads = max(a.kv_heads / tensor, 1)
    projections = 2 * _matrix(a.heads * a.head_dim, a.hidden, form) / tensor
    keys_values = 2 * _matrix(a.head_dim, a.hidden, form) * kv_heads
    norms = _BF16_BYTES * 2 * (a.hidden + a.head_dim)
    return projections + keys_values + norms
