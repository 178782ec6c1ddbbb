"""manyhost teardown."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from manyhost.cli.options import output_option
from manyhost.cli.printer import Printer
from manyhost.cli.session import (
    Opened,
    Wanted,
    nodes_of,
    open_release,
    place_options,
    pool_lines,
    pools_of,
    timeout_option,
)
from manyhost.errors import ManyhostError

if TYPE_CHECKING:
    from manyhost.cluster.teardown import Inventory

RESULT = {
    "inventory": "what there was of the release: revision, items, pods, made, ...",
    "removed": "whether nothing of it is left",
    "seconds": "what removing it took",
    "pools": "node pools with hosts of this type that are still billed: name, nodes, own and others (pods on "
    "them), usd_per_hour, price, resize; null when you may not look",
}
EVENTS = {
    "inventory": "what will be removed; its data is the result's inventory",
    "step": "something is removed or waited for",
    "collected": "what is kept for a bug report, of a release of which no group answers: archive, files, ...",
}


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
    output: Printer,
) -> None:
    """Remove everything a recipe made, and only that.

    Example: manyhost teardown a3mega --yes
    """
    from manyhost.cluster.teardown import inventory, teardown

    opened = open_release(wanted)
    connection, place = opened.connection, opened.place
    found = inventory(connection, place)
    result = {"inventory": found, "removed": found.empty, "seconds": 0.0, "pools": None}
    ends = dry_run or found.empty
    if ends:
        pools = pools_of(opened, nodes_of(opened))
        output.result({**result, "pools": pools}, [*_lines(found), *pool_lines(pools or ())])
        return
    output.result(result)
    output.event("inventory", "\n".join(_lines(found)), found)
    if not yes:
        click.confirm("remove all of this?", abort=True, err=True)
    _report(opened, output)
    begin = time.monotonic()
    teardown(
        connection,
        place,
        found,
        timeout=timeout or 600,
        report=lambda text: output.event("step", text),
    )
    seconds = round(time.monotonic() - begin, 1)
    pools = pools_of(opened, nodes_of(opened))
    output.result(
        {**result, "removed": True, "seconds": seconds, "pools": pools},
        [f"nothing is left ({seconds} s)", *pool_lines(pools or ())],
    )
    if pools is None:
        output.warn("you may not see whether nodes are still billed", fix="ask somebody who may list nodes")


def _report(opened: Opened, output: Printer) -> None:
    """Pack what a bug report needs before it goes, of a release of which no group answers."""
    from manyhost.cluster.collect import before_teardown

    try:
        found = before_teardown(opened.connection, opened.place, opened.target)
    except ManyhostError as error:  # a report is no reason to go on paying
        output.warn(f"nothing is kept for a bug report: {error.message}")
        return
    if found:
        output.event("collected", f"no group answers; logs and events are kept in {found.archive}", found)


def _lines(found: Inventory) -> Iterator[str]:
    if found.empty:
        yield f"nothing of release {found.release} is in namespace {found.namespace}"
        return
    yield f"release {found.release} in namespace {found.namespace}:"
    if found.revision:
        yield f"  helm release, revision {found.revision.revision} ({found.revision.status})"
    for item in found.items:
        yield f"  {item.kind} {item.name}"
    for pod in found.pods:
        yield f"  pod {pod}"
    if found.made:
        yield f"  and what controllers made for these ({len(found.made)} objects)"
