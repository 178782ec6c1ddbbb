"""The load generators with the same moderate load: do they say the same, and what the server counts?

    python benchmarks/runners.py [--repetitions N] [--only steady|engine]

First against a server with exactly known token times, then against vLLM's CPU build on this machine. Prints a
table of means over the repetitions: throughput, TTFT and TPOT of each, and what the server says of the same
requests. Exits 1 when two differ by more than 3 % and nothing that was measured explains it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CLIENT = ROOT / "charts/llm-benchmark/client"
sys.path[:0] = [str(ROOT), str(CLIENT)]

import engine  # noqa: E402
import runner  # noqa: E402
from manyhost.benchmark.intervals import interval  # noqa: E402
from manyhost.benchmark.result import Load  # noqa: E402
from manyhost.benchmark.runners import Runner, aiperf, locust, manyhost, vllm_bench_serve  # noqa: E402
from manyhost.benchmark.tools import installed  # noqa: E402

from testbed import engine as local_engine  # noqa: E402
from tests.e2e.test_health import One  # noqa: E402

SAME = 0.03
DEFAULT = "manyhost"
STREAMS, VOCABULARY = 4, 4096
METRICS = ("tokens_s", "ttft_ms", "tpot_ms")
LOAD = Load(
    input_tokens=32, output_tokens=64, spread=0.0, ignore_eos=True, requests=40, concurrency=STREAMS,
    rate=0.0, prefix_count=0, prefix_tokens=0,
)  # fmt: skip
STEADY_MS = ("200", "20")
_SUMS = {"ttft_ms": "time_to_first_token_seconds", "tpot_ms": "request_time_per_output_token_seconds"}
Numbers = dict[str, float]


def runners(folder: Path) -> list[Runner]:
    """Return the load generators, the default first."""
    return [
        manyhost(LOAD, VOCABULARY),
        vllm_bench_serve((str(folder / "vllm/bin/vllm"),), LOAD, str(folder / "model/tiny-r1")),
        locust(str(installed("locust")), LOAD, VOCABULARY),
        aiperf(str(installed("aiperf").with_name("python")), LOAD, VOCABULARY),
    ]


class Steady:
    """The server with known times."""

    model = "steady"

    def __init__(self, url: str) -> None:
        self.url = url

    def take(self) -> Numbers:
        """Return what it knows of the answers since the last call."""
        truth = json.loads(engine.fetch(f"{self.url}/truth"))
        found = {f"{name}_ms": 1000 * statistics.fmean(truth[name] or [0.0]) for name in ("ttft", "tpot")}
        return {"tokens": float(len(truth["ttft"]) + len(truth["itl"])), **found}


class Engine:
    """vLLM; its histograms have sums of seconds and counts of requests."""

    def __init__(self, one: One) -> None:
        self.url, self.one = f"http://127.0.0.1:{one.http}", one
        self.model = json.loads(engine.fetch(f"{self.url}/v1/models"))["data"][0]["id"]
        self.before = one.metrics()

    def take(self) -> Numbers:
        """Return what it has counted since the last call."""
        engine.idle([f"{self.url}/metrics"], 60.0)
        before, self.before = self.before, self.one.metrics()
        grown = {name: value - before.get(name, 0.0) for name, value in self.before.items()}
        found = {
            name: 1000 * grown[f"vllm:{series}_sum"] / max(1.0, grown[f"vllm:{series}_count"])
            for name, series in _SUMS.items()
        }
        return {"tokens": grown["vllm:generation_tokens_total"], **found}


@contextlib.contextmanager
def steady(_: Path) -> Iterator[Steady]:
    """Start the server with known times."""
    words = [sys.executable, str(CLIENT / "steady.py"), *STEADY_MS]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Steady(f"http://127.0.0.1:{int(next(iter(process.stdout or ())))}")
        finally:
            process.kill()


@contextlib.contextmanager
def cpu(folder: Path) -> Iterator[Engine]:
    """Start vLLM's CPU build."""
    one = One(folder / "one")
    try:
        yield Engine(one)
    finally:
        one.close()


def once(tool: Runner, server: Steady | Engine, seed: int, folder: Path) -> tuple[Numbers, Numbers]:
    """Send the load once; return what the tool says and what the server says."""
    server.take()
    values = {**tool.values, "url": server.url, "model": server.model}
    ran = runner.run(
        tool.tool, list(tool.words), values=values, requests=LOAD.requests, concurrency=STREAMS, processes=1,
        seed=seed, folder=folder, limit=300,
    )  # fmt: skip
    if ran.error or not all(ran.requests.ok):
        sys.exit(f"bench-runners: {tool.tool}: {ran.error or ran.requests.errors[0]}")
    said = {
        "tokens": float(sum(ran.requests.output)),
        "tokens_s": sum(ran.requests.output) / ran.seconds,
        "ttft_ms": 1000 * statistics.fmean(ran.requests.ttft),
        "tpot_ms": 1000 * statistics.fmean(ran.requests.tpots()),
        "chunks": float(sum(ran.requests.chunks)),
        "cpu": ran.cpu,
    }
    return said, server.take()


