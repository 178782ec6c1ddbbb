"""manyhost list."""

from __future__ import annotations

import click

from manyhost.catalog import Catalog, resolve
from manyhost.cli.options import output_option


@click.command(name="list")
@output_option
def command(output_format: str) -> None:
    """List environments, interconnects, models, engines and recipes.

    Example: manyhost list --output json
    """
    import msgspec

    catalog = Catalog()
    listing: dict[str, list[tuple[str, str]]] = {
        "environments": [(n, catalog.environment(n).description) for n in catalog.names("environments")],
        "interconnects": [(n, catalog.interconnect(n).description) for n in catalog.names("interconnects")],
        "models": [(n, catalog.model(n).hub_id) for n in catalog.names("models")],
        "engines": [
            (n, f"executors {', '.join(catalog.engine(n).executors)}") for n in catalog.names("engines/vllm")
        ],
        "recipes": [(n, resolve(catalog, n).recipe.description) for n in catalog.recipes()],
    }
    if output_format == "json":
        document = {kind: [{"name": n, "about": t} for n, t in rows] for kind, rows in listing.items()}
        click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
        return
    for kind, rows in listing.items():
        click.echo(f"{kind}:")
        for name, text in rows:
            click.echo(f"  {name:<36} {text}")
