"""Differences: shown only when they are more than chance and more than the clients' own error."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from manyhost.report.compare import compare
from manyhost.report.read import read
from manyhost.report.significance import difference

from tests.helpers.cli import manyhost
from tests.unit.benchmark import sample
from tests.unit.report import made


def test_welch_as_a_textbook_has_it() -> None:
    """NIST/SEMATECH e-Handbook 1.3.5.3 has the formula; t of 5 degrees of freedom is 2.571."""
    found = difference([10.0, 12.0, 14.0], [13.0, 14.0, 15.0, 14.0])
    assert found
    assert found.share == pytest.approx(2 / 12)
    error = (4 / 3 + (2 / 3) / 4) ** 0.5
    freedom = (4 / 3 + 1 / 6) ** 2 / ((4 / 3) ** 2 / 2 + (1 / 6) ** 2 / 3)
    assert int(freedom) == 2
    assert found.high == pytest.approx((2 + 4.303 * error) / 12)
    assert not found.shown
    once = difference([10.0], [20.0, 20.0])
    assert once
    assert (once.low, once.shown) == (None, False), "nothing is shown by one measurement, however large"
    assert difference([0.0, 0.0], [1.0, 1.0]) is None


def test_equal_services_are_told_apart_about_once_in_twenty() -> None:
    chance = random.Random(3)
    wrong = 0
    for _ in range(2000):
        first, second = ([chance.gauss(100, 5) for _ in range(4)] for _ in range(2))
        found = difference(first, second)
        wrong += bool(found and found.shown)
    assert 0.02 < wrong / 2000 < 0.06


def runs(folder: Path, first: list[list[float]], second: list[list[float]], **changes: Any) -> list[Any]:
    written = [made.written(folder / "a", first), made.written(folder / "b", second, **changes)]
    return [read(path) for path in written]


def verdicts(found: list[Any]) -> dict[str, str]:
    return {line.metric: line.verdict for line in compare(found).lines}


def test_faster_slower_alike_and_measured_once(tmp_path: Path) -> None:
    told = verdicts(runs(tmp_path / "1", [[100, 101, 99]], [[80, 81, 79]]))
    assert (told["output_token_rate"], told["ttft_p50_ms"]) == ("better", "no difference shown")
    assert verdicts(runs(tmp_path / "2", [[80, 81, 79]], [[100, 101, 99]]))["output_token_rate"] == "worse"
    noisy = verdicts(runs(tmp_path / "3", [[60, 100, 140]], [[55, 95, 130]]))
    assert noisy["output_token_rate"] == "no difference shown"
    once = verdicts(runs(tmp_path / "4", [[100]], [[50]]))
    assert set(once.values()) == {"measured once"}


def test_a_difference_that_the_client_may_have_made_is_none(tmp_path: Path) -> None:
    """Half a millisecond more TTFT in every measurement, seen with a client that is 0.9 ms off."""
    point = made.loads(sample.RECIPE, "ramp", 1)[0]
    latencies = sample.document(point)["latencies"]
    count = point.load.requests
    slower = {**latencies, "ttft_ms": sample.times([200.5] * count)}
    document = sample.document(point)["requests"]
    requests = document | {
        "ttft_us": [200_500] * count,
        "e2e_us": [took + 500 for took in document["e2e_us"]],
    }
    slower["e2e_ms"] = sample.times([took / 1000 for took in requests["e2e_us"]])
    calibration = sample.document(point)["calibration"]
    attempt = calibration["attempts"][0]
    off = {**attempt["measured"], "ttft_ms": sample.times([200.9] * 64)}
    calibration = {**calibration, "attempts": [{**attempt, "measured": off}]}
    changes = {"latencies": slower, "requests": requests}
    told = verdicts(runs(tmp_path / "1", [[100, 101]], [[100, 101]], **changes, calibration=calibration))
    assert told["ttft_p50_ms"] == "within the clients' error"
    told = verdicts(runs(tmp_path / "2", [[100, 101]], [[100, 101]], **changes))
    assert told["ttft_p50_ms"] == "worse"


def test_other_loads_and_withheld_numbers_are_not_compared(tmp_path: Path) -> None:
    found = compare(runs(tmp_path / "1", [[100.0]], [[100.0]], scenario="published"))
    assert found.lines == []
    assert "no point has the same load" in found.left_out[0]
    found = compare(runs(tmp_path / "2", [[100.0]], [[100.0]], error="the tool failed"))
    assert found.lines == []
    assert found.left_out == [f"{tmp_path / '2/b'}, point 0: the tool failed"]


def test_across_environments_by_gpu_and_by_cost(tmp_path: Path) -> None:
    first = made.written(tmp_path / "a", [[100.0, 101.0]], recipe=made.GPUS)
    second = made.written(tmp_path / "b", [[100.0, 101.0]], recipe="a3ultra/deepseek-r1-671b")
    ran = manyhost("compare", str(first), str(second), "--output", "json")
    assert ran.code == 0, ran.err
    result = ran.output.envelope["result"]
    lines = {line["metric"]: line for line in result["lines"]}
    assert lines["output_token_rate"]["verdict"] == "no difference shown"
    assert lines["output_token_rate_per_gpu"]["share"] == pytest.approx(1.0), "half the GPUs"
    assert lines["usd_per_million_output"]["verdict"] == "better"
    assert [str(second), "gpus", "16", "8"] in result["deployments"]
    other = made.written(tmp_path / "c", [[100.0, 101.0]], recipe="kubernetes/qwen3-8b", scenario="published")
    base = made.written(tmp_path / "d", [[100.0, 101.0]], recipe=made.GPUS, scenario="published")
    assert "Models differ: " in manyhost("compare", str(base), str(other)).out
    assert "Models differ: " not in manyhost("compare", str(first), str(second)).out


def test_the_cost_of_a_token_is_the_price_over_the_mean_throughput(tmp_path: Path) -> None:
    """As a report has it; throughput that may be nothing may cost anything."""
    first = made.written(tmp_path / "a", [[100.0, 100.0]], recipe=made.GPUS)
    second = made.written(tmp_path / "b", [[50.0, 500.0]], recipe=made.GPUS)
    ran = manyhost("compare", str(first), str(second), "--output", "json")
    lines = {line["metric"]: line for line in ran.output.envelope["result"]["lines"]}
    rate, cost = lines["output_token_rate"], lines["usd_per_million_output"]
    assert rate["low"] < -1
    assert (1 + rate["share"]) * (1 + cost["share"]) == pytest.approx(1)
    assert cost["mean"] * rate["mean"] == pytest.approx(cost["base"] * rate["base"])
    assert cost["low"] == pytest.approx(1 / (1 + rate["high"]) - 1)
    assert "to ∞" in manyhost("compare", str(first), str(second)).out


def test_the_command_says_what_it_cannot_compare(tmp_path: Path) -> None:
    first = made.written(tmp_path / "a", [[100.0]])
    assert manyhost("compare", str(first)).code == 2
    second = made.written(tmp_path / "b", [[100.0]], error="the tool failed")
    ran = manyhost("compare", str(first), str(second))
    assert ran.code == 1
    assert "nothing could be compared" in ran.err
    assert "point 0: the tool failed" in ran.out
    good = made.written(tmp_path / "c", [[50.0]])
    ran = manyhost("compare", str(first), str(good))
    assert ran.code == 0
    assert "measured once" in ran.out


def test_prefill_and_decode_apart_are_a_difference(tmp_path: Path) -> None:
    together, apart = (made.written(tmp_path / name, [[100, 101]]) for name in "ab")
    document = json.loads((apart / "run.json").read_text())
    (serve,) = document["deployment"]["roles"]
    document["deployment"]["roles"] = [
        serve | {"name": "prefill", "tensor": 4},
        serve | {"name": "decode", "tensor": 8},
    ]
    (apart / "run.json").write_text(json.dumps(document))
    told = " ".join(manyhost("compare", str(together), str(apart)).out.split())
    assert "roles serve prefill and decode" in told
    assert "decode: tensor 1 8" in told
