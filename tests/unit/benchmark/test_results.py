"""The table, the field's report, the schema, and how evidence leaves a pod."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import measure
import msgspec
import pytest
from manyhost.benchmark import store
from manyhost.benchmark.bench import cost_inputs, describe
from manyhost.benchmark.evidence import Evidence, unpack
from manyhost.benchmark.llmd_report import llmd_report
from manyhost.benchmark.measurement import measurement
from manyhost.benchmark.result import Measurement
from manyhost.benchmark.table import table
from manyhost.errors import Failed, InvalidInput
from summary import peaks, statistics

from tests.helpers.helm import ROOT
from tests.helpers.shared import shared_dir
from tests.unit.benchmark import sample

SCHEMA = json.loads((ROOT / "docs/reference/benchmark.schema.json").read_text())


def load_benchmark_report(document: dict[str, Any]) -> Any:
    """Load it as the field's own library does."""
    from llmd_benchmark_report import load_benchmark_report

    return load_benchmark_report(document)


def one(scenario: str = "published", **changes: Any) -> Measurement:
    of = sample.point(scenario)
    found = sample.document(of) | changes
    return measurement(of, 0, sample.evidence(found), sample.wanted(of), tool="vllm", place="here", node="x")


def test_the_table_has_the_lines_of_the_tool() -> None:
    """Each label and number where `vllm bench serve` prints it; its sample is of version 0.32.0."""
    lines = table(one())
    assert lines[0] == "============ Serving Benchmark Result ============"
    assert "Successful requests:                     24        " in lines
    assert "-----Time per Output Token (excl. 1st token)------" in lines
    assert "P99 TPOT (ms):                           20.00     " in lines
    folder = shared_dir()
    if folder is None:
        pytest.skip("no reference data")
    sample_lines = (folder / "data/vllm_bench_serve_table_0.32.0.txt").read_text().splitlines()
    labels = [line[:40] for line in sample_lines if "Request rate configured" not in line]
    own = [line[:40] for line in lines if "goodput" not in line and "client's own error" not in line]
    assert own == labels
    assert {len(line) for line in lines[:-1]} == {len(line) for line in sample_lines} - {45}


@pytest.mark.parametrize("scenario", ["published", "multi-turn", "long-short"])
def test_other_tools_read_the_report(scenario: str) -> None:
    measured = one(scenario)
    assert measured.passed, measured.reasons
    document = llmd_report(measured, describe(sample.plan(), {}, release="r"), "run")
    report = load_benchmark_report(msgspec.json.decode(msgspec.json.encode(document)))
    found = report.results.request_performance.aggregate
    assert found.requests.total == measured.load.requests
    assert found.latency.time_to_first_token.p99 == 200.0
    withheld = llmd_report(one(scenario, error="the tool failed"), describe(sample.plan(), {}), "run")
    assert load_benchmark_report(withheld).results.request_performance is None


def test_gpu_recipes_have_a_report_too() -> None:
    plan = sample.plan("a3mega/deepseek-r1-671b")
    document = llmd_report(one(), describe(plan, {"a": 1}), "run")
    engine = load_benchmark_report(document).scenario.stack[0].standardized
    assert (engine.accelerator.count, engine.accelerator.parallelism.pp) == (16, 2)
    cost = cost_inputs(plan)
    assert cost.usd_per_hour == plan.cost.usd_per_hour
    assert cost.cold_start_seconds > 60


def test_what_is_kept_is_as_the_schema_says(tmp_path: Path) -> None:
    validator = jsonschema_rs.validator_for(SCHEMA)
    for measured in (one(), one(error="failed"), one(calibration=None, requests={}, latencies={})):
        store.save(tmp_path, measured, describe(sample.plan(), {}))
        validator.validate(json.loads((tmp_path / "0-0.json").read_text()))
        (read,) = store.measurements(tmp_path)
        assert read == measured
    for name, kind in SCHEMA["$defs"].items():
        if name in ("Run", "Measurement", "Deployment", "Metrics", "Evidence", "PointSummary"):
            missing = [
                key
                for key, field in kind["properties"].items()
                if key != "schema" and not field.get("description")
            ]
            assert not missing, f"{name}: {missing} say nothing of themselves"


def test_a_file_of_another_version_is_told(tmp_path: Path) -> None:
    (tmp_path / "0-0.json").write_text('{"schema": "manyhost.benchmark/v2"}')
    with pytest.raises(InvalidInput, match="is no result of this version"):
        store.measurements(tmp_path)
    with pytest.raises(InvalidInput, match="there is no result"):
        store.read_run(tmp_path)
    (tmp_path / "notes.json").write_text("mine")
    (tmp_path / "0-0.json").unlink()
    assert store.measurements(tmp_path) == [], "what is not ours is left alone"


def packed(**changes: Any) -> list[str]:
    return measure.pack(sample.document(sample.point()) | changes)


def test_evidence_comes_through_a_log_whole_or_not_at_all() -> None:
    lines = packed(errors=[str(number) * 50 for number in range(4000)])
    assert len(lines) > 3
    assert max(map(len, lines)) < 16_000, "a container runtime would cut it"
    noise = ["INFO vllm starts", *(f"{line}\n" for line in lines), "bye"]
    found = unpack(noise)
    assert isinstance(found, Evidence)
    assert len(found.errors) == 4000
    assert unpack(lines[:-1]) is None, "its end is not there yet"
    with pytest.raises(Failed, match="lines of its log are missing"):
        unpack([lines[0], *lines[2:]])
    with pytest.raises(Failed, match="version 9"):
        unpack(packed(version=9))


def test_a_hundred_thousand_requests_fit_into_a_log() -> None:
    """Kubelets cut logs at 10 MiB (containerLogMaxSize)."""
    document = sample.document(sample.point())
    count = 100_000
    rows = document["requests"]
    for number, name in enumerate(sorted(rows)):
        rows[name] = [(index * 7919 * (number + 3)) % 1_000_003 for index in range(count)]
    assert sum(map(len, measure.pack(document))) < 10 * 2**20


def test_statistics_are_those_of_the_tool() -> None:
    """numpy's linear interpolation and population deviation, which vLLM's benchmark uses."""
    numpy = pytest.importorskip("numpy")
    values = [((number * 7919) % 1009) / 7 for number in range(500)]
    found = statistics(values, 1000)
    assert found
    assert found["mean"] == pytest.approx(numpy.mean(values) * 1000)
    assert found["stddev"] == pytest.approx(numpy.std(values) * 1000)
    for name, share in (("p0p1", 0.1), ("p50", 50), ("p90", 90), ("p99", 99), ("p99p9", 99.9)):
        assert found[name] == pytest.approx(numpy.percentile(values, share) * 1000)
    assert statistics([]) is None
    assert peaks([0.0, 0.5, 2.0], [1.0, 1.5, 3.0], [0.1, 0.2, 2.5]) == (2.0, 2.0)
