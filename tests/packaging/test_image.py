"""docker/vllm: what its files promise, its RUN on a stand-in for the stock image, and build.sh.

The stand-in is a virtual environment whose packages are made here: the stock image is 10 GiB. What runs is
the Dockerfile's own line with the real pip, and the script that Cloud Build runs, with a docker that writes
down what it is asked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import venv
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from manyhost.catalog import Catalog, Engine

from testbed.wheels import wheel
from tests.helpers.cli import ROOT
from tools import lock_image

FOLDER = ROOT / "docker/vllm"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
CATALOG = Catalog(ROOT)
ENGINES = [e for e in map(CATALOG.engine, CATALOG.names("engines/vllm")) if e.device == "cuda"]
VERSION = "v0.26.0"
LOCKED = CATALOG.engine(VERSION).image_lock[VERSION].digest
NOT_LOCKED = "v0.33.0"


def instructions() -> list[tuple[str, str]]:
    """Instruction and the rest of each logical line of the Dockerfile."""
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", DOCKERFILE))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


# ------------------------------------------------------------------ what the files promise


def test_the_base_is_a_digest_and_the_image_starts_as_the_base_does() -> None:
    """The chart's command, probes, mounts and user are written for the stock image, and hold for this one."""
    assert [rest for name, rest in instructions() if name == "FROM"] == [
        "docker.io/vllm/vllm-openai@${BASE_DIGEST}"
    ]
    assert {name for name, _ in instructions()} == {"ARG", "FROM", "COPY", "RUN", "LABEL"}


def test_what_it_adds_lies_where_no_pod_mounts_anything() -> None:
    (copied,) = [rest.split()[-1] for name, rest in instructions() if name == "COPY"]
    assert copied == "/opt/manyhost-image/"
    mounts = {
        mount
        for path in (ROOT / "tests/golden").glob("*/manifests.yaml")
        for mount in re.findall(r"mountPath: \"?(\S+?)\"?$", path.read_text(), re.M)
    }
    assert mounts
    assert not [mount for mount in mounts if f"{mount.rstrip('/')}/".startswith(copied)]


@pytest.mark.parametrize("path", [p for p in sorted(FOLDER.rglob("*")) if p.is_file()], ids=lambda p: p.name)
def test_nothing_moves_and_nothing_fails_in_silence(path: Path) -> None:
    text = path.read_text()
    assert "|| true" not in text
    assert not re.search(r":latest\b|=latest\b", text)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.version)
def test_every_version_has_its_list_of_extras_with_hashes(engine: Engine) -> None:
    text = (FOLDER / f"requirements/{engine.version}.txt").read_text()
    pins = re.findall(r"^([a-z0-9-]+)==\S+((?: \\\n    --hash=sha256:[0-9a-f]{64})*)$", text, re.M)
    assert len(pins) == len([line for line in text.splitlines() if line and not line.startswith((" ", "#"))])
    assert all(hashes for _, hashes in pins)
    has_ray = "ray" in engine.stock_image_executors
    assert [name for name, _ in pins] == ([] if has_ray else ["msgpack", "ray"])


PACKAGES = "cuda-toolkit==13.0.2\nnvidia-cuda-runtime==13.0.96\nnvidia-nccl-cu13==2.28.9\ntorch==2.11.0\n"


def test_the_image_lock_is_held_against_what_the_packages_pin() -> None:
    engine = CATALOG.engine(VERSION)
    said = lock_image.prescribed([PACKAGES, PACKAGES])
    assert said == {"cuda": "13.0", "nccl": "2.28.9"}
    assert lock_image.contradictions(engine, said, ray=False) == []
    other = lock_image.prescribed([PACKAGES.replace("2.28.9", "2.30.7")] * 2)
    assert lock_image.contradictions(engine, other, ray=True) == [
        f"image_lock.{VERSION}.nccl is 2.28.9, the packages say 2.30.7",
        "stock_image_executors says otherwise, vLLM requires Ray",
    ]


def test_a_version_that_packages_do_not_pin_is_none() -> None:
    """One that depends on the day of the resolution is not in the image of another day."""
    said = lock_image.prescribed([PACKAGES, PACKAGES.replace("2.28.9", "2.27.3")])
    assert said == {"cuda": "13.0"}
    assert lock_image.contradictions(CATALOG.engine(VERSION), said, ray=False) == [
        f"image_lock.{VERSION}.nccl is 2.28.9, the packages say nothing"
    ]


