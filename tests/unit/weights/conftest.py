"""A hub, and models."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from manyhost.weights.bucket import Bucket
from manyhost.weights.hub import Hub
from manyhost.weights.store import Store
from manyhost.weights.transfer import Patience

from testbed import hub

MODEL = "test/m"
# Fractions of a second instead of minutes; what is decided is the same.
QUICK = Patience(window_seconds=1, bytes_per_second=1000, attempts=4, first_wait_seconds=0.05)


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's files: three shards."""
    return hub.write_model(tmp_path / "model", shards=3)


@pytest.fixture
def server(folder: Path) -> Iterator[hub.Hub]:
    """A hub that has the model."""
    with hub.Hub() as running:
        running.add(MODEL, folder)
        yield running


@pytest.fixture
def client(server: hub.Hub) -> Hub:
    return Hub(server.url, seconds=20)


@pytest.fixture
def bucket(store: Store, tmp_path: Path) -> Bucket:
    """A folder of a bucket of this test's own."""
    name = "b-" + hashlib.sha256(str((os.getpid(), tmp_path)).encode()).hexdigest()[:16]
    store.client.create_bucket(name)
    return Bucket(store, f"gs://{name}/models/m")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def served(folder: Path) -> dict[str, bytes]:
    """Those of a model's files that are staged."""
    return {name: data for name, data in contents(folder).items() if name != "README.md"}
