"""Hosts of a group, layers of a stage, and sizes that cannot be."""

from __future__ import annotations

import msgspec
import pytest
from manyhost.catalog import Catalog
from manyhost.catalog.types import Parallelism
from manyhost.errors import InvalidInput
from manyhost.plan.parallelism import check_model_fits_ranks, hosts_per_group, pipeline_layers

from tests.helpers.cli import ROOT

CATALOG = Catalog(ROOT)
HOSTS = {name: CATALOG.environment(name).host for name in CATALOG.names("environments")}
R1 = CATALOG.model("deepseek-r1-671b").architecture


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
        ("a3mega", 4, 1, 1, 1),
        ("a3mega", 2, 1, 1, 1),
        ("a3mega", 1, 1, 1, 1),
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
        check_model_fits_ranks(Parallelism(tensor=tensor, pipeline=pipeline), R1)
    assert caught.value.where == where


def test_experts_must_be_divided_too() -> None:
    narrow = msgspec.structs.replace(R1, moe_intermediate=12)
    with pytest.raises(InvalidInput, match="experts of width 12") as caught:
        check_model_fits_ranks(Parallelism(tensor=8, pipeline=1), narrow)
    assert caught.value.where == "parallelism.tensor"
