"""How many hosts a group has, and which layers and ranks each of them holds."""

from __future__ import annotations

from manyhost.catalog.types import Architecture, Host, Parallelism
from manyhost.errors import InvalidInput


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


def check_model_fits_ranks(parallelism: Parallelism, model: Architecture) -> None:
    """Check that heads, experts and layers can be divided.

    Raises:
        InvalidInput: When a division leaves a rest or a stage would be empty.
    """
    if model.heads % parallelism.tensor:
        raise InvalidInput(
            f"{model.heads} attention heads cannot be divided by tensor {parallelism.tensor}",
            where="parallelism.tensor",
        )
    if model.moe_intermediate % parallelism.tensor:
        raise InvalidInput(
            f"experts of width {model.moe_intermediate} cannot be divided by tensor {parallelism.tensor}",
            where="parallelism.tensor",
        )
    if parallelism.pipeline > model.layers:
        raise InvalidInput(
            f"{model.layers} layers cannot fill {parallelism.pipeline} pipeline stages",
            where="parallelism.pipeline",
        )


def pipeline_layers(layers: int, stages: int) -> tuple[int, ...]:
    """Return the number of layers of each pipeline stage.

    vLLM gives the remainder to all but the last stage, from the back: 61 layers over 2 are 31 and 30
    (vllm/distributed/utils.py, get_pp_indices).
    """
    sizes = [layers // stages] * stages
    for extra in range(layers % stages):
        sizes[-(extra + 2)] += 1
    return tuple(sizes)
