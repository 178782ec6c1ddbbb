"""Our users for Locust with the real Locust: alone, over its own processes, and as master and workers."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from manyhost.benchmark.tools import installed
from manyhost.errors import RemoteError

from tests.unit.benchmark.conftest import CLIENT
from tests.unit.benchmark.service import Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]  # the package registry has Locust
REQUESTS, TOKENS = 11, 4


@pytest.fixture(scope="module")
def locust() -> str:
    try:
        return str(installed("locust"))
    except RemoteError as error:
        pytest.skip(f"no network: {error}")


@pytest.fixture
def port() -> str:
    """For master and workers to talk."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def words(program: str, url: str, result: Path) -> list[str]:
    told = ["--headless", "--only-summary", "--locustfile", str(CLIENT / "locustfile.py"), "--host", url]
    load = ["--model", "tiny-r1", "--input-tokens", "9", "--output-tokens", str(TOKENS)]
    return [program, *told, *load, "--requests", str(REQUESTS), "--result", str(result)]


def check(service: Service, result: Path) -> None:
    """Each request once, by the server's count and by the result's."""
    found: dict[str, list[Any]] = json.loads(result.read_text())
    assert found["errors"] == [""] * REQUESTS
    assert (found["input_lens"], found["output_lens"]) == ([9] * REQUESTS, [TOKENS] * REQUESTS)
    assert [len(gaps) for gaps in found["itls"]] == [TOKENS - 1] * REQUESTS
    assert service.counts["length"] == REQUESTS
    assert len({tuple(prompt) for prompt in service.prompts}) == REQUESTS


@pytest.mark.parametrize("more", [[], ["--processes", "2"]])
def test_requests_are_counted_over_all_processes(
    locust: str, port: str, more: list[str], tmp_path: Path
) -> None:
    more += ["--master-bind-port", port, "--master-port", port] if more else []
    with Service() as service:
        given = [*words(locust, service.url, tmp_path / "x.json"), "--users", "3", "--spawn-rate", "9"]
        done = subprocess.run([*given, *more], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        check(service, tmp_path / "x.json")


def test_more_workers_than_users_are_refused(locust: str, port: str, tmp_path: Path) -> None:
    """Nobody would send the requests of a worker that has no user."""
    with Service() as service:
        given = [*words(locust, service.url, tmp_path / "x.json"), "--users", "1", "--processes", "2"]
        given += ["--master-bind-port", port, "--master-port", port]
        done = subprocess.run(given, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "set more --users" in done.stderr


def test_master_and_workers(locust: str, port: str, tmp_path: Path) -> None:
    """What is asked for is told to the master alone."""
    script = str(CLIENT / "locustfile.py")
    worker = [locust, "--worker", "--locustfile", script, "--master-port", port]
    with Service() as service:
        given = [*words(locust, service.url, tmp_path / "x.json"), "--users", "4", "--spawn-rate", "9"]
        given += ["--master", "--master-bind-port", port, "--expect-workers", "2"]
        with (
            subprocess.Popen(worker, cwd=tmp_path, stderr=subprocess.PIPE) as one,
            subprocess.Popen(worker, cwd=tmp_path, stderr=subprocess.PIPE) as two,
        ):
            try:
                done = subprocess.run(given, capture_output=True, text=True, check=False, timeout=60)
            finally:
                one.kill()
                two.kill()
        assert done.returncode == 0, done.stderr
        check(service, tmp_path / "x.json")
