"""Errors that reach the user, and the exit code of each (docs/reference/exit-codes.md)."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from typing import TypeVar


class ManyhostError(Exception):
    """A problem that the user can act on; everything else is a bug.

    Attributes:
        message: What is wrong, one sentence.
        where: The file, key or object it is about; may be empty.
        fix: What to do; may be empty.
        more: What else is wrong, found in the same step.
    """

    exit_code = 1

    def __init__(
        self, message: str, *, where: str = "", fix: str = "", more: Iterable[ManyhostError] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.fix = fix
        self.more = tuple(more)

    def __str__(self) -> str:
        """Return the sentence shown to the user: where, what, and on a second line the fix."""
        return sentence(self.message, self.where, self.fix)


class Failed(ManyhostError):
    """Something that was asked for was done and did not succeed."""

    exit_code = 1


class WrongUsage(ManyhostError):
    """The command line itself is wrong."""

    exit_code = 2


class InvalidInput(ManyhostError):
    """A recipe, setting or value is invalid."""

    exit_code = 3


class NotReady(ManyhostError):
    """The cluster or cloud is not in a state in which this could work."""

    exit_code = 4


class RemoteError(ManyhostError):
    """A remote system failed or could not be reached."""

    exit_code = 5


class Interrupted(ManyhostError):
    """Interrupted (Ctrl-C, SIGTERM or SIGHUP)."""

    exit_code = 130


def no_space(error: BaseException) -> Failed | None:
    """Return what to say of a disk that is full, wherever it was met; None for any other error."""
    if not isinstance(error, OSError):
        return None
    nowhere = "No usable temporary directory" in (error.strerror or "")  # tempfile has tried to write there
    if nowhere or error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        where = str(error.filename or "the output or a temporary file")[:200]
        return Failed(f"cannot be written: {error.strerror}", where=where, fix="free some space")
    return None


E = TypeVar("E", bound=ManyhostError)


def first(errors: Sequence[E]) -> E:
    """Return the first of some errors with the others as what else is wrong, each once."""
    flat: list[ManyhostError] = []
    for error in errors:
        flat += [error, *error.more]
    found, *others = {str(error): error for error in flat}.values()
    return type(errors[0])(found.message, where=found.where, fix=found.fix, more=others)


def sentence(message: str, where: str, fix: str) -> str:
    """Return a warning or an error as people read it: where, what, and on a second line the fix."""
    line = f"{where}: {message}" if where else message
    return f"{line}\n  fix: {fix}" if fix else line


def nearest(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return a hint for a misspelt name: the closest known one, else `otherwise`, else the whole list."""
    import difflib  # noqa: PLC0415  for mistakes only

    names = sorted(known)
    if not names:
        return otherwise
    close = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {close[0]}?" if close else otherwise or f"choose one of: {', '.join(names)}"
