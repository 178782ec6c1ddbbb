"""The rank slice of benchmarks/gpu is the planned rank, and its figures are what the engine's log says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from manyhost.catalog import Catalog, resolve
from manyhost.catalog.recipe import Parallelism
from manyhost.plan import Plan, make_plan
from manyhost.plan.memory import stage_weights_bytes

from tests.helpers.cli import ROOT

GPU = ROOT / "benchmarks" / "gpu"
CATALOG = Catalog(ROOT)
WITH_GPUS = [
    name
    for name in CATALOG.recipes()
    if not name.startswith("local/") and "name" not in CATALOG.recipe_document(name)["engine"]
]


@pytest.fixture(scope="module", autouse=True)
def _beside() -> Iterator[None]:
    """The folder's scripts import each other as programs do."""
    folders = [str(GPU / "slice"), str(GPU)]
    sys.path[:0] = folders
    yield
    for folder in folders:
        sys.path.remove(folder)


def planned(recipe: str, *assignments: str) -> Plan:
    return make_plan(resolve(CATALOG, recipe, assignments=assignments), CATALOG)


def job(recipe: str, *assignments: str, kv_tokens: int = 0, loads: str = "", gpus: int = 1) -> dict[str, Any]:
    from derive import job

    plan = planned(recipe, *assignments)
    return job(plan, plan.main, recipe, kv_tokens, loads, gpus)


def test_the_default_recipe_is_cut_as_its_last_stage_is() -> None:
    made = job("a3mega/deepseek-r1-671b", kv_tokens=729_600)
    config = made["config"]
    widths = ("hidden_size", "intermediate_size", "moe_intermediate_size", "num_attention_heads")
    assert [config[name] for name in widths] == [7168, 2304, 256, 16]
    assert (config["num_hidden_layers"], config["first_k_dense_replace"]) == (30, 0)
    assert (config["n_routed_experts"], config["vocab_size"]) == (256, 16160)
    assert made["serverArgs"]["max-num-seqs"] == 192
    assert made["serverArgs"]["num-gpu-blocks-override"] == 22_800  # of 16 tokens: half of the group's
    assert made["plan"]["engine"] == "v0.33.0"


@pytest.mark.parametrize("gpus", [2, 4, 8])
def test_ranks_of_several_gpus_are_as_wide_as_one_alone(gpus: int) -> None:
    alone, made = job("a3mega/deepseek-r1-671b"), job("a3mega/deepseek-r1-671b", gpus=gpus)
    assert made["parallel"] == {"tensor": gpus, "data": 1}
    cut = ("intermediate_size", "moe_intermediate_size", "num_attention_heads", "num_key_value_heads")
    for name in (*cut, "vocab_size"):
        assert made["config"].pop(name) == gpus * alone["config"].pop(name)
    assert made["config"] == alone["config"]
    same = ("serverArgs", "env", "plan", "hosts", "gpu_gib")
    assert all(made[name] == alone[name] for name in same)


def test_all_gpus_of_a_stage_are_the_stage_with_half_of_the_groups_seats_and_kv_tokens() -> None:
    plan = planned("a3mega/deepseek-r1-671b")
    assert plan.main.memory
    made = job(plan.recipe, kv_tokens=plan.main.memory.kv_tokens, gpus=8)
    widths = ("intermediate_size", "moe_intermediate_size", "num_attention_heads", "vocab_size")
    assert [made["config"][name] for name in widths] == [18432, 2048, 128, 129280]
    assert made["config"]["num_hidden_layers"] == 30
    assert made["serverArgs"]["max-num-seqs"] == 192
    blocks = made["serverArgs"]["num-gpu-blocks-override"]
    assert blocks * 16 == pytest.approx(plan.main.memory.kv_tokens / 2, abs=16)


