"""manyhost logs."""

from __future__ import annotations

import sys

import click

from manyhost.cli.session import Wanted, open_place, place_options


@click.command(name="logs")
@place_options
@click.option("--group", type=click.IntRange(min=0), default=0, show_default=True, help="Which group.")
@click.option("--prefill", is_flag=True, help="A prefill group's, where prefill and decode are apart.")
@click.option("--host", type=click.IntRange(min=0), default=0, show_default=True, help="0 is the leader.")
@click.option("--follow", "-f", is_flag=True, help="Go on until the engine ends.")
@click.option("--previous", is_flag=True, help="The log before the last restart of the container.")
@click.option("--tail", type=click.IntRange(min=0), metavar="LINES", help="Only the last lines.")
@click.option("--container", default="vllm", show_default=True, help="Another container of the pod.")
def command(
    wanted: Wanted,
    group: int,
    prefill: bool,
    host: int,
    follow: bool,
    previous: bool,
    tail: int | None,
    container: str,
) -> None:
    """Show the engine's logs; the leader's of group 0 by default.

    Example: manyhost logs a3mega --host 1 --follow
    """
    from manyhost.cluster.logs import logs, pod_name

    connection, namespace, release = open_place(wanted)
    pieces = logs(
        connection,
        namespace,
        pod_name(f"{release}-prefill" if prefill else release, group, host),
        follow=follow,
        previous=previous,
        tail=tail,
        container=container,
    )
    for piece in pieces:
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
