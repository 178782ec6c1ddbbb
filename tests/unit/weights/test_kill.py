"""Staging that is killed: at no point a wrong file or an early manifest, and the next run goes on.

10 kills a target by default; MANYHOST_KILLS says how many (make kill-stage: 100).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from manyhost.weights import manifest
from manyhost.weights.bucket import Bucket

from testbed import hub
from tests.helpers.volume import FOLDER, VOLUME
from tests.unit.weights.conftest import MODEL, contents, served
from tests.unit.weights.test_volume import endpoint

KILLS = int(os.environ.get("MANYHOST_KILLS", "10"))
SEED = int(os.environ.get("MANYHOST_SEED", str(random.randrange(10**6))))


class Stager:
    """Processes that stage, one at a time."""

    def __init__(self, server: hub.Hub, target: str) -> None:
        self.server = server
        self.line = json.dumps({"hub": server.url, "target": target}) + "\n"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.stager"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, kill_at: int | None, pause: float = 0) -> int:
        """Stages, or is killed a pause after so many bytes were sent; returns the wait status."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(self.line)
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        before = self.server.sent
        if kill_at is not None:
            while self.server.sent - before < kill_at and _runs(child):
                time.sleep(0.001)
            time.sleep(pause)
            with contextlib.suppress(ProcessLookupError):  # it was sooner
                os.kill(child, signal.SIGKILL)
        return int(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def _runs(child: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, 0)
        return True
    return False


@pytest.fixture
def big(server: hub.Hub, folder: Path) -> dict[str, bytes]:
    """A model of 30 MB that the hub has now; returns its files."""
    shutil.rmtree(folder)
    hub.write_model(folder, shards=5, shard_bytes=6_000_000)
    server.add(MODEL, folder)
    return served(folder)


def hold(
    stager: Stager, look: Callable[[], dict[str, bytes]], clear: Callable[[], None], right: dict[str, bytes]
) -> None:
    """Kills runs at random points and looks after each."""
    chance = random.Random(SEED)
    size = sum(map(len, right.values()))
    unfinished = began = 0
    for _ in range(KILLS):
        stager.run(chance.randrange(size), chance.choice([0, chance.uniform(0, 0.2)]))
        found = look()
        text = found.pop(manifest.NAME, None)
        half = {name: data for name, data in found.items() if name.startswith(manifest.STAGING)}
        files = {name: data for name, data in found.items() if name not in half}
        assert files.items() <= right.items(), f"a wrong file (seed {SEED})"
        if text is None:
            unfinished += 1
            began += bool(half)
            continue
        assert files == right, f"an early manifest (seed {SEED})"
        clear()
    assert unfinished, f"no kill hit the middle (seed {SEED})"
    assert stager.run(None) == 0
    found = look()
    assert found.pop(manifest.NAME)
    assert found == right
    print(f"seed {SEED}: {KILLS} kills, {unfinished} left a run unfinished, {began} of them with a mark")


@pytest.fixture
def stagers(server: hub.Hub) -> Iterator[Callable[[str], Stager]]:
    made: list[Stager] = []

    def make(target: str) -> Stager:
        made.append(Stager(server, target))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.timeout(1200)
def test_a_folder(stagers: Callable[[str], Stager], big: dict[str, bytes], tmp_path: Path) -> None:
    target = tmp_path / "out"
    hold(stagers(str(target)), lambda: contents(target), lambda: shutil.rmtree(target), big)


@pytest.mark.timeout(1200)
def test_a_bucket(stagers: Callable[[str], Stager], big: dict[str, bytes], bucket: Bucket) -> None:
    name, _, prefix = bucket.where.removeprefix("gs://").partition("/")
    client = bucket._store.client

    def look() -> dict[str, bytes]:
        blobs = client.list_blobs(name, prefix=f"{prefix}/")
        return {blob.name.removeprefix(f"{prefix}/"): blob.download_as_bytes() for blob in blobs}

    def clear() -> None:
        for blob in client.list_blobs(name):
            blob.delete()

    hold(stagers(bucket.where), look, clear, big)


@pytest.mark.timeout(1200)
def test_a_volume(stagers: Callable[[str], Stager], big: dict[str, bytes], tmp_path: Path) -> None:
    with endpoint(tmp_path / "volumes") as store:
        target = store.folder / VOLUME / FOLDER
        hold(stagers(store.url), lambda: contents(target), lambda: shutil.rmtree(target), big)
        left = [path for path in (store.folder / VOLUME).rglob("*") if path.is_file()]
        assert len(left) == len(big) + 1, "parts of uploads are left"
