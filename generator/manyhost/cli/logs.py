"""manyhost logs."""

from __future__ import annotations

from collections.abc import Iterator

import click

from manyhost.cli.options import output_option
from manyhost.cli.printer import Printer
from manyhost.cli.session import Wanted, open_place, place_options

RESULT = {"pod": "the host's pod", "container": "its container", "lines": "how many there were"}
EVENTS = {"log": "a line of the log; bytes that are no UTF-8 are replaced"}


@click.command(name="logs")
@place_options
@click.option("--group", type=click.IntRange(min=0), default=0, show_default=True, help="Which group.")
@click.option("--prefill", is_flag=True, help="A prefill group's, where prefill and decode are apart.")
@click.option("--host", type=click.IntRange(min=0), default=0, show_default=True, help="0 is the leader.")
@click.option("--follow", "-f", is_flag=True, help="Go on until the engine ends.")
@click.option("--previous", is_flag=True, help="The log before the last restart of the container.")
@click.option("--tail", type=click.IntRange(min=0), metavar="LINES", help="Only the last lines.")
@click.option("--container", default="vllm", show_default=True, help="Another container of the pod.")
@output_option
def command(
    wanted: Wanted,
    group: int,
    prefill: bool,
    host: int,
    follow: bool,
    previous: bool,
    tail: int | None,
    container: str,
    output: Printer,
) -> None:
    """Show the engine's logs; the leader's of group 0 by default.

    Example: manyhost logs a3mega --host 1 --follow
    """
    from manyhost.cluster.logs import logs, pod_name, uid_of, why_ended

    connection, place = open_place(wanted)
    namespace, release = place.namespace, place.release
    pod = pod_name(f"{release}-prefill" if prefill else release, group, host)
    uid = uid_of(connection, namespace, pod) if follow else ""
    pieces = logs(
        connection,
        namespace,
        pod,
        follow=follow,
        previous=previous,
        tail=tail,
        container=container,
    )
    if not output.as_json:  # a log is shown as it is, byte for byte
        for piece in pieces:
            output.copy(piece)
    else:
        count = 0
        for line in lines(pieces):
            output.event("log", line)
            count += 1
        output.result({"pod": pod, "container": container, "lines": count})
    if follow:
        ended = why_ended(connection, namespace, pod, uid, container)
        status = connection.commands.manyhost("status")
        output.warn(ended, fix=f"the same command again follows what runs now; {status} says how it is")


def lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """Put the pieces of a log together to lines, without their ends."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.decode(errors="replace") for line in whole)
    if rest:
        yield rest.decode(errors="replace")
