"""Evidence → measurement, and measurements → the summary of a point: pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from manyhost.benchmark import gate
from manyhost.benchmark.evidence import Evidence, Requests
from manyhost.benchmark.gate import Expected
from manyhost.benchmark.intervals import interval, narrow
from manyhost.benchmark.points import Point
from manyhost.benchmark.result import (
    Client,
    ClientError,
    Figure,
    Load,
    Measurement,
    Metrics,
    PointSummary,
    Reason,
    ServerSide,
    Slo,
)

_RATES = ("request_rate", "output_token_rate", "total_token_rate", "goodput", "good_share")
_TIMES = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms")
_STATISTICS = ("mean", "p50", "p90", "p99")
# Throughput has stopped growing when twice the streams bring less than this much more.
_GROWTH = 1.05


def measurement(
    point: Point,
    repetition: int,
    evidence: Evidence,
    expected: Expected,
    *,
    tool: str,
    place: Literal["job", "pod", "here"],
    node: str,
    gpus: Sequence[Figure] = (),
) -> Measurement:
    """Judge what a client has reported, and make the result of it: its numbers only if they count.

    Args:
        point: What was measured.
        repetition: For which time, from 0.
        evidence: What the client reports.
        expected: What the plan says.
        tool: The load generator.
        place: Where the client ran.
        node: On which machine.
        gpus: What a Prometheus has seen of them.
    """
    reasons, error = gate.judge(evidence, expected), gate.client_error(evidence)
    return Measurement(
        key=point.key,
        scenario=point.scenario,
        point=point.number,
        repetition=repetition,
        started=timestamp(evidence.started),
        finished=timestamp(evidence.finished),
        load=point.load,
        slo=point.slo,
        passed=not reasons,
        reasons=reasons,
        metrics=None if reasons else metrics(evidence, point.slo, error),
        client_error=error,
        client=Client(
            tool=tool,
            version=evidence.runner_version,
            commands=evidence.commands,
            place=place,
            node=node,
            processors=evidence.processors,
            cpu=evidence.cpu,
            skew_seconds=evidence.skew,
        ),
        truth=gate.truth(evidence, expected),
        server=ServerSide(
            server=evidence.server, before=evidence.before, after=evidence.after, series=evidence.series
        ),
        calibration=evidence.calibration,
        requests=evidence.requests,
        errors=evidence.errors,
        gpus=list(gpus),
    )


def timestamp(seconds: float) -> str:
    """Return seconds since the epoch as ISO 8601, UTC."""
    return (
        dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def metrics(evidence: Evidence, slo: Slo, error: ClientError) -> Metrics:
    """Return the numbers of a load."""
    return Metrics(
        **totals(evidence.requests, evidence.seconds, slo),
        seconds=evidence.seconds,
        peak_output_token_rate=evidence.peak_tokens,
        peak_concurrency=evidence.peak_requests,
        latencies=gate.believed(evidence.latencies, error),
    )


def totals(columns: Requests, seconds: float, slo: Slo) -> dict[str, Any]:
    """Return what follows from the requests alone: the counts and rates of Metrics, by name."""
    rows = [
        row
        for row in zip(
            columns.ttft_us,
            columns.e2e_us,
            columns.input,
            columns.output,
            columns.chunks,
            columns.ok,
            strict=True,
        )
        if row[5]
    ]
    seconds = seconds or 1e-9
    prompt, output = sum(row[2] for row in rows), sum(row[3] for row in rows)
    chunks = sum(row[4] for row in rows)
    good = sum(_good(ttft, e2e, tokens, slo) for ttft, e2e, _, tokens, _, _ in rows)
    return {
        "sent": len(columns.ok),
        "completed": len(rows),
        "input_tokens": prompt,
        "output_tokens": output,
        "request_rate": len(rows) / seconds,
        "output_token_rate": output / seconds,
        "total_token_rate": (prompt + output) / seconds,
        "goodput": good / seconds,
        "good_share": good / max(1, len(columns.ok)),
        "tokens_per_chunk": output / max(1, chunks),
    }


def _good(ttft_us: int, e2e_us: int, tokens: int, slo: Slo) -> bool:
    tpot_us = (e2e_us - ttft_us) / (tokens - 1) if tokens > 1 else 0.0
    return (
        ttft_us <= slo.ttft_ms * 1000
        and tpot_us <= slo.tpot_ms * 1000
        and (not slo.e2e_ms or e2e_us <= slo.e2e_ms * 1000)
    )


def numbers(found: Metrics) -> dict[str, float]:
    """Return the numbers of a measurement by the names that they have in a summary; none that is withheld."""
    flat: dict[str, float] = {name: getattr(found, name) for name in _RATES}
    for time in _TIMES:
        distribution = getattr(found.latencies, time)
        for statistic in _STATISTICS if distribution else ():
            value = getattr(distribution, statistic)
            if value is not None:
                flat[f"{time.removesuffix('_ms')}_{statistic}_ms"] = value
    return flat


class Which(Protocol):
    """A point, as far as its summary names it."""

    @property
    def key(self) -> str:
        """Changes with everything that the numbers depend on."""
        ...

    @property
    def number(self) -> int:
        """Its place in the scenario."""
        ...

    @property
    def load(self) -> Load:
        """What is sent."""
        ...


def summary(point: Which, measured: Sequence[Measurement], *, skipped: bool = False) -> PointSummary:
    """Return all measurements of a point together."""
    flat = [numbers(each.metrics) for each in measured if each.metrics]
    names = dict.fromkeys(name for each in flat for name in each)
    found = {name: interval([each[name] for each in flat if name in each]) for name in names}
    reasons: dict[tuple[str, str], Reason] = {}
    for reason in (reason for each in measured for reason in each.reasons):
        reasons.setdefault((reason.check, reason.message), reason)
    return PointSummary(
        key=point.key,
        point=point.number,
        load=point.load,
        measured=len(measured),
        passed=len(flat),
        skipped=skipped,
        reasons=list(reasons.values()),
        metrics=found,
        client_error_ms=_largest_errors([each for each in measured if each.metrics]),
    )


def _largest_errors(measured: Sequence[Measurement]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in ("ttft_ms", "tpot_ms", "itl_ms"):
        errors = [error for each in measured if (error := getattr(each.client_error, name))]
        if errors:
            found[name.removesuffix("_ms")] = max(
                abs(getattr(error, statistic)) for error in errors for statistic in gate.JUDGED
            )
    return found


def enough(point: Point, measured: Sequence[Measurement]) -> bool:
    """Whether a point needs no further measurement: the interval is narrow, or the budget is spent."""
    numbers = [each.metrics for each in measured if each.metrics]
    if point.seconds:
        return sum(each.seconds for each in numbers) >= point.seconds
    if len(numbers) >= point.most:
        return True
    if len(numbers) < point.least:
        return False
    return narrow(interval([each.output_token_rate for each in numbers]), point.width)


def saturated(before: PointSummary, last: PointSummary) -> bool:
    """Whether throughput has stopped growing from one point to the next."""
    rates = [point.metrics.get("output_token_rate") for point in (before, last)]
    if rates[0] is None or rates[1] is None:
        return False
    return rates[1].mean < _GROWTH * rates[0].mean
