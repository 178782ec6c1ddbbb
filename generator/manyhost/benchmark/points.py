"""Scenario × plan → points to measure: pure, and refused here rather than after an hour of load."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import msgspec

from manyhost.benchmark.evidence import VERSION
from manyhost.benchmark.result import Load, Slo
from manyhost.catalog.scenario import REQUESTS, Length, Scenario
from manyhost.errors import InvalidInput, NotReady
from manyhost.plan import Plan, arguments, capacity, table

# What of plan.json says nothing about how fast the service is: a new price list changes no result.
_NO_MATTER = (
    "allowed",
    "capacity",
    "cold_start",
    "cost",
    "provenance",
    "recipe",
    "recreation",
    "startup_seconds",
    "warnings",
)
_SETTINGS = ("description", "site", "capacity", "objectives", "traffic", "start_attempts", "startup_seconds")


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One load of a scenario, measured once or more.

    Attributes:
        key: Changes with everything that the numbers depend on: plan, image, load, client.
        scenario: The scenario's name.
        number: Its place in the scenario, from 0.
        load: What is sent.
        slo: What a request must keep to count as good.
        least: Measurements at least.
        most: Measurements at most.
        width: Half width of the interval, as a share of the mean, that is narrow enough.
        seconds: Measure again and again for so long; 0 for `least` and `most` alone.
        limit_seconds: Time limit of one measurement.
        estimate_seconds: What one takes when requests just keep the recipe's objectives.
    """

    key: str
    scenario: str
    number: int
    load: Load
    slo: Slo
    least: int
    most: int
    width: float
    seconds: int
    limit_seconds: int
    estimate_seconds: float


def points(plan: Plan, scenario: Scenario, *, tool: str = "manyhost", where: str = "") -> tuple[Point, ...]:
    """Return the points of a scenario for a plan, in the order in which they are measured.

    Args:
        plan: What is measured.
        scenario: The load.
        tool: What sends it.
        where: How errors call the scenario.

    Raises:
        InvalidInput: A request is longer than the context, or a measurement longer than its time limit.
    """
    where = where or f"scenario {scenario.name}"
    traffic, context = plan.settings.traffic, plan.settings.context
    size = _tokens(scenario.input, traffic.input_tokens, context)
    answer = _tokens(scenario.output, traffic.output_tokens, context)
    longest = math.ceil(size * (1 + scenario.spread)) + math.ceil(answer * (1 + scenario.spread))
    if longest > context:
        raise InvalidInput(
            f"a request of {longest} tokens is longer than the recipe's context of {context}",
            where=f"{where}: input and output",
            fix=f"set smaller ones in benchmark.yaml, or --set context={longest}",
        )
    slo = Slo(
        ttft_ms=scenario.slo.ttft_ms or plan.settings.objectives.ttft_ms,
        tpot_ms=scenario.slo.tpot_ms or plan.settings.objectives.tpot_ms,
        e2e_ms=scenario.slo.e2e_ms,
    )
    pairs = [(streams, 0.0) for streams in scenario.concurrency] or [(0, rate) for rate in scenario.rates]
    found = []
    for number, (streams, rate) in enumerate(pairs):
        count = max(scenario.requests, streams * scenario.requests_per_stream)
        prefix = scenario.prefix
        if prefix:  # the runner sends the same number for each
            count = math.ceil(count / prefix.count) * prefix.count
        if count > REQUESTS:
            raise InvalidInput(
                f"{count} requests are more than one measurement can report ({REQUESTS})",
                where=f"{where}: requests_per_stream",
                fix="set fewer, and seconds to go on for longer",
            )
        load = Load(
            input_tokens=size,
            output_tokens=answer,
            spread=scenario.spread,
            ignore_eos=scenario.ignore_eos,
            requests=count,
            concurrency=streams,
            rate=rate,
            prefix_count=prefix.count if prefix else 0,
            prefix_tokens=math.floor(size * prefix.share) if prefix else 0,
        )
        estimate = _estimate_seconds(load, slo, _seats(plan))
        if estimate > scenario.limit_seconds:
            raise InvalidInput(
                f"{count} requests that just keep the objectives take {estimate / 60:.0f} minutes, and the "
                f"limit of a measurement is {scenario.limit_seconds / 60:.0f}",
                where=f"{where}: limit_seconds",
                fix=f"raise it to {math.ceil(estimate * 1.5)} in benchmark.yaml, or send fewer requests",
            )
        found.append(
            Point(
                key=_key(plan, load, slo, tool),
                scenario=scenario.name,
                number=number,
                load=load,
                slo=slo,
                least=scenario.repetitions.least,
                most=scenario.repetitions.most,
                width=scenario.repetitions.width,
                seconds=scenario.seconds,
                limit_seconds=scenario.limit_seconds,
                estimate_seconds=round(estimate, 1),
            )
        )
    return tuple(found)


