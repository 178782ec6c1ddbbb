"""Prefill and decode apart on GPUs: the benchmark counts and starts what plan and chart say."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from manyhost.render import build

from tests.charts.test_disaggregation import ON, engine, router, transfer
from tests.helpers.cli import ROOT
from tests.helpers.helm import render, variables

GPU = ROOT / "benchmarks" / "gpu"


@pytest.fixture(autouse=True)
def _beside() -> Iterator[None]:
    """The folder's scripts import each other as programs do."""
    folders = [str(GPU / "disaggregated"), str(GPU)]
    sys.path[:0] = folders
    yield
    for folder in folders:
        sys.path.remove(folder)


@pytest.mark.parametrize("tokens", [17, 1000, 2000])
def test_kv_bytes_are_those_of_the_plan_for_each_gpu(tokens: int) -> None:
    from model import CONFIG
    from pair import kv_bytes

    sizes = ["network.interconnect=none", "parallelism.pipeline=1", "parallelism.tensor=16", "context=8192"]
    own = [*sizes, "roles.prefill.groups=1", f"traffic.input_tokens={tokens}"]
    plan = build("a3mega/deepseek-r1-671b", assignments=own).plan
    assert plan.handover is not None
    assert kv_bytes(CONFIG | {"num_hidden_layers": 61}, tokens) * 16 == plan.handover.bytes


def test_engines_and_router_are_told_what_the_chart_tells_them() -> None:
    from pair import DECODE, PREFILL, Pair

    pair = Pair(Path("work"), Path("launch.sh"), ["vllm"], Path("model"))
    objects = render(ON)
    for rank, name in ((DECODE, "r1"), (PREFILL, "r1-prefill")):
        assert pair.handover(rank) == transfer(engine(objects, name))
        told = variables(engine(objects, name))
        known = {key for key in told if key.startswith(("UCX_", "VLLM_NIXL_"))} - {"UCX_TLS"}
        assert known <= pair.environment(rank, {}).keys()
    _, container = router(objects)
    asked = {item["name"] for item in container["env"] if item["name"].startswith("MANYHOST_ROUTER_")}
    assert asked == {key for key in pair.router_environment() if key.startswith("MANYHOST_ROUTER_")}


def test_engines_of_one_host_see_both_gpus_and_their_own_first() -> None:
    from pair import DECODE, PREFILL, Pair

    pair = Pair(Path("work"), Path("launch.sh"), ["vllm"], Path("model"))
    pair.hosts = 1
    seen = [pair.environment(rank, {})["CUDA_VISIBLE_DEVICES"] for rank in (DECODE, PREFILL)]
    assert seen == ["0,1", "1,0"]
    pair.hosts = 2
    seen = [pair.environment(rank, {})["CUDA_VISIBLE_DEVICES"] for rank in (DECODE, PREFILL)]
    assert seen == ["0", "1"]
