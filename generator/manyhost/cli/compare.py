"""manyhost compare."""

from __future__ import annotations

import click

from manyhost.cli.options import output_option
from manyhost.cli.printer import Printer
from manyhost.errors import Failed, WrongUsage

RESULT = {
    "base": "the first run, which the others are held against",
    "lines": "of each run, point and metric both means, the difference as a share, its interval, verdict",
    "left_out": "what could not be compared, and why",
    "deployments": "what is another deployment's than the first one's: run, what, first, this",
}


@click.command(name="compare")
@click.argument("runs", nargs=-1, required=True)
@output_option
def command(runs: tuple[str, ...], output: Printer) -> None:
    """Hold runs of manyhost bench against the first one: what differs by more than chance, and by how much.

    Points of the same load are compared, across environments too. A run is a folder, or gs://BUCKET/FOLDER/RUN.

    Example: manyhost compare build/runs/A build/runs/B
    """
    from manyhost.report.compare import compare
    from manyhost.report.read import read_all
    from manyhost.report.sections import comparison
    from manyhost.report.text import text

    if len(runs) < 2:
        raise WrongUsage("one run cannot be compared with itself", where="RUNS", fix="name two or more")
    found = compare(read_all(runs))
    output.result(found, text(comparison(found)))
    if not found.lines:
        raise Failed("nothing could be compared", where="compare", fix="the reasons stand above")
