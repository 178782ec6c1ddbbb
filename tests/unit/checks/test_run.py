"""The entry point: order, one line per finding, cost."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from manyhost.checks import Allowance, Finding, run

from tests.helpers.sample import container, findings, flags, item, pods, sample, scripts


def test_a_finding_is_one_line() -> None:
    finding = Finding("name", "Service/x metadata.name", "'x_y' is no DNS label", "use a dash")
    assert str(finding) == "Service/x metadata.name: 'x_y' is no DNS label; use a dash [name]"
    assert str(Finding("name", "a", "b")) == "a: b [name]"


def test_nothing_is_wrong_with_no_manifests() -> None:
    assert run([]) == []


def test_a_malformed_object_does_not_hide_the_others() -> None:
    objects = sample()
    item(objects, "Service")["spec"] = "nonsense"
    for template in pods(objects):
        container(template)["args"].append("--no-such-flag")
    assert {"schema", "engine-flag"} <= {finding.check for finding in findings(objects)}


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"kind": "LeaderWorkerSet"},
        {"apiVersion": "v1", "kind": "Service", "metadata": None},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": ["a"]}, "data": 3},
        {"apiVersion": "v1", "kind": ["Pod"], "metadata": "x"},
        {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": {}},
    ],
)
def test_garbage_is_a_finding_not_a_traceback(broken: dict[str, object]) -> None:
    assert "schema" in {finding.check for finding in run([broken], flags=flags())}


def test_without_a_table_or_an_environment_those_checks_are_left_out() -> None:
    objects = sample()
    for template in pods(objects):
        container(template)["args"].append("--no-such-flag")
        container(template)["securityContext"] = {"privileged": True}
    assert run(objects, shipped_scripts=scripts()) == []


def test_duplicate_keys_are_found_in_the_text() -> None:
    text = "a: 1\nselector: {x: y}\nb:\n  c: 1\n  c: 2\nselector: {}\n---\na: 1\n"
    found = run([], manifests_text=text)
    assert [(f.check, f.where, f.message) for f in found] == [
        ("duplicate-key", "line 1", "key selector stands twice"),
        ("duplicate-key", "line 4", "key c stands twice"),
    ]


def test_import_is_light() -> None:
    code = "import sys, manyhost.checks; print([m for m in HEAVY if m in sys.modules])"
    heavy = ["jsonschema_rs", "yaml", "subprocess", "pydantic", "kubernetes"]
    done = subprocess.run(
        [sys.executable, "-c", f"HEAVY = {heavy}; {code}"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[]"


def test_a_run_costs_milliseconds() -> None:
    """A render is checked in about 1 ms; the limit leaves room for a busy machine."""
    objects, allowance = sample(), Allowance("privileged", frozenset())
    arguments = {"flags": flags(), "environment_level": allowance, "shipped_scripts": scripts()}
    run(objects, **arguments)
    best = 1.0
    for _ in range(20):
        start = time.perf_counter()
        run(objects, **arguments)
        best = min(best, time.perf_counter() - start)
    assert best < 0.010
