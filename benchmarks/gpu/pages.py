"""What the pages of GPU results have in common: tables, what was run, writing and checking.

Each page is computed from raw results, one JSON Lines file a machine, by a program of its own.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from readings import load

Record = dict[str, Any]
Machines = dict[str, list[Record]]


def machines_in(folder: Path, pattern: str = "*.jsonl") -> Machines:
    """The readings of each machine, by the last letter of its file's name."""
    return {path.stem[-1]: load(path) for path in sorted(folder.glob(pattern))}


def of_kind(records: list[Record], kind: str) -> list[Record]:
    """The readings of one kind."""
    return [record for record in records if record["kind"] == kind]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def span(values: list[float], form: str = ".0f") -> str:
    """`low-high`, or one value where both print the same."""
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low}-{high}"


def started(machine: str, start: Record) -> list[str]:
    """Name, machine, flags and variables of a server: the beginning of a row of what was run."""
    named = " ".join(f"{name}={value}" for name, value in sorted(start["environment"].items()))
    return [start["variant"], machine, f"`{shlex.join(start['flags'])}`", f"`{named or '-'}`"]


def hardware(machine: str, records: list[Record], *versions: str, more: str = "") -> str:
    """A line on a machine: GPUs, driver, and the versions of these packages."""
    facts = of_kind(records, "machine")[0]
    name, size, driver = (part.strip() for part in facts["gpus"][0].split(","))
    named = ", ".join(f"{package} {facts[package]}" for package in versions)
    return f"Machine {machine}: {len(facts['gpus'])} x {name} ({size} MiB), driver {driver}{more}; {named}."


def command(machines: Machines) -> str:
    """The first benchmark's command, as a block."""
    benches = [record["command"] for records in machines.values() for record in of_kind(records, "bench")]
    return f"```\n{benches[0] if benches else ''}\n```\n"


def failures(machines: Machines) -> str:
    """Servers that ended, with the engine's last word; empty where there are none."""
    rows = []
    for machine, records in machines.items():
        for record in of_kind(records, "failure"):
            words = (record["errors"] or record["why"].splitlines() or [""])[-1][-160:]
            rows.append([record["variant"], machine, f"`{words.replace('|', ' ').replace('`', ' ')}`"])
    return "## Failures\n\n" + table(["server", "machine", "last error"], rows) if rows else ""


def finish(page: Path, text: str, program: str) -> None:
    """Write a page, or with --check hold it against the text and end with 1 where they differ.

    Args:
        page: The Markdown file.
        text: All of it.
        program: What writes it, below benchmarks/gpu.
    """
    if "--check" not in sys.argv[1:]:
        page.write_text(text)
    elif not page.exists() or page.read_text() != text:
        sys.exit(f"{page.name} is out of date: run python benchmarks/gpu/{program}")