def test_one_host_of_eight_gpus_is_the_model_itself() -> None:
    from model import CONFIG

    whole = CONFIG | {"first_k_dense_replace": 3, "num_hidden_layers": 61}
    experts = [
        "context=65536",
        "parallelism.tensor=1",
        "parallelism.data=8",
        "arguments.enable-expert-parallel=true",
    ]
    for assignments, sizes in (([], (8, 1)), (experts, (1, 8))):
        made = job("runpod-h200/single-host", *assignments, gpus=8)
        assert made["config"] == whole
        assert made["parallel"] == dict(zip(("tensor", "data"), sizes, strict=True))
        assert made["serverArgs"]["max-num-seqs"] == 256
    # So that one measurement is of both.
    ours, other = (job(name, gpus=8) for name in ("runpod-h200/single-host", "a3ultra/deepseek-r1-671b"))
    assert all(ours[name] == other[name] for name in ("config", "serverArgs", "env", "parallel"))


def test_a_host_of_several_gpus_is_told_so_and_has_nvlink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rig

    monkeypatch.setattr(rig, "DEVICES", ["0", "1", "2", "3"])
    one = rig.Rig(tmp_path, Path("launch.sh"), ["vllm"], tmp_path)
    one.hosts, one.tensor = 1, 4
    environment = one.environment(0, {})
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    assert environment["MANYHOST_GPUS_PER_HOST"] == "4"
    assert not {"NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE"} & environment.keys()
    assert one.sizes() == ["--tensor-parallel-size", "4", "--pipeline-parallel-size", "1"]
    two = rig.Rig(tmp_path, Path("launch.sh"), ["vllm"], tmp_path)
    assert [two.environment(rank, {})["CUDA_VISIBLE_DEVICES"] for rank in (0, 1)] == ["0", "1"]
    assert two.environment(1, {})["NCCL_P2P_DISABLE"] == "1"  # TCP between hosts
    one.tensor, one.data = 1, 4
    assert one.sizes()[-2:] == ["--data-parallel-size", "4"]


def test_an_engine_whose_memory_nobody_knows_is_not_cut() -> None:
    from derive import NoSlice

    with pytest.raises(NoSlice, match="a slice runs vLLM"):
        job("a3mega/deepseek-r1-671b-sglang")


@pytest.mark.parametrize("recipe", WITH_GPUS)
def test_a_slice_weighs_what_the_plan_says_of_the_rank(recipe: str) -> None:
    from derive import limiting_stage, weights

    plan = planned(recipe)
    role, config = plan.main, job(recipe)["config"]
    rank, beyond = weights(plan, role, limiting_stage(role))
    a = plan.model.architecture
    cut: dict[str, Any] = {"layers": config["num_hidden_layers"], "heads": config["num_attention_heads"]}
    cut |= {"vocabulary": config["vocab_size"], "hidden": config["hidden_size"]}
    if hasattr(a, "dense_layers"):
        cut["dense_layers"] = config["first_k_dense_replace"]
    if hasattr(a, "kv_heads"):
        cut["kv_heads"] = config["num_key_value_heads"]
    if hasattr(a, "intermediate"):
        cut["intermediate"] = config["intermediate_size"]
    if hasattr(a, "moe_intermediate"):
        cut["moe_intermediate"] = config["moe_intermediate_size"]
    alone = stage_weights_bytes(
        msgspec.structs.replace(plan.model, architecture=msgspec.structs.replace(a, **cut)),
        plan.engine,
        Parallelism(tensor=1, pipeline=1),
        first_layer=0,
        layers=cut["layers"],
        is_last=True,
    )
    assert alone == pytest.approx(rank + beyond, rel=1e-6)


@pytest.mark.parametrize(
    ("recipe", "assignments", "gpus"),
    [
        ("local/tiny-r1", [], 1),
        ("a3ultra/qwen3-235b-a22b", ["arguments.enable-expert-parallel=true"], 1),
        ("a3ultra/qwen3-235b-a22b", ["arguments.enable-expert-parallel=true"], 4),
        ("a3ultra/deepseek-r1-671b", ["parallelism.tensor=4", "parallelism.data=2"], 1),
        ("a3ultra/deepseek-r1-671b", ["parallelism.tensor=4", "parallelism.data=2"], 4),
        ("a3mega/deepseek-r1-671b", [], 3),
        ("a3mega/deepseek-r1-671b", [], 16),
        ("a3mega/deepseek-r1-671b", [], 0),
    ],
)
def test_what_some_ranks_cannot_show_is_refused(recipe: str, assignments: list[str], gpus: int) -> None:
    from derive import NoSlice

    with pytest.raises(NoSlice):
        job(recipe, *assignments, gpus=gpus)


