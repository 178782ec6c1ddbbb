"""What a token costs: arithmetic by hand, and what an interval of the throughput does to it."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
from manyhost.benchmark.result import Interval
from manyhost.report import cost
from manyhost.report.read import read

from tests.unit.report import made


def test_a_thousand_tokens_a_second_for_36_dollars_an_hour() -> None:
    found = cost.per_million(36.0, Interval(mean=1000.0, low=800.0, high=1250.0))
    assert (found.mean, found.low, found.high) == pytest.approx((10.0, 8.0, 12.5))
    once = cost.per_million(36.0, Interval(mean=1000.0, low=None, high=None))
    assert (once.low, once.high) == (None, None), "one measurement has no interval, nor has its cost"
    unsure = cost.per_million(36.0, Interval(mean=10.0, low=-5.0, high=25.0))
    assert unsure.high == math.inf
    assert cost.per_million(0.0, Interval(mean=10.0, low=-5.0, high=25.0)).high == 0.0


def test_every_rate_of_the_list_and_both_kinds_of_tokens(tmp_path: Path) -> None:
    results = read(made.written(tmp_path / "run", [[100.0, 100.0]], recipe=made.GPUS))
    (point,), inputs = results.points, results.run.cost
    costs = {each.rate: each for each in cost.token_costs(inputs, point.passed)}
    assert costs.keys() == inputs.usd_per_hour_by_rate.keys()
    by_the_hour = costs[cost.ON_DEMAND]
    load = point.summary.load
    tokens = load.requests * load.output_tokens
    assert by_the_hour.usd_per_hour == inputs.usd_per_hour
    assert by_the_hour.output.mean == pytest.approx(by_the_hour.usd_per_hour * 100 / 3600 / tokens * 1e6)
    assert by_the_hour.total.mean == pytest.approx(by_the_hour.output.mean / 2), "as many in as out"
    assert costs["spot"].output.mean < by_the_hour.output.mean
    shares = {each.rate: each.share for each in cost.break_even(inputs)}
    assert shares["commit-3y"] < shares["commit-1y"] < 1
    assert cost.with_cold_start(1800, 2) == 1.25


def test_no_cost_without_a_price_and_none_of_withheld_numbers(tmp_path: Path) -> None:
    results = read(made.written(tmp_path / "run", [[100.0]], recipe=made.GPUS, error="the tool failed"))
    assert cost.token_costs(results.run.cost, results.points[0].passed) == []
    good = read(made.written(tmp_path / "good", [[100.0]], recipe=made.GPUS))
    unknown = msgspec.structs.replace(good.run.cost, usd_per_hour=None, usd_per_hour_by_rate={})
    assert cost.token_costs(unknown, good.points[0].passed) == []
    assert cost.break_even(unknown) == []
