"""Statistics of times, by the definitions of vLLM's own benchmark (numpy's: linear interpolation)."""

from __future__ import annotations

import math
from collections.abc import Sequence

PERCENTILES = (0.1, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return a percentile of sorted values."""
    place = (len(ordered) - 1) * share / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def statistics(values: Sequence[float], scale: float = 1.0) -> dict[str, float] | None:
    """Return count, mean, stddev, min, max and percentiles (p50, p99p9, ...); None of no values.

    Args:
        values: In any order.
        scale: Each value is multiplied by it: 1000 makes milliseconds of seconds.
    """
    if not values:
        return None
    ordered = sorted(value * scale for value in values)
    mean = math.fsum(ordered) / len(ordered)
    variance = math.fsum((value - mean) ** 2 for value in ordered) / len(ordered)
    found = {
        "count": float(len(ordered)),
        "mean": mean,
        "stddev": math.sqrt(variance),
        "min": ordered[0],
        "max": ordered[-1],
    }
    for share in PERCENTILES:
        found[f"p{share}".replace(".", "p")] = percentile(ordered, share)
    return found


def peaks(starts: Sequence[float], ends: Sequence[float], tokens: Sequence[float]) -> tuple[float, float]:
    """Return the most tokens in one second and the most requests in flight at one moment.

    Args:
        starts: When requests began, seconds.
        ends: When they ended.
        tokens: When chunks with tokens came.
    """
    if not starts:
        return 0.0, 0.0
    begin = min(starts)
    seconds: dict[int, int] = {}
    for at in tokens:
        second = int(at - begin)
        seconds[second] = seconds.get(second, 0) + 1
    events = sorted([(at, 1) for at in starts] + [(at, -1) for at in ends])
    running = most = 0
    for _, change in events:
        running += change
        most = max(most, running)
    return float(max(seconds.values(), default=0)), float(most)
