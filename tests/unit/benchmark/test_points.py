"""What is refused before an hour of load, and when a point is done."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec
import pytest
from manyhost.benchmark import measurement as measurements
from manyhost.benchmark.intervals import interval, narrow
from manyhost.benchmark.points import check_capacity, points, warnings
from manyhost.benchmark.result import Measurement
from manyhost.catalog.scenario import Scenario, scenario_problem
from manyhost.errors import InvalidInput, NotReady

from tests.helpers.cli import RECIPE, checkout, manyhost
from tests.unit.benchmark import sample

GPUS = sample.plan(RECIPE)


def load(**changes: object) -> Scenario:
    document = {"name": "x", "description": "x", "requests": 10, "concurrency": [2], **changes}
    return msgspec.convert(document, Scenario)


@pytest.mark.parametrize("recipe", sample.CATALOG.recipes())
def test_every_recipe_has_points_it_can_serve(recipe: str) -> None:
    plan = sample.plan(recipe)
    for name in sample.CATALOG.scenarios(recipe):
        for point in points(plan, sample.CATALOG.scenario(name, recipe)):
            assert point.load.input_tokens + point.load.output_tokens <= plan.settings.context


@pytest.mark.parametrize("name", sample.CATALOG.names("scenarios"))
def test_every_scenario_fits_the_default_recipe(name: str) -> None:
    assert points(GPUS, sample.CATALOG.scenario(name, RECIPE))


def test_the_published_run_is_the_published_one() -> None:
    (point,) = points(GPUS, sample.CATALOG.scenario("published", RECIPE))
    load = point.load
    assert (load.requests, load.input_tokens, load.output_tokens) == (1100, 1000, 1000)
    assert (load.concurrency, load.rate, load.ignore_eos) == (0, 0.0, True)


def test_lengths_are_the_traffic_a_number_or_a_share_of_the_context() -> None:
    (point,) = points(GPUS, load(input={"share": 0.25}, output={"tokens": 7}))
    assert (point.load.input_tokens, point.load.output_tokens) == (GPUS.settings.context // 4, 7)
    (point,) = points(GPUS, load())
    assert point.load.input_tokens == GPUS.settings.traffic.input_tokens
    assert point.slo.ttft_ms == GPUS.settings.objectives.ttft_ms


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input": {"share": 0.9}, "output": {"share": 0.2}}, "longer than the recipe's context"),
        (
            {"input": {"share": 0.5}, "output": {"share": 0.4}, "spread": 0.2},
            "longer than the recipe's context",
        ),
        ({"limit_seconds": 10}, "limit of a measurement"),
        ({"requests_per_stream": 1000, "concurrency": [5000]}, "more than one measurement can report"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        points(GPUS, load(**changes))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"rates": [1.0]}, "concurrency and rates"),
        ({"concurrency": []}, "concurrency and rates"),
        ({"input": {"tokens": 5, "share": 0.1}}, "input.share"),
        ({"repetitions": {"least": 3, "most": 2}}, "repetitions.least"),
        ({"until_saturated": True, "concurrency": [4, 2]}, "concurrency"),
        ({"until_saturated": True, "concurrency": [0]}, "until_saturated"),
        ({"prefix": {"count": 2, "share": 0.5}, "spread": 0.1}, "spread"),
    ],
)
def test_keys_that_contradict_each_other(changes: dict[str, object], key: str) -> None:
    assert scenario_problem(load(**changes))[0] == key


def test_a_shared_beginning_divides_the_requests() -> None:
    (point,) = points(GPUS, load(prefix={"count": 16, "share": 0.9}))
    assert point.load.requests == 16
    assert point.load.prefix_tokens == 900


def test_a_run_that_would_outlive_the_hosts_is_refused() -> None:
    now = dt.datetime(2026, 12, 1, 12, tzinfo=dt.UTC).timestamp()
    plan = sample.plan(RECIPE, 'capacity.ends="2026-12-01T13:00Z"')
    check_capacity(plan, points(plan, sample.CATALOG.scenario("published", RECIPE)), now)
    hour = points(plan, sample.CATALOG.scenario("sustained", RECIPE))
    with pytest.raises(NotReady, match="go in 30 minutes, and this needs 60"):
        check_capacity(plan, hour, now + 1800)
    check_capacity(GPUS, hour, now)


def test_more_requests_than_seats_are_told() -> None:
    some = points(GPUS, load(concurrency=[4096]))
    assert "4096 requests in flight are more than the 384" in warnings(GPUS, some)[0]
    assert warnings(GPUS, points(GPUS, load(concurrency=[8]))) == []


def test_the_key_changes_with_what_the_numbers_depend_on() -> None:
    def key(*settings: str, **changes: object) -> str:
        return points(sample.plan(RECIPE, *settings), load(**changes))[0].key

    same = key()
    assert key("site.cluster_region=us-west1") == same
    assert key("objectives.ttft_ms=9000") != same, "goodput is another"
    for other in ("arguments.max-num-seqs=64", "context=16384", "engine.digest=sha256:" + "0" * 64):
        assert key(other) != same, other
    assert key(requests=11) != same


def measured(rate: float, seconds: float = 10.0) -> Measurement:
    of = sample.point()
    found = sample.document(of)
    found["seconds"] = of.load.requests * of.load.output_tokens / rate
    return measurements.measurement(
        of, 0, sample.evidence(found), sample.wanted(of), tool="vllm", place="here", node="x"
    )


def test_repetitions_end_when_the_interval_is_narrow_or_the_budget_spent() -> None:
    of = msgspec.structs.replace(sample.point(), least=2, most=4, width=0.05)
    assert not measurements.enough(of, [measured(100)])
    assert measurements.enough(of, [measured(100), measured(100.1)])
    apart = [measured(100), measured(150)]
    assert not measurements.enough(of, apart)
    assert measurements.enough(of, apart * 2)


def test_a_sustained_load_goes_on_for_its_time() -> None:
    each = measured(100)
    assert each.metrics
    of = msgspec.structs.replace(sample.point(), seconds=int(each.metrics.seconds * 2) + 1)
    assert not measurements.enough(of, [each, each])
    assert measurements.enough(of, [each, each, each])


def test_what_is_withheld_does_not_count() -> None:
    bad = msgspec.structs.replace(measured(900), metrics=None, passed=False)
    found = measurements.summary(sample.point(), [bad, measured(100), measured(110)])
    assert (found.measured, found.passed) == (3, 2)
    rate = found.metrics["output_token_rate"]
    assert rate.mean == pytest.approx(105)
    # Two values, one degree of freedom: 12.706 * s / sqrt(2) = 12.706 * 5.
    assert (rate.low, rate.high) == (pytest.approx(105 - 63.53), pytest.approx(105 + 63.53))


def test_saturation_is_less_than_five_percent_more() -> None:
    def point_of(rate: float) -> measurements.PointSummary:
        return measurements.summary(sample.point(), [measured(rate)])

    assert measurements.saturated(point_of(100), point_of(104))
    assert not measurements.saturated(point_of(100), point_of(106))


def test_an_interval_needs_two_values() -> None:
    one = interval([5.0])
    assert (one.mean, one.low, one.high) == (5.0, None, None)
    assert not narrow(one, 1.0)
    assert narrow(interval([5.0, 5.0, 5.0]), 0.0)
    with pytest.raises(ValueError, match="no values"):
        interval([])


def test_dry_run_needs_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    ran = manyhost("bench", "a3mega", "--dry-run")
    assert ran.code == 0
    assert "1100 requests, 1100 in flight, 1000 + 1000 tokens, once" in ran.out
    points = manyhost("bench", "local", "--dry-run", "--output", "json").output.envelope["result"]["points"]
    assert [point["scenario"] for point in points] == ["published", *["ramp"] * 4]


def test_wrong_words_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "did you mean published?" in manyhost("bench", "a3mega", "--scenario", "publshed", "--dry-run").err
    root = checkout(tmp_path, monkeypatch)
    file = root / "recipes/local/tiny-r1/benchmark.yaml"
    for text, words in (
        ("scenarios: {publish: {}}", "did you mean published?"),
        (
            "scenarios: {published: {request: 5}}",
            "recipes/local/tiny-r1/benchmark.yaml: scenarios.published: request",
        ),
        ("scenarios: {published: {rates: [2]}}", "scenarios.published: concurrency and rates"),
        ("scenarios: {published: {concurrency: [-1]}}", "scenarios.published: concurrency"),
        ("scenario: {}", "benchmark.yaml: scenario"),
    ):
        file.write_text(text)
        ran = manyhost("bench", "local", "--dry-run")
        assert ran.code == 3
        assert words in ran.err, ran.err
