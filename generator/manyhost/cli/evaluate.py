"""manyhost evaluate."""

from __future__ import annotations

from pathlib import Path

import click

from manyhost.cli.options import here, output_option
from manyhost.cli.printer import Printer
from manyhost.errors import WrongUsage

RESULT = {
    "files": "what was written",
    "runs": "of each run name (A, B, ...), folder, findings (what limits it) and interruptions under load",
    "answers": "to each question two runs (base, run: places among the runs), what each has chosen, what "
    "else they differ in (others), and lines as of compare",
    "open": "questions that these runs do not answer, and why",
}


@click.command(name="evaluate")
@click.argument("runs", nargs=-1, required=True)
@click.option(
    "--to",
    "folder",
    default="build/evaluation",
    show_default=True,
    metavar="FOLDER",
    callback=here,
    help="Where evaluation.html, evaluation.md and its picture go.",
)
@output_option
def command(runs: tuple[str, ...], folder: str, output: Printer) -> None:
    """Write the evaluation of several runs of manyhost bench: set-up, results, bottlenecks, findings.

    A finding holds two runs of one model against each other: one host or several, mp or Ray, one place or
    another. It stands where both have numbers at the same load; what these runs do not tell is listed too.
    A run is a folder, or gs://BUCKET/FOLDER/RUN.

    Example: manyhost evaluate build/runs/*
    """
    from manyhost.output import write_files
    from manyhost.report.evaluation import evaluation, name
    from manyhost.report.findings import findings
    from manyhost.report.html import html
    from manyhost.report.interruptions import interruptions
    from manyhost.report.markdown import markdown
    from manyhost.report.questions import answers
    from manyhost.report.read import read_all

    twice = [run for run in dict.fromkeys(runs) if runs.count(run) > 1]
    if twice:
        raise WrongUsage("is named twice", where=twice[0], fix="name each run once")
    found = read_all(runs)
    told, still = answers(found)
    blocks = evaluation(found, told, still)
    files = {"evaluation.html": html(blocks), **markdown(blocks, "evaluation")}
    to = Path(folder)
    write_files(to, files)
    result = {
        "files": [str(to / file) for file in files],
        "runs": [
            {
                "name": name(place),
                "folder": each.folder,
                "findings": findings(each.points, each.run.deployment),
                "interruptions": interruptions(each.points),
            }
            for place, each in enumerate(found)
        ],
        "answers": told,
        "open": still,
    }
    for each in found:
        withheld = sum(point.summary.measured - point.summary.passed for point in each.points)
        if withheld:
            output.warn(f"numbers of {withheld} measurements are withheld", where=each.folder)
    output.result(result, [str(to / "evaluation.html"), str(to / "evaluation.md")])
