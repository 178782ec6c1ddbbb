"""Runs the command line in process, and checkouts that a test may break."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from manyhost.catalog import Catalog
from manyhost.cli import run

from tests.helpers.output import Output, read

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "a3mega/deepseek-r1-671b"


class Ran(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def output(self) -> Output:
        """What it printed with --output json; nothing of it may be on stderr."""
        assert self.err == ""
        found = read(self.out)
        assert found.envelope["exit_code"] == self.code
        return found


def manyhost(*arguments: str) -> Ran:
    """Run the command line in this process, as the program would."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(arguments))
    out.seek(0)
    return Ran(code, out.read(), err.getvalue())


def checkout(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a checkout of its own, with copies of the small files, that commands then use."""
    for name in ("values", "recipes"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "charts").symlink_to(ROOT / "charts")
    monkeypatch.setattr(Catalog.__init__, "__defaults__", (folder,))
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder by its path: nothing may appear, change or vanish."""
    if not folder.exists():
        return {}
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"<no file>"
        for path in sorted(folder.rglob("*"))
    }
