"""manyhost deploy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from manyhost.cli.options import output_option
from manyhost.cli.printer import Printer
from manyhost.cli.session import Wanted, open_target, place_options, timeout_option
from manyhost.errors import Interrupted

if TYPE_CHECKING:
    from manyhost.cluster.deploy import Proposal
    from manyhost.cluster.rollout import Event

RESULT = {
    "proposal": "what there was to do: release, namespace, action (install, upgrade, start or nothing), "
    "revision, changes, released (at, why, groups), lease (until, by), renews, usd_per_hour, usd_until_end, "
    "capacity (mode, at, why, any_time)",
    "deployed": "release, namespace, revision, groups, hosts, install_seconds, ready_seconds; "
    "null with --dry-run and until every group answers",
}
EVENTS = {
    "proposal": "what will be done; its data is the result's proposal",
    "phase": "a host has reached a phase: role, group, host, pod, node, phase, seconds",
    "router": "how many routers take requests, where prefill and decode are apart",
    "problem": "what keeps a host from being ready; fix and log may be with it",
    "recreated": "a group starts anew",
    "lost": "the cluster does not answer; the wait goes on",
    "back": "the cluster answers again",
    "ready": "every host is ready",
}


@click.command(name="deploy")
@place_options
@click.option("--dry-run", is_flag=True, help="Show what would change; the API server rehearses it.")
@click.option(
    "--for",
    "lease",
    default="",
    metavar="DURATION",
    help="Keep the hosts for so long (4h, 90m, 1d), from now on; then the janitor frees them.",
)
@timeout_option("How long to wait for the groups; the plan's cold start plus ten minutes by default.")
@output_option
def command(
    wanted: Wanted,
    dry_run: bool,
    lease: str,
    timeout: float | None,
    output: Printer,
) -> None:
    """Install or upgrade a recipe and wait until it answers.

    Example: manyhost deploy a3mega --namespace serving --for 4h
    """
    from manyhost.catalog import Catalog
    from manyhost.cluster.deploy import deploy, patience, propose
    from manyhost.cluster.doctor import require
    from manyhost.cluster.lease import duration

    kept = duration(lease) if lease else 0
    connection, target = open_target(wanted)
    require(connection, target)
    proposal = propose(connection, target, Catalog().capacity(), seconds=kept)
    shown = list(_lines(proposal, full=dry_run or proposal.action == "upgrade"))
    output.result({"proposal": proposal, "deployed": None}, shown if dry_run else ())
    if dry_run:
        return
    seconds = timeout or patience(target)
    at_most = f" ({proposal.usd_per_hour * seconds / 3600:,.2f} USD)" if proposal.usd_per_hour else ""
    shown.append(f"  waits {seconds / 60:.0f} min at most{at_most}")
    output.event("proposal", "\n".join(shown), proposal)
    again = connection.commands.manyhost
    try:
        with _reporter(output) as report:
            done = deploy(connection, target, proposal, timeout=seconds, report=report)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted: release {target.release} is installed and goes on starting; "
            f"{again('status')} shows it, {again('teardown')} removes it"
        ) from None
    output.result(
        {"proposal": proposal, "deployed": done},
        [
            f"release {done.release} revision {done.revision}: {done.groups} group{'s' * (done.groups != 1)} "
            f"on {target.hosts} hosts answer (installed in {done.install_seconds:.1f} s, "
            f"ready after {done.ready_seconds:.1f} s)",
            f"next: {again('chat')}",
        ],
    )


def _lines(proposal: Proposal, *, full: bool) -> Iterator[str]:
    yield f"{proposal.action} release {proposal.release} in namespace {proposal.namespace}" + (
        f" (revision {proposal.revision} is there)" if proposal.revision else ""
    )
    if proposal.released:
        freed = proposal.released
        yield f"  its groups were released at {freed.at}: {freed.why}; they are started again"
    yield from _cost(proposal)
    for change in proposal.changes:
        why = f": {'deleted' if change.action == 'create' else 'changed'} in the cluster" * change.drift
        yield f"  {change.action} {change.kind} {change.name}{why}"
        if full and change.action == "update":
            lines = change.diff.splitlines()
            yield "\n".join(f"    {line}" for line in (lines if change.drift else lines[2:]))


def _cost(proposal: Proposal) -> Iterator[str]:
    """Until when the hosts are had and kept, and what that costs."""
    from manyhost.cluster.capacity import describe

    if proposal.capacity and (text := describe(proposal.capacity)):
        yield f"  {text}"
    price = f"{proposal.usd_per_hour:,.2f} USD/h" if proposal.usd_per_hour else ""
    if proposal.lease:
        end = f", {proposal.usd_until_end:,.2f} USD until then" if proposal.usd_until_end else ""
        yield f"  lease until {proposal.lease.until} by {proposal.lease.by}{end}; then the hosts are freed"
        yield "    another deploy --for renews it, teardown ends it"
    elif price:
        yield f"  no lease: the hosts cost {price} until teardown; --for 4h would set an end"


def _reporter(output: Printer) -> Any:
    """Return a context manager that gives the function which receives events."""
    import sys
    from contextlib import nullcontext

    from manyhost.cli import progress

    if output.as_json:
        return nullcontext(lambda event: _tell(event, output))
    if sys.stdout.isatty():
        return progress.Board()
    return nullcontext(lambda event: output.text(*progress.lines(event)))


def _tell(event: Event, output: Printer) -> None:
    import msgspec

    data = msgspec.to_builtins(event)
    output.event(data.pop("event"), data.pop("text", ""), data)
