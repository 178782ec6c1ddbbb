"""Locks the engine's environment on RunPod: python -m tools.lock_engine VERSION, e.g. v0.26.0.

vLLM, Ray, NVIDIA Dynamo where one can stand before that vLLM, and what stages weights, for Python 3.12 on
x86_64, each pinned to the one wheel that is installed there: the list travels to the pod in a variable, and
all hashes of all platforms would not fit.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from manyhost.catalog import Catalog
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "generator/manyhost/runpod/requirements"
EXTRAS = ROOT / "docker/vllm/requirements"
PYTHON = (3, 12)
# Ubuntu 24.04, of RunPod's images.
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)] + [
    "manylinux2014_x86_64",
    "linux_x86_64",
]
# PyPI has only a source package of it that loads another index's; Dynamo needs it to plan, and not to serve.
_STUB = "aisimulate"
TAGS = [*cpython_tags(PYTHON, platforms=PLATFORMS), *compatible_tags(PYTHON, "cp312", PLATFORMS)]


def ray(version: str) -> str:
    """Return the Ray that the image of the same version gets."""
    lines = (EXTRAS / f"{version}.txt").read_text(encoding="utf-8").splitlines()
    return next(line.split()[0] for line in lines if line.startswith("ray=="))


def dynamo(version: str) -> list[str]:
    """Return what the Dynamo that can stand beside this engine requires; nothing where none can."""
    pair = Catalog().dynamo().pair(version)
    return [f"ai-dynamo=={pair.dynamo}", f"nixl[cu13]=={pair.nixl}"] if pair and pair.sidecar else []


def wheel(package: dict[str, Any]) -> str:
    """Return the sha256 of the wheel that would be installed.

    Raises:
        SystemExit: There is none.
    """
    best: tuple[int, str] | None = None
    for one in package.get("wheels", []):
        name = one.get("name") or one["url"].rpartition("/")[2]
        tags = parse_wheel_filename(name)[3]
        rank = min((TAGS.index(tag) for tag in tags if tag in TAGS), default=None)
        if rank is not None and (best is None or rank < best[0]):
            best = rank, one["hashes"]["sha256"]
    if best is None:
        raise SystemExit(f"{package['name']} {package['version']} has no wheel for Python 3.12 on x86_64")
    return best[1]


def main() -> None:
    """Write the list."""
    version = sys.argv[1]
    words = [
        "--python-version",
        "3.12",
        "--python-platform",
        "x86_64-manylinux_2_39",
        "--format",
        "pylock.toml",
    ]
    wanted = [f"vllm=={version.removeprefix('v')}", ray(version), "google-crc32c", *dynamo(version)]
    with tempfile.TemporaryDirectory() as folder:
        without = Path(folder, "overrides.txt")
        without.write_text(f"{_STUB}; sys_platform == 'never'\n")
        done = subprocess.run(
            [
                Path(sys.executable).with_name("uv"),
                "pip",
                "compile",
                "-q",
                *words,
                "--overrides",
                without,
                "-",
            ],
            input="\n".join(wanted),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    packages = tomllib.loads(done.stdout)["packages"]
    lines = [f"# vLLM {version} on RunPod. Made by tools/lock_engine.py; do not edit."]
    lines += [f"{one['name']}=={one['version']} --hash=sha256:{wheel(one)}" for one in packages]
    OUT.mkdir(exist_ok=True)
    (OUT / f"{version}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(packages)} packages")


if __name__ == "__main__":
    main()
