"""manyhost runs."""

from __future__ import annotations

from pathlib import Path

import click

from manyhost.cli.options import output_option
from manyhost.cli.printer import Printer

RESULT = {
    "place": "where they are",
    "runs": "id, recipe, scenario, started, updated, complete, points with numbers, and "
    "output_tokens_per_second at the one of most throughput, of each; the newest first",
}


@click.command(name="runs")
@click.argument("place", default="build/runs", metavar="[PLACE]")
@output_option
def command(place: str, output: Printer) -> None:
    """List the runs of manyhost bench in a folder, or in a bucket: gs://BUCKET/FOLDER.

    Example: manyhost runs gs://my-bucket/runs
    """
    from manyhost.benchmark.archive import Archive, is_bucket, listed, rate

    if is_bucket(place):
        from manyhost.weights.store import open_store

        found = Archive(open_store(), place).runs()
    else:
        found = listed(Path(place))
    lines = [
        f"{one.updated}  {rate(one):>12} output tokens/s  {'' if one.complete else 'not '}complete  "
        f"{place.rstrip('/')}/{one.id}"
        for one in found
    ]
    output.result({"place": place, "runs": found}, lines or [f"{place} has no runs"])
