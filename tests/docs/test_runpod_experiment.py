"""docs/tutorial/runpod-experiment.md: what it says of hosts and times is the plan's.

Its commands run, in their order, in tests/e2e/test_runpod_experiment.py.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from manyhost.catalog import Catalog, resolve
from manyhost.plan import Plan
from manyhost.render import Renderer
from manyhost.runpod import launch
from manyhost.runpod.offer import volume_usd_per_month

from tests.docs.markdown import section
from tests.helpers.cli import ROOT, manyhost
from tools.command_lines import command_lines

PAGE = ROOT / "docs/tutorial/runpod-experiment.md"
TEXT = " ".join(PAGE.read_text().split())
LINES = command_lines(PAGE.read_text())
# Beginnings of commands that do not run against the stand-in, and why.
ELSEWHERE = {
    "export ": "the account has its keys in the environment",
    "make render ": "it runs below, with the real hosts",
    ".venv/bin/manyhost plan ": "it runs below, with the real hosts",
    "prometheus ": "a real one takes these files in tests/unit/runpod/test_observe.py",
    "GF_PATHS_PROVISIONING=": "Grafana is not on this machine; test_observe.py reads its files",
}
CATALOG = Catalog(ROOT)


def plan(recipe: str, *assignments: str) -> Plan:
    return Renderer(CATALOG).plan(resolve(CATALOG, f"runpod-h200/{recipe}", assignments=list(assignments)))


@pytest.mark.parametrize("beginning", ELSEWHERE)
def test_no_reason_is_for_a_command_that_is_no_more(beginning: str) -> None:
    assert any(line.text.startswith(beginning) for line in LINES)


def test_what_is_rented_is_given_back_with_its_volume() -> None:
    rented: set[str] = set()
    for line in LINES:
        words = shlex.split(line.text)
        match words[1:3]:
            case ["runpod", "up"]:
                assert not rented, "two at once cost more than RunPod's spend limit"
                rented.add(words[3])
            case ["runpod", "down"]:
                assert words[4:] == ["--volume"]
                rented.remove(words[3])
            case ["bench", recipe]:
                assert recipe in rented
    assert not rented


def test_commands_without_an_account_work(tmp_path: Path) -> None:
    (render,) = (line.text for line in LINES if line.text.startswith("make render "))
    (layouts,) = (line.text for line in LINES if line.text.startswith(".venv/bin/manyhost plan "))
    assert render == "make render ENV=runpod-h200"
    ran = manyhost("render", "runpod-h200", "--out", str(tmp_path / "out"))
    assert (ran.code, "KV 41.0" in ran.out) == (0, True), ran
    shown = manyhost(*shlex.split(layouts)[1:], "--output", "json")
    assert shown.code == 0, shown
    rows = {row["layout"]: row for row in shown.output.result["choices"]}
    one, staged, wide = (rows[layout] for layout in ("TP8", "TP8 PP2", "TP16"))
    text = section(PAGE, "2.2 Two hosts, Ray, one engine over both")
    assert f"{staged['kv_tokens']:,} tokens of KV cache with TP8 PP2" in text
    assert f"{wide['kv_tokens']:,} and, by prediction, fewer" in text
    assert round(staged["kv_tokens"] / one["kv_tokens"]) == 4
    assert wide["tok_s"] < staged["tok_s"]
    # benchmarks/README.md has what a processor reads with Locust.
    assert round(50_000 / staged["tok_s"]) == 4


def test_what_it_says_of_hosts_and_times_is_the_plans() -> None:
    one = plan("single-host")
    assert one.main.memory
    assert f"{one.main.memory.kv_tokens:,}" in section(PAGE, "2.1 One host of eight H200, as validation")
    fp8 = plan("single-host", "arguments.kv-cache-dtype=fp8")
    assert fp8.main.memory
    assert fp8.main.memory.kv_tokens == pytest.approx(2 * one.main.memory.kv_tokens, rel=0.01)
    seconds = sum(seconds for _, seconds in one.cold_start)
    assert f"takes {seconds / 60:.0f} min by plan" in TEXT
    assert f"{seconds / 3600 * 8:.0f} GPU-hours on one host and {seconds / 3600 * 16:.0f} on two" in TEXT
    size = launch.volume(one, "", "").size
    assert f"{size:,} GB at {volume_usd_per_month(size):.0f} USD a month" in TEXT
    assert f"{one.model.weights_files} files" in TEXT
    assert "reads 689 GB" in TEXT


def test_each_layout_is_measured_alike_and_often_enough_for_a_finding() -> None:
    recipes = {shlex.split(line.text)[2] for line in LINES if " bench " in line.text}
    assert len(recipes) == 3
    for recipe in recipes:
        published = CATALOG.scenario("published", recipe)
        assert f"{published.requests:,} requests of 1,000 + 1,000 tokens" in TEXT
        assert published.repetitions.least == 3
    assert "beside it, three times" in TEXT
