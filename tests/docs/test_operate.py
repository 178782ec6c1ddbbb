"""docs/how-to/operate.md: its settings render, and what it says of money, keys and refusals is so."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from tests.docs.markdown import HOW_TO
from tests.docs.test_commands import commands
from tests.helpers.cli import manyhost
from tests.helpers.helm import engine_container

PAGE = HOW_TO / "operate.md"
TEXT = PAGE.read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.M | re.S)
ALL = [line for name, line in commands() if name == "docs/how-to/operate.md"]
DEPLOYS = [line for line in ALL if " --set " in line]


def settings(line: str) -> list[str]:
    """The --set options of a command line."""
    return [word for flag, value in pairwise(shlex.split(line)) if flag == "--set" for word in (flag, value)]


@pytest.mark.parametrize("line", DEPLOYS)
def test_what_is_set_on_the_command_line_renders(line: str, tmp_path: Path) -> None:
    ran = manyhost("render", "a3mega", "--out", str(tmp_path / "out"), *settings(line))
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_each_block_is_a_settings_file(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "local.yaml"
    path.write_text(BLOCKS[number])
    monkeypatch.setenv("MANYHOST_LOCAL", str(path))
    ran = manyhost("render", "a3mega", "--out", str(tmp_path / "out"))
    assert ran.code == 0, ran.err
    (key, value) = next(iter(yaml.safe_load(BLOCKS[number])["a3mega"]["chart"].items()))
    shown = manyhost("explain", f"chart.{key}.{next(iter(value))}", "a3mega")
    assert "values/local.yaml: a3mega" in shown.out, shown


def test_the_key_of_the_api_comes_from_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = (block for block in BLOCKS if "VLLM_API_KEY" in block)
    (create,) = (line for line in ALL if line.startswith("kubectl create secret generic r1-"))
    path = tmp_path / "local.yaml"
    path.write_text(block)
    monkeypatch.setenv("MANYHOST_LOCAL", str(path))
    assert manyhost("render", "a3mega", "--out", str(tmp_path / "out")).code == 0
    objects = list(yaml.safe_load_all((tmp_path / "out/manifests.yaml").read_text()))
    for role in ("leader", "worker"):
        (entry,) = (item for item in engine_container(objects, role)["env"] if item["name"] == "VLLM_API_KEY")
        reference = entry["valueFrom"]["secretKeyRef"]
        assert set(entry) == {"name", "valueFrom"}
        assert f" {reference['name']} --from-literal={reference['key']}=" in create
    (read,) = (line for line in ALL if line.startswith("export VLLM_API_KEY="))
    assert f'secret {reference["name"]} -o go-template=\'{{{{index .data "{reference["key"]}"' in read


def test_what_a_held_group_costs_is_the_plans(tmp_path: Path) -> None:
    told = manyhost("render", "a3mega", "--out", str(tmp_path / "out")).out
    found = re.search(r"held at most +(\d+ min) without an answer \((at most [\d.,]+ USD)\)", told)
    assert found
    assert f"after {found[1]}, {found[2]}" in TEXT


@pytest.mark.parametrize(
    ("recipe", "setting"),
    [
        ("a3mega", "chart.podDisruptionBudget.enabled=true"),
        ("a4x", "groups=2"),
        ("a4x", "chart.autoscaling.enabled=true"),
    ],
)
def test_what_it_calls_refused_is(recipe: str, setting: str, tmp_path: Path) -> None:
    assert manyhost("render", recipe, "--out", str(tmp_path / "out"), "--set", setting).code == 3
