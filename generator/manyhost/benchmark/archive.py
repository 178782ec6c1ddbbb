"""Runs in a bucket: each is a folder of its own, beside index.json, which says what there is, and index.html.

What is there is never written over, so of two machines that measure the same one is told. Readers of the
index see all of it or the one before: it is replaced under a precondition on what was read.
"""

from __future__ import annotations

import contextlib
import html
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from manyhost.benchmark import store
from manyhost.benchmark.result import Run
from manyhost.errors import Failed, InvalidInput
from manyhost.output import write_files
from manyhost.weights.bucket import parse
from manyhost.weights.store import Store, open_store

INDEX, PAGE = "index.json", "index.html"
_SECONDS = 60.0
_TRIES = 20  # of others who write the index at the same moment
_JSON = "application/json"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A run as lists show it.

    Attributes:
        id: Its folder's name.
        recipe: What was measured.
        scenario: With which load.
        started: ISO 8601, UTC.
        updated: ISO 8601, UTC.
        complete: Whether nothing is left to measure.
        points: How many points have numbers.
        output_tokens_per_second: At the point of most throughput; None without numbers.
    """

    id: str
    recipe: str
    scenario: str
    started: str
    updated: str
    complete: bool
    points: int
    output_tokens_per_second: float | None


class Written(NamedTuple):
    """An object and its generation; 0 when there is none."""

    data: bytes
    generation: int


def entry(run: Run) -> Entry:
    """Return what lists show of a run."""
    rates = [rate.mean for point in run.points if (rate := point.metrics.get("output_token_rate"))]
    return Entry(
        id=run.id,
        recipe=run.deployment.recipe,
        scenario=run.scenario,
        started=run.started,
        updated=run.updated,
        complete=run.complete,
        points=len(rates),
        output_tokens_per_second=max(rates, default=None),
    )


def listed(folder: Path) -> list[Entry]:
    """Return the runs of a folder, the newest first.

    Raises:
        InvalidInput: A run is of another version.
    """
    folders = [path.parent for path in folder.glob(f"*/{store.RUN}")]  # one may have been copied, or renamed
    return _sorted(msgspec.structs.replace(entry(store.read_run(run)), id=run.name) for run in folders)


def is_bucket(place: str) -> bool:
    """Whether runs are kept in a bucket."""
    return place.startswith("gs://")


class Archive:
    """Runs below gs://BUCKET/FOLDER.

    Args:
        storage: The client.
        address: gs://BUCKET/FOLDER.

    Raises:
        InvalidInput: It is no such address.
    """

    def __init__(self, storage: Store, address: str) -> None:
        self._name, self._prefix = parse(address)
        self.where = f"gs://{self._name}/{self._prefix}".rstrip("/")
        self._store = storage
        self._bucket = storage.client.bucket(self._name)
        self._sent: set[str] = set()

    def fetch(self, run: str, folder: Path) -> None:
        """Write the files of a run that a folder lacks, run.json last: with it the folder is a run.

        Raises:
            NotReady: No credentials, or they do not allow it.
            RemoteError: Missing bucket, no connection, or any other failure.
        """
        names = self._names(run)
        for name in sorted(names, key=lambda name: (name == store.RUN, name)):
            self._sent.add(f"{run}/{name}")
            if not (folder / name).exists() or name == store.RUN:
                write_files(folder, {name: self._read(f"{run}/{name}").data})

    def keep(self, folder: Path, run: Run) -> None:
        """Send what the bucket lacks of a run, and tell the index.

        Raises:
            Failed: Another machine has measured the same in the meantime.
            NotReady: No credentials, or they do not allow it.
            RemoteError: Missing bucket, no connection, or any other failure.
        """
        for path in sorted(folder.glob("*.json")):
            name = f"{run.id}/{path.name}"
            if path.name == store.RUN or name in self._sent:
                continue
            data = path.read_bytes()
            if not self._write(name, data, 0) and self._read(name).data != data:
                raise Failed(
                    "somebody else has measured it in the meantime",
                    where=f"{self.where}/{name}",
                    fix=f"remove {path}, and the same command goes on with theirs",
                )
            self._sent.add(name)
        self._replace(f"{run.id}/{store.RUN}", lambda _: (folder / store.RUN).read_bytes())
        told = entry(run)
        self._replace(INDEX, lambda old: _index([told, *(e for e in _entries(old) if e.id != told.id)]))
        # Whoever writes the index last writes the page of it.
        while True:
            index = self._read(INDEX)
            self._replace(PAGE, lambda _, found=index: page(_entries(found.data)), kind="text/html")
            if self._read(INDEX).generation == index.generation:
                return

    def runs(self) -> list[Entry]:
        """Return what the index says, the newest first.

        Raises:
            InvalidInput: It is of another version.
            NotReady: No credentials, or they do not allow it.
            RemoteError: Missing bucket, no connection, or any other failure.
        """
        try:
            return _sorted(_entries(self._read(INDEX).data))
        except msgspec.DecodeError as error:
            raise InvalidInput(f"is no index of runs: {error}", where=f"{self.where}/{INDEX}") from None

    def _names(self, run: str) -> list[str]:
        prefix = self._path(f"{run}/")

        def look() -> list[str]:
            found = self._store.client.list_blobs(self._name, prefix=prefix, timeout=_SECONDS)
            return [blob.name[len(prefix) :] for blob in found]

        return self._store.call(look, f"gs://{self._name}")

    def _path(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _read(self, name: str) -> Written:
        from google.api_core.exceptions import NotFound  # noqa: PLC0415  the client takes half a second

        blob = self._bucket.blob(self._path(name))

        def read() -> Written:
            try:
                data = blob.download_as_bytes(timeout=_SECONDS)
            except NotFound:
                return Written(b"", 0)
            return Written(data, int(blob.generation or 0))

        found = self._store.call(read, f"gs://{self._name}")
        if not found.generation:  # no such object, or no such bucket: only the first is fine
            self._store.call(lambda: self._bucket.reload(timeout=_SECONDS), f"gs://{self._name}")
        return found

    def _write(self, name: str, data: bytes, generation: int, kind: str = _JSON) -> bool:
        """Write an object if it is still the one that was read; whether it was."""
        from google.api_core.exceptions import PreconditionFailed  # noqa: PLC0415  as above

        def write() -> bool:
            try:
                self._bucket.blob(self._path(name)).upload_from_string(
                    data, content_type=kind, if_generation_match=generation, timeout=_SECONDS
                )
            except PreconditionFailed:
                return False
            return True

        return self._store.call(write, f"gs://{self._name}")

    def _replace(self, name: str, change: Any, kind: str = _JSON) -> None:
        """Replace an object by what `change` makes of it, as often as others are faster."""
        for attempt in range(_TRIES):
            old = self._read(name)
            new = change(old.data)
            if new == old.data or self._write(name, new, old.generation, kind):
                return
            time.sleep(random.uniform(0, 0.1 * (attempt + 1)))  # noqa: S311  no secret
        raise Failed(
            "others write it all the time", where=f"{self.where}/{name}", fix="the same command tries again"
        )


@contextlib.contextmanager
def local(runs: Sequence[str]) -> Iterator[list[Path]]:
    """Give runs as folders: those of a bucket are fetched, and gone afterwards.

    Args:
        runs: Folders and gs://BUCKET/FOLDER/RUN.

    Raises:
        InvalidInput: There is no such run in the bucket.
    """
    with tempfile.TemporaryDirectory() as name:
        found = []
        for number, run in enumerate(runs):
            if not is_bucket(run):
                found.append(Path(run))
                continue
            place, _, own = run.rstrip("/").rpartition("/")
            folder = Path(name, str(number), own)
            Archive(open_store(), place).fetch(own, folder)
            if not folder.exists():
                raise InvalidInput("there is no result", where=run)
            found.append(folder)
        yield found


def page(entries: Sequence[Entry]) -> bytes:
    """Return a page that lists runs; it loads nothing and runs nothing."""
    rows = "".join(
        f'<tr><td><a href="{html.escape(one.id)}/{store.RUN}">{html.escape(one.id)}</a></td>'
        f"<td>{html.escape(one.recipe)}</td><td>{html.escape(one.scenario)}</td><td>{one.updated}</td>"
        f"<td>{'' if one.complete else 'not '}complete</td><td>{rate(one)}</td></tr>\n"
        for one in _sorted(entries)
    )
    head = "<th>Run</th><th>Recipe</th><th>Scenario</th><th>Measured</th><th></th><th>Output tokens/s</th>"
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Runs</title>\n'
        "<style>:root{color-scheme:light dark}body{font:16px system-ui;margin:2em}"
        "td,th{padding:.2em 1em .2em 0;text-align:left}</style>\n"
        f"<h1>Runs</h1>\n<table><tr>{head}</tr>\n{rows}</table></html>\n"
    ).encode()


def rate(one: Entry) -> str:
    """Return a run's most throughput for people."""
    found = one.output_tokens_per_second
    return "withheld" if found is None else f"{found:,.1f}"


def _entries(data: bytes) -> list[Entry]:
    return msgspec.json.decode(data, type=list[Entry]) if data else []


def _index(entries: Sequence[Entry]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(_sorted(entries)), indent=1) + b"\n"


def _sorted(entries: Any) -> list[Entry]:
    return sorted(entries, key=lambda one: (one.updated, one.id), reverse=True)
