"""An emulator of Cloud Storage."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from manyhost.weights.store import Store, open_store

from testbed import gcs
from testbed.errors import MissingError


@pytest.fixture(scope="session")
def emulator() -> Iterator[gcs.Gcs]:
    """The emulator; without Go there is none."""
    try:
        running = gcs.Gcs()
    except MissingError as error:
        pytest.skip(str(error))
    with running:
        yield running


@pytest.fixture
def store(emulator: gcs.Gcs, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator.url)
    return open_store("test")
