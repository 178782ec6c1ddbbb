"""API servers and registries on loopback, and doctor's checks run against them one at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from manyhost.cluster.connection import connect
from manyhost.cluster.doctor import CHECKS, Result, examine
from manyhost.cluster.target import Target

from testbed.oci import Server
from tests.helpers import fixes
from tests.unit.cluster.doctor import NOBODY, Examine, Reply, ResultsOf, Serve


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts HTTP servers on loopback; each answers (method, path, headers) with (status, headers, body)."""
    started: list[Server] = []

    def start(answer: Callable[[str, str, Any], Reply]) -> str:
        started.append(Server(answer))
        return started[-1].host

    yield start
    for item in started:
        item.close()


@pytest.fixture
def results_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResultsOf:
    """Runs one check on a target and returns all that it has found."""

    def run(name: str, target: Target, api: str = NOBODY, context: str = "here") -> list[Result]:
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": context,
            "clusters": [{"name": "c", "cluster": {"server": api}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": context, "context": {"cluster": "c", "user": "u"}}],
        }  # fmt: skip
        (tmp_path / "config").write_text(json.dumps(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        results = examine(connect(context), target, skip=set(CHECKS) - {name})
        assert {result.check for result in results} == {name}
        for result in results:
            fixes.check(result.fix, context=context)
        return results

    return run


@pytest.fixture
def examined(results_of: ResultsOf) -> Examine:
    """Runs one check on a target and returns its only result."""

    def run(name: str, target: Target, api: str = NOBODY, context: str = "here") -> Result:
        (result,) = results_of(name, target, api, context)
        return result

    return run