# ------------------------------------------------------------------ the RUN line, on a stand-in


Build = Callable[[str, str], subprocess.CompletedProcess[str]]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A virtual environment with what stands for the engine, and the files that COPY leaves."""
    venv.create(tmp_path / "venv", symlinks=True)
    (site,) = tmp_path.glob("venv/lib/python3*/site-packages")
    pip = Path(str(metadata.distribution("pip").locate_file("")))
    for found in (pip / "pip", *pip.glob("pip-*.dist-info")):
        (site / found.name).symlink_to(found)
    for name in ("opt", "wheels"):
        (tmp_path / name).mkdir()
    wheel(tmp_path / "wheels", "vllm", "0.26.0+cu130", requires="numpy<3")
    wheel(tmp_path / "wheels", "numpy", "2.0")
    for path in (tmp_path / "wheels").iterdir():
        zipfile.ZipFile(path).extractall(site)
    shutil.copy(FOLDER / "inventory.py", tmp_path / "opt")
    return tmp_path


@pytest.fixture
def build(image: Path) -> Build:
    """Runs the Dockerfile's RUN with a list of extras."""
    (line,) = [rest for name, rest in instructions() if name == "RUN"]

    def run(extras: str, version: str = VERSION) -> subprocess.CompletedProcess[str]:
        (image / f"opt/{version}.txt").write_text(extras)
        environment = {
            "PATH": f"{image}/venv/bin:{os.environ['PATH']}",
            "VLLM_VERSION": version,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(image / "wheels"),
        }
        return subprocess.run(
            ["sh", "-c", line.replace("/opt/manyhost-image", str(image / "opt"))],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_extras_are_added_and_written_down(image: Path, build: Build) -> None:
    done = build(wheel(image / "wheels", "ray", "2.60.0"), VERSION)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (image / "opt").glob("*.*")) == [
        "inventory.py", "sbom.cdx.json", f"{VERSION}.txt",
    ]  # fmt: skip
    document = json.loads((image / "opt/sbom.cdx.json").read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    named = {part["purl"] for part in document["components"]}
    assert {"pkg:pypi/vllm@0.26.0%2Bcu130", "pkg:pypi/numpy@2.0", "pkg:pypi/ray@2.60.0"} <= named
    assert len({part["bom-ref"] for part in document["components"]}) == len(document["components"])
    assert not shutil.which("dpkg-query") or any(purl.startswith("pkg:deb/") for purl in named)


def test_what_would_change_or_break_the_engine_is_no_image(image: Path, build: Build) -> None:
    folder = image / "wheels"
    lists = wheel(folder, "numpy", "2.1")
    lists += wheel(folder, "ray", "1", code="import absent", requires="numpy<2")
    lists += wheel(folder, "msgpack", "1", requires="something")
    done = build(lists, VERSION)
    assert done.returncode
    for said in (
        "numpy was 2.0 in the base and is 2.1",
        "ray 1 has requirement numpy<2, but you have numpy 2.1",
        "msgpack 1 requires something, which is not installed",
        "import ray fails: ModuleNotFoundError: No module named 'absent'",
    ):
        assert f"manyhost: {said}" in done.stderr
    assert "import msgpack" not in done.stderr
    assert not (image / "opt/sbom.cdx.json").exists()


def test_only_the_version_is_wrong_with_a_base_of_another_one(build: Build) -> None:
    """And a list without a line, as that of v0.7.3, adds nothing."""
    done = build("# Nothing.\n", "v0.27.0")
    assert done.returncode
    assert re.findall(r"manyhost: (.*)", done.stderr) == ["the base has vLLM 0.26.0, not v0.27.0"]


def test_other_bytes_than_the_locked_ones_are_not_installed(image: Path, build: Build) -> None:
    line = wheel(image / "wheels", "ray", "1")
    wheel(image / "wheels", "ray", "1", code="other = 1")
    done = build(line, VERSION)
    assert done.returncode
    assert "DO NOT MATCH THE HASHES" in done.stderr


# ------------------------------------------------------------------ build.sh

# Answers what $ANSWERS holds for an image; without an answer the registry does not have it.
DOCKER = """#!/bin/sh
echo "$*" >> "$CALLS"
[ "$1 $2 $3" = "buildx imagetools inspect" ] || exit 0
name=$(echo "$4" | tr '/:' '__')
if [ -f "$ANSWERS/$name" ]; then cat "$ANSWERS/$name"; exit 0; fi
[ -f "$ANSWERS/error" ] && { cat "$ANSWERS/error" >&2; exit 1; }
echo "ERROR: $4: not found" >&2; exit 1
"""


class Registry:
    """What registries answer, and what docker was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "bin/docker").write_text(DOCKER)
        (folder / "bin/docker").chmod(0o755)
        (folder / "answers").mkdir()

    def has(self, name: str, answer: str) -> None:
        (self.folder / "answers" / re.sub("[/:]", "_", name)).write_text(answer)

    def build(self, version: str, repository: str = "eu.pkg.dev/p/r/vllm") -> tuple[int, str, list[str]]:
        """Runs build.sh; returns its status, what it says, and docker's calls that are no questions."""
        calls = self.folder / "calls"
        calls.write_text("")
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "CALLS": str(calls),
            "ANSWERS": str(self.folder / "answers"),
            "TMPDIR": str(self.folder),
        }
        done = subprocess.run(
            ["sh", str(FOLDER / "build.sh"), repository, version],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
        asked = [line for line in calls.read_text().splitlines() if not line.startswith("buildx")]
        return done.returncode, done.stdout + done.stderr, asked


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def inputs(call: str) -> str:
    (found,) = re.findall(r"--label dev\.manyhost\.inputs=(\S+)", call)
    return str(found)


def test_an_image_is_built_on_the_locked_digest(registry: Registry) -> None:
    status, said, (call,) = registry.build(VERSION)
    assert (status, said) == (0, "")
    assert call.startswith("build --tag eu.pkg.dev/p/r/vllm:v0.26.0 --build-arg VLLM_VERSION=v0.26.0 ")
    assert f"--build-arg BASE_DIGEST={LOCKED} " in call
    assert inputs(call).endswith(LOCKED)
    assert list(registry.folder.glob("tmp*")) == []


def test_a_digest_that_nobody_has_locked_is_looked_up_and_said(registry: Registry) -> None:
    today = f"sha256:{'5' * 64}"
    registry.has(f"docker.io/vllm/vllm-openai:{NOT_LOCKED}", f'"{today}"')
    status, said, (call,) = registry.build(NOT_LOCKED)
    assert status == 0
    assert f"today it is {today}" in said
    assert f"BASE_DIGEST={today} " in call


def test_a_base_that_does_not_exist_is_an_error(registry: Registry) -> None:
    status, said, calls = registry.build(NOT_LOCKED)
    assert (status, calls) == (1, [])
    assert f"there is no docker.io/vllm/vllm-openai:{NOT_LOCKED}" in said


def test_the_same_files_are_not_built_twice(registry: Registry) -> None:
    _, _, (call,) = registry.build(VERSION)
    registry.has(f"eu.pkg.dev/p/r/vllm:{VERSION}", f"made from {inputs(call)}\n")
    status, said, calls = registry.build(VERSION)
    assert (status, calls) == (0, [f"pull eu.pkg.dev/p/r/vllm:{VERSION}"])
    assert "made from the same files" in said


@pytest.mark.parametrize("label", ["another", ""], ids=["of other files", "of somebody else"])
def test_an_image_of_something_else_is_not_replaced(label: str, registry: Registry) -> None:
    registry.has(f"eu.pkg.dev/p/r/vllm:{VERSION}", f"made from {label}\n")
    status, said, calls = registry.build(VERSION)
    assert (status, calls) == (1, [])
    assert "exists and was made from something else: choose another name (_VLLM_IMAGE)" in said


def test_a_registry_that_does_not_answer_is_not_an_empty_one(registry: Registry) -> None:
    (registry.folder / "answers/error").write_text("ERROR: eu.pkg.dev/p/r/vllm:v0.26.0: 403 Forbidden\n")
    status, said, calls = registry.build(VERSION)
    assert (status, calls) == (1, [])
    assert "eu.pkg.dev/p/r/vllm:v0.26.0 cannot be looked up: ERROR" in said


def test_a_version_without_a_list_is_refused_with_those_that_have_one(registry: Registry) -> None:
    status, said, calls = registry.build("latest")
    assert (status, calls) == (1, [])
    known = " ".join(sorted(path.name for path in (ROOT / "docker/vllm/requirements").iterdir()))
    assert f"no list of extras for vLLM latest, only {known}" in said
