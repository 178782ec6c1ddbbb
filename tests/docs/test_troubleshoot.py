"""docs/how-to/troubleshoot.md: its checks and commands exist, its settings render, its sources are links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from manyhost.cluster.doctor import CHECKS

from tests.docs.markdown import HOW_TO, code, table
from tests.docs.test_commands import test_command as take
from tests.helpers.cli import manyhost

PAGE = HOW_TO / "troubleshoot.md"
TEXT = PAGE.read_text()
ROWS = [row for heading in re.findall(r"^## (.+)$", TEXT, re.M) for row in table(PAGE, heading)]
PROGRAMS = ("manyhost ", "kubectl ", "gcloud ", "helm ")
COMMANDS = sorted(
    {span for row in ROWS for cell in row[2:] for span in code(cell) if span.startswith(PROGRAMS)}
    - {"manyhost stage"}
)
SETTINGS = sorted({span for row in ROWS for span in code(row[2]) if span.startswith("--set ")})


def test_every_row_says_who_finds_it() -> None:
    assert len(ROWS) > 30
    for row in ROWS:
        assert len(row) == 4, row
        assert all(row), row
        found = code(row[3])
        assert found, row
        assert all(span in CHECKS or span.startswith("manyhost ") for span in found), row


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    take("docs/how-to/troubleshoot.md", line)


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_render(setting: str, tmp_path: Path) -> None:
    ran = manyhost("render", "a3mega", "--out", str(tmp_path / "out"), *shlex.split(setting))
    assert ran.code == 0, ran.err


@pytest.mark.parametrize(
    ("cause", "setting"),
    [
        ("stock images have no Ray", "engine.executor=ray"),
        ("the flag belongs to another version", "arguments.enable-reasoning=true"),
        ("NIXL has no TCPXO", "roles.prefill.groups=1"),
    ],
)
def test_what_render_refuses(cause: str, setting: str, tmp_path: Path) -> None:
    (row,) = (row for row in ROWS if row[1].startswith(cause))
    assert row[3] == "`manyhost render a3mega` refuses it"
    assert manyhost("render", "a3mega", "--out", str(tmp_path / "out"), "--set", setting).code == 3


def test_sources_are_what_their_links_say() -> None:
    repository = ""
    for name, number, url in re.findall(r"\[([a-z_-]*)#(\d+)\]\(([^)]+)\)", TEXT):
        match = re.fullmatch(r"https://github\.com/[^/]+/([^/]+)/issues/(\d+)", url)
        assert match, url
        repository = name or repository
        assert (match[1], match[2]) == (repository, number)
