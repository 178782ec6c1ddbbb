"""What limits a service: each of the bottlenecks, from counters as an engine would have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from manyhost.benchmark.result import Figure
from manyhost.report.document import Table
from manyhost.report.findings import Finding, findings
from manyhost.report.read import read
from manyhost.report.sections import report

from tests.unit.benchmark import sample
from tests.unit.report import made

SEATS = 16  # max-num-seqs of local/tiny-r1


def found(folder: Path, seconds: list[list[float]], **changes: Any) -> list[Finding]:
    results = read(made.written(folder, seconds, **changes))
    return findings(results.points, results.run.deployment)


def after(**counters: float) -> dict[str, Any]:
    return sample.document(made.loads(sample.RECIPE, "ramp", 1)[0])["after"] | counters


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"series": made.series(12, 0, 0.97)}, "kv-cache", "at least 90% full in 100% of the time"),
        (
            {"series": made.series(8), "after": after(preemptions=7.0)},
            "kv-cache",
            "7 requests were preempted",
        ),
        ({"series": made.series(SEATS, 20, 0.4)}, "seats", "while the 16 that the groups run at once ran"),
        ({"series": made.series(1), "cpu": 0.8}, "client", "used 80% of a core"),
        ({"series": made.series(1)}, "load", "can probably do more than 1 in flight"),
        ({"series": {}}, "unknown", "Send more requests"),
    ],
)
def test_one_point(changes: dict[str, Any], kind: str, words: str, tmp_path: Path) -> None:
    (only,) = found(tmp_path / "run", [[100.0]], **changes)
    assert only.kind == kind
    assert words in only.sentence


def test_throughput_that_no_longer_grows_with_room_left(tmp_path: Path) -> None:
    """The same tokens a second from twice the streams, with an empty KV cache and no queue."""
    requests = [point.load.requests for point in made.loads(sample.RECIPE, "ramp", 2)]
    (only,) = found(tmp_path / "run", [[count * 10.0] for count in requests], series=made.series(2))
    assert only.kind == "compute"
    assert "do not tell which" in only.sentence


def test_what_prometheus_has_seen_tells_which(tmp_path: Path) -> None:
    requests = [point.load.requests for point in made.loads(sample.RECIPE, "ramp", 2)]
    seen = [
        Figure(name=name, unit="share", mean=mean, max=1.0)
        for name, mean in (("tensor_cores_busy", 0.12), ("gpu_memory_busy", 0.91))
    ]
    seconds = [[count * 10.0] for count in requests]
    (only,) = found(tmp_path / "run", seconds, series=made.series(2), gpus=seen)
    assert "tensor cores 12%, memory 91% of the time" in only.sentence
    assert "do not tell which" not in only.sentence
    (table,) = (
        block
        for block in report([read(tmp_path / "run")])
        if isinstance(block, Table) and any(row[0] == "gpu memory busy" for row in block.rows)
    )
    assert table.rows[1] == ("gpu memory busy", "91%", "100%")


def test_prompts_that_take_longer_than_answers(tmp_path: Path) -> None:
    point = made.loads(sample.RECIPE, "ramp", 1)[0]
    count, whole = point.load.requests, 200 + 20.0 * (point.load.output_tokens - 1)
    first = 0.7 * whole
    document = sample.document(point)
    pace = sample.times([0.3 * whole / (point.load.output_tokens - 1)] * count)
    gaps = pace | {"count": count * (point.load.output_tokens - 1.0)}
    times = {"ttft_ms": sample.times([first] * count), "tpot_ms": pace, "itl_ms": gaps}
    latencies = document["latencies"] | times
    requests = document["requests"] | {"ttft_us": [round(first * 1000)] * count}
    told = found(tmp_path / "run", [[100.0]], latencies=latencies, requests=requests, series=made.series(1))
    assert [each.kind for each in told] == ["prefill", "load"]
    queued = made.series(SEATS, 20, 0.4)
    told = found(tmp_path / "queue", [[100.0]], latencies=latencies, requests=requests, series=queued)
    assert [each.kind for each in told] == ["seats"], "the time of a queue is not that of prompts"


def test_nothing_is_said_of_withheld_numbers(tmp_path: Path) -> None:
    assert found(tmp_path / "run", [[100.0]], error="the tool failed") == []
