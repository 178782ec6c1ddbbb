"""Whether a result file is what a measurement has written: its numbers follow from its own requests. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec

from manyhost.benchmark.evidence import Requests, Series, Statistic
from manyhost.benchmark.measurement import totals
from manyhost.benchmark.result import Measurement, Metrics

_ROUNDING = 1e-9  # of a number that is computed again from the same integers
_ROUNDING_MS = 0.002  # times of requests are kept in whole microseconds
_TIMES = ("ttft_ms", "tpot_ms", "e2e_ms")  # of which each request has one
_SHARES = {"p0p1": 0.001, "p99p9": 0.999} | {
    f"p{part}": part / 100 for part in (1, 5, 10, 25, 50, 75, 90, 95, 99)
}


def problem(measured: Measurement) -> str:
    """Return why the numbers of a measurement are not to be believed as they stand; empty when they are."""
    found = measured.metrics
    if measured.passed != (found is not None) or measured.passed == bool(measured.reasons):
        return "says both that its numbers are withheld and that they are not"
    if not _even(measured.requests):
        return "does not have every request whole"
    if not _possible(measured.requests):
        return "has requests with times that cannot be"
    if not _even(measured.server.series):
        return "does not have every sample of the engine's counters whole"
    return _numbers(measured, found) if found else ""


def _even(columns: Requests | Series) -> bool:
    return len({len(column) for column in msgspec.structs.astuple(columns)}) == 1


def _possible(columns: Requests) -> bool:
    rows = zip(columns.start_us, columns.ttft_us, columns.e2e_us, columns.output, columns.chunks, strict=True)
    return all(min(row) >= 0 and row[1] <= row[2] for row in rows) and {*columns.ok, *columns.empty} <= {0, 1}


def _numbers(measured: Measurement, found: Metrics) -> str:
    columns = measured.requests
    ends = (start + took for start, took in zip(columns.start_us, columns.e2e_us, strict=True))
    seconds = (max(ends, default=0) - min(columns.start_us, default=0)) / 1e6
    if not math.isclose(found.seconds, seconds, abs_tol=_ROUNDING_MS / 1000):
        return f"seconds is {found.seconds:g}, and by its own requests {seconds:g}"
    for name, value in totals(columns, found.seconds, measured.slo).items():
        written = getattr(found, name)
        if not math.isclose(written, value, rel_tol=_ROUNDING):
            return f"{name} is {written:g}, and by its own requests {value:g}"
    for name, times in zip(_TIMES, _times(columns), strict=True):
        if text := _statistic(name, getattr(found.latencies, name), times):
            return text
    if text := _gaps(found.latencies.itl_ms, columns):
        return text
    before, after = measured.server.before, measured.server.after
    if not before or not after or after.generation_tokens - before.generation_tokens < found.output_tokens:
        return "shows more output tokens than the engine has counted"
    return ""


def _times(columns: Requests) -> tuple[list[float], list[float], list[float]]:
    """Return TTFT, TPOT and the whole time of the requests that ended well, milliseconds."""
    rows = [
        (ttft / 1000, e2e / 1000, tokens)
        for ttft, e2e, tokens, ok in zip(
            columns.ttft_us, columns.e2e_us, columns.output, columns.ok, strict=True
        )
        if ok
    ]
    tpots = [(e2e - ttft) / (tokens - 1) for ttft, e2e, tokens in rows if tokens > 1]
    return [row[0] for row in rows], tpots, [row[1] for row in rows]


def _statistic(name: str, written: Statistic | None, times: Sequence[float]) -> str:
    """Return what is wrong with a distribution; a statistic that is withheld is not."""
    if not written:
        return ""
    if not times:
        return f"has {name} of requests that are not there"
    for statistic, value in _described(times):
        told = getattr(written, statistic)
        if told is not None and not math.isclose(told, value, rel_tol=_ROUNDING, abs_tol=_ROUNDING_MS):
            return f"the {statistic} of {name} is {told:g}, and by its own requests {value:g}"
    return ""


def _described(times: Sequence[float]) -> Iterator[tuple[str, float]]:
    ordered = sorted(times)
    last = len(ordered) - 1
    mean = math.fsum(ordered) / len(ordered)
    yield from (("count", float(len(ordered))), ("mean", mean), ("min", ordered[0]), ("max", ordered[-1]))
    yield "stddev", math.sqrt(math.fsum((time - mean) ** 2 for time in ordered) / len(ordered))
    for name, share in _SHARES.items():  # by linear interpolation; see Statistic
        low = math.floor(last * share)
        high = min(low + 1, last)
        yield name, ordered[low] + (ordered[high] - ordered[low]) * (last * share - low)


def _gaps(written: Statistic | None, columns: Requests) -> str:
    """Return what is wrong with the gaps between chunks, of which only sum and number are kept."""
    if not written:
        return ""
    rows = zip(columns.ttft_us, columns.e2e_us, columns.chunks, columns.ok, strict=True)
    spans = [((e2e - ttft) / 1000, chunks - 1) for ttft, e2e, chunks, ok in rows if ok and chunks > 1]
    if not spans:
        return "has itl_ms of requests that are not there"
    count = sum(gaps for _, gaps in spans)
    mean, longest = math.fsum(span for span, _ in spans) / count, max(span for span, _ in spans)
    if written.count != count:
        return f"the count of itl_ms is {written.count:g}, and by its own requests {count}"
    if written.mean is not None and not math.isclose(written.mean, mean, abs_tol=_ROUNDING_MS):
        return f"the mean of itl_ms is {written.mean:g}, and by its own requests {mean:g}"
    for name in written.__struct_fields__:
        told = getattr(written, name)
        if name != "count" and told is not None and not -_ROUNDING_MS <= told <= longest + _ROUNDING_MS:
            return f"the {name} of itl_ms is {told:g}, and its longest answer took {longest:g}"
    return ""
