"""manyhost runpod: what people and programs read, what it refuses, and what it says of money."""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from manyhost.runpod import names
from manyhost.runpod.api import Api
from manyhost.runpod.service import Service

from testbed.runpod import Fault
from tests.helpers.cli import Ran, manyhost
from tests.helpers.runpod import RECIPE, STEM, Account, Clock
from tests.unit.runpod.test_make import cluster

KEY = "a key of this test"
DOWN = f"manyhost runpod down {RECIPE} --owner ann"


class Engine(ThreadingHTTPServer):
    """What answers on a pod's port 8000: with the key of the secret manyhost_api only."""

    daemon_threads = True

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                allowed = self.path == "/health" or self.headers["Authorization"] == f"Bearer {KEY}"
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                self.send_response(200 if allowed else 401)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_GET

            def log_message(self, *_: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture(scope="module")
def engine() -> Iterator[int]:
    with Engine() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cloud(clock: Clock, engine: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    with Account(clock) as made:
        made.api_port = engine
        for name, value in {
            "RUNPOD_API_KEY": made.key, "VLLM_API_KEY": KEY, "MANYHOST_RUNPOD_URL": made.url,
            "XDG_STATE_HOME": str(tmp_path),
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        waits(monkeypatch, clock, clock.sleep)
        yield made


def waits(monkeypatch: pytest.MonkeyPatch, clock: Clock, sleep: Callable[[float], None]) -> None:
    """Let the program's time be a clock's."""
    times = {"sleep": sleep, "clock": clock}
    monkeypatch.setattr(Api.__init__, "__kwdefaults__", times)
    monkeypatch.setattr(Service.__init__, "__kwdefaults__", {**times, "now": clock})


def runpod(verb: str, *words: str) -> Ran:
    return manyhost("runpod", verb, *(() if verb == "sweep" else (RECIPE,)), "--owner", "ann", *words)


def result(verb: str, *words: str) -> Any:
    ran = runpod(verb, *words, "--output", "json")
    assert ran.code == 0, ran
    return ran.output.result


def advised(text: str) -> list[str]:
    """Return the commands of this program in a message."""
    return re.findall("`(manyhost [^`]+)`", text)


def test_from_nothing_to_nothing(cloud: Account, engine: int) -> None:
    dry = result("up", "--dry-run")
    assert [one["path"] for one in dry["requests"]] == ["/v2/network-volumes", "/v2/pods", "/v2/clusters"]
    assert not any(cloud.things.values())
    up = result("up")
    assert (up["url"], up["usd_per_hour"]) == (f"http://127.0.0.1:{engine}", 64.0)
    assert [(pod["status"], pod["rank"]) for pod in up["pods"]] == [("RUNNING", 0), ("RUNNING", 1)]
    assert up["volume"]["usd_per_month"] == 70.0
    assert result("up")["pods"] == up["pods"]
    assert result("status") == up
    assert result("ssh", "--rank", "1")["command"].startswith("ssh root@127.0.0.1 -p ")
    assert result("renew", "--hours", "9")["until"] > up["until"] + 6 * 3600
    ended = runpod("down")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("nothing is left; the volume stays and costs: ")
    (command,) = advised(ended.out)
    assert manyhost(*shlex.split(command)[1:]).code == 0
    assert not any(cloud.things.values())
    assert runpod("down").code == 0, "there is nothing"


def test_a_benchmark_without_a_url_is_sent_from_a_pod_beside_what_serves(
    cloud: Account, tmp_path: Path
) -> None:
    ran = manyhost("bench", RECIPE, "--owner", "ann", "--scenario", "published")
    assert (ran.code, "nothing serves" in ran.err) == (4, True)
    ran = manyhost("bench", RECIPE, "--owner", "ann", "--scenario", "published", "--runner", "vllm")
    assert (ran.code, "a CPU pod of RunPod has no vllm" in ran.err) == (2, True)
    result("up")
    words = ("bench", RECIPE, "--owner", "ann", "--scenario", "published", "--to", str(tmp_path / "runs"))
    for why, more in (
        ("the load ended with exit 1", ()),
        ("the load generator cannot be installed: exit 1", ("--runner", "locust")),
    ):
        cloud.staging = [f"manyhost: failed: {why}"]
        ran = manyhost(*words, *more)
        assert (ran.code, why in ran.err) == (1, True), ran
    ran = manyhost(*words[:-3], "multi-turn", *words[-2:], "--runner", "locust")
    assert (ran.code, "prompts with a common beginning" in ran.err) == (3, True), ran
    assert cloud.rented() == [STEM]


def test_what_it_costs_is_said_before(cloud: Account) -> None:
    ran = runpod("plan", "--max-usd-per-hour", "60")
    assert ran.code == 0
    assert "price         64.00 USD an hour (4.00 a GPU); at most 128.00 for a lease of 2 h" in ran.out
    assert ran.err.startswith("warning: 64.00 USD an hour are more than 60.00: up would refuse")
    assert "MANYHOST_BOOT" in ran.out
    assert len(ran.out) < 4000
    cloud.capacity = 0
    ran = runpod("plan")
    assert "stock         NONE: nowhere" in ran.out
    assert (ran.code, "up would refuse" in ran.err) == (0, True)


@pytest.mark.parametrize(
    ("capacity", "words", "says"),
    [(8, ("--max-usd-per-hour", "60"), "more than 60.00"), (1, (), ""), (0, (), "no 16 GPUs are free")],
)
def test_refused(cloud: Account, capacity: int, words: tuple[str, ...], says: str) -> None:
    cloud.capacity = capacity
    ran = runpod("up", *words)
    assert (ran.code, cloud.alive()) == (4, [])
    assert says in ran.err
    if says:
        assert "warning" not in ran.err
        assert not cloud.volumes()


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("RUNPOD_API_KEY", "", "RUNPOD_API_KEY: is not set\n  fix: export RUNPOD_API_KEY=..."),
        ("RUNPOD_API_KEY", "rpa_wrong", "RUNPOD_API_KEY: the key is not accepted"),
        ("VLLM_API_KEY", "", "VLLM_API_KEY: is not set: without a key anybody could use the model"),
    ],
)
def test_keys(cloud: Account, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str) -> None:
    monkeypatch.setenv(variable, value)
    ran = runpod("up")
    assert (ran.code, ran.out) == (4, "")
    assert ran.err.startswith(f"manyhost: {says}")
    assert "rpa_wrong" not in ran.err
    assert not any(cloud.things.values())


def test_another_key_than_the_servers(cloud: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "another")
    ran = runpod("up")
    assert ran.code == 4
    assert (
        "VLLM_API_KEY: is not the key of the server: RunPod's secret manyhost_api is another one" in ran.err
    )
    assert "warning: 64.00 USD an hour are billed now, until the lease is over" in ran.err
    assert cloud.rented() == [STEM]
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    assert runpod("up").code == 0
    assert cloud.asked("POST /v2/clusters") == 1


@pytest.mark.parametrize(
    ("faults", "code", "says"),
    [
        ([Fault("POST /v2/clusters", 402)], 4, "the balance is too low"),
        ([Fault("POST /v2/clusters", 403)], 4, "the key may not do that"),
        ([Fault("GET /v2/catalog", 429, headers={"Retry-After": "30"})], 0, ""),
        ([Fault("POST /v2/clusters", 429, headers={"Retry-After": "30"})], 0, ""),
        ([Fault("GET /v2/pods", 503), Fault("GET /v2/clusters", 502), Fault("GET /v2/pods", 500)], 0, ""),
        ([Fault("POST /v2/clusters", lost=True, late=10)], 0, ""),
        ([Fault("GET /v2/catalog", 500) for _ in range(20)], 5, "failed: "),
        ([Fault("GET /v2/catalog", 429, headers={"Retry-After": "3600"})], 5, "too many requests"),
    ],
    ids=str,
)
def test_what_runpod_answers(cloud: Account, faults: list[Fault], code: int, says: str) -> None:
    cloud.faults += faults
    ran = runpod("up")
    assert (ran.code, says in ran.err) == (code, True), ran
    assert cloud.rented() == ([STEM] if code == 0 else [])
    kept = "warning: nothing is billed but the volume, 70.00 USD a month" in ran.err
    assert kept == (code != 0 and bool(cloud.volumes()))


@pytest.mark.parametrize("more", [(), ("--unleased",)])
def test_ctrl_c_says_what_is_billed(
    cloud: Account, clock: Clock, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if STEM in cloud.rented():
            raise KeyboardInterrupt

    waits(monkeypatch, clock, sleep)
    ran = runpod("up", *more)
    assert ran.code == 130
    end = "without an end" if more else "until the lease is over"
    assert f"warning: 64.00 USD an hour are billed now, {end}\n" in ran.err
    assert ran.err.endswith("manyhost: interrupted\n")
    assert cloud.rented() == [STEM]
    waits(monkeypatch, clock, clock.sleep)
    down, _ = advised(ran.err)
    assert down == DOWN
    assert manyhost(*shlex.split(down)[1:]).code == 0
    assert cloud.alive() == []


def test_programs_are_told_too(cloud: Account) -> None:
    cloud.api_port = 9  # nobody answers there
    cloud.serving = {1: ["manyhost: failed: RunPod has no secret manyhost_api"]}
    envelope = runpod("up", "--output", "json").output.envelope
    assert [error["message"] for error in envelope["errors"]] == ["RunPod has no secret manyhost_api"]
    (warning,) = envelope["warnings"]
    assert warning["message"].startswith("64.00 USD an hour are billed now")
    assert DOWN in warning["fix"]


def test_ctrl_c_while_it_stages(cloud: Account, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.staging = []

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if f"{STEM}-stage" in cloud.rented() and clock.time > cloud_began + 60:
            raise KeyboardInterrupt

    cloud_began = clock.time
    waits(monkeypatch, clock, sleep)
    ran = runpod("up")
    assert (ran.code, cloud.alive()) == (130, [])
    assert "warning: nothing is billed but the volume, 70.00 USD a month" in ran.err


def test_a_failure_to_remove_what_has_staged_is_told(cloud: Account) -> None:
    cloud.staging = ["manyhost: failed: staging ended with exit 3"]
    cloud.faults.append(Fault("DELETE /v2/pods", 403))
    ran = runpod("up")
    assert ran.code == 1
    assert "staging ended with exit 3" in ran.err
    assert "the key may not do that" in ran.err
    assert "warning: 0.16 USD an hour are billed now" in ran.err
    assert manyhost(*shlex.split(advised(ran.err)[0])[1:]).code == 0
    assert cloud.alive() == []


def test_another_setting_is_refused_with_what_ends_it(cloud: Account) -> None:
    assert runpod("up").code == 0
    ran = runpod("up", "--set", "context=64000")
    assert (ran.code, cloud.rented()) == (4, [STEM])
    assert "runs something else" in ran.err
    assert DOWN in advised(ran.err)


def test_logs(cloud: Account) -> None:
    cloud.serving = {0: ["one"], 1: ["two"]}
    assert runpod("up").code == 0
    assert runpod("logs", "--rank", "1").out == "two\n"
    missing = runpod("logs", "--rank", "2")
    assert (missing.code, missing.err) == (4, f"manyhost: {STEM}: there is no pod of rank 2\n")


def test_logs_that_say_nothing_for_long(cloud: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line that comes after the quiet is told, and none is told twice."""
    cloud.serving = {0: ["one"]}
    assert runpod("up").code == 0
    said, over = cloud._log, threading.Event()

    def log(identity: str, query: dict[str, str]) -> Iterator[str]:
        yield from said(identity, query)
        if len(cloud.serving[0]) == 1:
            cloud.serving = {0: ["one", "two"]}
            over.wait(20)

    monkeypatch.setattr(cloud, "_log", log)
    monkeypatch.setattr("manyhost.runpod.api._QUIET_SECONDS", 0.3)
    ran = runpod("logs")
    over.set()
    assert (ran.code, ran.out, ran.err) == (0, "one\ntwo\n", "")


def test_a_lease_that_is_no_time_keeps_nobody_from_what_is_his(cloud: Account) -> None:
    """Somebody has renamed it by hand: his own thing, and another one of the account."""
    wrong = "-until-20261399T0000Z"
    for name in (STEM + wrong, f"of-somebody-else{wrong}"):
        Api(cloud.key, cloud.url).make_cluster(cluster(name))
    status = runpod("status")
    assert (status.code, "lease         none" in status.out) == (0, True), status
    assert runpod("sweep").out.count("stays") == 1
    down = runpod("down")
    assert down.code == 0, down
    assert cloud.alive() == [f"of-somebody-else{wrong}"]


def test_sweep(cloud: Account, clock: Clock) -> None:
    api = Api(cloud.key, cloud.url)
    old, new = "-until-20200101T0000Z", "-until-20990101T0000Z"
    theirs = names.stem("ann-b", RECIPE)
    for name in (STEM + old, names.stem("ann", "b") + new, theirs + old):
        api.make_cluster(cluster(name))
    before = cloud.alive()
    dry = runpod("sweep", "--dry-run", "--all")
    assert (dry.code, cloud.alive()) == (0, before)
    assert dry.out.count("would be removed") == 2
    swept = runpod("sweep")
    assert cloud.alive() == before[1:]
    assert "removed, leased until 2020-01-01 00:00 UTC" in swept.out
    assert "stays, leased until 2099-01-01 00:00 UTC" in swept.out
    assert result("sweep", "--all")["removed"][0]["name"] == before[1]
    assert cloud.alive() == [theirs + old]
    assert runpod("sweep").out == "ann has nothing\n"
