"""manyhost explain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from manyhost.catalog import Catalog
from manyhost.catalog.settings import VARIABLES, keys, known_keys
from manyhost.cli.options import output_option, pick, recipe_argument, settings_options
from manyhost.cli.printer import Printer
from manyhost.errors import InvalidInput, nearest

RESULT = {"keys": "key, and values with their origins, strongest first, of the key or of each below it"}


@click.command(name="explain")
@click.argument("key")
@recipe_argument
@settings_options
@output_option
def command(
    key: str,
    recipe: str,
    model: str,
    assignments: tuple[str, ...],
    output: Printer,
) -> None:
    """Say what value a key has and where it came from, strongest source first.

    KEY is a recipe key, an environment variable's name, or an engine flag as arguments.<flag>.

    Example: manyhost explain arguments.max-num-seqs a3mega
    """
    resolved = pick(Catalog(), recipe, model, assignments)
    name = VARIABLES.get(key, key)
    history = resolved.origins.get(name, [])
    below = {k: h for k, h in resolved.origins.items() if k.startswith(f"{name}.")}
    if not history and not below and name not in known_keys():
        raise InvalidInput(
            "unknown key",
            where=key,
            fix=nearest(key, {*known_keys(), *resolved.origins}, "docs/reference/settings.md lists them"),
        )
    rows = [(name, history)] if history or not below else []
    rows += sorted(below.items())
    found = [{"key": k, "values": [{"value": v, "origin": o} for o, v in reversed(h)]} for k, h in rows]
    output.result({"keys": found}, _lines(rows))


def _lines(rows: list[tuple[str, list[tuple[str, Any]]]]) -> Iterator[str]:
    import msgspec

    described = {entry.name: entry.description for entry in keys()}
    for k, entries in rows:
        if text := described.get(k):
            yield f"# {text}"
        if not entries:
            yield f"{k}: not set anywhere; the default applies"
            continue
        origin, value = entries[-1]
        yield f"{k} = {msgspec.json.encode(value).decode()}  ({origin})"
        for origin, value in reversed(entries[:-1]):
            yield f"  overrides {msgspec.json.encode(value).decode()}  ({origin})"
