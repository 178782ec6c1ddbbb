"""Whether a result file is what a measurement has written: its numbers follow from its own requests. Pure."""

from __future__ import annotations

import math

from manyhost.benchmark.evidence import Requests
from manyhost.benchmark.measurement import totals
from manyhost.benchmark.result import Measurement, Metrics

_ROUNDING = 1e-9  # of a number that is computed again from the same integers
_ROUNDING_MS = 0.002  # times of requests are kept in whole microseconds


def problem(measured: Measurement) -> str:
    """Return why the numbers of a measurement are not to be believed as they stand; empty when they are."""
    found = measured.metrics
    if measured.passed != (found is not None) or measured.passed == bool(measured.reasons):
        return "says both that its numbers are withheld and that they are not"
    if not _whole(measured.requests):
        return "does not have every request whole"
    return _numbers(measured, found) if found else ""


def _whole(columns: Requests) -> bool:
    lengths = {
        len(column)
        for column in (
            columns.start_us,
            columns.ttft_us,
            columns.e2e_us,
            columns.input,
            columns.output,
            columns.chunks,
            columns.ok,
            columns.empty,
        )
    }
    return len(lengths) == 1


def _numbers(measured: Measurement, found: Metrics) -> str:
    columns = measured.requests
    for name, value in totals(columns, found.seconds, measured.slo).items():
        written = getattr(found, name)
        if not math.isclose(written, value, rel_tol=_ROUNDING):
            return f"{name} is {written:g}, and by its own requests {value:g}"
    for name, times in (("ttft_ms", columns.ttft_us), ("e2e_ms", columns.e2e_us)):
        statistic = getattr(found.latencies, name)
        good = [time / 1000 for time, ok in zip(times, columns.ok, strict=True) if ok]
        if not statistic or not good or statistic.mean is None:
            continue
        mean = math.fsum(good) / len(good)
        if not math.isclose(statistic.mean, mean, rel_tol=_ROUNDING, abs_tol=_ROUNDING_MS):
            return f"the mean of {name} is {statistic.mean:g}, and by its own requests {mean:g}"
    before, after = measured.server.before, measured.server.after
    if not before or not after or after.generation_tokens - before.generation_tokens < found.output_tokens:
        return "shows more output tokens than the engine has counted"
    return ""
