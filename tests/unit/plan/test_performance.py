"""The performance model: its arithmetic, its anchors, and what it says where it knows nothing."""

from __future__ import annotations

import msgspec
import pytest
from manyhost.catalog import Catalog
from manyhost.catalog.performance import Coefficients
from manyhost.plan.performance import (
    Load,
    Prediction,
    predict,
    prompt_seconds,
    terms,
    tpot_seconds,
)

from benchmarks.plan import bench, fit
from tests.helpers.cli import ROOT

CATALOG = Catalog(ROOT)
FACTS, ANCHORS = CATALOG.performance(), CATALOG.anchors()
R1, QWEN, DENSE = (CATALOG.model(name) for name in ("deepseek-r1-671b", "qwen3-235b-a22b", "qwen3-8b"))
H100 = "H100 80GB SXM"
ONE = Load(
    tensor=8,
    pipeline=1,
    data=1,
    gpus_per_host=8,
    running=1,
    input_tokens=1000,
    output_tokens=1000,
    kv_bytes=1152,
)


def _with(**changes: object) -> Load:
    return msgspec.structs.replace(ONE, **changes)


def _predict(load: Load, gpu: str = H100, link: str = "", in_flight: int = 0) -> Prediction:
    found = predict(
        FACTS,
        ANCHORS,
        R1,
        engine="vllm",
        gpu=gpu,
        interconnect=link,
        load=load,
        in_flight=in_flight or int(load.running),
    )
    assert found
    return found


def test_a_step_of_one_request_reads_its_eight_experts_and_a_prompt_takes_37_billion_parameters() -> None:
    t = terms(R1, FACTS.gpus[H100], ONE)
    expert = 3 * 2048 * 7168  # bytes: gate, up and down of one expert in FP8
    assert t.experts == pytest.approx(58 * 8 * expert / 8 / 3.35e12)
    # DeepSeek-V3 activates 37 billion parameters a token (arXiv:2412.19437), embedding and head among them.
    computed = prompt_seconds(R1, FACTS.gpus[H100], 1, 1) * 1979e12 / 2
    assert 34e9 < computed < 37e9


@pytest.mark.parametrize(("model", "billions"), [(QWEN, 22), (DENSE, 8)], ids=["qwen3-235b-a22b", "qwen3-8b"])
def test_other_families_compute_with_the_parameters_in_their_names(model: object, billions: float) -> None:
    assert isinstance(model, type(R1))
    tflops = FACTS.gpus[H100].tflops[model.weight_format] * 1e12
    assert prompt_seconds(model, FACTS.gpus[H100], 1, 1) * tflops / 2 == pytest.approx(
        billions * 1e9, rel=0.2
    )


def test_many_requests_touch_nearly_all_experts() -> None:
    few, many = (terms(R1, FACTS.gpus[H100], _with(running=n)).experts for n in (1, 256))
    assert many / few == pytest.approx(256 / 8, rel=0.001)


def test_stages_work_on_batches_of_their_own() -> None:
    """Two stages with twice the requests: a step is the same, and a token passes all layers."""
    one, two = (terms(R1, FACTS.gpus[H100], _with(pipeline=stages, running=64 * stages)) for stages in (1, 2))
    assert (two.experts, two.dense, two.kv, two.token) == (one.experts, one.dense, one.kv, one.token)


def test_prefill_groups_take_the_prompts_of_others_away() -> None:
    assert terms(R1, FACTS.gpus[H100], _with(running=64)).prefill > 0
    assert terms(R1, FACTS.gpus[H100], _with(running=64, decodes_only=True)).prefill == 0


def test_a_prediction_of_what_an_anchor_measured_is_the_anchor() -> None:
    anchor = CATALOG.anchors()[0]
    load = _with(pipeline=2, running=anchor.concurrency)
    found = _predict(load, link="tcpxo")
    assert found.tpot_ms == pytest.approx(anchor.tpot_ms)
    assert found.tok_s == pytest.approx(anchor.tok_s)
    assert found.anchor == anchor.name


def test_an_anchor_that_lacks_the_network_does_not_count_as_whole() -> None:
    assert ANCHORS[0].lacks
    found = _predict(_with(pipeline=2, running=384), link="tcpxo")
    assert (found.basis, found.error_tpot) == ("fitted", FACTS.errors["fitted"].tpot)
    whole = [msgspec.structs.replace(ANCHORS[0], lacks="", interconnect="tcpxo")]
    load = _with(pipeline=2, running=384)
    args = {"engine": "vllm", "gpu": H100, "load": load, "in_flight": 384}
    there = predict(FACTS, whole, R1, interconnect="tcpxo", **args)  # type: ignore[arg-type]
    elsewhere = predict(FACTS, whole, R1, interconnect="gib", **args)  # type: ignore[arg-type]
    assert there
    assert elsewhere
    assert (there.basis, there.error_tpot) == ("anchored", FACTS.errors["anchored"].tpot)
    assert (elsewhere.basis, elsewhere.anchor) == ("fitted", "")


def test_where_nothing_was_measured_it_says_a_factor_of_two() -> None:
    found = _predict(ONE, gpu="B200 180GB")
    assert (found.basis, found.error_tpot, found.error_tok_s) == ("uncalibrated", 1.0, 1.0)


def test_a_gpu_that_nobody_has_written_down_has_no_prediction() -> None:
    args = {"engine": "vllm", "gpu": "none", "interconnect": "", "load": ONE, "in_flight": 1}
    assert predict(FACTS, ANCHORS, R1, **args) is None  # type: ignore[arg-type]


def test_requests_beyond_the_seats_wait_for_one() -> None:
    load = _with(pipeline=2, running=256)
    at_once, twice = (_predict(load, in_flight=n) for n in (256, 512))
    assert twice.tok_s == at_once.tok_s
    # 256 requests wait for as long as 256 take to be answered.
    assert twice.ttft_ms - at_once.ttft_ms == pytest.approx(256 * 1000 / at_once.tok_s * 1e3)


def test_the_committed_coefficients_are_the_fit_of_the_committed_rows() -> None:
    rows, _ = fit.read()
    made = fit.fit(rows, R1, FACTS.gpus)
    for name in Coefficients.__struct_fields__:
        assert getattr(FACTS.coefficients, name) == pytest.approx(getattr(made, name), abs=0.06), name


def test_the_fit_finds_coefficients_that_made_the_rows() -> None:
    rows = [row for row in fit.read()[0] if row.tpot]
    true = msgspec.structs.replace(FACTS.coefficients, experts=1.2, kv=1.5)
    made = [
        msgspec.structs.replace(
            row, tpot=tpot_seconds(true, row.engine, terms(R1, FACTS.gpus[row.gpu], row.load))
        )
        for row in rows
    ]
    found = fit.fit(made, R1, FACTS.gpus)
    for name in ("experts", "dense", "kv", "token_us", "hosts_us", "prefill"):
        assert getattr(found, name) == pytest.approx(getattr(true, name), rel=0.05), name


def test_speed_goals_are_met_on_rows_that_the_fit_has_not_seen(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.speed() == []
    assert "held out by deployment" in capsys.readouterr().out


def test_a_goal_that_is_missed_is_said() -> None:
    found = fit.Errors(tpot=[0.2, -0.3], rate=[0.01])
    assert bench.goals("x", found, 0.1, 0.1) == ["x: median error of TPOT 25.0%, goal 10%"]
