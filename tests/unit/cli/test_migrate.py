"""`manyhost migrate`: what it says, what it writes, and what it refuses."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.helpers.cli import ROOT, checkout, manyhost, tree

PUBLISHED = "a3mega/deepseek-r1-671b-published"


def test_it_says_what_becomes_of_each_flag_and_what_changes_in_the_plan() -> None:
    result = manyhost("migrate", PUBLISHED, "--engine", "v0.26.0", "--output", "json").output.result
    actions = {step["key"]: step["action"] for step in result["steps"]}
    assert actions["arguments.max-num-seqs"] == "kept"
    assert actions["arguments.disable-log-requests"] == "dropped"
    assert actions["engine.executor"] == "replaced"
    changes = {change["what"]: (change["before"], change["after"]) for change in result["changes"]}
    assert changes["executor"] == ("ray", "mp")
    assert changes["image"] == ("vllm/vllm-openai:v0.7.3", "vllm/vllm-openai:v0.26.0")
    old, new = (int(text.split()[0].replace(",", "")) for text in changes["KV cache"])
    assert new > 2 * old
    assert result["written"] == ""


def test_what_it_writes_renders_and_keeps_the_comments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkout(tmp_path / "checkout", monkeypatch)
    before = tree(folder / "recipes" / PUBLISHED)
    new = folder / "recipes/a3mega/newer"
    ran = manyhost("migrate", PUBLISHED, "--engine", "v0.26.0", "--write", str(new))
    assert ran.code == 0, ran.err
    text = (new / "recipe.yaml").read_text()
    assert "# The published recipe leaves the reasoning inside the answer." in text
    assert "disable-log-requests" not in text
    assert "version: v0.26.0" in text
    assert tree(folder / "recipes" / PUBLISHED) == before
    assert manyhost("render", "a3mega/newer", "--out", str(tmp_path / "out")).code == 0


def test_the_scenarios_of_the_recipe_go_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkout(tmp_path / "checkout", monkeypatch)
    source, new = folder / "recipes/a3mega/deepseek-r1-671b", folder / "recipes/a3mega/newer"
    shutil.copy(ROOT / "recipes/local/tiny-r1/benchmark.yaml", source)
    assert manyhost("migrate", "a3mega", "--engine", "v0.33.0", "--write", str(new)).code == 0
    assert (new / "benchmark.yaml").read_bytes() == (source / "benchmark.yaml").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a3mega", "--engine", "v0.99.0"), "unknown engine version 'v0.99.0'"),
        (("local", "--engine", "v0.33.0"), "computes on GPUs, and a host has no GPUs"),
        (("a4x", "--engine", "v0.7.3"), "is built for amd64, a4x-highgpu-4g is arm64"),
        (("runpod-h200/dynamo-router", "--engine", "v0.33.0"), "no release of Dynamo can stand before"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_sentence(words: tuple[str, ...], said: str) -> None:
    ran = manyhost("migrate", *words)
    assert ran.code == 3
    assert said in ran.err
    assert ran.out == ""


@pytest.mark.parametrize("engine", ["v0.7.3", "v0.33.0"])
def test_the_recipe_is_not_blamed_for_what_it_does_not_say(engine: str) -> None:
    """Its engine.executor is mp: over Ray is what migrate would make of it for an engine that has no mp."""
    ran = manyhost("migrate", "runpod-h200/dynamo-router", "--engine", engine)
    assert ran.code == 3
    assert "recipe.yaml" not in ran.err
    assert "engine.executor" not in ran.err
    assert f"--engine {engine}: engine.version: no release of Dynamo" in ran.err
    fix = re.search("fix: set it to (v[0-9.]+),", ran.err)
    assert fix
    assert manyhost("migrate", "runpod-h200/dynamo-router", "--engine", fix[1]).code == 0


def test_the_recipe_is_blamed_for_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkout(tmp_path, monkeypatch)
    with (folder / "recipes" / PUBLISHED / "recipe.yaml").open("a") as file:
        file.write("tls: {secret: x}\n")
    ran = manyhost("migrate", PUBLISHED, "--engine", "v0.26.0")
    assert ran.code == 3
    assert f"recipes/{PUBLISHED}/recipe.yaml: tls" in ran.err


def test_nothing_is_written_where_no_recipe_is_looked_for_or_over_another(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "recipes/a4/x", ROOT / "recipes/a3mega/deepseek-r1-671b"):
        before = tree(place)
        ran = manyhost("migrate", "a3mega", "--engine", "v0.33.0", "--write", str(place))
        assert ran.code == 3
        assert "fix: " in ran.err
        assert tree(place) == before
    assert not (tmp_path / "recipes").exists()


def test_a_recipe_that_is_refused_is_not_written(tmp_path: Path) -> None:
    new = tmp_path / "recipes/a4x/newer"
    assert manyhost("migrate", "a4x", "--engine", "v0.7.3", "--write", str(new)).code == 3
    assert not new.exists()
