"""Results from their folders: read, verified, and every summary made anew from the measurements."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from manyhost.benchmark import store
from manyhost.benchmark.archive import local
from manyhost.benchmark.evidence import Requests
from manyhost.benchmark.measurement import summary
from manyhost.benchmark.result import Load, Measurement, Run
from manyhost.errors import InvalidInput
from manyhost.report.runs import Point, Results
from manyhost.report.verify import problem

_SLICES = 60  # of a measurement


class _Which(msgspec.Struct, frozen=True):
    key: str
    number: int
    load: Load


def read(folder: Path, name: str = "") -> Results:
    """Read a run.

    Args:
        folder: Where it is.
        name: What the user calls it; the folder's path by default.

    Raises:
        InvalidInput: There is none, or a file of it is not what a measurement has written.
    """
    run = store.read_run(folder)
    by_number: dict[int, list[Measurement]] = {}
    paces: dict[int, list[tuple[float, float]]] = {}
    for measured in store.measurements(folder):
        if text := problem(measured):
            raise InvalidInput(
                f"is not as it was measured: {text}",
                where=str(folder / f"{measured.point}-{measured.repetition}.json"),
                fix=store.AGAIN,
            )
        if measured.metrics:
            paces[measured.point] = pace(measured.requests)
        by_number.setdefault(measured.point, []).append(
            msgspec.structs.replace(measured, requests=Requests())
        )
    return Results(folder=name or str(folder), run=run, points=list(_points(run, by_number, paces, folder)))


def read_all(runs: Sequence[str]) -> list[Results]:
    """Read runs by what the user calls them: folders, and gs://BUCKET/FOLDER/RUN.

    Raises:
        InvalidInput: There is none, or a file of it is not what a measurement has written.
        RemoteError: A bucket cannot be read.
    """
    with local(runs) as folders:
        return [read(folder, name) for folder, name in zip(folders, runs, strict=True)]


def pace(requests: Requests) -> list[tuple[float, float]]:
    """Return the median TPOT over time; see Point."""
    longest = max(
        (start + took for start, took in zip(requests.start_us, requests.e2e_us, strict=True)), default=0
    )
    slices: list[list[float]] = [[] for _ in range(_SLICES)]
    columns = (requests.start_us, requests.ttft_us, requests.e2e_us, requests.output, requests.ok)
    for start, ttft, whole, tokens, ok in zip(*columns, strict=True):
        if ok and tokens > 1:
            slices[(start + whole) * _SLICES // (longest + 1)].append((whole - ttft) / (tokens - 1))
    width = longest / _SLICES / 1e6
    return [
        (width * (number + 0.5), statistics.median(found) / 1000)
        for number, found in enumerate(slices)
        if found
    ]


def _points(
    run: Run,
    by_number: dict[int, list[Measurement]],
    paces: dict[int, list[tuple[float, float]]],
    folder: Path,
) -> Iterator[Point]:
    told = {each.point: each for each in run.points}
    for number in sorted({*told, *by_number}):
        measured = by_number.get(number, [])
        known = told.get(number)
        key = known.key if known else measured[0].key
        if any(each.key != key for each in measured):
            raise InvalidInput(
                f"has measurements of something else at point {number}",
                where=str(folder),
                fix=store.AGAIN,
            )
        load = known.load if known else measured[0].load
        skipped = bool(known and known.skipped and not measured)
        yield Point(
            summary=summary(_Which(key, number, load), measured, skipped=skipped),
            measured=measured,
            pace=paces.get(number, []),
        )
