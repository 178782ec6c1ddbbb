"""manyhost status."""

from __future__ import annotations

import click

from manyhost.cli.options import output_option
from manyhost.cli.session import Wanted, emit, open_place, place_options


@click.command(name="status")
@place_options
@output_option
def command(
    wanted: Wanted,
    output_format: str,
) -> None:
    """Show the groups of a release and why one is not ready.

    Example: manyhost status a3mega
    """
    from manyhost.cluster.status import status
    from manyhost.errors import NotReady

    connection, namespace, release = open_place(wanted)
    found = status(connection, namespace, release)
    if output_format == "json":
        emit(found)
    elif found.installed:
        click.echo(
            f"release {release} in namespace {namespace}: "
            f"{found.ready_groups} of {found.groups} groups ready, {found.updated_groups} up to date; "
            f"helm revision {found.revision} ({found.helm or 'not by helm'})"
        )
        for host in found.hosts:
            detail = f"  {host.detail}" if host.detail else ""
            restarts = f"  restarts {host.restarts}" if host.restarts else ""
            where = f"{host.role} group {host.group} host {host.host}".strip()
            click.echo(
                f"  {where}  {host.member:<6}  {host.phase:<9}  {host.pod}"
                f"  {host.node or '-'}{restarts}{detail}"
            )
        for problem in dict.fromkeys(host.problem for host in found.hosts if host.problem):
            click.echo(
                f"  {problem.message}\n    fix: {problem.fix}" if problem.fix else f"  {problem.message}"
            )
        click.echo(f"endpoints of {found.service}: {', '.join(found.endpoints) or 'none'}")
    if not found.installed:
        raise NotReady(
            f"release {release} is not installed in namespace {namespace}",
            fix=f"manyhost deploy {wanted.recipe}",
        )
