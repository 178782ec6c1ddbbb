"""The JSON Schema of benchmark results, from their types; what a field means stands in the docstrings."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import msgspec
from manyhost.benchmark import evidence, result
from manyhost.benchmark.result import SCHEMA, Measurement, Run

_FIELD = re.compile(r"^    (\w+): (.*)$")


def described(kind: type) -> dict[str, str]:
    """Return what a type's docstring says of each of its fields."""
    _, _, section = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        match = _FIELD.match(line)
        if match:
            name = match[1]
            found[name] = match[2]
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return found


def schema() -> dict[str, Any]:
    """Return the schema of run.json and of a measurement."""
    kinds, definitions = msgspec.json.schema_components([Run, Measurement])
    for module in (evidence, result):
        for name, kind in vars(module).items():
            if name not in definitions or not inspect.isclass(kind):
                continue
            definitions[name]["description"] = (inspect.getdoc(kind) or "").partition("\n\n")[0]
            for field, text in described(kind).items():
                definitions[name]["properties"][field]["description"] = text
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Results of manyhost bench, {SCHEMA}: run.json, or one measurement",
        "oneOf": list(kinds),
        "$defs": definitions,
    }


def text() -> str:
    """Return the schema as it is committed."""
    return json.dumps(schema(), indent=2) + "\n"
