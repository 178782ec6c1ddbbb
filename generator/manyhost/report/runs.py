"""Runs as reports and comparisons take them."""

from __future__ import annotations

import msgspec

from manyhost.benchmark.result import Measurement, PointSummary, Run


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """A point with its measurements.

    Attributes:
        summary: Of them, made anew.
        measured: Without each single request.
        pace: Of the last one whose numbers count: the middle of each slice of it in seconds, and the median
            TPOT in milliseconds of the requests that ended in it.
    """

    summary: PointSummary
    measured: list[Measurement]
    pace: list[tuple[float, float]]

    @property
    def passed(self) -> list[Measurement]:
        """Those whose numbers the gate has let through."""
        return [each for each in self.measured if each.metrics]


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """What a run's folder holds.

    Attributes:
        folder: Where it is, as the user has named it.
        run: What run.json says; its summaries are not used.
        points: In the order in which they were measured.
    """

    folder: str
    run: Run
    points: list[Point]
