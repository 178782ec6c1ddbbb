"""Where weights are staged: what a bucket and a folder have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from manyhost.weights.digest import RemoteFile
from manyhost.weights.transfer import Reader

Open = Callable[[Iterable[bytes]], Reader]


class Busy(Exception):
    """Another run is at this file."""


@dataclass(frozen=True)
class Found:
    """A file at the target.

    Attributes:
        size: Bytes.
        proof: The hub's hash that its bytes were compared with; empty for a file that nobody has proven.
        sha256: Of the whole file, if proven.
        crc32c: Of the whole file, if proven.
    """

    size: int
    proof: str = ""
    sha256: str = ""
    crc32c: str = ""

    def is_file(self, file: RemoteFile) -> bool:
        """Whether it is proven to be this file of the hub."""
        return self.size == file.size and self.proof == proof_of(file)


def proof_of(file: RemoteFile) -> str:
    """Return the hash that the hub names a file's content by."""
    return f"sha256:{file.sha256}" if file.sha256 else f"git:{file.git_oid}"


class Target(Protocol):
    """A bucket or a folder for one model.

    Attributes:
        where: How people call it.
    """

    where: str

    def free_bytes(self) -> int | None:
        """Return how much it can still hold; None where there is no limit."""

    def begin(self, mark: bytes) -> bytes:
        """Say that a model is staged here, and return what was said first: by this run or an earlier one."""

    def inventory(self) -> dict[str, Found]:
        """Return what is there, by name."""

    def store(self, file: RemoteFile, open_reader: Open) -> None:
        """Write a file, in place of what is there: whole and proven, or not at all.

        Raises:
            Busy: Another run is at it, or has just written it.
            WrongBytes: The bytes that came, or arrived there, are wrong.
            RemoteError: The hub or the target fails.
        """

    def adopt(self, file: RemoteFile) -> bool:
        """Read a file that nobody has proven, and note the proof if it is the hub's.

        Raises:
            Busy: Another run is at it, or has just ended.
        """

    def read(self, name: str, start: int, length: int) -> bytes:
        """Return some bytes of a file."""

    def manifest(self) -> bytes | None:
        """Return the manifest's text; None when there is none."""

    def publish(self, text: bytes) -> bytes:
        """Write the manifest unless there is one, and return the one that is there now."""

    def withdraw(self) -> None:
        """Remove the manifest: what is there is not what it says."""

    def end(self) -> None:
        """Forget the run; the manifest is there."""
