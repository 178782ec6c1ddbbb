"""What is published: the same bytes each time, and a wheel that works in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.cli import ROOT, tree
from tools import package

SECRET = "site: {project_id: somebody-elses}\n"

pytestmark = pytest.mark.skipif(
    not all(path.exists() for path in (*package.HELMS, ROOT / ".git")), reason="needs git, and make tools"
)


def _build(folder: Path, root: Path) -> list[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        return package.build(folder, root)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return _build(tmp_path_factory.mktemp("dist"), ROOT)


def test_the_same_tree_gives_the_same_bytes_and_nothing_that_git_ignores(
    built: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "check", lambda *_: None)  # of the same bytes, a moment ago
    copy = tmp_path / "copy"
    package.copy_tracked(ROOT, copy, 5)
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=copy, check=True)
    (copy / "values/local.yaml").write_text(SECRET)
    (copy / "charts/llm-multihost/launcher/untracked.sh").write_text("")

    assert [path.suffix for path in built] == [".tgz", ".tgz", ".whl", ".gz", ".tgz", ".tgz"]
    for one, other in zip(built, _build(tmp_path / "again", copy), strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes(), f"{one.name} is another file each time"


def test_an_archive_has_the_layout_that_helm_push_takes_and_tells_nothing_of_its_maker(
    built: list[Path],
) -> None:
    with tarfile.open(built[1]) as file:
        members = file.getmembers()
    assert members[0].name == "llm-multihost/Chart.yaml"
    assert {member.name.split("/")[0] for member in members} == {"llm-multihost"}
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", 1700000000)}


def test_an_archive_that_renders_something_else_than_its_folder_is_refused(
    built: list[Path], tmp_path: Path
) -> None:
    chart = tmp_path / "copy/charts/llm-multihost"
    package.copy_tracked(ROOT, tmp_path / "copy", 5)  # with this one the build has checked it
    template = chart / "templates/service.yaml"
    template.write_text(template.read_text().replace("targetPort: http", "targetPort: 1"))
    with pytest.raises(SystemExit, match="renders something else than charts/llm-multihost"):
        package.check(built[1], chart)


# ------------------------------------------------------------------------------- installed
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def site(built: list[Path], tmp_path: Path) -> Path:
    """Return a folder that holds what the wheel installs."""
    with zipfile.ZipFile(built[2]) as file:
        file.extractall(tmp_path / "site")
    return tmp_path / "site"


@pytest.fixture
def run(site: Path, tmp_path: Path) -> Run:
    """Return what runs the installed program in the folder tmp_path/empty."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "home").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "MANYHOST_LOCAL"}
    environment |= {
        "PYTHONPATH": str(site),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(tmp_path / "home"),
    }

    def manyhost(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "manyhost", *arguments],
            cwd=tmp_path / "empty",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return manyhost


def test_an_installed_program_works_in_an_empty_folder(site: Path, run: Run, tmp_path: Path) -> None:
    before = tree(site)
    done = run("render", "a3mega")
    assert done.returncode == 0, done.stderr
    assert "written       build/a3mega/deepseek-r1-671b/" in done.stdout
    assert set(tree(tmp_path / "empty")) == {
        "build",
        "build/a3mega",
        *(
            f"build/a3mega/deepseek-r1-671b{name}"
            for name in ("", "/values.yaml", "/manifests.yaml", "/plan.json", "/topology.svg")
        ),
    }
    assert tree(site) == before
    assert tree(tmp_path / "home") == {}
    committed = ROOT / "recipes/a3mega/deepseek-r1-671b/values.yaml"
    written = tmp_path / "empty/build/a3mega/deepseek-r1-671b/values.yaml"
    assert written.read_bytes() == committed.read_bytes()


def test_own_files_are_added_and_win_over_those_that_came_along(run: Run, tmp_path: Path, site: Path) -> None:
    packaged = site / "manyhost/_data"
    own = tmp_path / "empty"
    for name, source, old, new in (
        ("values/environments/mine.yaml", "values/environments/a3mega.yaml", "name: a3mega", "name: mine"),
        ("values/models/tiny-r1.yaml", "values/models/tiny-r1.yaml", "hub_id: ", "hub_id: mine/"),
        (
            "recipes/mine/deepseek-r1-671b/recipe.yaml",
            "recipes/a3mega/deepseek-r1-671b/recipe.yaml",
            "environment: a3mega",
            "environment: mine",
        ),
    ):
        text = (packaged / source).read_text()
        assert old in text
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text(text.replace(old, new, 1))
    (own / "values/local.yaml").write_text("groups: 3\n")

    done = run("render", "mine")
    assert done.returncode == 0, done.stderr
    plan = json.loads((own / "build/mine/deepseek-r1-671b/plan.json").read_text())
    assert [role["groups"] for role in plan["roles"]] == [3]
    listed = json.loads(run("list", "--output", "json").stdout)["result"]
    assert {"mine", "a3mega", "local"} <= {entry["name"] for entry in listed["environments"]}
    (tiny,) = (entry["about"] for entry in listed["models"] if entry["name"] == "tiny-r1")
    assert tiny.startswith("mine/")
    # Charts come with the program, whatever lies about.
    (own / "charts/llm-multihost").mkdir(parents=True)
    assert run("render", "mine").returncode == 0


def test_an_error_names_the_file_that_was_read(run: Run, tmp_path: Path, site: Path) -> None:
    own = tmp_path / "empty/values/environments/a3mega.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("name: a3mega\nbroken\n")
    assert "manyhost: values/environments/a3mega.yaml:" in run("render", "a3mega").stderr
    own.unlink()
    packaged = site / "manyhost/_data/values/environments/a3mega.yaml"
    packaged.write_text("name: a3mega\nbroken\n")
    assert f"manyhost: {packaged}:" in run("render", "a3mega").stderr


def test_wrong_settings_beside_the_data_are_found(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty/values").mkdir()
    (tmp_path / "empty/values/local.yaml").write_text("grups: 3\n")
    done = run("render", "a3mega")
    assert done.returncode == 3
    assert "values/local.yaml: grups: unknown key" in done.stderr
