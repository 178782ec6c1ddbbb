"""manyhost status."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from manyhost.cli.options import output_option
from manyhost.cli.printer import Printer
from manyhost.cli.session import Opened, Wanted, nodes_of, open_release, place_options, pool_lines, pools_of
from manyhost.commands import Commands

if TYPE_CHECKING:
    from manyhost.cluster.capacity import Ends
    from manyhost.cluster.status import Status
    from manyhost.cluster.timeline import Timeline

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
    "router": "name, wanted, ready, settled, problems of what stands before prefill and decode; or null",
    "service": "name of the Service for clients",
    "endpoints": "addresses behind the Service that take requests",
    "routing": "gateway, hostnames, accepted and problems of the Gateway that routes to it; null without one",
    "problems": "what events say of hosts that are not there or not ready: kind, message, fix",
    "removal": "what removes it, when it is on its way out; null otherwise",
    "drift": "objects that were deleted (create) or changed (update, with diff) since their deployment",
    "now": "the API server's clock",
    "lease": "until when the hosts are kept (until, by); null without an end",
    "released": "when and why the janitor has taken the groups away (at, why, groups); null otherwise",
    "waits": "role, group, what, since, until, then, hosts and usd of each group that does not answer",
    "spent": "what the hosts cost: hosts, usd_per_hour, since, usd_so_far, usd_until_end, whose price it is",
    "janitor": "name, last_run and late of what frees the hosts; null without one",
    "capacity": "until when the hosts are had: mode, at (empty when nothing ends them), why, any_time",
    "pools": "node pools with hosts of this type: name, nodes, own and others (pods on them), usd_per_hour, "
    "price, resize; null when you may not look",
    "timeline": "with --timeline the start of each group: role, group, since, answered, seconds, planned, "
    "usd, and of its members the steps with start, seconds and what was planned; null without",
}


@click.command(name="status")
@place_options
@click.option(
    "--timeline", is_flag=True, help="Also show what each step of the groups' start took, and cost."
)
@output_option
def command(
    wanted: Wanted,
    timeline: bool,
    output: Printer,
) -> None:
    """Show the groups of a release and why one is not ready.

    Example: manyhost status a3mega
    """
    import msgspec

    from manyhost.catalog import Catalog
    from manyhost.cluster.capacity import ends
    from manyhost.cluster.phases import timestamp
    from manyhost.cluster.status import NOT_MADE, status
    from manyhost.cluster.threads import pool
    from manyhost.errors import NotReady
    from manyhost.plan.cost import cost

    opened = open_release(wanted)
    recipe, namespace, release = opened.recipe, opened.place.namespace, opened.place.release
    with pool(1) as threads:  # on a large cluster both take their time
        billed = threads.submit(lambda: (seen := nodes_of(opened), pools_of(opened, seen)))
        price = cost(recipe, opened.environment, 1)
        found = status(opened.connection, opened.place, price, recipe.capacity.mode)
        nodes, pools = billed.result()
    commands = opened.connection.commands
    deploy = commands.manyhost("deploy")
    until = ends(
        recipe.capacity,
        Catalog().capacity(),
        nodes or [],
        used={host.node for host in found.hosts if host.node},
        hosts=len(found.hosts),
        since=timestamp(found.spent.since if found.spent else found.now),
    )
    lines = [*(_lines(found, commands) if found.installed else ()), *_capacity(until, found.now)]
    took = _timelines(opened) if timeline and found.installed else None
    document = {**msgspec.structs.asdict(found), "capacity": until, "pools": pools, "timeline": took}
    output.result(document, [*lines, *pool_lines(pools or ()), *_waterfall(took)])
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
    if found.drift:
        count = len(found.drift)
        what = f"{count} object{'s are' if count > 1 else ' is'} not as deployed"
        output.warn(what, where=f"release {release}", fix=deploy)
    absent = [host.pod for host in found.hosts if host.phase == "absent"]
    why = next((problem for problem in found.problems if problem.kind in NOT_MADE), None)
    if absent and why:
        raise NotReady(why.message, where=f"release {release}", fix=why.fix)


def _timelines(opened: Opened) -> tuple[Timeline, ...]:
    from manyhost.catalog import Catalog
    from manyhost.cluster.starts import starts
    from manyhost.plan import make_plan

    return starts(opened.connection, opened.place, make_plan(opened.resolved, Catalog()))


def _waterfall(found: tuple[Timeline, ...] | None) -> Iterator[str]:
    from manyhost.cluster.timeline import describe

    if found == ():
        yield "no group has pods, and so no start to show"
    for one in found or ():
        yield from describe(one)


def _lines(found: Status, commands: Commands) -> Iterator[str]:
    deploy = commands.manyhost("deploy")
    yield (
        f"release {found.release} in namespace {found.namespace}: "
        f"{found.ready_groups} of {found.groups} groups ready, {found.updated_groups} up to date; "
        f"helm revision {found.revision} ({found.helm or 'not by helm'})"
    )
    if found.released:
        freed = found.released
        yield f"  released at {freed.at}: {freed.why}"
        yield f"    fix: {deploy}"
    yield from _held(found, commands)
    for host in found.hosts:
        detail = f"  {host.detail}" if host.detail else ""
        restarts = f"  restarts {host.restarts}" if host.restarts else ""
        where = f"{host.role} group {host.group} host {host.host}".strip()
        yield (
            f"  {where}  {host.member:<6}  {host.phase:<9}  {host.pod}  {host.node or '-'}{restarts}{detail}"
        )
    if found.router:
        updating = "" if found.router.settled else "  not up to date"
        yield f"  router  {found.router.text}{updating}"
    problems = [host.problem for host in found.hosts if host.problem]
    problems += [problem for _, problem in found.router.problems] if found.router else []
    for problem in dict.fromkeys([*problems, *found.problems]):
        yield f"  {problem.message}"
        if problem.fix:
            yield f"    fix: {problem.fix}"
    for change in found.drift:
        what = "was deleted" if change.action == "create" else "was changed"
        yield f"  {change.kind} {change.name} {what} since it was deployed"
        yield from (f"    {line}" for line in change.diff.splitlines())
    if found.routing:
        names = f" for {', '.join(found.routing.hostnames)}" if found.routing.hostnames else ""
        taken = "has taken it on" if found.routing.accepted else "has not taken it on"
        yield f"gateway {found.routing.gateway} {taken}{names}"
        yield from (f"  {problem}" for problem in found.routing.problems)
    yield f"endpoints of {found.service}: {', '.join(found.endpoints) or 'none'}"


def _held(found: Status, commands: Commands) -> Iterator[str]:
    """How long the hosts are kept, what they cost, and what each group that does not answer waits for."""
    if found.lease and not found.released:
        left = _span(found.lease.until, found.now)
        yield f"  lease until {found.lease.until} ({left}) by {found.lease.by}; then the hosts are freed"
        yield "    another deploy --for renews it, teardown ends it"
    cost = found.spent
    if cost and cost.usd_per_hour:
        end = f", {cost.usd_until_end:,.2f} USD until the lease ends" if cost.usd_until_end else ""
        yield (
            f"  {cost.hosts} host{'s' * (cost.hosts != 1)} at {cost.usd_per_hour:,.2f} USD/h "
            f"({cost.mode}, {cost.region}, {f'list of {cost.date}' if cost.date else cost.source}): "
            f"{cost.usd_so_far:,.2f} USD since {cost.since}{end}"
        )
    for wait in found.waits:
        name = f"{wait.role} group {wait.group}".strip()
        since = f" since {wait.since}" if wait.since else ""
        end = (
            f"{wait.then} at {wait.until} ({_span(wait.until, found.now)})"
            if wait.until
            else f"no deadline, {wait.then}"
        )
        count = f"{wait.hosts} host{'s' * (wait.hosts != 1)}"
        usd = f"; {count} for {wait.usd:,.2f} USD so far" if wait.usd else ""
        yield f"  {name} {wait.what}{since}: {end}{usd}"
    if found.janitor and found.janitor.late and (found.lease or found.waits):
        last = f"since {found.janitor.last_run}" if found.janitor.last_run else "yet"
        yield f"  the janitor has not run {last}: nothing would free the hosts"
        name = found.janitor.name
        look = f"{commands.kubectl('describe', 'cronjob', name)} says why"
        yield f"    fix: {look if name else commands.manyhost('deploy')}"


def _capacity(until: Ends, now: str) -> Iterator[str]:
    from manyhost.cluster.capacity import describe

    if text := describe(until):
        yield f"{text}{f': {_span(until.at, now)}' if until.at else ''}"


def _span(until: str, now: str) -> str:
    """The time from now until then, for people."""
    from manyhost.cluster.phases import timestamp

    minutes = round((timestamp(until) - timestamp(now)) / 60)
    hours, rest = divmod(abs(minutes), 60)
    text = f"{hours} h {rest} min" if hours else f"{rest} min"
    return f"in {text}" if minutes >= 0 else f"{text} ago"
