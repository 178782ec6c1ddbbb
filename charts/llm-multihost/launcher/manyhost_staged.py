"""Whether a folder of weights is what its manifest says: sizes, headers and blocks, seconds for 700 GB.

`manyhost stage` writes manyhost-weights.json last (docs/how-to/weights.md). A file without blocks is hashed
whole; of the others the header and some blocks stand for all bytes: another training run's shard or an
unfinished end differ there, a single bit somewhere else does not (doctor sees that in a bucket).
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

MANIFEST = "manyhost-weights.json"
STAGING = ".manyhost-staging"
VERSION = 1
READERS = 16  # at once: behind the folder may be a bucket, where each read takes its time


def problem(folder: pathlib.Path, wanted: str) -> str:
    """What is wrong with a folder; nothing if it is right, or if nobody says that it was staged.

    Args:
        folder: Of one model.
        wanted: MODEL or MODEL@COMMIT that its manifest must name; empty if it needs none.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        version, files = manifest["version"], manifest["files"]
        have = f"{manifest['model']}@{manifest['revision']}"
    except FileNotFoundError:
        if (folder / STAGING).is_dir():
            return f"half-staged: no {MANIFEST} yet; `manyhost stage` is at it, or was ended: run it again"
        return f"no {MANIFEST}: nobody has proven them; run `manyhost stage`" if wanted else ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read: {type(error).__name__}"
    if version != VERSION:
        return f"{MANIFEST} is of version {version}, not {VERSION}"
    if wanted and wanted not in (have, have.partition("@")[0]):
        short = "@".join((wanted.partition("@")[0], wanted.partition("@")[2][:12])).rstrip("@")
        return f"{have[:-28]}, wanted is {short}"
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda file: difference(folder, file, manifest["block_bytes"]), files)
        wrong = [text for text in found if text]
    more = f", and {len(wrong) - 1} more of {len(files)}" if len(wrong) > 1 else ""
    return f"{wrong[0]}{more}: stage them again" if wrong else ""


def difference(folder: pathlib.Path, file: dict[str, Any], block_bytes: int) -> str:
    """How one file differs from the manifest."""
    name, size = file["name"], file["size"]
    path = folder / name
    try:
        there = path.stat().st_size
        if there != size:
            return f"{name} has {there:,} bytes, not {size:,}"
        with path.open("rb", buffering=0) as source:
            same = is_same(source, file, block_bytes)
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    return "" if same else f"{name} has other bytes"


def is_same(source: Any, file: dict[str, Any], block_bytes: int) -> bool:
    """Whether an open file has the hashes of the manifest."""
    if not file["blocks"]:
        return hashlib.sha256(source.read()).hexdigest() == str(file["sha256"])
    if file["header_sha256"]:
        header = read(source, 0, file["size"] - file["tensor_bytes"])
        if hashlib.sha256(header).hexdigest() != file["header_sha256"]:
            return False
    digest = hashlib.sha256()
    for offset in file["blocks"]:
        digest.update(read(source, offset, min(block_bytes, file["size"] - offset)))
    return digest.hexdigest() == str(file["blocks_sha256"])


def read(source: Any, offset: int, size: int) -> bytes:
    """Some bytes of a file, all of them unless it ends."""
    source.seek(offset)
    data = b""
    while len(data) < size and (piece := source.read(size - len(data))):
        data += piece
    return data
