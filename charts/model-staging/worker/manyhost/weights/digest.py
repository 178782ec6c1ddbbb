"""The hashes of a file, taken while it passes, and what they must be."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class RemoteFile:
    """A file of the hub at one commit.

    Attributes:
        name: Its path in the repository.
        size: Bytes.
        sha256: From the hub's large file storage; empty for a file that git itself stores.
        git_oid: Git's name of the file's content, for those.
        xet_hash: Its name in Xet storage; empty where it is not there.
    """

    name: str
    size: int
    sha256: str
    git_oid: str
    xet_hash: str = ""


class Digest:
    """Takes a file's bytes in order and compares them with what the hub says of it."""

    def __init__(self, file: RemoteFile) -> None:
        import google_crc32c

        self._file = file
        self._sha256 = hashlib.sha256()
        # https://git-scm.com/book/en/v2/Git-Internals-Git-Objects, "Object Storage"
        self._git = None if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size)  # noqa: S324  git's choice
        self._crc32c = google_crc32c.Checksum()
        self.bytes = 0

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        self._sha256.update(data)
        if self._git:
            self._git.update(data)
        self._crc32c.update(data)
        self.bytes += len(data)

    @property
    def sha256(self) -> str:
        """Of what has passed."""
        return self._sha256.hexdigest()

    @property
    def crc32c(self) -> str:
        """Of what has passed, as Cloud Storage writes it."""
        return base64.b64encode(self._crc32c.digest()).decode()

    def problem(self) -> str:
        """Say how the bytes differ from the hub's; nothing when they are the same."""
        if self.bytes != self._file.size:
            return f"{self.bytes:,} bytes, the hub says {self._file.size:,}"
        if self._git:
            have, want, what = self._git.hexdigest(), self._file.git_oid, "git object"
        else:
            have, want, what = self.sha256, self._file.sha256, "sha256"
        return "" if have == want else f"{what} {have[:16]}..., the hub says {want[:16]}..."
