"""manyhost status."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from manyhost.cli.options import output_option
from manyhost.cli.printer import Printer
from manyhost.cli.session import Wanted, open_place, place_options

if TYPE_CHECKING:
    from manyhost.cluster.status import Status

RESULT = {
    "release": "the release",
    "namespace": "its namespace",
    "installed": "whether it exists",
    "revision": "Helm's newest revision; 0 when Helm knows no such release",
    "helm": "Helm's status of it: deployed, failed, ...",
    "groups": "groups wanted",
    "ready_groups": "groups whose hosts are all ready",
    "updated_groups": "groups that run the newest template",
    "hosts": "role, group, host, pod, uid, node, address, phase, detail, restarts, problem, ... of each",
    "service": "name of the Service",
    "endpoints": "addresses behind the Service that take requests",
    "routing": "gateway, hostnames, accepted and problems of the Gateway that routes to it; null without one",
    "problems": "what events say of hosts that are not there or not ready: kind, message, fix",
    "removal": "what removes it, when it is on its way out; null otherwise",
    "drift": "objects that were deleted (create) or changed (update, with diff) since their deployment",
}


@click.command(name="status")
@place_options
@output_option
def command(
    wanted: Wanted,
    output: Printer,
) -> None:
    """Show the groups of a release and why one is not ready.

    Example: manyhost status a3mega
    """
    from manyhost.cluster.status import NOT_MADE, status
    from manyhost.errors import NotReady

    connection, place = open_place(wanted)
    namespace, release = place.namespace, place.release
    found = status(connection, place)
    deploy = connection.commands.manyhost("deploy")
    output.result(found, _lines(found, deploy) if found.installed else ())
    if not found.installed:
        raise NotReady(
            f"LeaderWorkerSet {release} was deleted from namespace {namespace}; Helm has revision "
            f"{found.revision} ({found.helm})"
            if found.revision
            else f"release {release} is not installed in namespace {namespace}",
            fix=deploy,
        )
    if found.removal:
        raise NotReady(found.removal.message, where=f"release {release}", fix=found.removal.fix)
    absent = [host.pod for host in found.hosts if host.phase == "absent"]
    why = next((problem for problem in found.problems if problem.kind in NOT_MADE), None)
    if absent and why:
        raise NotReady(why.message, where=f"release {release}", fix=why.fix)


def _lines(found: Status, deploy: str) -> Iterator[str]:
    yield (
        f"release {found.release} in namespace {found.namespace}: "
        f"{found.ready_groups} of {found.groups} groups ready, {found.updated_groups} up to date; "
        f"helm revision {found.revision} ({found.helm or 'not by helm'})"
    )
    for host in found.hosts:
        detail = f"  {host.detail}" if host.detail else ""
        restarts = f"  restarts {host.restarts}" if host.restarts else ""
        where = f"{host.role} group {host.group} host {host.host}".strip()
        yield (
            f"  {where}  {host.member:<6}  {host.phase:<9}  {host.pod}  {host.node or '-'}{restarts}{detail}"
        )
    problems = [host.problem for host in found.hosts if host.problem]
    for problem in dict.fromkeys([*problems, *found.problems]):
        yield f"  {problem.message}"
        if problem.fix:
            yield f"    fix: {problem.fix}"
    for change in found.drift:
        what = "was deleted" if change.action == "create" else "was changed"
        yield f"  {change.kind} {change.name} {what} since it was deployed"
        yield from (f"    {line}" for line in change.diff.splitlines())
    if found.drift:
        yield f"    fix: {deploy}"
    if found.routing:
        names = f" for {', '.join(found.routing.hostnames)}" if found.routing.hostnames else ""
        taken = "has taken it on" if found.routing.accepted else "has not taken it on"
        yield f"gateway {found.routing.gateway} {taken}{names}"
        yield from (f"  {problem}" for problem in found.routing.problems)
    yield f"endpoints of {found.service}: {', '.join(found.endpoints) or 'none'}"
