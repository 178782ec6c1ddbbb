"""Commands on recipes of SGLang: those that work, and those that say why they do not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from manyhost.render import build

from tests.helpers.cli import ROOT, manyhost
from tests.helpers.helm import engine_container, expand

RECIPES = ["a3mega/deepseek-r1-671b-sglang", "a3ultra/deepseek-r1-671b-sglang"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_renders_and_its_manifests_are_checked_against_its_own_flags(recipe: str, tmp_path: Path) -> None:
    rendered = build(recipe)
    file = tmp_path / "manifests.yaml"
    file.write_text(rendered.manifests_text)
    ran = manyhost("check", str(file))
    assert (ran.code, ran.out) == (0, "1 file checked: nothing wrong\n"), ran
    file.write_text(
        rendered.manifests_text.replace('"--enable-metrics"', "--enable-metrics").replace(
            "- --enable-metrics", "- --enable-prefix-caching"
        )
    )
    assert "--enable-prefix-caching is no flag of SGLang v0.5.20" in manyhost("check", str(file)).out


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_stand_in_of_the_shell_tests_takes_what_is_rendered(recipe: str) -> None:
    words = [expand(word) for word in engine_container(build(recipe).objects)["args"]]
    program = [sys.executable, str(ROOT / "tests/shell/fakes/sglang"), "serve", "some/model"]
    done = subprocess.run([*program, *words, "--no-such-flag"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("error: unrecognized arguments: --no-such-flag\n")
    listed = (ROOT / "tests/shell/sglang.bats").read_text()
    found = re.search(r"rendered=\((.*?)\)", listed, re.S)
    assert found
    if recipe.startswith("a3ultra"):
        assert found[1].split() == words


def test_no_number_is_measured() -> None:
    ran = manyhost("bench", RECIPES[0], "--dry-run")
    assert ran.code == 3
    assert "engine.name: what proves a number is read from vLLM's counters" in ran.err


@pytest.mark.parametrize(
    ("recipe", "version", "words"),
    [
        (RECIPES[0], "v0.33.0", "--engine: vLLM v0.33.0 is no version of SGLang"),
        ("a3mega/deepseek-r1-671b", "v0.5.20", "--engine: SGLang v0.5.20 is no version of vLLM"),
        (RECIPES[0], "v9.9.9", "unknown engine version 'v9.9.9'"),
    ],
)
def test_no_recipe_moves_to_the_other_engine(recipe: str, version: str, words: str) -> None:
    ran = manyhost("migrate", recipe, "--engine", version)
    assert ran.code == 3
    assert words in ran.err


def test_a_recipe_moves_to_its_own_version() -> None:
    result = manyhost("migrate", RECIPES[0], "--engine", "v0.5.20", "--output", "json").output.result
    assert result["steps"] == []
    assert result["changes"] == []


def test_what_starts_vllm_alone_says_so() -> None:
    ran = manyhost("image", "status", RECIPES[0])
    assert (ran.code, "engine.name: docker/vllm is an image of vLLM" in ran.err) == (3, True)
    ran = manyhost("render", RECIPES[0], "--as", "dynamo")
    assert (ran.code, "engine.name: the graph starts vLLM" in ran.err) == (3, True)


def test_no_layout_is_offered_that_nobody_can_time() -> None:
    settings = ["--set", "engine.name=sglang", "--set", "engine.version=v0.5.20"]
    ran = manyhost("plan", "deepseek-r1-671b", "--env", "a3mega", *settings)
    assert ran.code == 3
    assert "no layout of up to 4 hosts" in ran.err
    assert "TP16, TP8 PP3, TP8 PP4: nobody has measured the memory and the speed of SGLang v0.5.20" in ran.out


def test_it_is_listed_with_its_engine() -> None:
    engines = manyhost("list", "--output", "json").output.result["engines"]
    assert {"name": "v0.5.20", "about": "SGLang, executors mp"} in engines
    assert {"name": "v0.33.0", "about": "vLLM, executors mp, ray"} in engines


def test_the_readme_says_that_it_was_never_started() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "SGLang" in next(line for line in readme.splitlines() if line.startswith("| never yet |"))
    for recipe in RECIPES:
        document = yaml.safe_load((ROOT / "recipes" / recipe / "recipe.yaml").read_text())
        assert document["description"].endswith("never started for real")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("parallelism.tensor=32", "cannot be divided by 32 ranks"),
        ("parallelism.data=2", "data parallel ranks of SGLang v0.5.20 are not planned"),
    ],
)
def test_no_flag_of_vllm_is_advised(setting: str, words: str) -> None:
    ran = manyhost("render", "a3mega/deepseek-r1-671b-sglang", "--set", setting)
    assert ran.code == 3
    assert words in ran.err
    assert "enable-expert-parallel" not in ran.err
