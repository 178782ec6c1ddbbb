"""A stand-in for the stock image vllm/vllm-openai, which is 10 GiB: what docker/vllm builds on here.

Debian with Python and pip, the stand-in engine as the program `vllm`, and two packages that are no more than
a name and a version: vllm, and one that it needs. pip finds what it installs in a folder of the image: wheels
with the names and versions of docker/vllm/requirements, each of one empty module.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

from testbed import images
from testbed.build import locked
from testbed.system import run
from testbed.wheels import wheel

REPOSITORY = "vllm/vllm-openai"
FOLDER = Path(__file__).parents[1] / "docker/vllm"
WORKDIR, ENTRYPOINT = (
    "/vllm-workspace",
    ["vllm", "serve"],
)  # the stock image's (vllm-project/vllm, docker/Dockerfile)
NEEDED, OTHER = ("numpy", "2.0"), ("numpy", "2.1")  # what vllm needs, and another version of it
_PACKAGES = "usr/local/lib/python3.11/dist-packages"
_WHEELS = "opt/wheels"


def requirements(version: str) -> str:
    """The list of extras of a version of vLLM, with the hashes of the wheels that stand for them."""
    with tempfile.TemporaryDirectory() as folder:
        return "".join(wheel(Path(folder), *extra) for extra in _extras(version))


def replacement() -> str:
    """The line of a list that replaces a package of the engine's."""
    with tempfile.TemporaryDirectory() as folder:
        return wheel(Path(folder), *OTHER)


def archive(programs: Path, version: str) -> Path:
    """The image of a version of vLLM as a docker archive, made once.

    Args:
        programs: the cluster's programs.
        version: as the stock image's tag has it: v0.26.0.

    Raises:
        MissingError: debootstrap is not installed.
    """
    kept = ("stock", version, requirements(version), Path(__file__).read_text())
    out = images.kept(programs, *kept)
    with locked("standin-host"):
        base = images.debian()
        if not out.exists():
            with tempfile.TemporaryDirectory(dir=out.parent) as work:
                root = Path(work) / "root"
                run("cp", "-a", base, root)
                _fill(root, programs / "standin", version)
                tag = f"docker.io/{REPOSITORY}:{version}"
                images.archive([tag], ENTRYPOINT, root, out, workdir=WORKDIR)
    return out


def _extras(version: str) -> list[tuple[str, str]]:
    text = (FOLDER / f"requirements/{version}.txt").read_text()
    return re.findall(r"^([\w.-]+)==(\S+)", text, re.M)


def _fill(root: Path, program: Path, version: str) -> None:
    shutil.copy(program, root / "usr/local/bin/vllm")
    (root / WORKDIR.lstrip("/")).mkdir()
    (root / "etc/hosts").touch()  # builders mount theirs there, and leave a place for it where there is none
    packages, wheels = root / _PACKAGES, root / _WHEELS
    wheels.mkdir(parents=True)
    wheel(wheels, "vllm", version.removeprefix("v"), requires=f"{NEEDED[0]}<3")
    wheel(wheels, *NEEDED)
    for path in wheels.iterdir():
        zipfile.ZipFile(path).extractall(packages)
        path.unlink()
    pip = Path(str(metadata.distribution("pip").locate_file("")))
    for found in (pip / "pip", *pip.glob("pip-*.dist-info")):
        shutil.copytree(found, packages / found.name, ignore=shutil.ignore_patterns("__pycache__"))
    for extra in [*_extras(version), OTHER]:
        wheel(wheels, *extra)
    (root / "etc/pip.conf").write_text(f"[global]\nno-index = true\nfind-links = /{_WHEELS}\n")
