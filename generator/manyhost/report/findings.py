"""What limits a service, in sentences, from what its engines counted under load: pure.

Each sentence names its evidence and what to change. What the counters cannot tell apart is not told apart.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import msgspec

from manyhost.benchmark.evidence import Series
from manyhost.benchmark.measurement import saturated
from manyhost.benchmark.result import Deployment, Measurement
from manyhost.catalog.engine import FlagNames
from manyhost.plan import arguments
from manyhost.report.runs import Point

Kind = Literal["client", "kv-cache", "seats", "prefill", "load", "compute", "unknown"]

_FULL = 0.9  # of the KV cache: from about there on vLLM has no free blocks for a request that grows
_OFTEN = 0.25  # of the samples under load
_MOSTLY = 0.5
_NEARLY = 0.95  # of the seats
_BUSY_CLIENT = 0.7  # of a core; at 0.9 the gate withholds the numbers
_LEAST_SAMPLES = 5


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that limits a service at a point.

    Attributes:
        point: The point.
        kind: What limits it.
        evidence: What was seen.
        change: What to change.
    """

    point: int
    kind: Kind
    evidence: str
    change: str

    @property
    def sentence(self) -> str:
        """Return both, for people."""
        return f"{self.evidence[:1].upper()}{self.evidence[1:]}. {self.change[:1].upper()}{self.change[1:]}."


def findings(points: Sequence[Point], deployment: Deployment) -> list[Finding]:
    """Return what limits the service at the point of most throughput, the most certain first.

    Empty where no number was let through.
    """
    measured = [point for point in points if point.passed]
    if not measured:
        return []
    best = max(measured, key=lambda point: point.summary.metrics["output_token_rate"].mean)
    place = measured.index(best)
    after = measured[place + 1] if place + 1 < len(measured) else None
    flat = bool(after and saturated(best.summary, after.summary)) or bool(
        place and saturated(measured[place - 1].summary, best.summary)
    )
    last, seats = best.passed[-1], _seats(deployment)
    looks = (_client(last), _cache(last), _queue(last, seats), _prefill(last))
    found = [
        Finding(point=best.summary.point, kind=kind, evidence=evidence, change=change)
        for look in looks
        for kind, evidence, change in look
    ]
    limits = any(each.kind != "prefill" for each in found)
    return found if limits else [*found, _rest(best, last, seats, flat)]


def _client(measured: Measurement) -> Iterator[tuple[Kind, str, str]]:
    if measured.client.cpu > _BUSY_CLIENT:
        yield (
            "client",
            f"the client's busiest process used {measured.client.cpu:.0%} of a core",
            "give the client more cores: it is near to measuring itself",
        )


def _cache(measured: Measurement) -> Iterator[tuple[Kind, str, str]]:
    series = measured.server.series
    full = _share(series, series.kv_usage, lambda value: value >= _FULL)
    before, after = measured.server.before, measured.server.after
    dropped = after.preemptions - before.preemptions if before and after else 0.0
    if full < _OFTEN and not dropped:
        return
    seen = [f"the KV cache was at least {_FULL:.0%} full in {full:.0%} of the time"] if full else []
    seen += [f"{dropped:.0f} requests were preempted, their work done again"] if dropped else []
    yield (
        "kv-cache",
        ", and ".join(seen),
        "make room for it: a smaller kv-cache-dtype, a higher gpu-memory-utilization, fewer requests at once "
        "(max-num-seqs), more hosts a group",
    )


def _queue(measured: Measurement, seats: int) -> Iterator[tuple[Kind, str, str]]:
    series = measured.server.series
    waited = _share(series, series.waiting, lambda value: value > 0)
    taken = _share(series, series.running, lambda value: bool(seats) and value >= _NEARLY * seats)
    if waited < _MOSTLY or taken < _MOSTLY:
        return
    yield (
        "seats",
        f"requests waited in {waited:.0%} of the time while the {seats} that the groups run at once ran",
        "TTFT is the time of the queue: raise max-num-seqs while the KV cache has room, or vllm.replicaCount",
    )


def _prefill(measured: Measurement) -> Iterator[tuple[Kind, str, str]]:
    found, series = measured.metrics, measured.server.series
    first, whole = (found.latencies.ttft_ms, found.latencies.e2e_ms) if found else (None, None)
    if not first or not whole or not first.p50 or not whole.p50 or first.p50 < _MOSTLY * whole.p50:
        return
    if _share(series, series.waiting, lambda value: value > 0) >= _OFTEN:
        return  # the time of a queue
    yield (
        "prefill",
        f"half of the requests spent {first.p50 / whole.p50:.0%} of their time or more before "
        "their first token, and few waited in a queue",
        "what takes long is reading prompts: prefill and decode apart (roles), or fewer tokens in them",
    )


def _rest(best: Point, measured: Measurement, seats: int, flat: bool) -> Finding:
    """Return what can be said when no counter is at its end."""
    series, load = measured.server.series, best.summary.load
    point = best.summary.point
    if len(_loaded(series, series.running)) < _LEAST_SAMPLES:
        return Finding(
            point=point,
            kind="unknown",
            evidence="the load was over before the engine's counters were read often enough",
            change="send more requests to find out what limits it",
        )
    median = statistics.median(_loaded(series, series.running))
    highest = max(_loaded(series, series.kv_usage), default=0.0)
    waited = _share(series, series.waiting, lambda value: value > 0)
    room = f"the KV cache was {highest:.0%} full at most, and requests waited in {waited:.0%} of the time"
    if flat:
        return Finding(
            point=point,
            kind="compute",
            evidence=f"throughput stopped growing with the requests in flight, {room}{_busy(measured)}",
            change="the GPUs, their memory or the network between them are at their end"
            + ("" if measured.gpus else "; the engine's counters do not tell which: --prometheus does")
            + ", hold the NICs' traffic against the bandwidth of two hosts",
        )
    streams = load.concurrency or load.requests
    return Finding(
        point=point,
        kind="load",
        evidence=f"a median of {median:.0f} requests ran, {room}",
        change=f"the service can probably do more than {streams} in flight ask of it: measure with more"
        + (f", it runs {seats} at once" if seats > streams else ""),
    )


def _busy(measured: Measurement) -> str:
    names = {"tensor_cores_busy": "tensor cores", "gpu_memory_busy": "memory"}
    seen = [f"{names[each.name]} {each.mean:.0%}" for each in measured.gpus if each.name in names]
    return f"; the GPUs were busy: {', '.join(seen)} of the time" if seen else ""


def _seats(deployment: Deployment) -> int:
    """Requests that all groups with answers run at once; 0 where the engine decides."""
    main = [role for role in deployment.roles if role.name != "prefill"]
    return sum(arguments.seats(role.arguments, FlagNames()) * role.groups for role in main)


def _loaded(series: Series, column: Sequence[float]) -> list[float]:
    """Return a column where requests ran: before and after it says nothing of the load."""
    return [value for value, running in zip(column, series.running, strict=False) if running]


def _share(series: Series, column: Sequence[float], test: Callable[[float], bool]) -> float:
    values = _loaded(series, column)
    if len(values) < _LEAST_SAMPLES:
        return 0.0  # too few to say anything
    return sum(map(test, values)) / len(values)