def compare(name: str, rows: dict[str, list[tuple[Numbers, Numbers]]]) -> list[str]:
    """Print the table of one server; return what differs and why not, one line each."""
    unexplained = []
    means = {tool: mean([said for said, _ in runs]) for tool, runs in rows.items()}
    known = {tool: mean([server for _, server in runs]) for tool, runs in rows.items()}
    print(
        f"\n{name}\n\n| | tokens | output tokens/s | TTFT ms (server) | TPOT ms (server) | chunks | busiest |"
    )
    print("|---|---|---|---|---|---|---|")
    for tool, one in means.items():
        there = known[tool]
        cells = [tool, f"{one['tokens']:.0f} ({there['tokens']:.0f})", f"{one['tokens_s']:.2f}"]
        cells += [f"{one[metric]:.2f} ({there[metric]:.2f})" for metric in ("ttft_ms", "tpot_ms")]
        print(f"| {' | '.join(cells)} | {one['chunks']:.0f} | {one['cpu']:.0%} |")
    print()
    for tool, one in means.items():
        for said, there in rows[tool]:
            if said["tokens"] != there["tokens"]:
                unexplained.append(f"{tool}: {said['tokens']:.0f} tokens, the server {there['tokens']:.0f}")
        for metric in METRICS:
            others = {f"the server ({tool})": known[tool].get(metric)}
            others |= {DEFAULT: means[DEFAULT][metric]} if tool != DEFAULT else {}
            for other, value in others.items():
                ratio = one[metric] / value - 1 if value else 0.0
                if abs(ratio) <= SAME:
                    continue
                off = f"{tool} and {other}: {metric} {one[metric]:.2f} and {value:.2f}, {ratio:+.1%}"
                why = reason(metric, rows[tool], rows[DEFAULT] if other == DEFAULT else None)
                print(f"{off}: {why or 'unexplained'}")
                unexplained += [] if why else [off]
    return unexplained


def reason(
    metric: str, runs: list[tuple[Numbers, Numbers]], others: list[tuple[Numbers, Numbers]] | None
) -> str:
    """Return what of the measurement explains a difference; empty when nothing does.

    Args:
        metric: What differs.
        runs: Of one tool.
        others: Of the other tool; None for the server.
    """
    if others is None:
        ratios = [said[metric] / there[metric] - 1 for said, there in runs]
    else:
        ratios = [one[metric] / other[metric] - 1 for (one, _), (other, _) in zip(runs, others, strict=True)]
    found = interval(ratios)
    if found.low is not None and found.high is not None and found.low <= SAME and found.high >= -SAME:
        return f"no more than chance: {found.low:+.1%} to {found.high:+.1%} in {len(ratios)} runs (95 %)"
    if others is not None and metric in runs[0][1]:
        server = [one[metric] / other[metric] - 1 for (_, one), (_, other) in zip(runs, others, strict=True)]
        if abs(statistics.fmean(ratios) - statistics.fmean(server)) <= SAME:
            return f"the server's own differ as much: {statistics.fmean(server):+.1%}"
    return ""


def mean(rows: list[Numbers]) -> Numbers:
    """Return the mean of each column."""
    return {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", choices=["steady", "engine"])
    asked = parser.parse_args()
    tools = runners(local_engine.build())
    unexplained: list[str] = []
    places: dict[str, Any] = {"steady": steady, "engine": cpu}
    for name, start in places.items():
        if asked.only not in (None, name):
            continue
        rows: dict[str, list[tuple[Numbers, Numbers]]] = {tool.tool: [] for tool in tools}
        with tempfile.TemporaryDirectory() as folder, start(Path(folder)) as server:
            for number in range(asked.repetitions + 1):  # the first round warms up
                for tool in tools:
                    found = once(tool, server, 1000 * number, Path(folder))
                    if number:
                        rows[tool.tool].append(found)
        load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        title = f"{name}: {LOAD.requests} requests, {STREAMS} in flight, {LOAD.input_tokens} + "
        unexplained += compare(f"{title}{LOAD.output_tokens} tokens, {asked.repetitions} runs, {load}", rows)
    for text in unexplained:
        print(f"bench-runners: unexplained: {text}", file=sys.stderr)
    return int(bool(unexplained))


if __name__ == "__main__":
    sys.exit(main())
