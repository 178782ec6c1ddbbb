"""manyhost doctor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from manyhost.cli.options import output_option
from manyhost.cli.printer import Printer
from manyhost.cli.session import Wanted, open_target, place_options

if TYPE_CHECKING:
    from manyhost.cluster.doctor import Result

RESULT = {
    "checks": "check, status (pass, warn, fail or skip), why and fix of each",
    "verdict": "one line: whether it would work",
}


@click.command(name="doctor")
@place_options
@click.option("--skip", multiple=True, metavar="CHECK", help="Leave a check out.")
@output_option
def command(
    wanted: Wanted,
    skip: tuple[str, ...],
    output: Printer,
) -> None:
    """Check that a recipe would work on the cluster; reads only and costs nothing.

    Exit code 4 when it would not.

    Example: manyhost doctor a3mega --namespace serving
    """
    from manyhost.cluster.doctor import examine, verdict
    from manyhost.errors import NotReady

    connection, target = open_target(wanted)
    results = examine(connection, target, skip=skip)
    said = verdict(wanted.recipe, results)
    wrong = any(result.status == "fail" for result in results)
    output.result({"checks": results, "verdict": said}, [*_lines(results), *([] if wrong else [said])])
    if wrong:
        raise NotReady(said)


def _lines(results: list[Result]) -> Iterator[str]:
    for result in results:
        if result.status == "skip":
            continue
        yield f"{result.status}  {result.check:<22} {result.why}"
        if result.fix:
            yield f"      {'':<22} fix: {result.fix}"
