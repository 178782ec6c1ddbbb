"""Whether two sets of repetitions differ by more than chance (Welch's t-test): pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from manyhost.benchmark.intervals import student, variance


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How a mean differs from another one, as shares of the first.

    Attributes:
        share: Of the means: 0.1 is a tenth more.
        low: Lower end of the 95 % interval; null when one of them was measured once.
        high: Upper end; null likewise.
    """

    share: float
    low: float | None
    high: float | None

    @property
    def shown(self) -> bool:
        """Whether the interval leaves no room for equality."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def difference(before: Sequence[float], after: Sequence[float]) -> Difference | None:
    """Return by how much `after` differs from `before`; None when there is nothing to divide by.

    Degrees of freedom by Welch and Satterthwaite (NIST/SEMATECH e-Handbook, 1.3.5.3), rounded down.

    Raises:
        ValueError: One of them is empty.
    """
    if not before or not after:
        raise ValueError("no values")
    first, second = math.fsum(before) / len(before), math.fsum(after) / len(after)
    if not first:
        return None
    share = (second - first) / first
    if min(len(before), len(after)) < 2:
        return Difference(share=share, low=None, high=None)
    parts = [variance(before, first) / len(before), variance(after, second) / len(after)]
    error = math.sqrt(sum(parts))
    half = 0.0
    if error:
        weight = parts[0] ** 2 / (len(before) - 1) + parts[1] ** 2 / (len(after) - 1)
        freedom = max(1, math.floor(sum(parts) ** 2 / weight))
        half = student(freedom) * error / abs(first)
    return Difference(share=share, low=share - half, high=share + half)
