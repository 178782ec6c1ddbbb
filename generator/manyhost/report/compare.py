"""Runs beside each other, point by point: what differs by more than chance and the clients' error: pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from manyhost.benchmark.measurement import numbers
from manyhost.benchmark.result import Load, Measurement, Role
from manyhost.report.runs import Point, Results
from manyhost.report.significance import Difference, difference

Verdict = Literal["better", "worse", "no difference shown", "within the clients' error", "measured once"]

# Name → (label, whether more is better).
METRICS = {
    "output_token_rate": ("output tokens/s", True),
    "output_token_rate_per_gpu": ("output tokens/s a GPU", True),
    "goodput": ("good requests/s", True),
    "ttft_p50_ms": ("TTFT median, ms", False),
    "ttft_p99_ms": ("TTFT P99, ms", False),
    "tpot_p50_ms": ("TPOT median, ms", False),
    "tpot_p99_ms": ("TPOT P99, ms", False),
    "e2e_p50_ms": ("whole answer, median, ms", False),
    "usd_per_million_output": ("USD per million output tokens", False),
}
_COST = "usd_per_million_output"
# What of a deployment explains a difference, in this order.
_FIELDS = (
    "recipe",
    "model",
    "engine",
    "image",
    "executor",
    "hosts",
    "gpus",
    "gpu",
    "machine_type",
    "interconnect",
    "context",
    "roles",
)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of a run held against the first run's.

    Attributes:
        run: The run.
        point: Its point.
        base_point: The first run's point of the same load.
        metric: One of METRICS.
        base: The first run's mean.
        mean: The run's.
        share: How much more it is, as a share of the first.
        low: Lower end of the share's 95 % interval; null without repetitions of both.
        high: Upper end likewise.
        verdict: What that says.
    """

    run: str
    point: int
    base_point: int
    metric: str
    base: float
    mean: float
    share: float
    low: float | None
    high: float | None
    verdict: Verdict


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Runs held against the first one.

    Attributes:
        base: The first run.
        lines: What could be compared.
        left_out: What could not, and why, one sentence each.
        deployments: What is another deployment's than the first one's: run, field, first, other.
    """

    base: str
    lines: list[Line]
    left_out: list[str]
    deployments: list[tuple[str, str, str, str]]


def compare(runs: Sequence[Results]) -> Comparison:
    """Hold every run but the first against the first; only points of exactly the same load are compared."""
    base, *others = runs
    lines: list[Line] = []
    left_out: list[str] = []
    for other in others:
        mine = {point.summary.load: point for point in other.points}
        if not mine.keys() & {point.summary.load for point in base.points}:
            left_out.append(f"{other.folder}: no point has the same load as one of {base.folder}")
        for point in base.points:
            same = mine.get(point.summary.load)
            if same is None:
                continue
            reason = next(filter(None, (_why_not(run, it) for run, it in ((base, point), (other, same)))), "")
            if reason:
                left_out.append(reason)
                continue
            lines += _lines(base, point, other, same)
    return Comparison(
        base=base.folder,
        lines=lines,
        left_out=list(dict.fromkeys(left_out)),
        deployments=[row for other in others for row in _deployments(base, other)],
    )


def streams(load: Load) -> str:
    """Return how a load arrives, for people."""
    return f"{load.rate:g} requests/s" if load.rate else f"{load.concurrency or load.requests} in flight"


def _why_not(run: Results, point: Point) -> str:
    if point.passed:
        return ""
    reasons = point.summary.reasons
    why = "was left out" if point.summary.skipped else reasons[0].message if reasons else "was not measured"
    return f"{run.folder}, point {point.summary.point}: {why}"


def _values(run: Results, measured: Measurement) -> dict[str, float]:
    """Return one measurement's numbers, those included that need to know the deployment."""
    found = numbers(measured.metrics) if measured.metrics else {}
    rate, gpus = found.get("output_token_rate", 0.0), run.run.deployment.gpus
    if gpus:
        found["output_token_rate_per_gpu"] = rate / gpus
    return found


def _lines(base: Results, point: Point, other: Results, same: Point) -> Iterator[Line]:
    first = [_values(base, each) for each in point.passed]
    second = [_values(other, each) for each in same.passed]
    equal_slo = point.passed[0].slo == same.passed[0].slo
    equal_gpus = base.run.deployment.gpus == other.run.deployment.gpus
    for name, (_, more_is_better) in METRICS.items():
        if (name == "goodput" and not equal_slo) or (name == "output_token_rate_per_gpu" and equal_gpus):
            continue
        what = "output_token_rate" if name == _COST else name
        before = [each[what] for each in first if what in each]
        after = [each[what] for each in second if what in each]
        found = difference(before, after) if before and after else None
        if found is None:
            continue
        mean, own = sum(before) / len(before), sum(after) / len(after)
        if name == _COST:
            usd = [run.run.cost.usd_per_hour or 0.0 for run in (base, other)]
            if not all(usd):
                continue
            found = _of_cost(found, usd[1] / usd[0])
            mean, own = (price / 3600 / rate * 1e6 for price, rate in zip(usd, (mean, own), strict=True))
        metric = name.partition("_")[0]
        error = sum(each.summary.client_error_ms.get(metric, 0.0) for each in (point, same))
        yield Line(
            run=other.folder,
            point=same.summary.point,
            base_point=point.summary.point,
            metric=name,
            base=mean,
            mean=own,
            share=found.share,
            low=found.low,
            high=found.high,
            verdict=(
                "measured once"
                if found.low is None
                else "no difference shown"
                if not found.shown
                else "within the clients' error"
                if name.endswith("_ms") and abs(own - mean) <= error
                else "better"
                if (found.share > 0) == more_is_better
                else "worse"
            ),
        )


def _of_cost(rate: Difference, prices: float) -> Difference:
    """Return how the cost of a token differs, from how the throughput does and by how much the price does.

    As in a report it is the price over the mean throughput; the ends of the interval change places.
    """

    def share(of: float) -> float:
        return prices / (1 + of) - 1 if of > -1 else math.inf

    if rate.low is None or rate.high is None:
        return Difference(share=share(rate.share), low=None, high=None)
    return Difference(share=share(rate.share), low=share(rate.high), high=share(rate.low))


def _deployments(base: Results, other: Results) -> Iterator[tuple[str, str, str, str]]:
    for field in _FIELDS:
        first, second = (getattr(run.run.deployment, field) for run in (base, other))
        if first == second:
            continue
        if field != "roles":
            yield other.folder, field, str(first), str(second)
            continue
        names = [" and ".join(role.name for role in roles) for roles in (first, second)]
        pairs = list(zip(first, second, strict=False))
        if names[0] != names[1]:
            yield other.folder, "roles", names[0], names[1]
            pairs = [(_main(first), _main(second))]
        for one, two in pairs:
            for key in sorted(one.arguments.keys() | two.arguments.keys()):
                values = [str(role.arguments.get(key, "not set")) for role in (one, two)]
                if values[0] != values[1]:
                    yield other.folder, f"{two.name}: --{key}", *values  # type: ignore[misc]
            for key in ("groups", "hosts", "tensor", "pipeline", "data"):
                if getattr(one, key) != getattr(two, key):
                    yield other.folder, f"{two.name}: {key}", str(getattr(one, key)), str(getattr(two, key))


def _main(roles: Sequence[Role]) -> Role:
    """Return the role whose engines give the answers."""
    return next((role for role in roles if role.name != "prefill"), roles[0])
