"""manyhost list."""

from __future__ import annotations

from collections.abc import Iterator

import click

from manyhost.catalog import Catalog, resolve
from manyhost.catalog.engine import TITLES
from manyhost.cli.options import output_option
from manyhost.cli.printer import Printer

RESULT = {
    "environments": "name and about of each",
    "interconnects": "name and about of each",
    "models": "name and about of each",
    "engines": "name and about of each",
    "recipes": "name and about of each",
}


@click.command(name="list")
@output_option
def command(output: Printer) -> None:
    """List environments, interconnects, models, engines and recipes.

    Example: manyhost list --output json
    """
    catalog = Catalog()
    listing: dict[str, list[tuple[str, str]]] = {
        "environments": [(n, catalog.environment(n).description) for n in catalog.names("environments")],
        "interconnects": [(n, catalog.interconnect(n).description) for n in catalog.names("interconnects")],
        "models": [(n, catalog.model(n).hub_id) for n in catalog.names("models")],
        "engines": [
            (e.version, f"{TITLES[e.name]}, executors {', '.join(e.executors)}") for e in catalog.engines()
        ],
        "recipes": [(n, resolve(catalog, n).recipe.description) for n in catalog.recipes()],
    }
    result = {kind: [{"name": n, "about": t} for n, t in rows] for kind, rows in listing.items()}
    output.result(result, _lines(listing))


def _lines(listing: dict[str, list[tuple[str, str]]]) -> Iterator[str]:
    for kind, rows in listing.items():
        yield f"{kind}:"
        for name, text in rows:
            yield f"  {name:<36} {text}"
