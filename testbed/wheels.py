"""Wheels for pip without an index: made here, the same bytes each time, or kept from a registry."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from testbed.build import locked
from testbed.errors import ClusterError
from testbed.layout import cache_dir

_PYTHON = "3.11"  # of Debian 12, which the engine needs too


def wheel(folder: Path, name: str, version: str, code: str = "", requires: str = "") -> str:
    """Makes a wheel of one module and returns its line for a list with hashes.

    Args:
        folder: where it is put.
        name: of the package and of its module.
        version: of the package.
        code: the module's.
        requires: another package, as Requires-Dist has it; empty for none.
    """
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    about += f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{name}/__init__.py": code,
        f"{info}/METADATA": about,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            entry = zipfile.ZipInfo(file)  # of 1980, not of now
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, text)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def downloaded(requirements: Path) -> Path:
    """Download what a list with hashes names into the cache, once.

    Returns:
        The folder of the wheels.

    Raises:
        ClusterError: The package registry cannot be reached, or has other files.
    """
    target = cache_dir() / f"wheels-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"
    with locked("wheels"):
        if target.is_dir():
            return target
        work = target.with_name(f"{target.name}.{os.getpid()}")
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps"]
        words += ["--only-binary", ":all:", "--python-version", _PYTHON, "--dest", str(work)]
        try:
            done = subprocess.run(
                [*words, "-r", str(requirements)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise ClusterError(f"wheels cannot be downloaded: {done.stderr.strip()[-500:]}")
            work.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target
