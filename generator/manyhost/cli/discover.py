"""manyhost discover."""

from __future__ import annotations

import click

from manyhost.catalog import Catalog
from manyhost.cli import local_settings
from manyhost.cli.options import local_file, output_option
from manyhost.cli.printer import Printer
from manyhost.cli.session import require_kubernetes

RESULT = {
    "found": "what the cluster says: kubernetes, lws, nodes, settings, notes",
    "file": "the settings file",
    "diff": "the change to it; empty when it says the same already",
    "written": "whether it was changed",
}


@click.command(name="discover")
@click.argument("environment", metavar="ENV")
@click.option("--context", default="", metavar="NAME", help="kubeconfig context; the current one by default.")
@click.option("--dry-run", is_flag=True, help="Show the change only.")
@click.option("--yes", is_flag=True, help="Write without asking.")
@output_option
def command(environment: str, context: str, dry_run: bool, yes: bool, output: Printer) -> None:
    """Read a cluster and fill in values/local.yaml: networks in NIC order, node pool, cluster name.

    Example: manyhost discover a3mega
    """
    from manyhost.cluster.connection import connect
    from manyhost.cluster.discover import difference, discover, edit

    catalog = Catalog()
    known = catalog.environment(environment)
    require_kubernetes(known)
    path = local_file(catalog)
    found = discover(connect(context), known)
    before = local_settings.read(path)
    # Below the environment's own name: what one cluster has must not reach recipes of another.
    after = edit(before, {known.name: found.settings}) if found.settings else before
    diff = difference(before, after)
    result = {"found": found, "file": str(path.absolute()), "diff": diff, "written": False}
    output.result(
        result,
        [
            f"Kubernetes {found.kubernetes}, LeaderWorkerSet {found.lws or 'not seen'}, "
            f"{found.nodes} host{'s' * (found.nodes != 1)} of {known.name}",
            *(f"note: {note}" for note in found.notes),
            diff or f"{path.name} says the same already",
        ],
    )
    if dry_run or before == after:
        return
    local_settings.write(path, after, result, output, yes=yes)
