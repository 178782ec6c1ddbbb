"""The table of values in a chart's README.md, made from the comments in its values.yaml (make generate).

The schema says where a value ends: what it describes by `properties` is a block, the rest is a value.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from manyhost.catalog.chart import comments

BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"
WIDEST = 60  # a longer default is given by its first characters


def leaves(values: dict[str, Any], schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted path and the default of every value, in the order of values.yaml."""
    for key, value in values.items():
        inner = schema["properties"][key]
        if "properties" in inner and isinstance(value, dict):
            yield from leaves(value, inner, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def cell(text: str) -> str:
    """Escape what would end a cell of a Markdown table."""
    return text.replace("|", "\\|")


def default(value: Any) -> str:
    """Return a default as one short line of code."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) > WIDEST:
        text = f"{text[:WIDEST]}..."
    return f"`{cell(text)}`"


def table(chart: Path) -> str:
    """Return the table of values.

    Raises:
        SystemExit: a value has no comment.
    """
    text = (chart / "values.yaml").read_text(encoding="utf-8")
    schema = json.loads((chart / "values.schema.json").read_text(encoding="utf-8"))
    said = comments(text)
    rows = ["| Key | Default | Meaning |", "|---|---|---|"]
    for path, value in leaves(yaml.safe_load(text), schema):
        if not said.get(path):
            sys.exit(f"values.yaml: {path} has no comment; say above it what it does")
        rows.append(f"| `{path}` | {default(value)} | {cell(said[path])} |")
    return "\n".join(rows)


def readme(chart: Path) -> str:
    """Return a chart's README.md with its table of values.

    Raises:
        SystemExit: It has no place for the table, or a value has no comment.
    """
    old = (chart / "README.md").read_text(encoding="utf-8")
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{chart.name}/README.md: the lines {BEGIN} and {END} are missing; put them back")
    return f"{before}{BEGIN}\n{table(chart)}\n{END}{after}"
