"""manyhost chat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from manyhost.cli.options import output_option
from manyhost.cli.session import Wanted, emit, open_place, place_options

if TYPE_CHECKING:
    from manyhost.cluster.chat import Piece


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
    output_format: str,
) -> None:
    """Talk to the model through a tunnel to a ready leader.

    Example: manyhost chat a3mega --prompt "How many r are in strawberry?"
    """
    from manyhost.cluster.chat import ask, model_name, ready_leader, tunnel

    connection, namespace, release = open_place(wanted)
    leader = ready_leader(connection, namespace, release)
    with tunnel(connection, namespace, leader) as client:
        served = model_name(client)
    turns: list[dict[str, str]] = []
    if not prompt:
        click.echo(f"{served} on {leader.pod}; an empty line ends", err=True)
    while True:
        text = prompt or click.prompt("you", default="", show_default=False, err=True)
        if not text.strip():
            return
        turns.append({"role": "user", "content": text})
        # A tunnel for each question: nothing is held open while a person thinks.
        with tunnel(connection, namespace, leader) as client:
            pieces = ask(client, served, turns, max_tokens=max_tokens, temperature=temperature)
            answer = _say_json(pieces) if output_format == "json" else _say(pieces)
        turns.append({"role": "assistant", "content": answer})
        if prompt:
            return


def _say(pieces: Iterable[Piece]) -> str:
    """Print an answer as it comes, the reasoning dimmed and before it; return the answer."""
    answer, before = "", ""
    for piece in pieces:
        if piece.kind == "end":
            if piece.text == "length":
                click.echo("\n(cut off at the token limit)", err=True, nl=False)
            break
        if piece.kind != before:
            label = "[reasoning] " if piece.kind == "reasoning" else "\n[answer] " if before else ""
            click.echo(click.style(label, dim=True), nl=False)
            before = piece.kind
        click.echo(click.style(piece.text, dim=True) if piece.kind == "reasoning" else piece.text, nl=False)
        answer += piece.text if piece.kind == "answer" else ""
    click.echo()
    return answer


def _say_json(pieces: Iterable[Piece]) -> str:
    texts = {"reasoning": "", "answer": "", "end": ""}
    for piece in pieces:
        texts[piece.kind] += piece.text
    emit({"reasoning": texts["reasoning"], "answer": texts["answer"], "finish_reason": texts["end"]})
    return texts["answer"]
