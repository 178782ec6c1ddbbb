#!/usr/bin/env python3
"""Small steps of launch.sh.

model.py address INTERFACE                 print the interface's IPv4 address
model.py weights FOLDER [ENGINE FLAG]...   check a staged model folder
model.py download MODEL [ENGINE FLAG]...   fetch a model before the engine needs it
"""

from __future__ import annotations

import fcntl
import json
import pathlib
import socket
import struct
import sys

from child import NO_RETRY
from settings import flag_value

SIOCGIFADDR = 0x8915  # linux/sockios.h


def address(interface: str) -> str:
    """The interface's IPv4 address.

    Raises:
        OSError: there is no such interface, or it has no IPv4 address.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("256s", interface.encode()[:15])
        return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)[20:24])


def missing_weights(staged: str, flags: list[str]) -> str:
    """What a staged model folder lacks, or nothing."""
    folder = pathlib.Path(staged)
    if not (folder / "config.json").is_file():
        return f"weights missing at {folder}: no config.json"
    if flag_value(flags, "--load-format") == "dummy":
        return ""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = set(json.loads(index.read_text())["weight_map"].values())
        absent = sorted(name for name in names if not (folder / name).is_file())
        if absent:
            return f"weights missing at {folder}: {len(absent)} of {len(names)} files, {absent[0]}"
    kinds = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
    if not any(next(folder.glob(kind), None) for kind in kinds):
        return f"weights missing at {folder}: no {', '.join(kinds)}"
    return ""


def download(model: str, flags: list[str]) -> str:
    """Fetch a model's files into the Hugging Face cache, as the engine would; return why not.

    Done before the group starts its engines: their own time limits are shorter than a download.
    """
    if "://" in model or flag_value(flags, "--load-format") not in ("", "auto", "safetensors"):
        return ""
    try:
        from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415 in the image or not
        from huggingface_hub.errors import (  # noqa: PLC0415
            GatedRepoError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError:
        return ""  # the engine fetches them itself
    revision = flag_value(flags, "--revision") or None
    try:
        files = HfApi().list_repo_files(model, revision=revision)
        safe = any(name.endswith(".safetensors") for name in files)
        skip = ["original/*", "*.pth", "*.gguf", *(["*.bin", "*.pt"] if safe else [])]
        cache = flag_value(flags, "--download-dir") or None
        snapshot_download(model, revision=revision, cache_dir=cache, ignore_patterns=skip)
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        return f"weights of {model}: {type(error).__name__}: check its name and the token's access"
    return ""


def main(verb: str, what: str, flags: list[str]) -> int:
    """Do one step; its exit status is launch.sh's."""
    if verb == "address":
        try:
            sys.stdout.write(address(what) + "\n")
        except OSError:
            return 1
        return 0
    check = missing_weights if verb == "weights" else download
    problem = check(what, flags)
    if problem:
        sys.stderr.write(f"manyhost: error: {problem}\n")
        return NO_RETRY
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
