"""manyhost doctor."""

from __future__ import annotations

import click

from manyhost.cli.options import output_option
from manyhost.cli.session import Wanted, emit, open_target, place_options


@click.command(name="doctor")
@place_options
@click.option("--skip", multiple=True, metavar="CHECK", help="Leave a check out.")
@output_option
def command(
    wanted: Wanted,
    skip: tuple[str, ...],
    output_format: str,
) -> None:
    """Check that a recipe would work on the cluster; reads only and costs nothing.

    Exit code 4 when it would not.

    Example: manyhost doctor a3mega --namespace serving
    """
    from manyhost.cluster.doctor import examine
    from manyhost.errors import NotReady

    connection, target = open_target(wanted)
    results = examine(connection, target, skip=skip)
    if output_format == "json":
        emit(results)
    else:
        for result in results:
            if result.status == "skip":
                continue
            click.echo(f"{result.status}  {result.check:<22} {result.why}")
            if result.fix:
                click.echo(f"      {'':<22} fix: {result.fix}")
    wrong = sum(result.status == "fail" for result in results)
    if wrong:
        raise NotReady(f"{wrong} check{'s' * (wrong != 1)} failed", where=f"recipe {target.recipe}")
