"""Each alert of charts/observability fires when it should and only then: promtool, in simulated time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from testbed import prometheus
from tests.charts.test_observability import APART, GOOGLE, OPERATOR, render
from tests.helpers.helm import merge

FOLDER = prometheus.built()
pytestmark = pytest.mark.skipif(FOLDER is None, reason="needs make prometheus")
POD = 'namespace="n",manyhost_release="r1",pod="r1-0"'
ROUTER = 'namespace="n",manyhost_release="r1",manyhost_role="router",pod="r1-router-x"'
ENGINE = f'{POD},engine="0"'
MODEL = f'{ENGINE},model_name="m"'
UP = {f"up{{{POD}}}": "1x200"}
RUNNING = {
    f"vllm:num_requests_running{{{MODEL}}}": "4x200",
    f"vllm:num_requests_waiting{{{MODEL}}}": "0x200",
    f"vllm:kv_cache_usage_perc{{{MODEL}}}": "0.5x200",
    f"vllm:prompt_tokens_total{{{MODEL}}}": "0+100x200",
    f"vllm:generation_tokens_total{{{MODEL}}}": "0+100x200",
    f"vllm:num_preemptions_total{{{MODEL}}}": "0x200",
    f'vllm:request_success_total{{{MODEL},finished_reason="stop"}}': "0+100x200",
    f'vllm:request_success_total{{{MODEL},finished_reason="abort"}}': "0+1x200",
    f'http_requests_total{{{POD},status="2xx"}}': "0+100x200",
}
ROUTING = {
    f"up{{{ROUTER}}}": "1x200",
    f'manyhost_router_answers_total{{{ROUTER},code="200"}}': "0+100x200",
    f"manyhost_router_lost_total{{{ROUTER}}}": "0x200",
    f'manyhost_router_requests_total{{{ROUTER},prefill="done"}}': "0+100x200",
    f'manyhost_router_requests_total{{{ROUTER},prefill="failed"}}': "0x200",
    f'manyhost_router_backend_open{{{ROUTER},role="decode",backend="b"}}': "0x200",
}
PREFILL = {f'up{{{POD.replace("r1-0", "r1-prefill-0")},manyhost_role="prefill"}}': "1x200"}
FINE = UP | RUNNING
TOGETHER = FINE | PREFILL | ROUTING


def changed(before: dict[str, str], **values: str | None) -> dict[str, str]:
    """Series with other values; a metric of several series is named with the end of its labels."""
    after = dict(before)
    for name, value in values.items():
        metric, _, last = name.partition("__")
        (key,) = (
            key for key in before if key.partition("{")[0].split(":")[-1] == metric and f'"{last}' in key
        )
        if value is None:
            del after[key]
        else:
            after[key] = value
    return after


# Alert, series, groups wanted, minutes at which it fires, and minutes at which nothing does.
CASES: list[tuple[str, dict[str, str], int, int, int | None]] = [
    # never: an engine under load, and one without
    ("", FINE, 1, 100, None),
    ("", changed(FINE, num_requests_running="0x200", generation_tokens_total="5x200",
                 prompt_tokens_total="5x200"), 1, 100, None),
    # a long prompt: no token is counted, KV use moves
    ("", changed(FINE, generation_tokens_total="5x200", prompt_tokens_total="5x200",
                 kv_cache_usage_perc="0+0.001x200"), 1, 100, None),
    # series that are not there are unknown, not idle
    ("", UP | {f"vllm:num_requests_running{{{MODEL}}}": "4x200"}, 1, 100, None),
    ("ManyhostGroupsMissing", {f"up{{{POD}}}": "0x200"}, 1, 62, 50),
    ("ManyhostGroupsMissing", {f"up{{{ROUTER}}}": "1x200"}, 1, 62, 50),
    ("ManyhostGroupsMissing", FINE, 2, 62, 50),
    ("ManyhostHostLost", changed(UP, up="1x10 0x180"), 1, 14, 9),
    ("ManyhostHostLost", changed(UP, up="1x10 _x180"), 1, 18, 9),
    # one group fewer than there were, and as many as are wanted: the autoscaler
    ("", FINE | {f'up{{{POD.replace("r1-0", "r1-1")}}}': "1x10 _x180"}, 1, 18, None),
    ("ManyhostEngineStalled", changed(FINE, generation_tokens_total="0+9x10 90x180",
                                      prompt_tokens_total="0+9x10 90x180"), 1, 18, 10),
    ("ManyhostQueueing", changed(FINE, num_requests_waiting="5x200"), 1, 12, 8),
    ("", changed(FINE, num_requests_waiting=" ".join(["5x7", "0x1"] * 20)), 1, 100, None),
    # decode groups wait for KV caches all the time
    ("", changed(FINE, num_requests_waiting="5x200") | {
        f'vllm:num_requests_waiting_by_reason{{{MODEL},reason="capacity"}}': "0x200",
        f'vllm:num_requests_waiting_by_reason{{{MODEL},reason="deferred"}}': "5x200"}, 1, 100, None),
    ("ManyhostQueueing", FINE | {
        f'vllm:num_requests_waiting_by_reason{{{MODEL},reason="capacity"}}': "5x200"}, 1, 12, 8),
    ("ManyhostKvCachePressure", changed(FINE, kv_cache_usage_perc="0.97x200"), 1, 12, 8),
    ("ManyhostPreemptions", changed(FINE, num_preemptions_total="0+10x200"), 1, 12, 3),
    ("", changed(FINE, num_preemptions_total="0+1x200"), 1, 100, None),
    ("ManyhostServerErrors", FINE | {f'http_requests_total{{{POD},status="5xx"}}': "0+5x200"}, 1, 10, 1),
    ("", FINE | {f'http_requests_total{{{POD},status="4xx"}}': "0+50x200"}, 1, 100, None),
    ("ManyhostRequestsBroken", changed(FINE, request_success_total__abort="0+20x200"), 1, 10, 3),
    # with a router
    ("", TOGETHER, 1, 100, None),
    ("ManyhostRouterMissing", TOGETHER | {f"up{{{ROUTER}}}": "1x10 _x180"}, 1, 18, 9),
    ("ManyhostRouterErrors", TOGETHER | {f'manyhost_router_answers_total{{{ROUTER},code="502"}}': "0+5x200"},
     1, 8, 1),
    ("ManyhostRouterErrors", TOGETHER | {
        f'manyhost_router_refused_total{{{ROUTER},reason="decode"}}': "0+5x200"}, 1, 8, 1),
    ("ManyhostRouterErrors", TOGETHER | {f"manyhost_router_lost_total{{{ROUTER}}}": "0+5x200"}, 1, 8, 1),
    # what clients did wrong
    ("", TOGETHER | {f'manyhost_router_refused_total{{{ROUTER},reason="json"}}': "0+50x200"}, 1, 100, None),
    ("ManyhostBreakerOpen", TOGETHER | {
        f'manyhost_router_backend_open{{{ROUTER},role="decode",backend="b"}}': "1x200"}, 1, 4, 1),
    ("ManyhostPrefillFails", changed(TOGETHER, manyhost_router_requests_total__failed="0+50x200"), 1, 10, 3),
]  # fmt: skip


def rules(folder: Path, values: dict[str, Any], name: str) -> Path:
    """Write the rules of a render as Prometheus reads them."""
    (item,) = (each for each in render(values) if each["kind"] in ("Rules", "PrometheusRule"))
    path = folder / f"{name}.json"
    path.write_text(json.dumps(item["spec"]))
    return path


def promtool(*words: str) -> str:
    assert FOLDER
    done = subprocess.run([str(FOLDER / "promtool"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_both_kinds_hold_the_same_rules_and_promtool_has_nothing_against_them(tmp_path: Path) -> None:
    values = {"recipe": "local", **APART}
    first, second = (
        rules(tmp_path, merge(each, values), name) for each, name in ((GOOGLE, "g"), (OPERATOR, "o"))
    )
    plain, routed = (json.loads(path.read_text()) for path in (first, second))
    for group in routed["groups"]:
        for rule in group["rules"]:
            assert rule["labels"].pop("namespace") == "n"
    assert plain == routed
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(first))


def test_each_fires_when_it_should_and_no_other_does(tmp_path: Path) -> None:
    """All cases in one run of promtool; at each time exactly the alert that is named fires, or none."""
    names = {rule["alert"] for rule in rules_of(APART)}
    assert {alert for alert, *_ in CASES if alert} == names, "every rule has a case that fires"
    files = {
        (apart, groups): rules(
            tmp_path, merge(GOOGLE, {"groups": groups}, APART if apart else {}), f"{apart}-{groups}"
        )
        for apart in (False, True)
        for groups in (1, 2)
    }
    for (apart, groups), file in files.items():
        tests = [
            {
                "name": f"{number} {alert}",
                "interval": "1m",
                "input_series": [{"series": name, "values": value} for name, value in series.items()],
                "promql_expr_test": [
                    {"expr": _FIRING, "eval_time": f"{fires}m", "exp_samples": _samples(alert)},
                    *(
                        [{"expr": _FIRING, "eval_time": f"{silent}m", "exp_samples": []}]
                        if silent is not None
                        else []
                    ),
                ],
            }
            for number, (alert, series, wanted, fires, silent) in enumerate(CASES)
            if wanted == groups and any("router" in key for key in series) == apart
        ]
        path = tmp_path / f"test-{apart}-{groups}.json"
        path.write_text(json.dumps({"rule_files": [file.name], "evaluation_interval": "1m", "tests": tests}))
        if tests:
            promtool("test", "rules", str(path))


_FIRING = 'count by (alertname) (ALERTS{alertstate="firing"})'


def _samples(alert: str) -> list[dict[str, Any]]:
    return [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if alert else []


def rules_of(values: dict[str, Any]) -> list[dict[str, Any]]:
    (item,) = (each for each in render(merge(GOOGLE, values)) if each["kind"] == "Rules")
    return [rule for group in item["spec"]["groups"] for rule in group["rules"]]
