"""What a service does, from two readings of its engines' counters: pure.

The names are those of vLLM (charts/observability reads the same).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

_LINE = re.compile(r"^(vllm:\w+)(?:\{.*\})? (\S+)$", re.M)
_USAGE = "vllm:kv_cache_usage_perc"
_SUMS = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "output_tokens",
    "vllm:num_preemptions_total": "preemptions",
    "vllm:request_success_total": "finished",
    "vllm:time_to_first_token_seconds_sum": "ttft_seconds",
    "vllm:time_to_first_token_seconds_count": "first_tokens",
    "vllm:inter_token_latency_seconds_sum": "gap_seconds",
}
_GAUGES = ("running", "waiting", "kv_usage")
_NEEDED = {*_GAUGES, "prompt_tokens", "output_tokens"}


class Reading(msgspec.Struct, frozen=True):
    """One group at one moment.

    Attributes:
        pod: Its leader.
        role: prefill, decode, or empty where groups do both.
        at: A steady clock, seconds.
        counts: Its counters by our names, all its engines together; empty when it did not say.
    """

    pod: str
    role: str
    at: float
    counts: dict[str, float]


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a group, or a release, does. None is unknown, or had no cause: no first token, no time to it.

    Attributes:
        pod: The leader; empty of a release.
        role: prefill, decode, or empty.
        running: Requests that run.
        waiting: Requests that wait.
        kv_usage: Share of the KV cache in use, of the fullest engine.
        prompt_token_rate: Prompt tokens a second.
        output_token_rate: Output tokens a second.
        ttft_ms: Mean time to first token of those that came in this window.
        tpot_ms: Mean time for each other token of this window.
        preemptions: In this window.
        finished: Requests in this window.
    """

    pod: str
    role: str
    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    prompt_token_rate: float | None = None
    output_token_rate: float | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    preemptions: float | None = None
    finished: float | None = None


def counts(text: str) -> dict[str, float]:
    """Return the counters of one scrape (Prometheus text format); none when it has no tokens and requests."""
    found: dict[str, float] = {}
    for name, value in _LINE.findall(text):
        if name == _USAGE:
            found["kv_usage"] = max(found.get("kv_usage", 0.0), float(value))
        elif name in _SUMS:
            found[_SUMS[name]] = found.get(_SUMS[name], 0.0) + float(value)
    return found if found.keys() >= _NEEDED else {}


def figures(before: Sequence[Reading], after: Sequence[Reading]) -> tuple[tuple[Figures, ...], Figures]:
    """Return what each group of the second reading has done since the first, and all of them together.

    The release does what the groups do that answer clients: prefill groups count each request once more.
    Rates of a group that is new, silent, or was started anew in between are unknown, and not in the sum.
    """
    first = {reading.pod: reading for reading in before}
    rows, moved = list[Figures](), list[_Window]()
    for reading in after:
        window = _window(first.get(reading.pod), reading)
        rows.append(_figures(reading.pod, reading.role, [reading], [window] if window else []))
        if window and reading.role != "prefill":
            moved.append(window)
    serving = [reading for reading in after if reading.role != "prefill"]
    return tuple(rows), _figures("", "", serving, moved)


def usd_per_million(usd_per_hour: float | None, rate: float | None) -> float | None:
    """Return USD per million tokens at a rate of tokens a second; None without a price or without tokens."""
    return None if usd_per_hour is None or not rate else usd_per_hour / 3600 / rate * 1e6


class _Window(NamedTuple):
    """What a group has counted in some seconds."""

    seconds: float
    grown: dict[str, float]


def _window(before: Reading | None, after: Reading) -> _Window | None:
    """Return what has been counted between two readings, None when nobody knows."""
    if not before or not before.counts or not after.counts or after.at <= before.at:
        return None
    grown = {
        name: number - before.counts[name]
        for name, number in after.counts.items()
        if name in before.counts and name not in _GAUGES
    }
    return None if min(grown.values()) < 0 else _Window(after.at - before.at, grown)


def _figures(pod: str, role: str, readings: Sequence[Reading], windows: Sequence[_Window]) -> Figures:
    now = [reading.counts for reading in readings if reading.counts]
    firsts, written = _sum(windows, "first_tokens"), _sum(windows, "output_tokens")
    others = None if firsts is None or written is None else written - firsts
    return Figures(
        pod=pod,
        role=role,
        running=sum(each["running"] for each in now) if now else None,
        waiting=sum(each["waiting"] for each in now) if now else None,
        kv_usage=max((each["kv_usage"] for each in now), default=None),
        prompt_token_rate=_rate(windows, "prompt_tokens"),
        output_token_rate=_rate(windows, "output_tokens"),
        ttft_ms=_mean_ms(_sum(windows, "ttft_seconds"), firsts),
        tpot_ms=_mean_ms(_sum(windows, "gap_seconds"), others),
        preemptions=_sum(windows, "preemptions"),
        finished=_sum(windows, "finished"),
    )


def _sum(windows: Sequence[_Window], name: str) -> float | None:
    found = [window.grown[name] for window in windows if name in window.grown]
    return sum(found) if found else None


def _rate(windows: Sequence[_Window], name: str) -> float | None:
    return sum(window.grown[name] / window.seconds for window in windows) if windows else None


def _mean_ms(seconds: float | None, number: float | None) -> float | None:
    return None if seconds is None or not number or number < 0 else seconds / number * 1000
