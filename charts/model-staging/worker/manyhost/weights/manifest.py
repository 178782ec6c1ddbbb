"""manyhost-weights.json: what a staged model consists of, written last.

The same for a bucket, a claim, a disk or a folder. A reader can prove a folder with it in seconds: sizes, the
headers of safetensors files and a few blocks of each, and small files whole (the chart's launcher does).
It holds nothing of when, where or by whom: whoever stages a revision writes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field

NAME = "manyhost-weights.json"
# Below the model's folder while it is staged: what a run must remember. Without the manifest: half-staged.
STAGING = ".manyhost-staging"
MARK = f"{STAGING}/mark.json"
VERSION = 1
BLOCK = 4096
# Other files than safetensors are hashed whole up to this size whenever a folder is looked at.
SMALL = 32 * 1024**2
_SPACING = 512 * 1024**2
_MOST = 8


@dataclass(frozen=True)
class File:
    """One file of a staged model.

    Attributes:
        name: Its path below the model's folder.
        size: Bytes.
        sha256: Of the whole file; the hub's own for a file in its large file storage.
        crc32c: Of the whole file, base64 of its big-endian bytes, as Cloud Storage has it.
        header_sha256: Of a safetensors file's prefix and header; empty for other files.
        tensor_bytes: What follows them; 0 for other files.
        blocks: Offsets of the blocks that stand for the file's bytes; none for a file that is hashed whole.
        blocks_sha256: Of these blocks, one after the other.
    """

    name: str
    size: int
    sha256: str
    crc32c: str
    header_sha256: str = ""
    tensor_bytes: int = 0
    blocks: tuple[int, ...] = ()
    blocks_sha256: str = ""


@dataclass(frozen=True)
class Manifest:
    """A staged model.

    Attributes:
        model: Its name on the hub.
        revision: The commit.
        files: By name, in order.
        block_bytes: Size of a block; the last one of a file may be shorter.
        version: Of this shape.
    """

    model: str
    revision: str
    files: tuple[File, ...] = field(default_factory=tuple)
    block_bytes: int = BLOCK
    version: int = VERSION

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class Unreadable(ValueError):
    """The text is no manifest, or one of a newer version."""


def dumps(manifest: Manifest) -> bytes:
    """Return the manifest's text: the same for the same model."""
    document = asdict(manifest)
    document["files"] = sorted(document["files"], key=lambda file: str(file["name"]))
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def loads(text: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        Unreadable: It is none.
    """
    try:
        document = json.loads(text)
        version = document["version"]
        if version != VERSION:
            raise Unreadable(f"is of version {version}, not {VERSION}")
        files = tuple(File(**{**file, "blocks": tuple(file["blocks"])}) for file in document.pop("files"))
        return Manifest(**document, files=files)
    except Unreadable:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Unreadable("is no manifest of weights") from None


def blocks(size: int) -> tuple[int, ...]:
    """Return where the blocks begin that stand for a file's bytes: one for each half GiB, at most 8.

    They are spread evenly and the last one is the file's end, where an unfinished copy differs.
    """
    count = min(_MOST, size // _SPACING + 1)
    last = max(0, size - BLOCK)
    return tuple(last * (number + 1) // count for number in range(count))


def blocks_sha256(offsets: Iterable[int], read: Callable[[int, int], bytes]) -> str:
    """Return the hash of a file's blocks.

    Args:
        offsets: Where they begin.
        read: Returns bytes from an offset on.
    """
    digest = hashlib.sha256()
    for offset in offsets:
        digest.update(read(offset, BLOCK))
    return digest.hexdigest()
