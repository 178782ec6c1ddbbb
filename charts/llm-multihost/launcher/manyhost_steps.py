#!/usr/bin/env python3
"""Small steps of launch.sh.

manyhost_steps.py address INTERFACE                 print the interface's IPv4 address
manyhost_steps.py cuda GPUS                         see whether the driver lets the engine use its GPUs
manyhost_steps.py weights FOLDER [ENGINE FLAG]...   check a staged model folder
manyhost_steps.py download MODEL [ENGINE FLAG]...   fetch a model before the engine needs it
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib.util
import json
import os
import pathlib
import re
import socket
import struct
import sys

from manyhost_child import NO_RETRY
from manyhost_settings import flag_value
from manyhost_staged import problem

SIOCGIFADDR = 0x8915  # linux/sockios.h
# cuda.h, CUresult: what a driver says that no further attempt changes.
CUDA_FINAL = {
    34: "the library is a stub, not the host's driver",  # CUDA_ERROR_STUB_LIBRARY
    100: "no GPU is there",  # CUDA_ERROR_NO_DEVICE
    803: "driver and library do not fit",  # CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
    804: "this GPU takes no newer library than its driver's",  # CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE
}


def address(interface: str) -> str:
    """The interface's IPv4 address.

    Raises:
        OSError: there is no such interface, or it has no IPv4 address.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("256s", interface.encode()[:15])
        return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)[20:24])


class NotYet(Exception):
    """A failure that may be over at the next attempt."""


def cuda(gpus: int) -> str:
    """Why the driver will not let an engine use its GPUs, or nothing; before anything is fetched.

    Raises:
        NotYet: The driver is not ready, for example while the fabric manager starts.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        sys.stdout.write("manyhost: no libcuda.so.1 in the library path: GPUs were not probed\n")
        return ""
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    has = f"driver for CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    with_kernel = pathlib.Path("/proc/driver/nvidia/version")
    if with_kernel.is_file():
        found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", with_kernel.read_text())
        has += f" ({found[1]})" if found else ""
    code = driver.cuInit(0)
    if code in CUDA_FINAL:
        return f"{has}: {CUDA_FINAL[code]} (cuInit {code})"
    if code:
        raise NotYet(f"{has}: cuInit {code}")
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    if count.value < gpus:
        return f"{has}: {count.value} of {gpus} GPUs are there"
    needs = torch_cuda()
    # Within one major version a driver runs programs of newer minor versions (CUDA compatibility guide).
    if needs and int(needs.split(".")[0]) > version.value // 1000:
        return f"{has} is too old for this image, which needs CUDA {needs}"
    return ""


def torch_cuda() -> str:
    """The CUDA version of this Python's torch, read from its file: an import takes seconds."""
    found = importlib.util.find_spec("torch")
    for folder in (found.submodule_search_locations or ()) if found else ():
        file = pathlib.Path(folder) / "version.py"
        if file.is_file():
            match = re.search(r"^cuda\b[^=\n]*= *['\"]([\d.]+)", file.read_text(), re.M)
            return match[1] if match else ""
    return ""


def missing_weights(staged: str, flags: list[str]) -> str:
    """What a staged model folder lacks, or nothing."""
    folder = pathlib.Path(staged)
    if not (folder / "config.json").is_file():
        return f"weights missing at {folder}: no config.json"
    if flag_value(flags, "--load-format") == "dummy":
        return ""
    wrong = problem(folder, os.environ.get("MANYHOST_STAGED", ""))
    if wrong:
        return f"weights at {folder}: {wrong}"
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
    try:
        if verb == "cuda":
            problem = cuda(int(what))
        else:
            problem = (missing_weights if verb == "weights" else download)(what, flags)
    except NotYet as error:
        sys.stderr.write(f"manyhost: error: {error}\n")
        return 1
    if problem:
        sys.stderr.write(f"manyhost: error: {problem}\n")
        return NO_RETRY
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
