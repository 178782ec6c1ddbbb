"""manyhost runpod observe: what it writes makes a real Prometheus show and judge what a pod says."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from testbed import prometheus
from tests.charts import scraped
from tests.charts.test_prometheus import WINDOW
from tests.helpers.runpod import RECIPE, Account
from tests.helpers.waiting import until
from tests.unit.cli.test_runpod import clock, cloud, engine, result, runpod  # noqa: F401  fixtures

RELEASE = "runpod-h200-two-host-mp"


class Written(NamedTuple):
    """What the command has written for a pod, and how much of it is scraped."""

    folder: Path
    exporter: scraped.Exporter


@pytest.fixture
def written(cloud: Account, tmp_path: Path) -> Iterator[Written]:  # noqa: F811
    up = result("up")
    exporter = scraped.Exporter(scraped.engine)
    try:
        cloud.api_port = int(exporter.address.rpartition(":")[2])
        files = result("observe", "--to", str(tmp_path / "watch"))["files"]
        assert all(Path(name).is_file() for name in files)
        (target,) = scrape(tmp_path / "watch")["static_configs"]
        assert target["targets"] == [exporter.address]
        assert target["labels"]["pod"] == up["pods"][0]["id"], "as status names it"
        yield Written(tmp_path / "watch", exporter)
    finally:
        exporter.close()


def scrape(folder: Path) -> Any:
    (job,) = yaml.safe_load((folder / "prometheus.yml").read_text())["scrape_configs"]
    return job


def test_commands_in_alerts_are_those_for_runpod(written: Written) -> None:
    text = (written.folder / "rules.yml").read_text()
    assert f"`manyhost runpod status {RECIPE} --owner ann`" in text
    assert f"`manyhost runpod logs {RECIPE} --owner ann`" in text
    assert "manyhost status" not in text
    assert "--namespace" not in text


def test_the_dashboards_are_where_grafana_looks(written: Written) -> None:
    provider = yaml.safe_load((written.folder / "grafana/dashboards/manyhost.yml").read_text())
    (place,) = (each["options"]["path"] for each in provider["providers"])
    boards = sorted(path.stem for path in Path(place).glob("*.json"))
    assert boards == ["cost", "engine", "health", "load"], "no GPU metrics are reached"
    (source,) = yaml.safe_load((written.folder / "grafana/datasources/manyhost.yml").read_text())[
        "datasources"
    ]
    assert source["type"] == "prometheus"


def test_before_up_it_says_what_is_missing(cloud: Account, tmp_path: Path) -> None:  # noqa: F811
    ran = runpod("observe", "--to", str(tmp_path / "watch"))
    assert ran.code == 4
    assert "nothing serves" in ran.err
    assert not (tmp_path / "watch").exists()


@pytest.mark.skipif(prometheus.built() is None, reason="needs make prometheus")
def test_a_real_prometheus_takes_it_and_every_panel_has_numbers(written: Written) -> None:
    folder = written.folder
    checked = subprocess.run(
        [prometheus.programs() / "promtool", "check", "config", folder / "prometheus.yml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "SUCCESS: 8 rules found" in checked.stdout
    often = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    }
    configuration = yaml.safe_load((folder / "prometheus.yml").read_text()) | often
    expressions = {
        f"{path.stem}: {panel['title']}, {target['legendFormat']}": target["expr"]
        for path in sorted((folder / "dashboards").glob("*.json"))
        for panel in json.loads(path.read_text())["panels"]
        for target in panel["targets"]
    }
    assert len(expressions) > 40
    with prometheus.Prometheus(folder, configuration) as running:

        def silent() -> dict[str, Any]:
            found = {
                name: [
                    float(each["value"][1])
                    for each in running.query(text.replace("$__rate_interval", WINDOW))
                ]
                for name, text in expressions.items()
            }
            return {
                name: some for name, some in found.items() if not some or not all(map(math.isfinite, some))
            }

        until(f"all give numbers; not {silent()}", lambda: not silent(), 30, pause=0.5)
        spent = next(
            text for name, text in expressions.items() if name.startswith("cost: USD for a million out")
        )

        def cost() -> float:
            return float(running.query(spent.replace("$__rate_interval", WINDOW))[0]["value"][1])

        # 64 USD an hour for both hosts; the recorded engine makes 644 tokens a second (test_prometheus.py).
        until(
            "the cost is what RunPod bills",
            lambda: cost() == pytest.approx(64 / 3.6 / 644 * 1000, rel=0.05),
            30,
        )
        rules = [rule for group in running.get("rules")["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} == {"ok"}
        assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []
        written.exporter.close()
        lost = "up{manyhost_release='" + RELEASE + "'} == 0"
        until("the loss of the pod is seen", lambda: bool(running.query(lost)), 30)
        until(
            "ManyhostHostLost waits for its minute",
            lambda: (
                "ManyhostHostLost"
                in {each["labels"]["alertname"] for each in running.get("alerts")["alerts"]}
            ),
            30,
        )
