"""manyhost dashboard: through a tunnel to engines that count as a recorded one did."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from manyhost.cluster.connection import Connection, connect
from manyhost.cluster.figures import Reading, counts, figures, usd_per_million
from manyhost.cluster.scrape import scrape
from manyhost.commands import Commands
from manyhost.errors import Failed, NotReady, RemoteError

from tests.charts.scraped import RECORDED, Exporter, engine
from tests.helpers.cli import manyhost
from tests.helpers.output import read
from tests.helpers.portforward import Api
from tests.unit.cluster.test_roles import LABELS, LWS, PLACE

Engines = Callable[..., Api]


def pod(name: str, index: int = 0, role: str = "", *, ready: bool = True) -> dict[str, Any]:
    labels = LABELS | {f"{LWS}/worker-index": str(index)} | ({"manyhost.dev/role": role} if role else {})
    ports = [{"name": "http", "containerPort": 8000}]
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"nodeName": f"node-{name}", "containers": [{"name": "vllm", "ports": ports}]},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engines]:
    """Starts an API server with pods; those that are named have an engine, which says what its text is."""
    started: list[Any] = []

    def start(pods: list[dict[str, Any]], **texts: Callable[[float], str]) -> Api:
        servers = {name.replace("_", "-"): Exporter(text) for name, text in texts.items()}
        api = Api(pods, {name: server.address for name, server in servers.items()})
        started.extend([api, *servers.values()])
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "c", "cluster": {"server": api.url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "n"}}],
        }  # fmt: skip
        (tmp_path / "config").write_text(json.dumps(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        return api

    yield start
    for item in started:
        item.close()


def look(before: float = 10.0, after: float = 20.0, **texts: tuple[str, str]) -> Any:
    """Figures of readings at two times; a leader's name ends with its role."""
    readings = [
        [Reading(name, name.rpartition("_")[2] if "_" in name else "", at, counts(pair[number]))
         for name, pair in texts.items()]
        for number, at in enumerate((before, after))
    ]  # fmt: skip
    return figures(*readings)


# ------------------------------------------------------------------------------- arithmetic
def test_figures_are_differences_of_what_the_engine_counted() -> None:
    """The recording goes on for 10 s as it did: 644 tokens, 21 of them first ones, in each second."""
    (row,), total = look(r0=(engine(0), engine(10)))
    assert (row.running, row.waiting, row.kv_usage) == (3.0, 0.0, 0.4)
    assert row.output_token_rate == pytest.approx(644)
    assert row.prompt_token_rate == pytest.approx(4987)
    assert row.ttft_ms == pytest.approx(2.139413595199585 / 21 * 1000)
    # 623 gaps and 623 tokens that are not the first: here TPOT is the mean gap.
    assert row.tpot_ms == pytest.approx(7.5058554600011576 / 623 * 1000)
    assert (row.preemptions, row.finished) == (0, pytest.approx(210))
    assert total.output_token_rate == row.output_token_rate
    assert usd_per_million(36.0, row.output_token_rate) == pytest.approx(0.01 / 644 * 1e6)


def test_of_two_groups_sums_and_means_are_those_of_all_requests() -> None:
    _, total = look(r0=(engine(0), engine(10)), r1=(engine(0), engine(30)))
    assert total.output_token_rate == pytest.approx(4 * 644)
    assert total.running == 6
    assert total.ttft_ms == pytest.approx(2.139413595199585 / 21 * 1000)


def test_a_request_counts_once_where_prefill_groups_read_its_prompt_too() -> None:
    rows, total = look(r_decode=(engine(0), engine(10)), r_prefill=(engine(0), engine(10)))
    assert [row.role for row in rows] == ["decode", "prefill"]
    assert total.prompt_token_rate == pytest.approx(4987)
    assert total.running == 3


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (engine(10), engine(0)),  # started anew
        ("", engine(10)),  # new
        (engine(0), ""),  # silent
        (engine(0), "vllm:num_requests_running 3\n"),  # not all that is needed
    ],
)
def test_what_is_not_known_is_not_zero(before: str, after: str) -> None:
    rows, total = look(r0=(before, after), r1=(engine(0), engine(10)))
    assert rows[0].output_token_rate is None
    assert rows[0].finished is None
    assert total.output_token_rate == pytest.approx(644)


def test_without_a_token_there_is_no_time_and_no_cost() -> None:
    (row,), total = look(r0=(engine(5), engine(5)))
    assert (row.output_token_rate, row.ttft_ms, row.tpot_ms) == (0, None, None)
    assert usd_per_million(36.0, total.output_token_rate) is None
    assert usd_per_million(None, 100.0) is None
    assert usd_per_million(0.0, 100.0) == 0


