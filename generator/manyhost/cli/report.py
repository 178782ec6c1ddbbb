"""manyhost report."""

from __future__ import annotations

from pathlib import Path

import click

from manyhost.cli.options import here, output_option
from manyhost.cli.printer import Printer

RESULT = {
    "files": "what was written",
    "runs": "of each run folder, complete, points (summaries), costs at the point of most throughput, "
    "break_even and findings",
}


@click.command(name="report")
@click.argument("runs", nargs=-1, required=True)
@click.option(
    "--to",
    "folder",
    default="build/report",
    show_default=True,
    metavar="FOLDER",
    callback=here,
    help="Where report.html, report.md and its pictures go.",
)
@output_option
def command(runs: tuple[str, ...], folder: str, output: Printer) -> None:
    """Write a report of runs of manyhost bench: throughput, latency, what limits it, the cost of a token.

    Numbers that the gate has withheld are in none of it, their reasons are. A run is a folder, or
    gs://BUCKET/FOLDER/RUN.

    Example: manyhost report build/runs/*
    """
    from manyhost.output import write_files
    from manyhost.report import cost
    from manyhost.report.findings import findings
    from manyhost.report.html import html
    from manyhost.report.markdown import markdown
    from manyhost.report.read import read_all
    from manyhost.report.sections import report

    found = read_all(runs)
    blocks = report(found)
    files = {"report.html": html(blocks), **markdown(blocks)}
    to = Path(folder)
    write_files(to, files)
    told = []
    for each in found:
        passed = [point for point in each.points if point.passed]
        best = max(passed, key=lambda p: p.summary.metrics["output_token_rate"].mean, default=None)
        told.append(
            {
                "folder": each.folder,
                "complete": each.run.complete,
                "points": [point.summary for point in each.points],
                "costs": cost.token_costs(each.run.cost, best.passed) if best else [],
                "break_even": cost.break_even(each.run.cost),
                "findings": findings(each.points, each.run.deployment),
            }
        )
        withheld = sum(point.summary.measured - point.summary.passed for point in each.points)
        if withheld:
            output.warn(f"numbers of {withheld} measurements are withheld", where=each.folder)
        if not each.run.complete:
            output.warn("the run is not complete", where=each.folder)
    output.result(
        {"files": [str(to / name) for name in files], "runs": told},
        [str(to / "report.html"), str(to / "report.md")],
    )
