"""Results from their folders: read, verified, and every summary made anew from the measurements."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from manyhost.benchmark import store
from manyhost.benchmark.evidence import Requests
from manyhost.benchmark.measurement import summary
from manyhost.benchmark.result import Load, Measurement, Run
from manyhost.errors import InvalidInput
from manyhost.report.runs import Point, Results
from manyhost.report.verify import problem


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
    for measured in store.measurements(folder):
        if text := problem(measured):
            raise InvalidInput(
                f"is not as it was measured: {text}",
                where=str(folder / f"{measured.point}-{measured.repetition}.json"),
                fix="take the file as it was written, or measure again into another folder: --to",
            )
        by_number.setdefault(measured.point, []).append(
            msgspec.structs.replace(measured, requests=Requests())
        )
    return Results(folder=name or str(folder), run=run, points=list(_points(run, by_number, folder)))


def _points(run: Run, by_number: dict[int, list[Measurement]], folder: Path) -> Iterator[Point]:
    told = {each.point: each for each in run.points}
    for number in sorted({*told, *by_number}):
        measured = by_number.get(number, [])
        known = told.get(number)
        key = known.key if known else measured[0].key
        if any(each.key != key for each in measured):
            raise InvalidInput(
                f"has measurements of something else at point {number}",
                where=str(folder),
                fix="measure again into another folder: --to",
            )
        load = known.load if known else measured[0].load
        skipped = bool(known and known.skipped and not measured)
        yield Point(summary=summary(_Which(key, number, load), measured, skipped=skipped), measured=measured)
