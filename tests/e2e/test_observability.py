"""Dashboards, alerts and `manyhost dashboard` on the real engine under load, and a real Prometheus."""

from __future__ import annotations

import json
import math
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from manyhost.cluster.figures import Reading, counts, figures

from testbed.prometheus import Prometheus, programs
from tests.charts.test_observability import OPERATOR, PRICED, boards, render
from tests.e2e.test_health import One
from tests.helpers.helm import merge
from tests.helpers.waiting import until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
VALUES = merge(OPERATOR, PRICED)
TOKENS = 16
WINDOW = "20s"
COMMON, OWN = 256, 32  # tokens of a prompt; the cache is of blocks of 128 on CPUs


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[One]:
    programs()  # before the engine takes the machine
    made = One(tmp_path_factory.mktemp("engine") / "one", "--enable-prefix-caching")
    yield made
    made.close()


def read(engine: One) -> Reading:
    with urllib.request.urlopen(f"http://127.0.0.1:{engine.http}/metrics", timeout=60) as answer:
        return Reading("r1-0", "", time.monotonic(), counts(answer.read().decode()))


def ask(engine: One, number: int) -> None:
    """A prompt that begins as all others do, and 16 tokens back."""
    prompt = [5 + i for i in range(COMMON)] + [5 + (number + i) % 200 for i in range(OWN)]
    body = {
        "model": engine.env["MANYHOST_MODEL"], "prompt": prompt, "max_tokens": TOKENS, "ignore_eos": True,
    }  # fmt: skip
    request = urllib.request.Request(
        f"http://127.0.0.1:{engine.http}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=600).read()


def test_figures_are_what_clients_have_counted(one: One) -> None:
    ask(one, 1000)
    before = read(one)
    for number in range(5):
        ask(one, number)
    after = read(one)
    ((row,), total) = figures([before], [after])
    seconds = after.at - before.at
    assert row.finished == 5
    assert row.output_token_rate == pytest.approx(5 * TOKENS / seconds)
    assert row.prompt_token_rate == pytest.approx(5 * (COMMON + OWN) / seconds)
    assert (row.running, row.waiting, row.preemptions) == (0, 0, 0)
    assert row.ttft_ms
    assert row.tpot_ms
    # One after the other, each takes its first token and then the others; the rest is HTTP.
    spent = 5 * (row.ttft_ms + (TOKENS - 1) * row.tpot_ms) / 1000
    assert 0.5 * seconds < spent <= seconds
    assert total.output_token_rate == row.output_token_rate


def test_every_expression_of_the_engine_gives_numbers_and_no_alert_fires(one: One, tmp_path: Path) -> None:
    (item,) = (each for each in render(VALUES) if each["kind"] == "PrometheusRule")
    (tmp_path / "rules.json").write_text(json.dumps(item["spec"]))
    labels = {"namespace": "n", "pod": "r1-0", "node": "host-1", "manyhost_release": "r1"}
    target = {"targets": [f"127.0.0.1:{one.http}"], "labels": labels}
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.json"],
        "scrape_configs": [{"job_name": "engine", "static_configs": [target]}],
    }
    expressions = {
        f"{name}: {panel['title']}, {target['legendFormat']}": target["expr"].replace(
            "$__rate_interval", WINDOW
        )
        for name, board in boards(VALUES).items()
        if name != "gpu"
        for panel in board["panels"]
        for target in panel["targets"]
    }
    assert len(expressions) > 40
    stop = threading.Event()

    def load(first: int) -> None:
        number = first
        while not stop.is_set():
            ask(one, number)
            number += 4

    clients = [threading.Thread(target=load, args=(first,)) for first in range(4)]
    for client in clients:
        client.start()
    try:
        with Prometheus(tmp_path, configuration) as prometheus:

            def silent() -> dict[str, Any]:
                found = {name: values(prometheus, text) for name, text in expressions.items()}
                return {
                    name: some
                    for name, some in found.items()
                    if not some or not all(math.isfinite(value) for value in some)
                }

            until(f"all give numbers; not {silent()}", lambda: not silent(), 120, pause=2)
            rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
            assert {rule["health"] for rule in rules} == {"ok"}
            assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []
            (share,) = values(prometheus, expressions["engine: Prefix cache hits, hits"])
            assert 0.5 < share <= COMMON / (COMMON + OWN) + 0.01  # the first ones had nothing to find
    finally:
        stop.set()
        for client in clients:
            client.join()


def values(prometheus: Prometheus, expression: str) -> list[float]:
    return [float(sample["value"][1]) for sample in prometheus.query(expression)]