def check_engine(plan: Plan) -> None:
    """Refuse an engine of which the gate could not tell whether a number is right.

    Raises:
        InvalidInput: It is not vLLM, whose version, cache and counters of requests and tokens the gate reads.
    """
    if plan.engine.name != "vllm":
        raise InvalidInput(
            f"what proves a number is read from vLLM's counters, and {plan.engine} has others",
            where=f"{plan.origin('engine.name')}: engine.name",
            fix="measure it by hand with sglang.bench_serving: nothing then proves that answers were right",
        )


def check_capacity(plan: Plan, found: tuple[Point, ...], now: float) -> None:
    """Refuse a run that would outlive the hosts.

    Args:
        plan: Says when the hosts go (capacity.ends).
        found: The points.
        now: The time, seconds since the epoch.

    Raises:
        NotReady: They go before the last point is done, at the latest.
    """
    end = capacity.ends(plan.settings.capacity)
    needed = sum(max(point.estimate_seconds * point.least, point.seconds) for point in found)
    if end is not None and needed > end - now:
        raise NotReady(
            f"the hosts go in {max(0.0, end - now) / 60:.0f} minutes, and this needs {needed / 60:.0f}",
            where=f"{plan.origin('capacity.ends')}: capacity.ends",
            fix="measure less with --scenario, or extend the capacity and set capacity.ends",
        )


def warnings(plan: Plan, found: tuple[Point, ...]) -> list[str]:
    """Return what may surprise of some points; one sentence each."""
    seats = _seats(plan)
    above = [p.load.concurrency for p in found if seats and (p.load.concurrency or p.load.requests) > seats]
    if above and not any(point.load.rate for point in found):
        most = max(point.load.concurrency or point.load.requests for point in found)
        return [
            f"{most} requests in flight are more than the {seats} that the groups run at once: "
            "the others wait, and TTFT is the time of the queue"
        ]
    return []


def _tokens(length: Length, traffic: int, context: int) -> int:
    return length.tokens or math.floor(length.share * context) or traffic


def _seats(plan: Plan) -> int:
    """Requests that all groups run at once; 0 where the engine decides."""
    return arguments.seats(plan.main.arguments, plan.engine.flag_names) * plan.main.groups


def _estimate_seconds(load: Load, slo: Slo, seats: int) -> float:
    """Seconds of a measurement whose requests just keep the objectives."""
    if load.rate:
        return load.requests / load.rate
    one = (slo.ttft_ms + slo.tpot_ms * load.output_tokens) / 1000
    together = min(value for value in (load.concurrency or load.requests, seats or load.requests) if value)
    return one if load.requests <= together else one * load.requests / together


def _key(plan: Plan, load: Load, slo: Slo, tool: str) -> str:
    document: dict[str, Any] = msgspec.json.decode(table.to_json(plan))
    document = {name: value for name, value in document.items() if name not in _NO_MATTER}
    document["settings"] = {
        name: value for name, value in document["settings"].items() if name not in _SETTINGS
    }
    document |= {"load": load, "slo": slo, "tool": tool, "client": VERSION}
    return hashlib.sha256(msgspec.json.encode(document, order="sorted")).hexdigest()[:16]
