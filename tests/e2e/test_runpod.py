"""From nothing to a report and back to nothing at RunPod; its API is a stand-in, and its pods are processes
(tests/e2e/rented.py).
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from pathlib import Path

import pytest
import urllib3
from manyhost.runpod import names
from manyhost.runpod.api import Api

from testbed import ClusterError
from tests.e2e.place import run
from tests.e2e.rented import KEY, LEASE_KEY, OWNER, RECIPE, STEM, Account, lay_engine, lay_wheels, rented
from tests.helpers.cli import ROOT
from tests.helpers.waiting import until

__all__ = ["rented"]
pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
BEFORE = 10 + 4 + 3  # questions, requests of the warm-up, and tokens that the launcher may have asked for


class Lost(threading.Thread):
    """Pulls the cables of the worker's machine as soon as the load has begun.

    Attributes:
        seconds: Until the leader has said that it is not ready.
    """

    def __init__(self, rented: Account, url: str, leader: str, worker: str) -> None:
        super().__init__(daemon=True)
        self._rented, self._url, self._leader, self._worker = rented, url, leader, worker
        self.seconds = math.inf
        self._before = self._finished()
        self.start()

    def run(self) -> None:
        until("the load has begun", lambda: self._finished() > self._before + BEFORE, 240, pause=0.2)
        self._rented.pods.kill(self._worker)
        began = time.monotonic()
        until("the leader says so", self._told, 60, pause=0.2)
        self.seconds = time.monotonic() - began

    def _finished(self) -> float:
        metrics = urllib3.request("GET", f"{self._url}/metrics").data.decode()
        return sum(
            float(n) for n in re.findall(r"^vllm:request_success_total\{.*} (\S+)$", metrics, re.MULTILINE)
        )

    def _told(self) -> bool:
        lines = self._rented.pods.hosts[self._leader].lines
        return any("phase=unready" in line and '"rank 1 is silent"' in line for _, line in lines)


def test_from_nothing_to_a_report_and_back(rented: Account, tmp_path: Path) -> None:
    lay_engine(rented)
    begin = time.monotonic()

    def step(text: str) -> None:
        print(f"{time.monotonic() - begin:5.0f} s  {rented.spent():7.4f} USD  {text}")

    planned = rented.ask("plan")
    assert planned["offer"]["product"] == "CLUSTER"
    assert not rented.cloud.alive()
    step("plan: nothing is rented")

    asked = time.time()
    up = rented.ask("up", "--hours", "1")
    assert [pod["status"] for pod in up["pods"]] == ["RUNNING", "RUNNING"]
    assert up["until"] >= asked + 3600
    assert (rented.pods.volume(up["volume"]["id"]) / "models/test/tiny-r1").is_dir()
    assert len(rented.cloud.alive()) == 1, "the staging pod is gone"
    step(f"up: answers at {up['url']}")
    assert rented.ask("up", "--hours", "1")["pods"] == up["pods"]
    step("up again: nothing is rented twice")

    status = rented.ask("status")
    assert status["url"] == up["url"]
    until_then = rented.ask("renew", "--hours", "2")["until"]
    assert until_then > up["until"] + 3000
    step("renewed")

    runs = tmp_path / "runs"
    # The stand-in's public address is loopback, which is every pod's own.
    rented.pods.reach.append(int(up["url"].rpartition(":")[2]))
    measured = ("bench", RECIPE, "--owner", OWNER, "--to", str(runs), "--scenario", "published")
    outcome = run(*measured).ok()
    assert "sending the load from a CPU pod, 0.16 USD an hour" in outcome.out + outcome.err
    (found,) = runs.glob("*/run.json")
    assert [point["passed"] for point in json.loads(found.read_text())["points"]] == [1]
    client = json.loads((found.parent / "0-0.json").read_text())["client"]
    assert (client["place"], client["node"] in rented.pods.hosts) == ("pod", True)
    assert len(rented.cloud.alive()) == 1, "the pod that sent the load is gone"
    step("benchmark from a CPU pod")
    run("report", str(found.parent), "--to", str(tmp_path / "report")).ok()
    assert "from RunPod, of these pods" in (tmp_path / "report/report.md").read_text()
    both = run("compare", str(ROOT / "docs/example-report/run"), str(found.parent)).ok().out
    assert "local" in both
    assert "runpod-here" in both
    elsewhere = ROOT / "docs/example-report/run"
    run("evaluate", str(elsewhere), str(found.parent), "--to", str(tmp_path / "evaluation")).ok()
    evaluation = (tmp_path / "evaluation/evaluation.md").read_text()
    assert "B (environment runpod-here) held against A (environment local), at 512 + 64 tokens" in evaluation
    step("report, and what it says beside the same model on Kubernetes")

    leader, worker = (pod["id"] for pod in up["pods"])
    lost = Lost(rented, up["url"], leader, worker)
    broken = run(
        "bench", RECIPE, "--url", up["url"], "--to", str(tmp_path / "broken"), "--scenario", "published"
    )
    lost.join()
    assert lost.seconds < 10, "a lost host is seen within 10 s"
    step(f"a host lost under load: its leader says so after {lost.seconds:.0f} s")
    assert (broken.code, "numbers are withheld" in broken.err) == (1, True), broken.out + broken.err
    (found,) = (tmp_path / "broken").glob("*/run.json")
    run("report", str(found.parent), "--to", str(tmp_path / "lost")).ok()
    told = (tmp_path / "lost/report.md").read_text()
    assert f"pod {worker} is not as planned: host 1: is EXITED, planned RUNNING" in told
    failed = re.search(r"\d+ of 24 requests failed[^|]*", told)
    assert failed, told
    step(f"the benchmark ends, and its report has the lost host and no number; {failed[0].strip()}")
    assert [pod["status"] for pod in rented.ask("status")["pods"]] == ["RUNNING", "EXITED"]
    again = run("runpod", "up", RECIPE, "--owner", OWNER)
    assert (again.code, f"pod {worker}, is EXITED" in again.err) == (1, True), again.err

    secrets = [KEY, LEASE_KEY, rented.cloud.key]
    logs = "".join(path.read_text() for path in (rented.pods.folder / "pods").glob("*/log"))
    said = logs + "".join(path.read_text(errors="replace") for path in runs.rglob("*") if path.is_file())
    journal = (tmp_path / "state/manyhost/runpod.jsonl").read_text()
    assert not [secret for secret in secrets if secret in said + journal]

    down = rented.ask("down", "--volume")
    assert down["billed_usd"] > 0
    assert not rented.cloud.alive()
    assert not rented.cloud.things["network-volumes"]
    step("down: nothing is left")


@pytest.mark.usefixtures("_patient")
def test_one_pod_alone_answers_and_locust_measures_it(rented: Account, tmp_path: Path) -> None:
    """It is in no cluster, and has no address there. A CPU pod installs Locust by its hashes."""
    lay_engine(rented)
    lay_wheels(rented, "locust")
    up = rented.ask("up", "--set", "parallelism.pipeline=1")
    assert [pod["status"] for pod in up["pods"]] == ["RUNNING"]
    rented.pods.reach.append(int(up["url"].rpartition(":")[2]))
    measured = ("bench", RECIPE, "--owner", OWNER, "--to", str(tmp_path / "runs"), "--scenario", "published")
    run(*measured, "--set", "parallelism.pipeline=1", "--runner", "locust").ok()
    (found,) = (tmp_path / "runs").glob("*/0-0.json")
    client = json.loads(found.read_text())["client"]
    assert (client["place"], client["tool"], client["version"]) == ("pod", "locust", "2.47.0")
    assert client["node"] in rented.pods.hosts
    rented.ask("down", "--volume")
    assert not rented.cloud.alive()


def test_over_ray_until_the_lease_is_over(rented: Account) -> None:
    """Ray of the two members asks for a token, and nothing but the API and SSH is reached from outside."""
    lay_engine(rented)
    up = rented.ask("up", "--set", "engine.executor=ray")
    leader, worker = (pod["id"] for pod in up["pods"])
    assert set(rented.pods.hosts[leader].ports) == {8000, 22}, "more can be reached from outside"
    with pytest.raises(ClusterError, match=r"(?i)token"):  # a stranger, were there a way in
        rented.pods.run(worker, "/opt/engine/bin/ray", "status", "--address", "10.65.0.2:6379")
    (cluster,) = rented.cloud.things["clusters"]
    Api(rented.cloud.key, rented.cloud.url).rename("clusters", cluster, names.leased(STEM, time.time() - 120))
    until("the pods end themselves: nobody else is there", lambda: not rented.cloud.alive(), 90)
