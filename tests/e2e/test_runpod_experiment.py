"""docs/tutorial/runpod-experiment.md from its first to its last command, at RunPod's stand-in (rented.py).

The catalog of the checkout has hosts, model and load of a size for this machine, under the names of the page.
"""

from __future__ import annotations

import getpass
import glob
import json
import re
import shlex
import time
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_runpod_experiment import ELSEWHERE, LINES
from tests.e2e.place import Outcome, run
from tests.e2e.rented import KEY, LEASE_KEY, Account, lay_experiment, rented

__all__ = ["rented"]
# With Dynamo, and some minutes: make e2e-runpod.
pytestmark = [pytest.mark.engine, pytest.mark.dynamo, pytest.mark.more, pytest.mark.timeout(2400)]


class Walk:
    """Runs the page's commands section by section, and prints each with time and money."""

    def __init__(self, account: Account) -> None:
        self.account, self.begin = account, time.monotonic()
        self.lines = list(LINES)
        self.before = 0.0  # USD, for hosts that are given back

    def section(self, number: str) -> list[Outcome]:
        """Run the commands below the heading of a number, which are the next ones of the page."""
        found = []
        while self.lines and self.lines[0].heading.startswith(f"{number} "):
            text = self.lines.pop(0).text
            why = next((why for begin, why in ELSEWHERE.items() if text.startswith(begin)), "")
            seconds, usd = time.monotonic() - self.begin, self.before + self.account.spent()
            print(f"{seconds:5.0f} s {usd:8.4f} USD  $ {text}{why and f'  # not here: {why}'}", flush=True)
            if not why:
                found.append(self.run(text))
        assert found, f"section {number} is not the next one"
        return found

    def run(self, text: str) -> Outcome:
        """Run a command as a shell would; it must succeed."""
        program, *words = shlex.split(text)
        assert program == ".venv/bin/manyhost"
        done = run(*(part for word in words for part in sorted(glob.glob(word)) or [word])).ok()  # noqa: PTH207
        if words[:2] == ["runpod", "up"]:
            # The stand-in's public address is loopback, which is every pod's own.
            self.account.pods.reach.append(int(re.findall(r"answers at \S+:(\d+)", done.out)[0]))
        if words[:2] == ["runpod", "down"]:
            self.before += float(re.findall(r"billed so far (\S+) USD", done.out)[0])
        return done


def runs(recipe: str) -> list[Any]:
    """Return what run.json says of each run of a recipe."""
    folders = Path("build/runs").glob(f"runpod-h200__{recipe}-*/run.json")
    return [json.loads(path.read_text()) for path in folders]


@pytest.mark.usefixtures("_patient")
def test_the_commands_of_the_page_in_its_order(rented: Account, tmp_path: Path) -> None:
    cloud, user = rented.cloud, getpass.getuser()
    lay_experiment(rented, tmp_path / "here", user)
    volumes = len(cloud.things["network-volumes"])
    walk = Walk(rented)

    verified, planned = walk.section("1.")
    assert "FAIL" not in verified.out
    assert "USD an hour" in planned.out
    assert not cloud.alive()

    up, status, bench, down = walk.section("2.1")
    assert "manyhost: staged" not in up.out
    assert "RUNNING" in status.out
    assert "sending the load from a CPU pod" in bench.out + bench.err
    assert "nothing is left" in down.out
    assert not cloud.alive()

    walk.section("2.2")
    assert not cloud.alive()

    walk.section("3.")
    walk.section("4.1")
    walk.section("4.2")
    assert Path("build/observe/prometheus.yml").exists()

    _, sweep, _ = walk.section("4.3")
    assert not cloud.alive()
    assert len(cloud.things["network-volumes"]) == volumes - 3
    assert "manyhost--" in sweep.out  # the volumes of the recipes that the page leaves out
    assert "from RunPod, of these pods" in Path("build/report/report.md").read_text()

    walk.section("4.4")
    assert not walk.lines
    evaluation = Path("build/evaluation/evaluation.md").read_text()
    for recipe in ("single-host", "two-host-ray", "dynamo-disaggregated"):
        (made,) = runs(recipe)
        assert [point["passed"] for point in made["points"]] == [1]
        assert f"runpod-h200/{recipe}" in evaluation
    assert "### One host or several" in evaluation

    secrets = [KEY, LEASE_KEY, cloud.key]
    kept = [
        *(rented.pods.folder / "pods").glob("*/log"),
        *Path("build").rglob("*"),
        *(tmp_path / "state").rglob("*"),
    ]
    said = "".join(path.read_text(errors="replace") for path in kept if path.is_file())
    assert not [secret for secret in secrets if secret in said]
