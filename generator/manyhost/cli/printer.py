"""The one place that prints: text for people, or lines of JSON for programs (docs/reference/output.md)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from manyhost.errors import Failed, ManyhostError, sentence

if TYPE_CHECKING:
    from manyhost.output import Envelope, EventLine

_SHOWN = 9  # of the errors after the first: people mend some and run it again


class ReaderGone(Exception):
    """Whoever read the output reads no more (`| head`): no failure, and no OSError for click to catch."""


class Printer:
    """What a command says, in the form that --output asks for.

    Args:
        command: Name of the command; empty when there is none.
        as_json: The form for mistakes that are found before the command has begun.

    Attributes:
        as_json: Whether programs read it.
        begun: Whether the command line is right and the command runs.
    """

    def __init__(self, command: str, *, as_json: bool) -> None:
        self.as_json = as_json
        self._command = command
        self.begun = False
        self._result: Any = None
        self._warnings: list[tuple[str, str, str]] = []

    def begin(self, *, as_json: bool) -> None:
        """Note that the command line is right and the command runs."""
        self.as_json, self.begun = as_json, True

    def text(self, *lines: str) -> None:
        """Print lines for people; programs have no use for them."""
        if not self.as_json:
            for line in lines:
                with _written():
                    click.echo(line)

    def write(self, piece: str, *, dim: bool = False) -> None:
        """Print a piece of a line for people."""
        if not self.as_json:
            with _written():
                click.echo(click.style(piece, dim=True) if dim else piece, nl=False)

    def copy(self, piece: bytes) -> None:
        """Print a piece of somebody else's output for people, byte for byte."""
        with _written():
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()

    def aside(self, remark: str) -> None:
        """Tell people something that is no part of the result: it goes to stderr, as it is."""
        if not self.as_json:
            _tell(remark, nl=False)

    def event(self, kind: str, text: str, data: Any = None) -> None:
        """Say that a step is done: its text for people, a line for programs."""
        if not self.as_json:
            self.text(text)
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
            _tell(f"warning: {sentence(message, where, fix)}")

    def end(self, exit_code: int, error: ManyhostError | click.ClickException | None = None) -> int:
        """Say how it ended, and return the exit code."""
        if self.as_json:
            if not error and not self.begun:
                return exit_code  # --help and --version have said all
            try:
                self._envelope(exit_code, error)
                return exit_code
            except Failed as full:  # programs get no last line; people may see why
                exit_code, error = exit_code or full.exit_code, error or full
        if isinstance(error, click.ClickException):
            with suppress(OSError):
                error.show()
        elif error:
            _tell(f"manyhost: {error}")
            others = _more(error)
            for other in others[:_SHOWN]:
                _tell(f"manyhost: {other}")
            if others[_SHOWN:]:
                _tell(f"manyhost: and {len(others) - _SHOWN} more; --output json lists all")
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

    with _written():
        sys.stdout.flush()
        sys.stdout.buffer.write(to_line(document))  # JSON is UTF-8 whatever the terminal's language is
        sys.stdout.buffer.flush()


def _tell(line: str, *, nl: bool = True) -> None:
    """Print to stderr; when it cannot be written either, the exit code is all there is."""
    with suppress(OSError):
        click.echo(line, nl=nl, err=True)


@contextmanager
def _written() -> Iterator[None]:
    """Turn a failure to write the output into one line."""
    if sys.stdout is None:
        raise Failed("is closed", where="standard output")
    try:
        yield
    except BrokenPipeError:
        raise ReaderGone from None
    except OSError as error:
        raise Failed(f"cannot be written: {error.strerror}", where="standard output") from None
