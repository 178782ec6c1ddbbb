"""RECIPE as people write it, on the command line and for make."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from manyhost.catalog import Catalog

from tests.helpers.cli import ROOT, manyhost

CATALOG = Catalog(ROOT)
PUBLISHED = "a3mega/deepseek-r1-671b-published"


@pytest.mark.parametrize(
    "text",
    [
        PUBLISHED,
        f"{PUBLISHED}/",
        f"recipes/{PUBLISHED}",
        f"recipes/{PUBLISHED}/",
        f"./recipes/{PUBLISHED}/recipe.yaml",
        f"recipes/{PUBLISHED}/values.yaml",
        "deepseek-r1-671b-published",
    ],
)
def test_forms(text: str, tmp_path: Path) -> None:
    ran = manyhost("render", text, "--out", str(tmp_path / "out"))
    assert ran.code == 0, ran.err
    assert f"{PUBLISHED}: " in ran.out


def test_a_name_that_several_environments_have_lists_them() -> None:
    ran = manyhost("render", "deepseek-r1-671b")
    assert ran.code == 3
    assert "RECIPE: several environments have deepseek-r1-671b\n  fix: choose one of: a3high/" in ran.err


@pytest.mark.parametrize("command", ["render", "doctor"])
def test_who_leaves_it_out_sees_what_there_is(command: str) -> None:
    ran = manyhost(command)
    assert ran.code == 2
    for name in CATALOG.recipes():
        assert name in ran.err


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ((f"RECIPE={PUBLISHED}",), f"manyhost render {PUBLISHED}"),
        (("ENV=a3mega", f"RECIPE={PUBLISHED}"), f"manyhost render {PUBLISHED}"),
        (("ENV=a3mega", "RECIPE=deepseek-r1-671b"), "manyhost render a3mega/deepseek-r1-671b"),
        (("RECIPE=deepseek-r1-671b-published",), "manyhost render deepseek-r1-671b-published"),
        (("ENV=a3mega",), "manyhost render a3mega"),
    ],
)
def test_make_takes_the_same(words: tuple[str, ...], shown: str) -> None:
    assert _make("-n", *words).stdout.rstrip().endswith(f"/{shown}")


def test_make_refuses_two_environments() -> None:
    done = _make("ENV=local", f"RECIPE={PUBLISHED}")
    assert done.returncode == 2
    assert f"ENV=local and RECIPE={PUBLISHED} name two environments" in done.stderr


def _make(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "render", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["Upper", "a_b", "with space", "-x", "long" * 15])
def test_a_folder_whose_name_no_label_takes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "recipes/a3mega" / name
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text((ROOT / f"recipes/{PUBLISHED}/recipe.yaml").read_text())
    ran = manyhost("render", f"a3mega/{name}", "--release", "r")
    assert ran.code == 3
    assert ran.err.startswith(
        f"manyhost: recipes/a3mega: {name!r} is no name of a recipe\n  fix: rename the folder"
    )