def test_an_engine_that_has_no_histograms_has_no_times() -> None:
    """Several engines behind one leader are added up, and the fullest cache counts."""
    text = "".join(
        f'vllm:{name}{{engine="{number}"}} {value}\n'
        for number, value in ((0, 0.5), (1, 0.25))
        for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc",
                     "prompt_tokens_total", "generation_tokens_total")
    )  # fmt: skip
    found = counts(text)
    assert (found["running"], found["kv_usage"]) == (0.75, 0.5)
    (row,), _ = look(r0=(text, text))
    assert (row.output_token_rate, row.ttft_ms, row.finished) == (0, None, None)


# ---------------------------------------------------------------------------------- tunnels
def opened() -> Connection:
    """The API server, and the release in question."""
    connection = connect()
    connection.commands = Commands(namespace="n", recipe="local", release="r")
    return connection


def test_each_ready_leader_is_read_and_hosts_are_counted(engines: Engines) -> None:
    pods = [
        pod("r-1"), pod("r-0"), pod("r-0-1", 1), pod("r-1-1", 1), pod("r-2", ready=False),
        pod("r-prefill-0", role="prefill"),
    ]  # fmt: skip
    router = pod("r-router-x")
    del router["metadata"]["labels"][f"{LWS}/worker-index"]
    router["metadata"]["labels"]["app.kubernetes.io/component"] = "router"
    engines([*pods, router], r_0=engine, r_1=engine, r_prefill_0=engine)
    readings, hosts = scrape(opened(), PLACE)
    assert [(each.pod, each.role) for each in readings] == [
        ("r-0", ""), ("r-1", ""), ("r-prefill-0", "prefill"),
    ]  # fmt: skip
    assert all(each.counts["output_tokens"] >= 644 for each in readings)
    assert hosts == 6


def test_a_leader_that_does_not_answer_is_unknown_and_the_others_are_shown(engines: Engines) -> None:
    engines([pod("r-0"), pod("r-1")], r_1=engine)
    readings, _ = scrape(opened(), PLACE)
    assert [bool(each.counts) for each in readings] == [False, True]


def test_many_leaders_are_read_at_a_time(engines: Engines) -> None:
    names = [f"r-{number}" for number in range(20)]
    engines([pod(name) for name in names], **{name.replace("-", "_"): engine for name in names})
    connection = opened()
    for _ in range(3):
        readings, _ = scrape(connection, PLACE)
        assert all(each.counts for each in readings)


@pytest.mark.parametrize(
    ("pods", "texts", "kind", "words"),
    [
        ([pod("r-0", ready=False)], {}, NotReady, "no group of release r is ready"),
        ([pod("r-0")], {}, RemoteError, "no tunnel to r-0"),
        ([pod("r-0")], {"r_0": lambda _: "vllm:gpu_cache_usage_perc 0.1\n"}, Failed, "by the names of vLLM"),
    ],
)
def test_why_there_is_nothing(
    pods: list[Any], texts: dict[str, Any], kind: type[Exception], words: str, engines: Engines
) -> None:
    engines(pods, **texts)
    with pytest.raises(kind, match=words):
        scrape(opened(), PLACE)


# ---------------------------------------------------------------------------------- command
HERE = ("--release", "r", "--every", "1")


def test_once(engines: Engines) -> None:
    engines([pod("r-0"), pod("r-0-1", 1)], r_0=engine)
    ran = manyhost("dashboard", "a3mega", *HERE, "--once", "--output", "json")
    result = ran.output.result
    assert ran.output.events == []
    assert (result["release"], result["namespace"], result["hosts"]) == ("r", "n", 2)
    (group,) = result["groups"]
    assert group["pod"] == "r-0"
    rate = result["total"]["output_token_rate"]
    assert rate == pytest.approx(644, rel=0.5), "a busy machine is late, but not by far"
    assert result["usd_per_hour"] > 100
    assert result["usd_per_million_output_tokens"] == pytest.approx(
        result["usd_per_hour"] / 3600 / rate * 1e6
    )
    text = manyhost("dashboard", "a3mega", *HERE, "--once").out
    head, titles, row = text.splitlines()
    assert head.startswith("release r in namespace n, last 1.")
    assert "2 hosts: 185.88 USD/h, " in head
    assert head.endswith("USD per million output tokens")
    assert len(titles) == len(row), "a table"
    assert row.split()[:4] == ["r-0", "3", "0", "40%"]


def test_it_goes_on_when_the_engines_go_and_come_back(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = engines([pod("r-0")], r_0=engine)
    address = dict(api.address)
    slept = iter([lambda: None, api.address.clear, lambda: api.address.update(address), _interrupt])
    wait = threading.Event()
    monkeypatch.setattr("time.sleep", lambda _: (wait.wait(0.2), next(slept)()))
    ran = manyhost("dashboard", "a3mega", *HERE, "--output", "json")
    assert ran.code == 130
    events = read(ran.out).events
    assert [event["kind"] for event in events] == ["window", "problem", "window"]
    assert "no tunnel to r-0" in events[1]["text"]
    assert events[2]["data"]["groups"][0]["output_token_rate"] > 0


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_the_recording_has_all_that_is_read() -> None:
    assert len(counts(RECORDED)) == 10
