"""The plan of memory against every measured and logged point that is committed, with its source."""

from __future__ import annotations

import msgspec
import pytest
from manyhost.catalog import Catalog

from benchmarks.plan import bench
from tests.helpers.cli import ROOT
from tools import memory_points
from tools.memory_points import WITHIN, Point

CATALOG = Catalog(ROOT)
POINTS = memory_points.points()


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_kv_tokens_are_within_three_percent_or_the_point_says_by_how_much_not(point: Point) -> None:
    assert memory_points.problem(point, memory_points.compare(point, CATALOG)) == ""
    assert bool(point.because) == (abs(point.percent_off) > WITHIN)


def test_the_plan_promises_more_than_was_measured_at_a_first_start_alone() -> None:
    """Too few planned cost seats; too many are requests that are computed twice."""
    apart = [point for point in POINTS if point.because]
    assert [point.name for point in apart if point.percent_off > 0] == [
        "second rank, V1 runner, 0.85, steps of 8,192, cold compile cache"
    ]


@pytest.mark.parametrize(
    ("apart", "factor", "said"),
    [
        (False, 0.96, "+4."),  # the plan promises more than an engine gives
        (False, 1.04, "-3."),
        (True, 1.02, "its reason is for"),
        (True, 0.98, "its reason is for"),
    ],
)
def test_make_bench_plan_tells_a_new_failure(
    apart: bool, factor: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench.kv_tokens() == []
    point = next(p for p in POINTS if bool(p.because) == apart and abs(p.percent_off) != 4.3)
    logged = memory_points.compare(point, CATALOG).logged
    other = msgspec.structs.replace(point, kv_tokens=round(logged * factor))
    monkeypatch.setattr(memory_points, "points", lambda: [other])
    (missed,) = bench.kv_tokens()
    assert missed.startswith(f"KV tokens of {point.name}: ")
    assert said in missed


def test_a_reason_goes_when_its_row_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    point = next(p for p in POINTS if p.because)
    planned = memory_points.compare(point, CATALOG).planned
    monkeypatch.setattr(memory_points, "points", lambda: [msgspec.structs.replace(point, kv_tokens=planned)])
    (missed,) = bench.kv_tokens()
    assert "needs no reason any more" in missed


@pytest.mark.parametrize("point", [point for point in POINTS if not point.ran], ids=lambda point: point.name)
def test_weights_are_within_one_percent(point: Point) -> None:
    found = memory_points.compare(point, CATALOG)
    assert found.weights_gib == pytest.approx(point.weights_gib, rel=0.01)


def test_both_runners_of_the_default_engines_and_the_published_one_are_among_them() -> None:
    assert {point.engine for point in POINTS} == {"v0.33.0", "v0.26.0", "v0.7.3"}
    ranks = [point for point in POINTS if point.changed.get("heads") == 16]
    for engine in ("v0.33.0", "v0.26.0"):
        runners = {p.variables.get("VLLM_USE_V2_MODEL_RUNNER") for p in ranks if p.engine == engine}
        assert runners == {"0", "1"}
    assert {point.arguments.get("max-num-batched-tokens") for point in ranks} == {2048, 4096, 8192}
