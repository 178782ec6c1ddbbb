"""What an engine takes of a GPU beside weights and KV cache: formulas, with the coefficients of its version.

values/memory-points.yaml has the measurements and logs that the coefficients come from.
"""

from __future__ import annotations

import msgspec

from manyhost.catalog.engine import Activations, GpuMemory, Linear
from manyhost.catalog.model import GqaDense, MlaMoe, Model
from manyhost.catalog.recipe import Parallelism
from manyhost.plan.memory_flags import MemoryFlags

_GIB = 2**30
_BF16_BYTES = 2
# Of a GPU; for what nobody has measured: NCCL under load, other traffic. It makes 0.88 of what one H100 took
# with the V2 runner: 0.85 left 7 GB free at the highest, 0.92 with larger steps less than 1.
_RESERVE = 0.05
# The largest batch that a graph is captured for (vllm/config/vllm.py, max_cudagraph_capture_size).
_CAPTURED = 512


class Overhead(msgspec.Struct, frozen=True, kw_only=True):
    """GPU memory beside weights and KV cache, in GiB.

    Attributes:
        non_torch_gib: CUDA's context and libraries.
        communication_gib: Buffers of NCCL and of the engine's own all-reduce.
        activation_gib: Of the largest step.
        graphs_gib: CUDA graphs, as far as they count to the engine's share.
        outside_gib: What it takes under load beside its share; None where nobody has measured it.
    """

    non_torch_gib: float
    communication_gib: float
    activation_gib: float
    graphs_gib: float
    outside_gib: float | None

    @property
    def inside_gib(self) -> float:
        """What the engine takes from its share of the memory."""
        return self.non_torch_gib + self.communication_gib + self.activation_gib + self.graphs_gib


def overhead(
    model: Model,
    facts: GpuMemory,
    sizes: Parallelism,
    *,
    layers: int,
    context: int,
    flags: MemoryFlags,
) -> Overhead:
    """Return what an engine takes of one GPU beside weights and KV cache.

    Args:
        model: Hidden state and heads.
        facts: The engine's coefficients.
        sizes: Heads are divided by tensor parallelism; a GPU of data parallel ranks sees the tokens of all.
        layers: Of the pipeline stage, prediction layers included.
        context: Longest request in tokens.
        flags: Tokens and requests of a step, the runner, and whether it captures graphs.
    """
    a = model.architecture
    heads = a.heads / sizes.tensor
    runner = facts.runners[flags.runner or facts.runner]
    latent = heads if isinstance(a, MlaMoe) else 0.0
    seats = min(flags.seats or facts.seats, _CAPTURED)
    outside = None
    if runner.outside is not None:
        # Ranks that share a KV cache gather the queries of all their heads (mla_attention.py).
        outside = _linear(runner.outside, layers, latent * flags.context_parallel, seats)
    return Overhead(
        non_torch_gib=facts.non_torch_gib,
        communication_gib=_communication(facts, sizes),
        activation_gib=_activations(
            facts.activations, model, sizes, context, batched_tokens(facts, flags, context)
        ),
        graphs_gib=0.0 if flags.eager else _linear(runner.graphs, layers, latent, seats),
        outside_gib=outside,
    )


def batched_tokens(facts: GpuMemory, flags: MemoryFlags, context: int) -> int:
    """Return the most tokens of one step: the flag's, or what the engine sets by itself."""
    whole = context if context <= facts.whole_prompt_context else 0
    return flags.batched_tokens or max(whole, facts.batched_tokens)


def ceiling(gpu_gib: float, outside_gib: float) -> float:
    """Return the highest share of a GPU's memory that leaves room for what the engine takes beside it.

    Args:
        gpu_gib: Memory of the GPU.
        outside_gib: What the engine takes under load beside its share.
    """
    return round(1 - _RESERVE - outside_gib / gpu_gib, 2)


def _communication(facts: GpuMemory, sizes: Parallelism) -> float:
    peers = facts.communication.gib_per_tensor_peer * (sizes.tensor - 1)
    return peers + (facts.communication.other_gib if sizes.pipeline > 1 or sizes.data > 1 else 0.0)


def _activations(facts: Activations, model: Model, sizes: Parallelism, context: int, tokens: int) -> float:
    """Return the larger of two peaks: in a layer's feed-forward network, and in its attention.

    Experts are shared among data parallel ranks, which gather the tokens of all for them.
    """
    a = model.architecture
    heads = a.heads / sizes.tensor
    others = 0 if isinstance(a, GqaDense) else sizes.data - 1
    hidden = facts.bytes_per_hidden + facts.gathered_bytes_per_hidden * others
    forward = tokens * (a.hidden * hidden + heads * facts.bytes_per_head)
    attention = 0.0
    if isinstance(a, MlaMoe):
        # vllm/model_executor/layers/attention/mla_attention.py: eight longest requests, up to a bound
        unpacked = min(facts.context_tokens, 8 * context) * _BF16_BYTES * (a.qk_nope_head_dim + a.v_head_dim)
        attention = heads * (unpacked + tokens * facts.attention_bytes_per_head)
    return max(facts.gib + forward / _GIB, attention / _GIB)


def _linear(facts: Linear, layers: int, heads: float, seats: int) -> float:
    of_heads = (facts.gib_per_head + facts.gib_per_head_seat * seats) * heads
    return facts.gib + facts.gib_per_layer * layers + of_heads
