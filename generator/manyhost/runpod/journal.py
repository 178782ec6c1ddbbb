"""What was asked of RunPod and what came of it: a file that knows before RunPod does.

A line is on the disk before a request leaves. Whoever finds the file after a crash knows every name under
which something may be billed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from manyhost.errors import Failed

Kind = Literal["network-volumes", "clusters", "pods"]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line.

    Attributes:
        what: `ask` before something is made, `made` when it is known to be there, `none` when it is known
            not to be, `remove` before it is removed, `gone` when it is known to be away.
        kind: Of the thing.
        name: The one that we gave it; no two things of ours of one kind have the same.
        identity: RunPod's name of it; empty while nobody knows.
        time: Seconds since the epoch.
    """

    what: Literal["ask", "made", "none", "remove", "gone"]
    kind: Kind
    name: str
    identity: str = ""
    time: float = 0.0


class Journal:
    """A file of entries, which only grows.

    Args:
        path: Of the file; it and its folder are made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> Iterator[Entry]:
        """Return what it has, oldest first; a last line that was cut off was never acted on.

        Raises:
            Failed: The file, or another line than the last one, cannot be read.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            raise Failed(f"cannot be read: {error.strerror}", where=str(self.path)) from None
        for number, written in enumerate(lines, 1):
            if not written:
                continue
            try:
                yield msgspec.json.decode(written, type=Entry)
            except msgspec.DecodeError as error:
                if number == len(lines):  # no end of line: the write was cut off before the request left
                    return
                raise Failed(
                    f"line {number} cannot be read: {error}",
                    where=str(self.path),
                    fix="put the file aside: what is yours has its name at RunPod",
                ) from None

    def note(self, entry: Entry) -> None:
        """Append an entry; it is on the disk when this returns.

        Raises:
            Failed: The file cannot be written.
        """
        try:
            self._append(msgspec.json.encode(entry) + b"\n")
        except OSError as error:
            raise Failed(
                f"cannot be written: {error.strerror}",
                where=str(self.path),
                fix="export XDG_STATE_HOME=... with a folder that can: what is yours has its name at RunPod",
            ) from None

    def _append(self, entry: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            if file.tell() and not self.path.read_bytes().endswith(b"\n"):
                file.truncate(self.path.read_bytes().rfind(b"\n") + 1)  # what was cut off
            file.write(entry)
            file.flush()
            os.fsync(file.fileno())

    def open(self) -> dict[tuple[Kind, str], Entry]:
        """Return by kind and name what may be there: made, or asked for without knowing what came of it."""
        found: dict[tuple[Kind, str], Entry] = {}
        for entry in self.entries():
            if entry.what in {"none", "gone"}:
                found.pop((entry.kind, entry.name), None)
            else:
                found[entry.kind, entry.name] = entry
        return found