def test_loads_in_words() -> None:
    from derive import NoSlice, steps

    assert steps("384x1000/1000@192*2,8x50/16") == [
        {"prompts": 384, "input": 1000, "output": 1000, "limit": 192, "repetitions": 2},
        {"prompts": 8, "input": 50, "output": 16, "limit": 0, "repetitions": 1},
    ]
    with pytest.raises(NoSlice, match="384x1000"):
        steps("384x1000")


def test_figures_of_a_log() -> None:
    # Excerpts of logs of 2026-11-26: two stages of a 9-layer model on two H100, vLLM 0.26.0.
    from readings import rank

    here = Path(__file__).parent
    v1 = rank((here / "vllm_v1_runner.log").read_text())
    assert (v1["weights_gib"], v1["peak_activation_gib"], v1["non_torch_gib"]) == (45.35, 6.52, 0.07)
    assert (v1["graphs_gib"], v1["graphs_estimated_gib"], v1["kv_gib"]) == (5.16, 4.18, 11.18)
    assert (v1["usable_gib"], v1["kv_tokens"], v1["kv_tokens_that_fit"]) == (67.3, 535_488, 130_274 * 16)
    assert (v1["compile_seconds"], v1["capture_seconds"], v1["init_seconds"]) == (18.39, 9, 39.98)
    v2 = rank((here / "vllm_v2_runner.log").read_text())
    assert (v2["weights_gib"], v2["graphs_gib"], v2["kv_gib"]) == (44.78, 12.48, 17.18)
    assert "graphs_estimated_gib" not in v2
    # One rank on one H100, vLLM 0.33.0, 2026-11-27: its peak, 1.49 GiB, has the estimate of the graphs in it.
    newer = rank((here / "vllm_0_33.log").read_text())
    assert (newer["weights_gib"], newer["peak_activation_gib"], newer["non_torch_gib"]) == (41.25, 0.6, 1.02)
    assert (newer["graphs_gib"], newer["graphs_estimated_gib"], newer["kv_gib"]) == (0.39, 0.89, 23.54)
    assert (newer["kv_tokens"], newer["kv_tokens_that_fit"]) == (364_800, 45_717 * 16)


def test_the_last_line_of_a_queue_has_no_prompts_to_make(tmp_path: Path) -> None:
    """Where a run goes on, what was measured is looked up for each line; the end has no name."""
    code = """
import argparse, sys
from pathlib import Path
sys.modules["load"] = __import__("types").SimpleNamespace(prepare=print)
sys.path.insert(0, sys.argv[1])
import driver
options = argparse.Namespace(
    work=Path(sys.argv[2]), model=None, launch=Path("x"), engine="vllm", known=[Path(sys.argv[2]) / "known"]
)
driver.Driver(options).prepare([{"end": True}])
"""
    (tmp_path / "known").write_text('{"kind": "bench", "variant": "a", "step": {}, "seed": 1}\n')
    subprocess.run(
        [sys.executable, "-c", code, str(GPU), str(tmp_path)], check=True, env={"PATH": "/usr/bin:/bin"}
    )


@pytest.mark.parametrize(
    ("script", "queues"),
    [
        ("round.sh", ["v1", "v2", "h200", "two-hosts", "ray"]),
        ("stage.sh", ["half-stage", "stage", "host"]),
    ],
)
def test_a_round_is_queues_of_whole_lines(tmp_path: Path, script: str, queues: list[str]) -> None:
    command = ["bash", str(GPU / "slice" / script), str(tmp_path)]
    subprocess.run(command, env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}, check=True)
    for name in queues:
        jobs = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert jobs.pop() == {"end": True}
        assert len({each["variant"] for each in jobs}) == len(jobs)
        assert all(each["steps"] and each["serverArgs"] for each in jobs)
        for each in jobs:
            assert "values" not in each or (GPU / each["values"]).is_file()


