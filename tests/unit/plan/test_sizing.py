"""Hosts of a group, layers of a stage, and sizes that cannot be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from manyhost.catalog import Catalog
from manyhost.catalog.recipe import Parallelism
from manyhost.errors import InvalidInput
from manyhost.plan.sizing import check_host_memory, check_model_fits_ranks, hosts_per_group, pipeline_layers

from tests.helpers.cli import ROOT

CATALOG = Catalog(ROOT)
HOSTS = {name: CATALOG.environment(name).host for name in CATALOG.names("environments")}
HOSTS["one network"] = msgspec.structs.replace(HOSTS["a3mega"], nics=[])  # pods may share such a host
R1 = CATALOG.model("deepseek-r1-671b")


@pytest.mark.parametrize(
    ("layers", "stages", "expected"),
    [
        (61, 1, (61,)),
        (61, 2, (31, 30)),
        (61, 3, (20, 21, 20)),
        (61, 4, (15, 15, 16, 15)),
        (62, 4, (15, 16, 16, 15)),
        (63, 4, (16, 16, 16, 15)),
        (4, 2, (2, 2)),
        (4, 4, (1, 1, 1, 1)),
    ],
)
def test_layers_are_split_as_vllm_does(layers: int, stages: int, expected: tuple[int, ...]) -> None:
    assert pipeline_layers(layers, stages) == expected


@pytest.mark.parametrize("stages", range(1, 62))
def test_every_split_is_whole_and_even(stages: int) -> None:
    split = pipeline_layers(61, stages)
    assert (sum(split), len(split)) == (61, stages)
    assert max(split) - min(split) <= 1
    assert split[-1] == min(split)  # the last stage has the head


@pytest.mark.parametrize(
    ("environment", "tensor", "pipeline", "data", "hosts"),
    [
        ("a3mega", 8, 1, 1, 1),
        ("a3mega", 8, 2, 1, 2),
        ("a3mega", 16, 1, 1, 2),
        ("a3mega", 8, 4, 1, 4),
        ("a3mega", 4, 4, 1, 2),
        ("a3mega", 4, 2, 1, 1),
        ("a3mega", 4, 1, 2, 1),
        ("one network", 4, 1, 1, 1),
        ("one network", 2, 1, 1, 1),
        ("one network", 1, 1, 1, 1),
        ("one network", 1, 1, 4, 1),
        ("local", 1, 2, 1, 2),
        ("local", 1, 1, 1, 1),
        ("local", 2, 2, 1, 4),
    ],
)
def test_hosts(environment: str, tensor: int, pipeline: int, data: int, hosts: int) -> None:
    sizes = Parallelism(tensor=tensor, pipeline=pipeline, data=data)
    assert hosts_per_group(sizes, HOSTS[environment]) == hosts


@pytest.mark.parametrize(
    ("environment", "tensor", "pipeline", "data", "words"),
    [
        ("a3mega", 3, 1, 1, "does not divide the 8 GPUs of a host"),
        ("a3mega", 5, 1, 1, "does not divide the 8 GPUs of a host"),
        ("a3mega", 3, 8, 1, "parallelism.tensor: tensor 3 does not divide the 8 GPUs of a host"),
        ("a3mega", 4, 1, 1, "leave 4 of a host idle: its 9 networks go to one pod"),
        ("a3mega", 1, 1, 1, "leave 7 of a host idle"),
        ("one network", 3, 1, 1, "does not divide the 8 GPUs of a host"),
        ("a3mega", 8, 3, 1, None),
        ("a3mega", 24, 1, 1, None),
        ("a3mega", 6, 2, 1, "does not fill whole hosts of 8 GPUs"),
        ("a3mega", 12, 2, 1, "parallelism.tensor: tensor 12 is cut unevenly by hosts of 8 GPUs"),
        ("a3mega", 12, 1, 1, "does not fill whole hosts"),
        ("a3mega", 8, 1, 2, "data parallel ranks cannot span hosts"),
        ("a3mega", 8, 2, 2, "data parallel ranks cannot span hosts"),
        ("local", 1, 1, 2, "data parallel ranks cannot span hosts"),
    ],
)
def test_sizes_that_cannot_be(
    environment: str, tensor: int, pipeline: int, data: int, words: str | None
) -> None:
    sizes = Parallelism(tensor=tensor, pipeline=pipeline, data=data)
    if words is None:
        assert hosts_per_group(sizes, HOSTS[environment]) == 3
        return
    with pytest.raises(InvalidInput, match=words) as caught:
        hosts_per_group(sizes, HOSTS[environment])
    assert caught.value.where.startswith("parallelism")


@pytest.mark.parametrize(
    ("tensor", "pipeline", "where", "words"),
    [
        (3, 1, "parallelism.tensor", "128 attention heads cannot be divided by tensor 3"),
        (256, 1, "parallelism.tensor", "128 attention heads cannot be divided"),
        (8, 62, "parallelism.pipeline", "61 layers cannot fill 62 pipeline stages"),
    ],
)
def test_models_that_cannot_be_divided(tensor: int, pipeline: int, where: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        check_model_fits_ranks(Parallelism(tensor=tensor, pipeline=pipeline), R1, {})
    assert caught.value.where == where


def test_experts_must_be_divided_too() -> None:
    narrow = msgspec.structs.replace(
        R1, architecture=msgspec.structs.replace(R1.architecture, moe_intermediate=12)
    )
    with pytest.raises(InvalidInput, match="experts of width 12") as caught:
        check_model_fits_ranks(Parallelism(tensor=8, pipeline=1), narrow, {})
    assert caught.value.where == "parallelism.tensor"


@pytest.mark.parametrize(
    ("tensor", "data", "arguments", "words"),
    [
        (32, 1, {}, "experts of width 2048 cannot be divided by 32 ranks into blocks of 128"),
        (8, 4, {}, "experts of width 2048 cannot be divided by 32 ranks into blocks of 128"),
        # Whole experts, but 18432 / 32 = 576 is no multiple of 128 in the three dense layers.
        (32, 1, {"enable-expert-parallel": True}, "layers of width 18432 cannot be divided by 32 ranks into"),
        (16, 1, {}, ""),
        (8, 4, {"enable-expert-parallel": True}, ""),
    ],
)
def test_fp8_blocks_are_never_cut(tensor: int, data: int, arguments: dict[str, bool], words: str) -> None:
    """What vllm-project/vllm#17569 met: a rank's slice has to be of whole blocks that share a scale."""
    sizes = Parallelism(tensor=tensor, pipeline=1, data=data)
    if not words:
        check_model_fits_ranks(sizes, R1, arguments)
        return
    with pytest.raises(InvalidInput, match=words) as caught:
        check_model_fits_ranks(sizes, R1, arguments)
    assert caught.value.where == "parallelism.tensor"
    assert ("enable-expert-parallel" in caught.value.fix) == ("experts" in words)


def test_without_fp8_blocks_a_slice_may_be_of_any_width() -> None:
    plain = msgspec.structs.replace(R1, weight_format="bf16")
    check_model_fits_ranks(Parallelism(tensor=32, pipeline=1), plain, {})


@pytest.mark.parametrize(
    ("arguments", "fits"),
    [
        ({}, True),
        ({"cpu-offload-gb": 0}, True),
        ({"cpu-offload-gb": 200}, True),  # 8 x 200 + 250 of 1872
        ({"cpu-offload-gb": 203}, False),
        ({"cpu-offload-gb": 202.5}, True),
        ({"cpu-offload-gb": "many"}, True),  # refused as a flag
    ],
)
def test_main_memory_holds_what_gpus_put_there(arguments: dict[str, Any], fits: bool) -> None:
    if fits:
        check_host_memory(arguments, HOSTS["a3mega"])
        return
    with pytest.raises(InvalidInput, match="are more than the 1872 GiB of a host") as caught:
        check_host_memory(arguments, HOSTS["a3mega"])
    assert caught.value.where == "arguments.cpu-offload-gb"
