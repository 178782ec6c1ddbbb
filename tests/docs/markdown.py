"""Reads tables and blocks of the documents."""

from __future__ import annotations

import re
from pathlib import Path

from tests.helpers.helm import ROOT

HOW_TO = ROOT / "docs/how-to"


def section(path: Path, heading: str) -> str:
    """Return the text below a heading, up to the next one of any level."""
    text = re.sub(r"```.*?```", lambda match: match[0].replace("\n#", "\n\0"), path.read_text(), flags=re.S)
    match = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.M | re.S)
    assert match, f"{path.name} has no section {heading}"
    return match[1].replace("\0", "#")


def table(path: Path, heading: str) -> list[list[str]]:
    """Return the rows of the first table below a heading, without its head."""
    lines = [line for line in section(path, heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def code(cell: str) -> list[str]:
    """Return what stands in backticks in a cell."""
    return re.findall(r"`([^`]+)`", cell)
