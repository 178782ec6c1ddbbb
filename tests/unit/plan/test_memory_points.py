"""The plan of memory against every measured and logged point that is committed, with its source."""

from __future__ import annotations

import pytest
from manyhost.catalog import Catalog

from tests.helpers.cli import ROOT
from tools import memory_points
from tools.memory_points import WITHIN, Point

CATALOG = Catalog(ROOT)
POINTS = memory_points.points()


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_kv_tokens_are_within_three_percent_or_the_point_says_by_how_much_not(point: Point) -> None:
    found = memory_points.compare(point, CATALOG)
    if point.because:
        assert found.off == pytest.approx(point.percent_off, abs=0.5)
        assert abs(point.percent_off) > WITHIN, "within 3 %: its reason can go"
    else:
        assert abs(found.off) <= WITHIN
        assert not point.percent_off


@pytest.mark.parametrize("point", [point for point in POINTS if not point.ran], ids=lambda point: point.name)
def test_weights_are_within_one_percent(point: Point) -> None:
    found = memory_points.compare(point, CATALOG)
    assert found.weights_gib == pytest.approx(point.weights_gib, rel=0.01)


def test_both_runners_of_the_default_engine_and_the_published_one_are_among_them() -> None:
    assert {point.engine for point in POINTS} == {"v0.26.0", "v0.7.3"}
    ranks = [point for point in POINTS if point.changed.get("heads") == 16]
    assert {point.variables.get("VLLM_USE_V2_MODEL_RUNNER") for point in ranks} == {"0", "1"}
    assert {point.arguments.get("max-num-batched-tokens") for point in ranks} == {2048, 4096, 8192}
