"""Write what the image of one vLLM version adds to the stock one: docker/vllm/requirements/<version>.txt.

    python -m tools.lock_image v0.26.0

The additions are what Ray needs beside what vLLM itself requires, at the newest versions that fit both;
nothing of vLLM's own is in the list. Versions whose stock image contains Ray get an empty one. Needs `uv`
and a package index.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from manyhost.catalog import Catalog

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docker/vllm/requirements"
# The stock image's Python and C library (vllm-project/vllm, docker/Dockerfile: Python 3.12 on Ubuntu 22.04).
_IMAGE = ("--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_35")


def compiled(requirements: list[str], *options: str) -> str:
    """Return requirements and what they require, pinned, as `uv pip compile` writes them."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "requirements.in")
        source.write_text("\n".join(requirements))
        command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--no-header"]
        command += ["--no-annotate", "--no-emit-index-url", *_IMAGE, *options, str(source)]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def extras(version: str) -> str:
    """Return the list for one version, with hashes."""
    engine = compiled([f"vllm=={version.removeprefix('v')}"]).splitlines()
    both = compiled([*engine, "ray"]).splitlines()
    return compiled([line for line in both if line not in engine], "--no-deps", "--generate-hashes")


def main(version: str) -> None:
    """Write the list of one version."""
    has_ray = "ray" in Catalog(ROOT).engine(version).stock_image_executors
    head = (
        f"# What docker/vllm adds to vllm/vllm-openai:{version}. Made by tools/lock_image.py; do not edit.\n"
    )
    target = FOLDER / f"{version}.txt"
    target.write_text(head + ("# Nothing: the stock image has Ray.\n" if has_ray else extras(version)))
    print(f"written: {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
