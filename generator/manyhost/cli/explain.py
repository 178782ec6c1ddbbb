"""manyhost explain."""

from __future__ import annotations

import click

from manyhost.catalog import Catalog
from manyhost.catalog.settings import VARIABLES, keys, known_keys
from manyhost.cli.options import output_option, pick, recipe_argument, settings_options
from manyhost.errors import InvalidInput, nearest


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
    output_format: str,
) -> None:
    """Say what value a key has and where it came from, strongest source first.

    KEY is a recipe key, an environment variable's name, or an engine flag as arguments.<flag>.

    Example: manyhost explain arguments.max-num-seqs a3mega
    """
    import msgspec

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
    if output_format == "json":
        document = [
            {"key": k, "values": [{"value": v, "origin": o} for o, v in reversed(h)]} for k, h in rows
        ]
        click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
        return
    described = {entry.name: entry.description for entry in keys()}
    for k, entries in rows:
        if text := described.get(k):
            click.echo(f"# {text}")
        if not entries:
            click.echo(f"{k}: not set anywhere; the default applies")
            continue
        origin, value = entries[-1]
        click.echo(f"{k} = {msgspec.json.encode(value).decode()}  ({origin})")
        for origin, value in reversed(entries[:-1]):
            click.echo(f"  overrides {msgspec.json.encode(value).decode()}  ({origin})")
