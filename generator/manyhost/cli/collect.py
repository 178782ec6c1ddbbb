"""manyhost collect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from manyhost.cli.options import here, output_option
from manyhost.cli.printer import Printer
from manyhost.cli.session import Wanted, open_release, place_options

if TYPE_CHECKING:
    from manyhost.cluster.collect import Collected

RESULT = {
    "archive": "the file",
    "files": "how many are in it",
    "bytes": "its size",
    "unread": "what could not be read, and why; the archive has the same list",
}


@click.command(name="collect")
@place_options
@click.option(
    "--to",
    default="",
    metavar="FILE",
    callback=here,
    help="The archive; build/RELEASE-TIME.tar.gz by default.",
)
@output_option
def command(wanted: Wanted, to: str, output: Printer) -> None:
    """Pack logs, events, objects, plan, versions and doctor's result for a bug report.

    Secrets are left out: Secret objects are never read, and what is or looks like a token is replaced.
    Logs may hold what users have asked: look before you send it.

    Example: manyhost collect a3mega --to report.tar.gz
    """
    from manyhost.cluster.collect import collect, default_path

    opened = open_release(wanted)
    path = Path(to) if to else default_path(opened.place.release, opened.connection.now())
    found = collect(opened.connection, opened.place, opened.target, path)
    output.result(found, _lines(found))


def _lines(found: Collected) -> Iterator[str]:
    yield f"{found.archive}: {found.files} files, {found.bytes / 1024:,.0f} KiB"
    yield from (f"  not read: {line}" for line in found.unread)
