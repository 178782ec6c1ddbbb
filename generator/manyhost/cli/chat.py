"""manyhost chat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from manyhost.cli.options import output_option
from manyhost.cli.printer import Printer
from manyhost.cli.session import Wanted, open_place, place_options
from manyhost.errors import Failed, WrongUsage
from manyhost.secret import secret

if TYPE_CHECKING:
    from manyhost.cluster.chat import Piece, Server
    from manyhost.cluster.connection import Connection
    from manyhost.cluster.target import Place

RESULT = {
    "model": "the served model",
    "pod": "the leader or router that answered",
    "reasoning": "what it thought; may be empty",
    "answer": "what it said",
    "finish_reason": "why it ended: stop, length, ...",
}
EVENTS = {"reasoning": "a piece of what it thinks", "answer": "a piece of what it says"}


@click.command(name="chat")
@place_options
@click.option("--prompt", default="", metavar="TEXT", help="Ask this and end; otherwise a conversation.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Limit of an answer.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 takes the likeliest token each time.")
@output_option
def command(
    wanted: Wanted,
    prompt: str,
    max_tokens: int | None,
    temperature: float | None,
    output: Printer,
) -> None:
    """Talk to the model through a tunnel to a ready leader, or to the router before them.

    An engine with a key of its own gets the one in $VLLM_API_KEY.

    Example: manyhost chat a3mega --prompt "How many r are in strawberry?"
    """
    from manyhost.cluster.chat import KEY, Locked, key_command, ready_server

    if output.as_json and not prompt:
        raise WrongUsage("a conversation is for people", where="--output json", fix="add --prompt TEXT")
    key = secret(KEY)
    connection, place = open_place(wanted)
    server = ready_server(connection, place)
    try:
        _talk(connection, place, server, prompt, max_tokens, temperature, key, output)
    except Locked as error:
        fix = key_command(connection, place)
        raise Failed(error.message, fix=fix or f"set {KEY} to the key that it was started with") from None


def _talk(
    connection: Connection,
    place: Place,
    server: Server,
    prompt: str,
    max_tokens: int | None,
    temperature: float | None,
    key: str,
    output: Printer,
) -> None:
    from manyhost.cluster.chat import ask, model_name, tunnel

    with tunnel(connection, place.namespace, server) as client:
        served = model_name(client, key)
    turns: list[dict[str, str]] = []
    if not prompt:
        output.aside(f"{served} on {server.pod}; an empty line ends\n")
    while True:
        text = prompt or click.prompt("you", default="", show_default=False, err=True)
        if not text.strip():
            return
        turns.append({"role": "user", "content": text})
        # A tunnel for each question: nothing is held open while a person thinks.
        with tunnel(connection, place.namespace, server) as client:
            pieces = ask(
                client,
                served,
                turns,
                commands=connection.commands,
                key=key,
                max_tokens=max_tokens,
                temperature=temperature,
            )
            said = _say(pieces, output)
        turns.append({"role": "assistant", "content": said["answer"]})
        if prompt:
            output.result({"model": served, "pod": server.pod, **said})
            return


def _say(pieces: Iterable[Piece], output: Printer) -> dict[str, str]:
    """Print an answer as it comes, the reasoning dimmed and before it; return all of it."""
    said = {"reasoning": "", "answer": "", "finish_reason": ""}
    before = ""
    for piece in pieces:
        if piece.kind == "end":
            said["finish_reason"] = piece.text
            break
        if piece.kind != before:
            label = "[reasoning] " if piece.kind == "reasoning" else "\n[answer] " if before else ""
            output.write(label, dim=True)
            before = piece.kind
        output.piece(piece.kind, piece.text, dim=piece.kind == "reasoning")
        said[piece.kind] += piece.text
    if said["finish_reason"] == "length":
        output.aside("\n(cut off at the token limit)")
    output.text("")
    return said
