"""manyhost nccl."""

from __future__ import annotations

import click

from manyhost.cli.options import output_option
from manyhost.cli.printer import Printer
from manyhost.cli.session import Wanted, open_target, place_options, timeout_option

RESULT = {
    "manifests": "the objects of the measurement, with --dry-run; else null",
    "bandwidth": "ranks, bus_gbytes_per_second, minimum_gbytes_per_second, sizes; null with --dry-run",
}
EVENTS = {"step": "something is done, measured or wrong"}


@click.command(name="nccl")
@place_options
@click.option("--dry-run", is_flag=True, help="Print the manifests only.")
@timeout_option("Time limit of all of it; 900 by default.")
@output_option
def command(
    wanted: Wanted,
    dry_run: bool,
    timeout: float | None,
    output: Printer,
) -> None:
    """Measure the bandwidth between two hosts, in pods like those that would serve.

    Exit code 1 when it is below the interconnect's threshold.

    Example: manyhost nccl a3mega
    """
    from manyhost.cluster.nccl import manifests, measure, published
    from manyhost.errors import Failed

    connection, target = open_target(wanted._replace(release=wanted.release or "nccl"))
    if dry_run:
        import yaml

        objects = manifests(target)
        text = yaml.safe_dump_all(objects, sort_keys=False)
        output.result({"manifests": objects, "bandwidth": None}, text.splitlines())
        return
    found = measure(
        connection,
        target,
        timeout=timeout or 900,
        report=lambda text: output.event("step", text),
    )
    output.result(
        {"manifests": None, "bandwidth": found},
        [
            f"{found.ranks} GPUs: {found.bus_gbytes_per_second:.1f} GB/s bus bandwidth, "
            f"{found.minimum_gbytes_per_second:.0f} needed",
            *published(target.plan.interconnect),
        ],
    )
    if not found.enough:
        raise Failed(
            f"{found.bus_gbytes_per_second:.1f} GB/s is below {found.minimum_gbytes_per_second:.0f} GB/s",
            where=f"interconnect {target.plan.interconnect.name}",
            fix=f"{connection.commands.manyhost('doctor')} looks at the fabric; "
            "compare the NCCL version in the log with the plugin's",
        )
