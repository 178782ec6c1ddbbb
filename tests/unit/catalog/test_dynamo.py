"""Dynamo and the engines that it serves with."""

from __future__ import annotations

import pytest
from manyhost.catalog import Catalog

from tests.helpers.cli import ROOT

DYNAMO = Catalog(ROOT).dynamo()


def test_each_version_of_the_engine_has_one_release_at_most_and_the_newest_stands_first() -> None:
    engines = [pair.vllm for pair in DYNAMO.pairs]
    assert len(set(engines)) == len(engines)
    releases = [[int(part) for part in pair.dynamo.split(".")] for pair in DYNAMO.pairs]
    assert releases == sorted(releases, reverse=True)
    assert DYNAMO.planner in {pair.dynamo for pair in DYNAMO.pairs}


@pytest.mark.parametrize(
    ("engine", "release"), [("v0.31.0", "1.6.1"), ("v0.26.0", "1.4.1"), ("v0.33.0", ""), ("v0.26.1", "")]
)
def test_a_release_serves_with_its_own_engine_only(engine: str, release: str) -> None:
    pair = DYNAMO.pair(engine)
    assert (pair.dynamo if pair else "") == release


@pytest.mark.parametrize(
    ("engine", "nearest"),
    [("v0.33.0", "1.6.1"), ("v0.32.0-cpu", "1.6.1"), ("v0.7.3", "1.0.2"), ("v0.27.0", "1.5.1")],
)
def test_the_nearest_release_is_the_one_that_is_fewest_versions_away(engine: str, nearest: str) -> None:
    assert DYNAMO.nearest(engine).dynamo == nearest
