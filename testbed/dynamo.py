"""NVIDIA Dynamo for the local engine: its frontend and sidecar, and the gRPC side of vLLM's Rust frontend.

The CPU build of vLLM has no such frontend: the program comes out of the CUDA wheel of the same version.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from testbed import engine
from testbed.build import locked
from testbed.errors import ClusterError
from testbed.layout import cache_dir

_REQUIREMENTS = Path(__file__).with_name("dynamo-requirements.txt")


def dynamo_dir() -> Path:
    """Build what is missing into the cache.

    Returns:
        The folder with `site`, which the engine's Python can import, and the program `vllm-rs`.

    Raises:
        ClusterError: Something could not be installed.
    """
    made_from = _REQUIREMENTS.read_bytes() + Path(__file__).read_bytes()
    target = cache_dir() / f"dynamo-{hashlib.sha256(made_from).hexdigest()[:12]}"
    with locked("dynamo"):
        if not target.is_dir():
            _build(target)
    return target


def _build(target: Path) -> None:
    work = target.with_name(f"{target.name}.{os.getpid()}")
    words = [Path(sys.executable).with_name("uv"), "pip", "install", "-q", "--no-deps", "--require-hashes"]
    words += ["--python", engine.engine_dir() / "vllm/bin/python", "-r", _REQUIREMENTS]
    try:
        done = subprocess.run(
            [*words, "--target", work / "site"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ClusterError(f"Dynamo cannot be installed: {done.stderr.strip()[-500:]}")
        shutil.move(work / "site/vllm/vllm-rs", work / "vllm-rs")
        for folder in work.glob("site/vllm*"):  # the engine has its own
            shutil.rmtree(folder)
        (work / "vllm-rs").chmod(0o755)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
