"""Say which releases of engines, NVIDIA Dynamo and LeaderWorkerSet are newer than those that manyhost covers.

    python -m tools.freshness

Asks the package index by pip and the index of Go modules by go. Ends with 1 when something newer is not
covered, with 2 when an index could not be asked and nothing newer was seen elsewhere.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from typing import NamedTuple

from manyhost.catalog import Catalog
from manyhost.catalog.engine import TITLES
from manyhost.cluster.doctor.lws import VERSION as LWS

_RELEASE = re.compile(
    r"(?<![\w.])v?(\d+)\.(\d+)\.(\d+)(?![\w.+-])"
)  # no candidates, no builds for one device
Version = tuple[int, int, int]


class Row(NamedTuple):
    """One thing that releases.

    Attributes:
        name: What it is.
        covered: The newest release that manyhost knows.
        newer: Releases after it, the newest first; None when nobody could be asked.
        problem: Why nobody could be asked.
    """

    name: str
    covered: Version
    newer: list[Version] | None
    problem: str = ""


def releases(text: str) -> list[Version]:
    """Return the final releases that a text names, in order, each once."""
    found = {(int(a), int(b), int(c)) for a, b, c in _RELEASE.findall(text)}
    return sorted(found)


def compare(name: str, covered: Iterable[Version], published: Iterable[Version]) -> Row:
    """Return what is newer than the newest release that is covered."""
    newest = max(covered)
    return Row(name, newest, sorted((one for one in published if one > newest), reverse=True))


def exit_code(rows: Iterable[Row]) -> int:
    """Return 1 when something newer is not covered, 2 when that is not known, else 0."""
    rows = list(rows)
    if any(row.newer for row in rows):
        return 1
    return 2 if any(row.newer is None for row in rows) else 0


def table(rows: Iterable[Row]) -> list[str]:
    """Return the rows as lines of a table."""
    lines = [f"{'':<24} {'covered':<10} newer and not covered"]
    for row in rows:
        newer = ", ".join(map(_text, row.newer or [])) or "none"
        if row.newer is None:
            newer = f"not known: {row.problem}"
        lines.append(f"{row.name:<24} {_text(row.covered):<10} {newer}")
    return lines


def _text(version: Version) -> str:
    return ".".join(map(str, version))


def _published(command: list[str]) -> tuple[str, str]:
    """Return what a client of an index says, and why it says nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"{command[0]}: {error}"
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        return "", next(filter(None, said), f"{command[0]} fails")
    return done.stdout, ""


def _ask(name: str, covered: list[Version], command: list[str]) -> Row:
    text, problem = _published(command)
    return Row(name, max(covered), None, problem) if problem else compare(name, covered, releases(text))


def main() -> int:
    """Ask, print the table and return the exit code."""
    catalog = Catalog()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "index", "versions"]
    engines = [engine for engine in catalog.engines() if engine.device == "cuda"]
    pairs = [pair.dynamo for pair in catalog.dynamo().pairs]
    go = ["go", "list", "-m", "-versions", "sigs.k8s.io/lws"]
    rows = [
        *(
            _ask(title, releases(" ".join(e.version for e in engines if e.name == name)), [*pip, name])
            for name, title in TITLES.items()
        ),
        _ask("NVIDIA Dynamo", releases(" ".join(pairs)), [*pip, "ai-dynamo"]),
        _ask("LeaderWorkerSet", releases(LWS), go),
    ]
    print("\n".join(table(rows)))
    return exit_code(rows)


if __name__ == "__main__":
    sys.exit(main())
