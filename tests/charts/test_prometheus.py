"""Every expression of charts/observability on a real Prometheus that scrapes an engine, a router and GPUs.

Release good serves, bad is stuck and fails, gone has lost all. The engine is a recording that moves.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from testbed import prometheus
from tests.charts import scraped
from tests.charts.test_observability import OPERATOR, boards, render
from tests.helpers.helm import merge
from tests.helpers.waiting import until

pytestmark = pytest.mark.skipif(prometheus.built() is None, reason="needs make prometheus")
RELEASES = ("good", "bad", "gone")
SCRAPE = "500ms"
WINDOW = "4s"  # what Grafana makes of $__rate_interval


class Watched(NamedTuple):
    """A Prometheus that has seen the three releases for some seconds."""

    prometheus: prometheus.Prometheus
    values: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("prometheus")
    values = {
        name: merge(OPERATOR, {"release": name, "prefillGroups": 1, "usdPerHour": 36.0}) for name in RELEASES
    }
    leaving = [scraped.Exporter(scraped.engine), scraped.Exporter(scraped.router)]
    staying = [
        scraped.Exporter(scraped.engine),
        scraped.Exporter(scraped.engine),
        scraped.Exporter(scraped.router),
        scraped.Exporter(lambda seconds: scraped.engine(seconds, stuck=True)),
        scraped.Exporter(lambda seconds: scraped.router(seconds, failing=True)),
        scraped.Exporter(lambda _: scraped.gpus("good-0")),
    ]
    good, prefill, good_router, bad, bad_router, gpus = staying
    gone, gone_router = leaving
    pods = [
        ("good-0", "", good), ("good-prefill-0", "prefill", prefill),
        ("good-router-a", "router", good_router),
        ("bad-0", "", bad), ("bad-router-a", "router", bad_router),
        ("gone-0", "", gone), ("gone-router-a", "router", gone_router),
    ]  # fmt: skip
    jobs = [job(values, pod, role, server.address) for pod, role, server in pods]
    # The one keeps the labels of the exporter, the other has them renamed: both are usual.
    for honor in (True, False):
        labels = {"namespace": "gpu-operator", "pod": f"dcgm-exporter-{honor}"}
        static = [{"targets": [gpus.address], "labels": labels}]
        jobs.append({"job_name": f"dcgm-{honor}", "honor_labels": honor, "static_configs": static})
    files = []
    for name in RELEASES:
        (item,) = (each for each in render(values[name]) if each["kind"] == "PrometheusRule")
        for group in item["spec"]["groups"]:
            for rule in group["rules"]:
                rule["for"] = "0s"  # promtool has the times
        (folder / f"{name}.json").write_text(json.dumps(item["spec"]))
        files.append(f"{name}.json")
    every = {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE, "evaluation_interval": SCRAPE}
    configuration = {"global": every, "rule_files": files, "scrape_configs": jobs}
    try:
        with prometheus.Prometheus(folder, configuration) as running:
            seen = "count_over_time(up[1m]) > 8"
            until("every target is scraped", lambda: len(running.query(seen)) == len(jobs), 30)
            for server in leaving:
                server.close()
            up = 'up{manyhost_release="gone"} == 1'
            until("the last release is gone", lambda: not running.query(up), 30)
            yield Watched(running, values)
    finally:
        for server in staying:
            server.close()


def job(values: dict[str, dict[str, Any]], pod: str, role: str, address: str) -> dict[str, Any]:
    """The scrape configuration of a pod: its labels, and what the chart's PodMonitor makes of them."""
    release = pod.partition("-")[0]
    part = "router" if role == "router" else "groups"
    (monitor,) = (
        each
        for each in render(values[release])
        if each["kind"] == "PodMonitor" and each["metadata"]["name"].endswith(part)
    )
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    about = {
        "__meta_kubernetes_pod_label_app_kubernetes_io_instance": release,
        "__meta_kubernetes_pod_label_app_kubernetes_io_component": role or "leader",
        "__meta_kubernetes_pod_node_name": f"node-{pod}",
    }
    if role not in ("", "router"):
        about["__meta_kubernetes_pod_label_manyhost_dev_role"] = role
    own = {"namespace": "n", "pod": pod, "container": "vllm"}  # the operator's
    relabelings = [
        {re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", key): value for key, value in each.items()}
        for each in endpoint["relabelings"]
    ]
    return {
        "job_name": f"n/{pod}",
        "metrics_path": endpoint["path"],
        "relabel_configs": relabelings,
        "static_configs": [{"targets": [address], "labels": about | own}],
    }


EXPRESSIONS = [
    pytest.param(target["expr"], id=f"{name}: {panel['title']}, {target['legendFormat']}")
    for name, board in boards(
        merge(OPERATOR, {"release": "good", "prefillGroups": 1, "usdPerHour": 36.0})
    ).items()
    for panel in board["panels"]
    for target in panel["targets"]
]


def test_every_expression_of_every_panel_gives_numbers(watched: Watched) -> None:
    """Also each series of it: one that is NaN or infinite is a line that nobody sees."""
    assert len(EXPRESSIONS) > 60
    silent = {}
    for parameter in EXPRESSIONS:
        expression = str(parameter.values[0]).replace("$__rate_interval", WINDOW)
        found = [float(sample["value"][1]) for sample in watched.prometheus.query(expression)]
        if not found or not all(math.isfinite(value) for value in found):
            silent[parameter.id] = (expression, found)
    assert silent == {}


def test_every_legend_is_filled_in(watched: Watched) -> None:
    """The labels that a legend names are on the series."""
    for parameter in EXPRESSIONS:
        legend = str(parameter.id).rpartition(", ")[2]
        expression = str(parameter.values[0]).replace("$__rate_interval", WINDOW)
        for sample in watched.prometheus.query(expression):
            assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= set(sample["metric"]), parameter.id


def test_numbers_are_those_that_the_engine_counts(watched: Watched) -> None:
    """An engine goes on as recorded, with 644 output tokens a second; 36 USD/h are 1 cent a second.

    Beside it is the same as a prefill group, whose tokens users get from the first one.
    """
    rate = 644

    def value(board: str, title: str) -> float:
        panels = boards(watched.values["good"])[board]["panels"]
        (panel,) = (each for each in panels if each["title"] == title)
        expression = panel["targets"][0]["expr"].replace("$__rate_interval", WINDOW)
        (sample,) = watched.prometheus.query(expression)
        return float(sample["value"][1])

    wanted = {
        ("engine", "Tokens a second"): rate,
        ("cost", "USD for a million output tokens"): 0.01 / rate * 1e6,
        ("health", "Groups that serve"): 2,
        ("gpu", "GPUs busy"): 0.5,
    }
    # On a busy machine a scrape may be late, and then the rate is not that for a moment.
    for place, number in wanted.items():
        until(f"{place} is {number}", lambda: value(*place) == pytest.approx(number, rel=0.05), 30)  # noqa: B023


def test_no_rule_fails_and_each_fires_on_what_is_broken_only(watched: Watched) -> None:
    names = {rule["name"] for rule in rules(watched)}
    wanted = {
        "good": set(),
        "gone": {"ManyhostGroupsMissing", "ManyhostHostLost", "ManyhostRouterMissing"},
        # One of its two groups has never been there.
        "bad": names - {"ManyhostHostLost", "ManyhostRouterMissing"},
    }

    def firing() -> dict[str, set[str]]:
        found: dict[str, set[str]] = {name: set() for name in RELEASES}
        for rule in rules(watched):
            if rule["state"] == "firing":
                found[rule["labels"]["manyhost_release"]].add(rule["name"])
        return found

    until(f"{wanted} fire", lambda: firing() == wanted, 30)
    assert {rule["health"] for rule in rules(watched)} == {"ok"}


def rules(watched: Watched) -> list[Any]:
    return [rule for group in watched.prometheus.get("rules")["groups"] for rule in group["rules"]]


def test_a_sentence_has_its_numbers(watched: Watched) -> None:
    """What templates make of a value, for people."""

    def told() -> dict[str, str]:
        alerts = watched.prometheus.get("alerts")["alerts"]
        return {alert["labels"]["alertname"]: alert["annotations"]["summary"] for alert in alerts}

    until("all speak", lambda: len(told()) == len({rule["name"] for rule in rules(watched)}), 30)
    said = told()
    assert said["ManyhostKvCachePressure"] == "release bad: the KV cache of bad-0 is 99% full"
    assert said["ManyhostEngineStalled"] == "release bad: 11 requests on bad-0 and no token moves"
    assert re.fullmatch(r"release (bad|gone): [01] of 2 groups serve, .*", said["ManyhostGroupsMissing"])
    assert not [text for text in said.values() if "{{" in text or "<error" in text or "%!" in text]


def test_the_recording_names_every_series_that_is_asked_for(tmp_path: Path) -> None:
    """A metric of the engine that does not exist would be an empty panel for ever."""
    texts = (scraped.RECORDED, scraped.router(1.0, failing=True), "\n".join(scraped.DCGM))
    there = {found for text in texts for found in re.findall(r"^[a-zA-Z_:][\w:]*", text, re.M)}
    asked = {
        name
        for parameter in EXPRESSIONS
        for name in re.findall(
            r"(?:vllm:|manyhost_router_|DCGM_|http_|process_)\w+", str(parameter.values[0])
        )
    }
    assert asked <= there
