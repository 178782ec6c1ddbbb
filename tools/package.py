"""Build what is published: wheel, sdist and the archive of every chart, the same bytes for the same commit.

    python -m tools.package [FOLDER]

Only what git tracks goes in. Both builders get one time, $SOURCE_DATE_EPOCH or else that of the commit: Helm
4 takes for a chart the times of its files (Helm 3 the time of day). An archive is done when Helm 3 and 4
lint it and render from it what they render from the folder; `helm push` takes it as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
HELMS = (ROOT / ".tools/helm3", ROOT / ".tools/helm4")


def build(target: Path, root: Path = ROOT) -> list[Path]:
    """Build everything into a folder and return the files; SystemExit when an archive is not right."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or _run("git", "log", "-1", "--format=%ct", cwd=root).strip()
    with tempfile.TemporaryDirectory() as name:
        source, out = Path(name, "source"), Path(name, "out")
        copy_tracked(root, source, int(epoch))
        # The wheel is built from the sdist. The backend is installed already: nothing is downloaded.
        _run(
            *(
                str(Path(sys.executable).with_name("uv")),
                "build",
                "--quiet",
                "--offline",
                "--no-build-isolation",
            ),
            *("--python", sys.executable, "--out-dir", str(out)),
            cwd=source,
            SOURCE_DATE_EPOCH=epoch,
        )
        for chart in charts(source):
            _run(str(HELMS[-1]), "package", str(chart), "--destination", str(out))
            (archive,) = out.glob(f"{chart.name}-*.tgz")
            check(archive, chart)
        target.mkdir(parents=True, exist_ok=True)
        files = sorted(path for path in out.iterdir() if path.suffix in {".whl", ".gz", ".tgz"})
        return [shutil.copyfile(path, target / path.name) for path in files]


def charts(root: Path) -> list[Path]:
    """Return the folders of the charts that can be installed."""
    files = sorted((root / "charts").glob("*/Chart.yaml"))
    return [f.parent for f in files if yaml.safe_load(f.read_text()).get("type") != "library"]


def check(archive: Path, chart: Path) -> None:
    """Check that every Helm accepts an archive and renders from it what it renders from the folder."""
    # The recipes are for this chart; another one has examples of its own, as chart-testing wants them.
    own = ROOT.glob("recipes/*/*/values.yaml") if chart.name == "llm-multihost" else chart.glob("ci/*.yaml")
    examples = sorted(own)
    for helm in map(str, HELMS):
        for options in [["--values", str(path)] for path in examples] or [[]]:
            _run(helm, "lint", "--strict", "--quiet", str(archive), *options)
            rendered = [_run(helm, "template", "r", str(c), *options) for c in (archive, chart)]
            if rendered[0] != rendered[1]:
                sys.exit(f"{archive.name}: renders something else than charts/{chart.name} ({helm})")


def copy_tracked(root: Path, target: Path, epoch: int) -> None:
    """Copy what git tracks, as it stands in the working tree, with one time for every file."""
    for name in _run("git", "ls-files", "-z", cwd=root).split("\0"):
        path = target / name
        if name and (root / name).exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, path)
            os.utime(path, (epoch, epoch))


def _run(*command: str, cwd: Path | None = None, **variables: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    for file in build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist")):
        print(file)
