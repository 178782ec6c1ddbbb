"""The one place that prints: text for people, or lines of JSON for programs (docs/reference/output.md)."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from manyhost.errors import ManyhostError, sentence

if TYPE_CHECKING:
    from manyhost.output import Envelope, EventLine

_SHOWN = 9  # of the errors after the first: people mend some and run it again


class Printer:
    """What a command says, in the form that --output asks for.

    Args:
        command: Name of the command; empty when there is none.
        as_json: The form for mistakes that are found before the command has begun.

    Attributes:
        as_json: Whether programs read it.
    """

    def __init__(self, command: str, *, as_json: bool) -> None:
        self.as_json = as_json
        self._command = command
        self._begun = False
        self._result: Any = None
        self._warnings: list[tuple[str, str, str]] = []

    def begin(self, *, as_json: bool) -> None:
        """Note that the command line is right and the command runs."""
        self.as_json, self._begun = as_json, True

    def text(self, *lines: str) -> None:
        """Print lines for people; programs have no use for them."""
        if not self.as_json:
            for line in lines:
                click.echo(line)

    def write(self, piece: str, *, dim: bool = False) -> None:
        """Print a piece of a line for people."""
        if not self.as_json:
            click.echo(click.style(piece, dim=True) if dim else piece, nl=False)

    def aside(self, remark: str) -> None:
        """Tell people something that is no part of the result: it goes to stderr, as it is."""
        if not self.as_json:
            click.echo(remark, nl=False, err=True)

    def event(self, kind: str, text: str, data: Any = None) -> None:
        """Say that a step is done: its text for people, a line for programs."""
        if not self.as_json:
            click.echo(text)
            return
        from manyhost.output import Event, EventLine

        _print(EventLine(Event(kind, text, data)))

    def piece(self, kind: str, text: str, *, dim: bool = False) -> None:
        """Say a piece of an answer: a piece of a line for people, a line for programs."""
        if self.as_json:
            self.event(kind, text)
        else:
            self.write(text, dim=dim)

    def result(self, result: Any, lines: Iterable[str] = ()) -> None:
        """Say what the command has found or done.

        Args:
            result: For programs: keys as the command's RESULT names them, or a struct of these fields.
            lines: The same for people.
        """
        self._result = result
        if not self.as_json:
            self.text(*lines)

    def warn(self, message: str, *, where: str = "", fix: str = "") -> None:
        """Say what may go wrong."""
        self._warnings.append((message, where, fix))
        if not self.as_json:
            click.echo(f"warning: {sentence(message, where, fix)}", err=True)

    def end(self, exit_code: int, error: ManyhostError | click.ClickException | None = None) -> int:
        """Say how it ended, and return the exit code."""
        if self.as_json:
            if error or self._begun:  # --help and --version have said all
                self._envelope(exit_code, error)
        elif isinstance(error, click.ClickException):
            error.show()
        elif error:
            click.echo(f"manyhost: {error}", err=True)
            others = _more(error)
            for other in others[:_SHOWN]:
                click.echo(f"manyhost: {other}", err=True)
            if others[_SHOWN:]:
                click.echo(f"manyhost: and {len(others) - _SHOWN} more; --output json lists all", err=True)
        return exit_code

    def _envelope(self, exit_code: int, error: ManyhostError | click.ClickException | None) -> None:
        from manyhost.output import Envelope, Notice

        _print(
            Envelope(
                command=self._command,
                status="failed" if exit_code else "ok",
                exit_code=exit_code,
                result=self._result,
                warnings=[Notice(*warning) for warning in self._warnings],
                errors=[Notice(*_parts(each)) for each in (error, *_more(error)) if each],
            )
        )


def _more(error: ManyhostError | click.ClickException | None) -> tuple[ManyhostError, ...]:
    return error.more if isinstance(error, ManyhostError) else ()


def _parts(error: ManyhostError | click.ClickException) -> tuple[str, str, str]:
    if isinstance(error, ManyhostError):
        return error.message, error.where, error.fix
    context = error.ctx if isinstance(error, click.UsageError) else None
    return error.format_message(), "", f"see `{context.command_path} --help`" if context else ""


def _print(document: Envelope | EventLine) -> None:
    from manyhost.output import to_line

    sys.stdout.flush()
    sys.stdout.buffer.write(to_line(document))  # JSON is UTF-8 whatever the terminal's language is
    sys.stdout.buffer.flush()
