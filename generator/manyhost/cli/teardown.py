"""manyhost teardown."""

from __future__ import annotations

import time

import click

from manyhost.cli.options import output_option
from manyhost.cli.session import Wanted, emit, open_place, place_options, timeout_option


@click.command(name="teardown")
@place_options
@click.option("--dry-run", is_flag=True, help="List what would be removed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@timeout_option("How long the pods may take to end; 600 by default.")
@output_option
def command(
    wanted: Wanted,
    dry_run: bool,
    yes: bool,
    timeout: float | None,
    output_format: str,
) -> None:
    """Remove everything a recipe made, and only that.

    Example: manyhost teardown a3mega --yes
    """
    from manyhost.cluster.teardown import inventory, teardown

    as_json = output_format == "json"
    connection, namespace, release = open_place(wanted)
    found = inventory(connection, namespace, release)
    if as_json:
        emit({"event": "inventory", "result": found})
    elif found.empty:
        click.echo(f"nothing of release {release} is in namespace {namespace}")
    else:
        click.echo(f"release {release} in namespace {namespace}:")
        if found.revision:
            click.echo(f"  helm release, revision {found.revision.revision} ({found.revision.status})")
        for item in found.items:
            click.echo(f"  {item.kind} {item.name}")
        for pod in found.pods:
            click.echo(f"  pod {pod}")
        if found.made:
            click.echo(f"  and what controllers made for these ({len(found.made)} objects)")
    if dry_run or found.empty:
        return
    if not yes:
        click.confirm("remove all of this?", abort=True, err=True)
    begin = time.monotonic()
    teardown(
        connection,
        found,
        timeout=timeout or 600,
        report=(lambda text: emit({"event": "step", "text": text})) if as_json else click.echo,
    )
    seconds = round(time.monotonic() - begin, 1)
    if as_json:
        emit({"event": "done", "seconds": seconds})
    else:
        click.echo(f"nothing is left ({seconds} s)")
