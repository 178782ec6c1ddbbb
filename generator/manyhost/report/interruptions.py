"""What broke the service while a load ran, from the engines' own counters: pure.

It is told of withheld measurements too: it is why they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import msgspec

from manyhost.benchmark.result import Measurement
from manyhost.report.runs import Point

_SILENT_SECONDS = 10.0  # the launcher notices a lost host within this time; a sample comes every second
_SAMPLES = 5  # of the usual distance: a long run is sampled less often


class Interruption(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to the service under load.

    Attributes:
        point: The point.
        repetition: The measurement.
        kind: restart, stall (requests ran and nothing moved), silence (the counters could not be read).
        at: Seconds from the first request on.
        seconds: How long it took; 0 for a restart.
    """

    point: int
    repetition: int
    kind: Literal["restart", "stall", "silence"]
    at: float
    seconds: float

    @property
    def sentence(self) -> str:
        """Return it for people."""
        where = f"point {self.point}, measurement {self.repetition}, after {self.at:.0f} s of load"
        what = {
            "restart": "the engine's counters began anew: it was started again, as after the loss of a host",
            "stall": f"requests ran, and for {self.seconds:.0f} s neither tokens nor KV cache use moved",
            "silence": f"for {self.seconds:.0f} s the engine's counters could not be read",
        }
        return f"{where[:1].upper()}{where[1:]}: {what[self.kind]}."


def interruptions(points: Sequence[Point]) -> list[Interruption]:
    """Return what happened, in its order."""
    return [
        Interruption(point=each.point, repetition=each.repetition, kind=kind, at=at, seconds=seconds)
        for point in points
        for each in point.measured
        for at, kind, seconds in sorted([*_restarts(each), *_silences(each), *_stalls(each)])
    ]


_Found = Iterator[tuple[float, Literal["restart", "stall", "silence"], float]]


def _restarts(measured: Measurement) -> _Found:
    series, before, after = measured.server.series, measured.server.before, measured.server.after
    tokens = series.generation_tokens
    seen = [at for at, (less, more) in zip(series.seconds[1:], pairwise(tokens), strict=True) if more < less]
    if not seen and before and after and after.generation_tokens < before.generation_tokens:
        seen = series.seconds[-1:] or [0.0]  # after the last look
    for at in seen:
        yield at, "restart", 0.0


def _silences(measured: Measurement) -> _Found:
    at = measured.server.series.seconds
    gaps = [after - before for before, after in pairwise(at)]
    usual = sorted(gaps)[len(gaps) // 2] if gaps else 0.0
    for begin, gap in zip(at, gaps, strict=False):
        if gap >= max(_SILENT_SECONDS, _SAMPLES * usual):
            yield begin, "silence", gap


def _stalls(measured: Measurement) -> _Found:
    series = measured.server.series
    state = list(zip(series.generation_tokens, series.prompt_tokens, series.kv_usage, strict=True))
    begin = 0
    for place in range(1, len(state) + 1):
        same = place < len(state) and state[place] == state[begin] and series.running[place] > 0
        if same:
            continue
        took = series.seconds[place - 1] - series.seconds[begin]
        if took >= _SILENT_SECONDS and series.running[begin] > 0:
            yield series.seconds[begin], "stall", took
        begin = place
