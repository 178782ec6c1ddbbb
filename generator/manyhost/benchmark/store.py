"""Results in a folder: a run is a folder, each measurement is there whole or not at all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

import msgspec

from manyhost.benchmark.llmd_report import llmd_report
from manyhost.benchmark.result import Deployment, Measurement, Run
from manyhost.errors import InvalidInput
from manyhost.output import write_files

_FILE = re.compile(r"(\d+)-(\d+)\.json")
RUN = "run.json"
AGAIN = "take the file as it was written, or measure again into another folder (bench --to)"
T = TypeVar("T")


def save(folder: Path, measured: Measurement, deployment: Deployment) -> None:
    """Write one measurement with its report for other tools.

    Raises:
        Failed: The folder cannot be written.
    """
    name = f"{measured.point}-{measured.repetition}"
    report = llmd_report(measured, deployment, folder.name)
    # The report first: a measurement that is there has its report.
    write_files(
        folder, {f"{name}.report.json": _json(report), f"{name}.json": msgspec.json.encode(measured) + b"\n"}
    )


def save_run(folder: Path, run: Run) -> None:
    """Write run.json anew."""
    write_files(folder, {RUN: _json(run)})


def measurements(folder: Path) -> list[Measurement]:
    """Return the measurements of a run, in order; none when there is no such folder.

    Raises:
        InvalidInput: A file is none of ours, or of another version.
    """
    if not folder.is_dir():
        return []
    names = sorted(
        (int(match[1]), int(match[2]), path.name)
        for path in folder.iterdir()
        if (match := _FILE.fullmatch(path.name))
    )
    return [_read(folder / name, Measurement) for _, _, name in names]


def read_run(folder: Path) -> Run:
    """Return what run.json says.

    Raises:
        InvalidInput: There is none, or it is of another version.
    """
    return _read(folder / RUN, Run)


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidInput("there is no result", where=str(path)) from None
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", where=str(path)) from None
    except msgspec.DecodeError as error:
        raise InvalidInput(f"is no result of this version: {error}", where=str(path), fix=AGAIN) from None


def _json(document: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"
