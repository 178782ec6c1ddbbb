"""Changing values/local.yaml: read it, show what would change, ask, write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from manyhost.cli.printer import Printer
from manyhost.errors import InvalidInput


def read(path: Path) -> str:
    """Return the file's text; nothing where there is none.

    Raises:
        InvalidInput: It cannot be read.
    """
    try:
        return path.read_text() if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot be read: {error}", where=str(path)) from None


def write(path: Path, text: str, result: dict[str, Any], output: Printer, *, yes: bool) -> None:
    """Ask, write the file, and say so in the result.

    Raises:
        Abort: The user does not want it.
        Failed: It cannot be written.
    """
    from manyhost.output import write_files

    if not yes:
        click.confirm(f"write {path.name}?", abort=True, err=True)
    write_files(path.parent, {path.name: text.encode()})
    output.result({**result, "written": True}, [f"written {path.name}"])
