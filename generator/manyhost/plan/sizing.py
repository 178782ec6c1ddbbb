"""How many hosts a group has, and which layers and ranks each of them holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyhost.catalog.engine import Engine
from manyhost.catalog.environment import Host
from manyhost.catalog.model import GqaDense, GqaMoe, MlaMoe, Model
from manyhost.catalog.recipe import Parallelism
from manyhost.errors import InvalidInput
from manyhost.plan.arguments import offload_gib

FP8_BLOCK = 128  # rows and columns that share one scale (config.json, quantization_config)


def hosts_per_group(parallelism: Parallelism, host: Host) -> int:
    """Return the number of hosts of one group: tp * pp * dp GPUs, or one rank per host without GPUs.

    Raises:
        InvalidInput: When the GPUs do not fill whole hosts, or a tensor parallel group would be cut
            unevenly by host borders.
    """
    ranks = parallelism.tensor * parallelism.pipeline * parallelism.data
    product = f"tensor {parallelism.tensor} x pipeline {parallelism.pipeline} x data {parallelism.data}"
    per_host = max(host.gpus, 1)
    if ranks < per_host:
        if host.gpus and per_host % ranks == 0:
            _check_part_of_host(ranks, host, product)
            return 1
        raise InvalidInput(
            f"{product} = {ranks} GPUs does not divide the {host.gpus} GPUs of a host",
            where="parallelism",
        )
    if ranks % per_host:
        raise InvalidInput(
            f"{product} = {ranks} GPUs does not fill whole hosts of {host.gpus} GPUs",
            where="parallelism",
            fix=f"make the product a multiple of {host.gpus}",
        )
    tensor = parallelism.tensor
    if host.gpus and tensor > host.gpus and tensor % host.gpus:
        raise InvalidInput(
            f"tensor {tensor} is cut unevenly by hosts of {host.gpus} GPUs", where="parallelism.tensor"
        )
    if host.gpus and tensor < host.gpus and host.gpus % tensor:
        raise InvalidInput(
            f"tensor {tensor} does not divide the {host.gpus} GPUs of a host", where="parallelism.tensor"
        )
    hosts = ranks // per_host
    if parallelism.data > 1 and hosts > 1:
        raise InvalidInput(
            "data parallel ranks cannot span hosts",
            where="parallelism.data",
            fix="set parallelism.data to 1 and raise groups: each group serves on its own",
        )
    return hosts


def _check_part_of_host(ranks: int, host: Host, product: str) -> None:
    """Two pods cannot share the NICs of one host: each of them names all networks."""
    if host.nics:
        raise InvalidInput(
            f"{product} = {ranks} GPUs leave {host.gpus - ranks} of a host idle: its "
            f"{len(host.nics)} networks go to one pod",
            where="parallelism",
            fix=f"make the product {host.gpus}, for example with parallelism.data={host.gpus // ranks}",
        )


def check_model_fits_ranks(
    parallelism: Parallelism, model: Model, arguments: Mapping[str, Any], engine: str = "vllm"
) -> None:
    """Check that heads, experts, FP8 blocks and layers can be divided.

    Args:
        parallelism: The sizes of one group.
        model: Its architecture and the format of its weights.
        arguments: Engine flags; expert parallelism keeps experts whole.
        engine: Whose they are.

    Raises:
        InvalidInput: When a division leaves a rest or a stage would be empty.
    """
    a, tensor = model.architecture, parallelism.tensor
    if a.heads % tensor:
        raise InvalidInput(
            f"{a.heads} attention heads cannot be divided by tensor {tensor}", where="parallelism.tensor"
        )
    if isinstance(a, (GqaMoe, GqaDense)) and a.kv_heads % tensor and tensor % a.kv_heads:
        raise InvalidInput(
            f"{a.kv_heads} KV heads cannot be divided by or copied over tensor {tensor}",
            where="parallelism.tensor",
        )
    if isinstance(a, (MlaMoe, GqaMoe)) and not arguments.get("enable-expert-parallel"):
        # Without expert parallelism vLLM cuts each expert over all tensor and data parallel ranks
        # (vllm/model_executor/layers/fused_moe/config.py).
        _check_width(
            "experts",
            a.moe_intermediate,
            tensor * parallelism.data,
            model,
            "set arguments.enable-expert-parallel" if engine == "vllm" else "",  # SGLang's is not planned
        )
    if isinstance(a, GqaDense) or (isinstance(a, MlaMoe) and a.dense_layers):
        _check_width("layers", a.intermediate, tensor, model, "")
    if parallelism.pipeline > a.layers:
        raise InvalidInput(
            f"{a.layers} layers cannot fill {parallelism.pipeline} pipeline stages",
            where="parallelism.pipeline",
        )


def _check_width(what: str, width: int, ranks: int, model: Model, other: str) -> None:
    """A slice of a feed-forward network must be whole, and of whole FP8 blocks (vllm-project/vllm#17569)."""
    unit = FP8_BLOCK if model.weight_format == "fp8-block" else 1
    if width % (ranks * unit) == 0:
        return
    blocks = f" into blocks of {unit}" if unit > 1 and width % ranks == 0 else ""
    raise InvalidInput(
        f"{what} of width {width} cannot be divided by {ranks} ranks{blocks}",
        where="parallelism.tensor",
        fix=f"use fewer ranks, or {other}" if other else "use fewer ranks",
    )


def check_host_memory(arguments: Mapping[str, Any], host: Host) -> None:
    """Check that what the engine keeps in main memory fits beside /dev/shm.

    Raises:
        InvalidInput: When cpu-offload-gb of all GPUs is more than the host has.
    """
    offload = offload_gib(arguments)
    wanted = offload * host.gpus + host.shm_gib
    if offload and wanted > host.memory_gib:
        raise InvalidInput(
            f"{offload:g} GiB for each of {host.gpus} GPUs and {host.shm_gib} of /dev/shm are more than the "
            f"{host.memory_gib} GiB of a host",
            where="arguments.cpu-offload-gb",
        )


def check_engine(parallelism: Parallelism, engine: Engine) -> None:
    """Refuse sizes of which nobody knows what the engine makes.

    Raises:
        InvalidInput: SGLang with data parallel ranks: those of its attention, or copies of the model.
    """
    if engine.name == "sglang" and parallelism.data > 1:
        raise InvalidInput(
            f"data parallel ranks of {engine} are not planned",
            where="parallelism.data",
            fix="set parallelism.data to 1 and raise groups: each group serves on its own",
        )


def pipeline_layers(layers: int, stages: int, engine: str = "vllm") -> tuple[int, ...]:
    """Return the number of layers of each pipeline stage.

    vLLM gives the remainder to all but the last stage, from the back: 61 layers over 2 are 31 and 30
    (vllm/distributed/utils.py, get_pp_indices). SGLang gives it to the last ones: 30 and 31
    (sglang/srt/distributed/utils.py, get_pp_indices).
    """
    sizes = [layers // stages] * stages
    for extra in range(layers % stages):
        sizes[-(extra + 2 if engine == "vllm" else extra + 1)] += 1
    return tuple(sizes)
