"""Bytes on each GPU: weights, KV cache, and the tokens that fit.

Formulas follow the shapes of DeepSeek-V3 in vLLM (vllm/model_executor/models/deepseek_v2.py); a test
compares them with logged runs.
"""

from __future__ import annotations

import math

from manyhost.catalog.types import Architecture, Engine, Model

GIB = 2**30
_FP8_BLOCK = 128  # one float32 scale for each 128 x 128 block of FP8 weights
_BF16_BYTES = 2
_KV_BYTES = {"auto": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}


def _matrix(rows: int, columns: int, weight_format: str) -> int:
    """Return the bytes of a linear layer's weight."""
    if weight_format == "bf16":
        return _BF16_BYTES * rows * columns
    scales = math.ceil(rows / _FP8_BLOCK) * math.ceil(columns / _FP8_BLOCK)
    return rows * columns + 4 * scales


def stage_weights_bytes(
    model: Model, engine: Engine, *, tensor: int, first_layer: int, layers: int, is_last: bool
) -> int:
    """Return the weight bytes on one GPU of a pipeline stage.

    Args:
        model: The model; its multi-token-prediction layers are not loaded for plain serving.
        engine: Decides which absorbed MLA matrices are kept beside the weights.
        tensor: Tensor parallel size that shards heads, experts and the vocabulary.
        first_layer: Index of the stage's first layer.
        layers: Number of layers of the stage.
        is_last: Whether the stage holds the output head.
    """
    a = model.architecture
    form = model.weight_format
    head_dim = a.qk_nope_head_dim + a.qk_rope_head_dim
    down = _matrix(a.q_lora_rank, a.hidden, form) + _matrix(
        a.kv_lora_rank + a.qk_rope_head_dim, a.hidden, form
    )
    norms = _BF16_BYTES * (2 * a.hidden + a.q_lora_rank + a.kv_lora_rank)
    replicated = down + norms
    sharded_attention = (
        _matrix(a.heads * head_dim, a.q_lora_rank, form)
        + _matrix(a.heads * (a.qk_nope_head_dim + a.v_head_dim), a.kv_lora_rank, form)
        + _matrix(a.hidden, a.heads * a.v_head_dim, form)
    )

    def mlp(width: int) -> int:
        return 2 * _matrix(width, a.hidden, form) + _matrix(a.hidden, width, form)

    gate = _BF16_BYTES * a.routed_experts * a.hidden + 4 * a.routed_experts
    dense = max(0, min(a.dense_layers - first_layer, layers))
    sparse = layers - dense
    experts = a.routed_experts + a.shared_experts
    total = layers * (replicated + sharded_attention / tensor)
    total += dense * mlp(a.intermediate) / tensor
    total += sparse * (gate + experts * mlp(a.moe_intermediate) / tensor)
    embedding = _BF16_BYTES * a.vocabulary * a.hidden / tensor
    total += embedding * ((first_layer == 0) + is_last)
    return int(total + layers * _absorbed_bytes(a, engine, tensor))


def _absorbed_bytes(a: Architecture, engine: Engine, tensor: int) -> float:
    """Return the bytes a layer keeps for absorbed MLA projections on one GPU."""
    heads = a.heads / tensor
    if engine.mla_absorbed == "v0":  # W_Q_UK and W_UV_O in FP8 (vllm 0.7, attention/backends/mla/utils.py)
        return heads * a.kv_lora_rank * (a.q_lora_rank + a.hidden)
    return _BF16_BYTES * heads * a.kv_lora_rank * (a.qk_nope_head_dim + a.v_head_dim)


def kv_bytes_per_token_layer(model: Architecture, engine: Engine, kv_dtype: str) -> int:
    """Return the KV cache bytes of one token in one layer, with the engine version's padding.

    MLA keeps the compressed vector and the rotary key once, whatever the tensor parallel size.
    """
    entry = (model.kv_lora_rank + model.qk_rope_head_dim) * _KV_BYTES[kv_dtype]
    align = engine.kv_entry_alignment_bytes
    return math.ceil(entry / align) * align


def kv_tokens(pool_bytes: float, layers: int, bytes_per_token_layer: int, block_tokens: int) -> int:
    """Return how many tokens fit into a KV pool of one GPU, in whole blocks; 0 when it is too small."""
    block = layers * bytes_per_token_layer * block_tokens
    return max(0, int(pool_bytes // block)) * block_tokens
