"""Means of repetitions with their 95 % intervals (Student's t)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from manyhost.benchmark.result import Interval

# 97.5th percentile of Student's t by degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.2).
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_T_LARGE = 1.96


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of some repetitions and its 95 % interval; with one there is no interval.

    Raises:
        ValueError: There are none.
    """
    if not values:
        raise ValueError("no values")
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean=mean, low=None, high=None)
    half = student(count - 1) * math.sqrt(variance(values, mean) / count)
    return Interval(mean=mean, low=mean - half, high=mean + half)


def variance(values: Sequence[float], mean: float) -> float:
    """Return the variance of what two or more values are a sample of."""
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def student(freedom: int) -> float:
    """Return how many standard errors a 95 % interval has on each side, by degrees of freedom from 1 on."""
    return _T[freedom - 1] if freedom <= len(_T) else _T_LARGE


def narrow(found: Interval, width: float) -> bool:
    """Whether half of an interval is at most this share of its mean."""
    return found.high is not None and found.high - found.mean <= width * abs(found.mean)
