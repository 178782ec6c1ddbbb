"""Flags and variables that change the memory of a GPU: read, or refused where nobody can say how much."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from manyhost.catalog.engine import Engine
from manyhost.catalog.model import GqaMoe, MlaMoe, Model
from manyhost.catalog.recipe import Parallelism
from manyhost.errors import InvalidInput

# Of each engine (vllm/distributed/utils.py, sglang/srt/distributed/utils.py).
PARTITION = {"vllm": "VLLM_PP_LAYER_PARTITION", "sglang": "SGLANG_PP_LAYER_PARTITION"}
RUNNER = "VLLM_USE_V2_MODEL_RUNNER"
# vllm/config/speculative.py: the model's own prediction layer, and what drafts without a model
_OWN_LAYER = {"mtp", "deepseek_mtp"}
_NO_MODEL = {"ngram", "[ngram]", "suffix"}
# Buffers of the other back ends for expert parallelism are in nobody's log.
_MEASURED_ALL2ALL = {"naive", "allgather_reducescatter"}
_ARCHITECTURE = {
    "hidden_size", "intermediate_size", "kv_lora_rank", "moe_intermediate_size", "n_routed_experts",
    "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "q_lora_rank", "vocab_size",
}  # fmt: skip
_POWERS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12} | {
    "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40,
}  # fmt: skip


class MemoryFlags(msgspec.Struct, frozen=True, kw_only=True):
    """What flags and variables say of the memory.

    Attributes:
        batched_tokens: Tokens of one step; 0 for the engine's own.
        seats: Requests of one step; 0 for the engine's own.
        block_tokens: Tokens of one KV block; 0 for the engine's own.
        kv_bytes: KV cache of each GPU; 0 for what is left.
        blocks: Blocks of the KV cache, whatever is left; 0 for all that fit.
        eager: No CUDA graphs are captured.
        context_parallel: Ranks of a tensor parallel group that share a request's KV cache.
        prediction_layers: Layers of the model's own that predict further tokens (MTP).
        offload_gib: Weights of each GPU that stay in main memory.
        expert_parallel: Experts stay whole.
        redundant_experts: Copies of experts for balance.
        runner: The model runner; empty for the engine's own.
    """

    batched_tokens: int = 0
    seats: int = 0
    block_tokens: int = 0
    kv_bytes: int = 0
    blocks: int = 0
    eager: bool = False
    context_parallel: int = 1
    prediction_layers: int = 0
    offload_gib: float = 0.0
    expert_parallel: bool = False
    redundant_experts: int = 0
    runner: str = ""


def read(
    arguments: Mapping[str, Any],
    variables: Mapping[str, str],
    model: Model,
    engine: Engine,
    sizes: Parallelism,
    key: Callable[[str], str],
) -> MemoryFlags:
    """Return what the flags of a role say of the memory.

    A value of the wrong type is passed over: the check of flags refuses it.

    Args:
        arguments: Flags by name without dashes.
        variables: Environment of the engine.
        model: Its layers, and whether it predicts further tokens.
        engine: Whether it has more than one model runner.
        sizes: Parallel sizes of a group.
        key: Returns the recipe's key of a flag.

    Raises:
        InvalidInput: A flag changes the memory by what nobody knows, or cannot be.
    """
    _refuse(arguments, model, key)
    chosen = {"0": "v1", "1": "v2"}.get(variables.get(RUNNER, ""), "")
    runners = engine.memory.runners if engine.memory else {}
    return MemoryFlags(
        batched_tokens=_number(arguments.get("max-num-batched-tokens")),
        seats=_number(arguments.get(engine.flag_names.seats)),
        block_tokens=_number(arguments.get("block-size")),
        kv_bytes=_number(arguments.get("kv-cache-memory-bytes")),
        blocks=_number(arguments.get("num-gpu-blocks-override")),
        eager=arguments.get("enforce-eager") is True or _without_graphs(arguments),
        context_parallel=_context_parallel(arguments, model, sizes, key),
        prediction_layers=_prediction_layers(arguments, model, key),
        offload_gib=float(_amount(arguments.get("cpu-offload-gb"))),
        expert_parallel=arguments.get("enable-expert-parallel") is True,
        redundant_experts=_number(_below(arguments, "eplb-config").get("num_redundant_experts")),
        runner=chosen if chosen in runners else "",
    )


def partition(
    variables: Mapping[str, str], model: Model, sizes: Parallelism, engine: Engine
) -> tuple[int, ...]:
    """Return the layers of each pipeline stage as the engine's variable says; empty where it says nothing.

    Raises:
        InvalidInput: It is no list of numbers, or the engine would refuse it (vllm/distributed/utils.py).
    """
    name = PARTITION[engine.name]
    text = variables.get(name, "")
    if not text:
        return ()
    where, layers = f"variables.{name}", model.architecture.layers
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise InvalidInput(f"{text[:80]!r} is no list such as 31,30", where=where)
    counts = tuple(int(part) for part in parts)
    if len(counts) != sizes.pipeline or sum(counts) != layers:
        raise InvalidInput(
            f"{text[:80]} are {sum(counts)} layers in {len(counts)} stages; the model has {layers} in "
            f"{sizes.pipeline}",
            where=where,
            fix="leave it out for an even split",
        )
    return counts


def _refuse(arguments: Mapping[str, Any], model: Model, key: Callable[[str], str]) -> None:
    """Refuse what changes the memory by what nobody knows."""
    reasons = {
        "enable-lora": "adapters take memory that the plan does not know",
        "quantization-config": f"the plan knows {model.name} in the format of its files only",
    }
    for name, reason in reasons.items():
        if arguments.get(name):
            raise InvalidInput(reason, where=key(name), fix="leave it out")
    form = str(arguments.get("quantization") or "fp8")
    if form != "fp8" or ("quantization" in arguments and model.weight_format != "fp8-block"):
        raise InvalidInput(reasons["quantization-config"], where=key("quantization"), fix="leave it out")
    if str(arguments.get("dtype", "auto")) in {"float", "float32"}:
        raise InvalidInput(reasons["quantization-config"], where=key("dtype"), fix="use auto or bfloat16")
    if _number(arguments.get("prefill-context-parallel-size")) > 1:
        raise InvalidInput(
            "it multiplies the GPUs of a group, which the plan does not do",
            where=key("prefill-context-parallel-size"),
            fix="leave it out, or set parallelism.data",
        )
    if changed := _ARCHITECTURE & set(_below(arguments, "hf-overrides")):
        raise InvalidInput(
            f"{min(changed)} makes another model of {model.name}",
            where=key("hf-overrides"),
            fix="put a model of your own into values/models/ (docs/how-to/extend.md)",
        )
    backend = arguments.get("all2all-backend")
    if arguments.get("enable-expert-parallel") and backend and backend not in _MEASURED_ALL2ALL:
        raise InvalidInput(
            "its buffers on each GPU are not known to the plan",
            where=key("all2all-backend"),
            fix="use allgather_reducescatter, the default",
        )


def _context_parallel(
    arguments: Mapping[str, Any], model: Model, sizes: Parallelism, key: Callable[[str], str]
) -> int:
    """Return the ranks that share a KV cache, which vLLM takes from the tensor parallel group."""
    ranks = _number(arguments.get("decode-context-parallel-size")) or 1
    copies = sizes.tensor
    if not isinstance(model.architecture, MlaMoe):
        copies = sizes.tensor // model.architecture.kv_heads  # only copies of a head can be shared
    if ranks > 1 and (sizes.tensor % ranks or ranks > max(copies, 1)):
        raise InvalidInput(
            f"{ranks} ranks cannot share a KV cache: {max(copies, 1)} of tensor {sizes.tensor} hold the same",
            where=key("decode-context-parallel-size"),
            fix="use a divisor of that number, or leave it out",
        )
    return ranks


def _prediction_layers(arguments: Mapping[str, Any], model: Model, key: Callable[[str], str]) -> int:
    """Return the prediction layers that are loaded for speculative decoding."""
    given = _below(arguments, "speculative-config")
    name = "speculative-config"
    method, draft = str(given.get("method") or ""), str(given.get("model") or "")
    if not given and (arguments.get("num-speculative-tokens") or arguments.get("speculative-model")):
        name = "num-speculative-tokens"  # vLLM 0.7
        draft = str(arguments.get("speculative-model") or "")
        method = "" if draft else "mtp"
    elif not given:
        return 0
    if method in _NO_MODEL or draft in _NO_MODEL:
        return 0
    if method not in _OWN_LAYER or draft:
        raise InvalidInput(
            "the memory of a draft model is not known to the plan",
            where=key(name),
            fix=f'use the model\'s own layer: arguments.{name}={{"method":"mtp","num_speculative_tokens":1}}',
        )
    layers = model.architecture.mtp_layers if isinstance(model.architecture, MlaMoe) else 0
    if not layers:
        raise InvalidInput(
            f"{model.name} has no layer that predicts further tokens", where=key(name), fix="leave it out"
        )
    return layers


def _without_graphs(arguments: Mapping[str, Any]) -> bool:
    given = _below(arguments, "compilation-config")
    return str(given.get("cudagraph_mode", "")).upper() == "NONE" or str(given.get("mode", "")) == "0"


def _below(arguments: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what a flag of JSON says: given whole, as text, or key by key with dots."""
    value = arguments.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    found = dict(value) if isinstance(value, dict) else {}
    start = f"{name}."
    return found | {key[len(start) :]: each for key, each in arguments.items() if key.startswith(start)}


def _number(value: object) -> int:
    """Return a whole number, also one such as 25G, as vLLM reads it; 0 for anything else."""
    if isinstance(value, bool) or value is None:
        return 0
    found = re.fullmatch(r"([0-9]{1,18})(\.[0-9]{1,9})?([kmgtKMGT]?)", str(value))
    if not found:
        return 0
    whole, part, unit = found.groups()
    return int(whole) * _POWERS[unit] + int(float(part or 0) * _POWERS[unit])


def _amount(value: object) -> float:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 else 0.0


def experts(model: Model, flags: MemoryFlags, sizes: Parallelism) -> float:
    """Return the routed experts of a layer on one GPU: whole ones with expert parallelism, else a share."""
    if not isinstance(model.architecture, (MlaMoe, GqaMoe)):
        return 0.0
    ranks, routed = sizes.tensor * sizes.data, model.architecture.routed_experts
    return -(-(routed + flags.redundant_experts) // ranks) if flags.expert_parallel else routed / ranks
