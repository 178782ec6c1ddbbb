"""What holds for every test: settings of the person who runs the tests do not leak in."""

from __future__ import annotations

import functools
import os
import pickle
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import settings
from manyhost.catalog import yaml_reader
from manyhost.catalog.settings import VARIABLES
from manyhost.errors import ManyhostError

from tests.helpers import fixes, processes

# Under nohup it is ignored, and so it would be by every program that a test starts and ends with it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# yaml.safe_load with libyaml's parser: ten times faster, also while tests are collected, in each worker.
yaml.SafeLoader = yaml.CSafeLoader  # type: ignore[assignment, misc]


@functools.lru_cache(maxsize=4000)
def _parsed(text: str) -> bytes:
    return pickle.dumps(_parse(text, "what the tests read"))


def _parse_once(text: str, where: str) -> Any:
    """Parse as the product does, each text once: every command reads the same files. Errors name `where`."""
    try:
        known = _parsed(text)
    except ManyhostError:
        return _parse(text, where)
    return pickle.loads(known)


_parse = yaml_reader.parse
yaml_reader.parse = _parse_once

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what tests on a cluster start, before the clock of the first of them runs."""
    marks = {mark.name for item in session.items for mark in item.iter_markers()}
    if session.config.option.collectonly or not marks & {"e2e", "engine"}:
        return
    from tests.e2e import place

    with session.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        place.prepare(engine="engine" in marks)


@pytest.fixture(scope="session", autouse=True)
def _no_process_outlives_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every process inherits the tests' folder, or was told a path in it: so what is left is found."""
    folder = f"{tmp_path_factory.getbasetemp()}/"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TESTS_FOLDER", folder)
        yield
    left = processes.started_with(folder)
    processes.end(folder)
    assert not left, "left behind:\n" + "\n".join(f"{pid} {what}" for pid, what in left.items())


@pytest.fixture(scope="session", autouse=True)
def _fixes_keep_the_convention() -> Iterator[None]:
    """Hold the fix of every error that any test brings about to it."""
    made = ManyhostError.__init__

    def checked(self: ManyhostError, *args: Any, **given: Any) -> None:
        made(self, *args, **given)
        fixes.check(self.fix)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ManyhostError, "__init__", checked)
        yield


@pytest.fixture(autouse=True)
def no_site_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide values/local.yaml and the published recipe's variables."""
    for name in (*VARIABLES, "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MANYHOST_LOCAL", os.devnull)


# What mostly waits, and one file whose tests share a fixture that takes long. In this order.
FIRST = (
    "tests/packaging/test_package.py",
    "tests/shell/",
    "tests/unit/scripts/test_members.py",
    "tests/unit/benchmark/test_bench.py",
    "tests/unit/scripts/test_router.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start what waits first, so that nothing long is left at the end."""
    places = {name: number for number, name in enumerate(FIRST)}

    def place(item: pytest.Item) -> int:
        found = (number for name, number in places.items() if item.nodeid.startswith(name))
        return next(found, len(places))

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two workers more than processors: many tests wait for other processes most of their time."""
    return (os.cpu_count() or 1) + 2
