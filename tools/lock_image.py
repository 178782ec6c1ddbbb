"""Write what the image of one vLLM version adds to the stock one, and check its image lock by the packages.

    python -m tools.lock_image v0.26.0

The additions, docker/vllm/requirements/<version>.txt, are what Ray needs beside what vLLM itself requires, at
the newest versions that fit both; nothing of vLLM's own is in the list. Versions whose stock image contains
Ray get an empty one. CUDA, NCCL and Ray in values/engines/vllm/<version>.yaml must be what the packages
prescribe: the stock image is made of them. Needs `uv` and a package index.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from manyhost.catalog import Catalog, Engine

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


def prescribed(choices: list[str]) -> dict[str, str]:
    """Return the versions of CUDA and NCCL that all of several choices of requirements agree on.

    Args:
        choices: Pinned requirements, as `compiled` returns them.
    """
    patterns = {
        "cuda": r"^(?:cuda-toolkit|nvidia-cuda-runtime-cu[0-9]+)==([0-9]+\.[0-9]+)",
        "nccl": r"^nvidia-nccl-cu[0-9]+==([0-9]+\.[0-9]+\.[0-9]+)",
    }
    found = {}
    for name, pattern in patterns.items():
        versions = {tuple(re.findall(pattern, choice, re.M)) for choice in choices}
        if len(versions) == 1 and len(only := versions.pop()) == 1:
            found[name] = only[0]
    return found


def contradictions(engine: Engine, said: dict[str, str], *, ray: bool) -> list[str]:
    """Return where an engine's file says something else than its packages.

    Args:
        engine: The engine.
        said: What `prescribed` returned of its PyTorch.
        ray: Whether vLLM requires Ray.
    """
    entry = engine.image_lock[engine.tag]
    read = {"cuda": entry.cuda, "nccl": entry.nccl}
    lock = f"image_lock.{engine.tag}"
    found = [
        f"{lock}.{name} is {value or 'left out'}, the packages say {said.get(name, 'nothing')}"
        for name, value in read.items()
        if value != said.get(name, "")
    ]
    if ray != ("ray" in engine.stock_image_executors):
        found.append(f"stock_image_executors says otherwise, vLLM {'requires Ray' if ray else 'has no Ray'}")
    return found


def of_packages(engine: Engine) -> list[str]:
    """Return where an engine's file and the packages in an index differ."""
    vllm = compiled([f"vllm=={engine.version.removeprefix('v')}"])
    torch = re.findall(r"^torch==.*$", vllm, re.M)
    # What PyTorch pins is the same however the rest is chosen.
    choices = [
        compiled(torch, "--only-binary", ":all:", "--resolution", way) for way in ("highest", "lowest")
    ]
    return contradictions(engine, prescribed(choices), ray=bool(re.search(r"^ray==", vllm, re.M)))


def main(version: str) -> None:
    """Write the list of one version.

    Raises:
        SystemExit: Its image lock is not what the packages say.
    """
    engine = Catalog(ROOT).engine(version)
    has_ray = "ray" in engine.stock_image_executors
    head = (
        f"# What docker/vllm adds to vllm/vllm-openai:{version}. Made by tools/lock_image.py; do not edit.\n"
    )
    target = FOLDER / f"{version}.txt"
    target.write_text(head + ("# Nothing: the stock image has Ray.\n" if has_ray else extras(version)))
    print(f"written: {target.relative_to(ROOT)}")
    if wrong := of_packages(engine):
        raise SystemExit("\n".join(f"values/engines/vllm/{version}.yaml: {line}" for line in wrong))
    print("image lock: as the packages say")


if __name__ == "__main__":
    main(*sys.argv[1:])
