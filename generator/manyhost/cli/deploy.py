"""manyhost deploy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from manyhost.cli.options import output_option
from manyhost.cli.session import Wanted, emit, open_target, place_options, timeout_option
from manyhost.errors import INTERRUPTED

if TYPE_CHECKING:
    from manyhost.cluster.deploy import Proposal
    from manyhost.cluster.rollout import Event


@click.command(name="deploy")
@place_options
@click.option("--dry-run", is_flag=True, help="Show what would change; the API server rehearses it.")
@timeout_option("How long to wait for the groups; the plan's cold start plus ten minutes by default.")
@output_option
def command(
    wanted: Wanted,
    dry_run: bool,
    timeout: float | None,
    output_format: str,
) -> None:
    """Install or upgrade a recipe and wait until it answers.

    Example: manyhost deploy a3mega --namespace serving
    """
    from manyhost.cluster.deploy import deploy, patience, propose
    from manyhost.cluster.doctor import require

    connection, target = open_target(wanted)
    require(connection, target)
    proposal = propose(connection, target)
    as_json = output_format == "json"
    if dry_run:
        _show(proposal, as_json, full=True)
        return
    _show(proposal, as_json, full=proposal.action == "upgrade")
    where = f"--release {target.release} --namespace {target.namespace}"
    try:
        with _reporter(as_json) as report:
            done = deploy(connection, target, proposal, timeout=timeout or patience(target), report=report)
    except KeyboardInterrupt:
        text = (
            f"interrupted: release {target.release} is installed and goes on starting; "
            f"manyhost status {wanted.recipe} {where} shows it, "
            f"manyhost teardown {wanted.recipe} {where} removes it"
        )
        if as_json:
            emit({"event": "interrupted", "release": target.release, "text": text})
        click.echo(f"manyhost: {text}", err=True)
        click.get_current_context().exit(INTERRUPTED)
    if as_json:
        emit({"event": "done", "result": done})
        return
    click.echo(
        f"release {done.release} revision {done.revision}: {done.groups} group{'s' * (done.groups != 1)} "
        f"of {target.size} answer (installed in {done.install_seconds:.1f} s, "
        f"ready after {done.ready_seconds:.1f} s)"
    )
    click.echo(f"next: manyhost chat {wanted.recipe} {where}")


def _show(proposal: Proposal, as_json: bool, *, full: bool) -> None:
    if as_json:
        emit({"event": "proposal", "result": proposal})
        return
    click.echo(
        f"{proposal.action} release {proposal.release} in namespace {proposal.namespace}"
        + (f" (revision {proposal.revision} is there)" if proposal.revision else "")
    )
    for change in proposal.changes:
        click.echo(f"  {change.action} {change.kind} {change.name}")
        if full and change.action == "update":
            click.echo("\n".join(f"    {line}" for line in change.diff.splitlines()[2:]))


def _reporter(as_json: bool) -> Any:
    """Return a context manager that gives the function which receives events."""
    from contextlib import nullcontext

    if as_json:
        return nullcontext(emit)
    import sys

    if sys.stdout.isatty():
        from manyhost.cli.progress import Board

        return Board()
    return nullcontext(_plain)


def _plain(event: Event) -> None:
    from manyhost.cli.progress import line

    click.echo(line(event))
    for text in event.log:
        click.echo(f"           | {text}")
    if event.fix:
        click.echo(f"           fix: {event.fix}")