def test_every_server_of_several_gpus_was_predicted_before(tmp_path: Path) -> None:
    from readings import load

    command = ["bash", str(GPU / "slice" / "stage.sh"), str(tmp_path)]
    subprocess.run(command, env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}, check=True)
    lines = [line for path in tmp_path.glob("*.jsonl") for line in load(path) if "end" not in line]
    made = {each["variant"]: each for each in load(GPU / "results" / "stage" / "predicted.jsonl")}
    assert made.keys() == {line["variant"] for line in lines}
    for line in lines:
        shapes = [{k: v for k, v in step.items() if k != "repetitions"} for step in line["steps"]]
        expected = made[line["variant"]]["loads"]
        assert [load["step"] for load in expected] == list({str(shape): shape for shape in shapes}.values())
        several_stages = line["plan"]["pipeline"] > 1
        assert all(("rank" in load) == several_stages and load["plan"]["mean_tpot_ms"] for load in expected)


def test_the_memory_expected_of_a_whole_stage_is_the_plans() -> None:
    plan = planned("runpod-h200/single-host")
    fits = plan.main.memory
    assert fits
    made = job("runpod-h200/single-host", gpus=8, loads="256x1000/1000@256")["predicted"]["memory"]
    assert made["kv_tokens_that_fit"] == fits.kv_tokens
    assert (made["weights_gib"], made["kv_gib"]) == (fits.weights_gib[0], fits.kv_gib)


def test_what_all_reduce_adds_is_a_fixed_time_and_bytes_over_the_bus() -> None:
    from predict import BUS_BYTES_PER_SECOND, CUSTOM_BYTES, LATENCY_SECONDS, all_reduce_seconds

    tokens, hidden = 192, 7168
    wire = 2 * 3 / 4 * tokens * hidden * 2 / BUS_BYTES_PER_SECOND
    assert all_reduce_seconds(tokens, hidden, 4, "nccl") == pytest.approx(LATENCY_SECONDS["nccl"] + wire)
    assert all_reduce_seconds(tokens, hidden, 4, "custom") == pytest.approx(LATENCY_SECONDS["custom"] + wire)
    # What vLLM's own leaves to NCCL.
    prompt = CUSTOM_BYTES // (hidden * 2) + 1
    assert all_reduce_seconds(prompt, hidden, 4, "custom") == all_reduce_seconds(prompt, hidden, 4, "nccl")


def readings_of(variant: str, hosts: int, limit: int, rate: float, tensor: int = 1) -> list[dict[str, Any]]:
    """A server's readings as the driver writes them, of one repetition."""
    from readings import rank

    log = (Path(__file__).parent / "vllm_v1_runner.log").read_text()
    step = {"prompts": 2 * limit, "input": 1000, "output": 1000, "limit": limit}
    numbers = {"output_throughput": rate, "median_itl_ms": 30.0, "mean_tpot_ms": 31.0, "p99_itl_ms": 150.0}
    numbers["mean_ttft_ms"] = 900.0
    start = {
        "hosts": hosts,
        "executor": "mp",
        "parallel": {"tensor": tensor, "data": 1},
        "plan": job("a3mega/deepseek-r1-671b")["plan"] if hosts == 1 else None,
        "ranks": [rank(log)] * hosts,
        "seconds": {"health": 100.0, "serving": 101.0},
        "kept_caches": False,
        "flags": ["--max-num-seqs", "256"],
        "environment": {},
        "memory": ["70000"] * hosts,
    }
    bench = {
        "step": step,
        "command": "vllm bench serve",
        "result": {**numbers, "failed": 0},
        "engine": {"preemptions": 7.0, "running": limit, "kv_usage": 0.93, "memory": [71000] * hosts},
    }
    return [{"kind": "start", "variant": variant, **start}, {"kind": "bench", "variant": variant, **bench}]


def test_the_page_has_ranks_and_pairs_each_in_their_own_table() -> None:
    from page import page

    machine = {"kind": "machine", "gpus": ["GPU, 81559, 580"], "vllm": "0.26.0", "torch": "2", "nccl": "2"}
    text = page(
        {
            "a": [machine, *readings_of("rank", 1, 192, 6000.0)],
            "b": [machine, *readings_of("published", 2, 128, 2000.0), *readings_of("ours", 2, 384, 5000.0)],
        }
    )
    rows = [line for line in text.splitlines() if line.startswith("| rank |")]
    assert "30 of stage 2, 1/8 | 41.22 | 45.35 | 6.52 | 0.07 | 5.16 (4.18) | 11.18 | 2,084,384" in rows[0]
    assert "192 (group: 384) | 384 x 1000/1000 | 6000 | 30.0 | 31.0 | 62.0 | 150 | 7 | 93 % | 0" in rows[1]
    (ours,) = [line for line in text.splitlines() if line.startswith("| ours | b | mp | 535,488")]
    assert "| 384 | 768 x 1000/1000 | 2.50 | 5000 |" in ours


def expected_of(variant: str, rate: float) -> dict[str, Any]:
    """What was expected of a server with one load of 192 in flight."""
    step = {"prompts": 384, "input": 1000, "output": 1000, "limit": 192}
    plan = {"mean_tpot_ms": 30.0, "output_throughput": 5000.0, "basis": "fitted", "error": 0.4}
    return {
        "variant": variant,
        "made": "2026-11-27T00:00:00+00:00",
        "assumed": {"latency_us": {"nccl": 12.0, "custom": 6.0}, "bus_gbytes_per_second": 224.0},
        "memory": {"weights_gib": 46.0, "kv_tokens_that_fit": 2_000_000},
        "start": {"import_seconds": 60, "init_seconds": 180},
        "loads": [{"step": step, "plan": plan, "rank": {"output_throughput": rate}}],
    }


def test_the_stages_page_has_the_error_of_each_expectation_and_says_what_was_not_measured() -> None:
    from stage_page import page

    machine = {
        "kind": "machine",
        "gpus": ["GPU, 81559, 580"] * 4,
        "vllm": "0.26.0",
        "torch": "2",
        "nccl": "2",
    }
    readings = [machine, *readings_of("half-nccl", 1, 192, 5000.0, tensor=4)]
    predicted = [expected_of("half-custom", 5300.0), expected_of("half-nccl", 5200.0)]
    text = page(predicted, {"a": readings})
    # 30 ms a step less the 26.3 of a rank alone, by 61 all-reduces.
    assert "| half-nccl | 192 | 60.6 | 18.4 |" in text
    custom, nccl = text.split("## half-custom")[1].split("## half-nccl")
    assert "fixed time of an all-reduce: 12 us" in nccl
    assert "fixed time of an all-reduce: 6 us" in custom
    assert "| weights, GiB | 46.00 | 45.35 | +1.4 % |" in nccl
    assert "| weights, GiB | 46.00 | not measured | - |" in custom
    row = "| 384 x 1000/1000, 192 in flight | output tok/s | 5,000 | 5,200 |"
    assert f"{row} 5,000 | +0.0 % | +4.0 % |" in nccl
    assert "| output tok/s | 5,000 | 5,300 | not measured | - | - |" in custom
    assert "| half | 384 x 1000/1000, 192 in flight | not measured | 5,000 | +1.9 % | not measured |" in text


def test_an_expectation_from_after_the_measurement_is_none() -> None:
    from stage_page import late

    (start, _) = readings_of("half-nccl", 1, 192, 5000.0)
    before, after = ({**start, "at": at} for at in (0.0, 4e9))
    predicted = [expected_of("half-nccl", 5200.0)]
    assert late(predicted, {"a": [before]}) == ["half-nccl"]
    assert late(predicted, {"a": [after]}) == []
    assert late([], {"a": [after]}) == ["half-nccl"]
