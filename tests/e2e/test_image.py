"""docker/vllm, built: build.sh and the Dockerfile as they are, by buildah, and the image in pods.

What stands in, since the stock image is 10 GiB and there is no network here:
- the base: testbed/stock.py, Debian with the stand-in engine and packages of two lines, under the stock
  image's name in a registry on loopback. Its digest is its own, so what is built is the version whose digest
  nobody has locked, and build.sh looks the digest up;
- the extras: the list in requirements/ is replaced by one of the same names and versions, with the hashes of
  wheels that hold an empty module; pip finds them in a folder of the base;
- docker: testbed/docker.py, which hands builds, pulls and pushes to buildah.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from manyhost.catalog import Catalog
from manyhost.cluster.image_build import BASE, INPUTS, inputs, is_same, standing

from testbed import Cluster, MissingError, docker, stock
from testbed.registry import Registry
from tests.e2e.place import ROOT, Place, run, standin

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
VERSION = "v0.33.0"
LOCKED = "v0.26.0"
PACKAGES = "usr/local/lib/python3.11/dist-packages/"


@dataclass
class Site:
    """A registry with the base, a docker, and a copy of docker/vllm."""

    folder: Path
    registry: Registry
    source: Path
    base: str

    def image(self, name: str) -> str:
        return f"{self.registry.host}/p/r/{name}"

    def docker(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self._run("docker", *words)

    def build(self, name: str, version: str = VERSION) -> subprocess.CompletedProcess[str]:
        return self._run("sh", str(self.source / "build.sh"), self.image(name), version)

    def blob(self, digest: str) -> Any:
        return json.loads((self.registry.folder / digest).read_text())

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            words, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
        )


@dataclass
class Image:
    """A built image that was pushed: its name, configuration and files."""

    name: str
    digest: str
    config: Any
    archive: Path
    files: dict[str, tarfile.TarInfo]
    added: dict[str, tarfile.TarInfo]

    def read(self, path: str) -> str:
        """A file of the layer that was added."""
        with tarfile.open(self.archive) as whole:
            layer = whole.extractfile(_layers(whole)[-1])
            with tarfile.open(fileobj=layer) as tar:
                found = tar.extractfile(path)
                assert found
                return found.read().decode()


def _layers(archive: tarfile.TarFile) -> list[str]:
    manifest = archive.extractfile("manifest.json")
    assert manifest
    (image,) = json.load(manifest)
    return list(image["Layers"])


def _files(archive: Path) -> list[dict[str, tarfile.TarInfo]]:
    """What each layer holds, by path without a slash in front or behind."""
    found = []
    with tarfile.open(archive) as whole:
        for name in _layers(whole):
            with tarfile.open(fileobj=whole.extractfile(name)) as layer:
                found.append({item.name.removeprefix("./").strip("/"): item for item in layer})
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("image")
    with Registry(folder / "registry") as registry:
        try:
            docker.install(folder / "bin/docker", folder / "docker", registry.host)
            programs = Cluster("e2e").programs
            archive = stock.archive(programs, VERSION)
        except MissingError as error:
            pytest.skip(str(error))
        base = registry.add(archive, stock.REPOSITORY, VERSION)
        shutil.copytree(ROOT / "docker/vllm", folder / "vllm")
        (folder / f"vllm/requirements/{VERSION}.txt").write_text(stock.requirements(VERSION))
        yield Site(folder, registry, folder / "vllm", base)
    shutil.rmtree(folder)  # storage without sharing: some hundred MB an image


@pytest.fixture(scope="module")
def built(site: Site) -> Image:
    done = site.build("vllm-openai")
    assert done.returncode == 0, done.stderr
    assert f"nobody has locked the digest of docker.io/{stock.REPOSITORY}:{VERSION}" in done.stdout
    assert f"today it is {site.base}" in done.stdout
    name = f"{site.image('vllm-openai')}:{VERSION}"
    archive = site.folder / "built.tar"
    for words in (("push", name), ("save", name, str(archive))):
        done = site.docker(*words)
        assert done.returncode == 0, done.stderr
    digest = site.registry.tags["p/r/vllm-openai"][VERSION]
    layers = _files(archive)
    config = site.blob(site.blob(digest)["config"]["digest"])["config"]
    return Image(
        name, digest, config, archive, {k: v for files in layers for k, v in files.items()}, layers[-1]
    )


# ------------------------------------------------------------------ what is built


def test_it_is_the_base_with_labels(site: Site, built: Image) -> None:
    found = standing(built.name, lambda: "")
    assert (found.state, found.digest) == ("there", built.digest)
    assert found.labels[BASE] == site.base
    assert found.labels[INPUTS] == f"{inputs(site.source, VERSION)}-{site.base}"
    assert is_same(found.labels, inputs(site.source, VERSION), site.base)
    assert found.labels["org.opencontainers.image.title"] == "vLLM for manyhost"
    assert found.labels["org.opencontainers.image.version"] == VERSION
    assert found.labels["org.opencontainers.image.base.name"] == f"docker.io/{stock.REPOSITORY}:{VERSION}"
    base = site.blob(site.blob(site.base)["config"]["digest"])["config"]
    assert base["Entrypoint"] == stock.ENTRYPOINT
    # Entry point, command, variables, folder, user and ports are the base's.
    assert {key: value for key, value in built.config.items() if key != "Labels"} == base
    assert site.blob(built.digest)["layers"][0]["digest"] == site.blob(site.base)["layers"][0]["digest"]


def test_its_layer_holds_the_extras_and_nothing_of_the_base(built: Image) -> None:
    added = {path for path, item in built.added.items() if not item.isdir()}
    image = {path for path in added if path.startswith("opt/manyhost-image/")}
    assert {Path(path).name for path in image} == {"inventory.py", "sbom.cdx.json", f"{VERSION}.txt"}
    extras = {path for path in added if path.startswith((f"{PACKAGES}msgpack", f"{PACKAGES}ray"))}
    assert f"{PACKAGES}ray/__init__.py" in extras
    assert added == image | extras


def test_its_bill_of_materials_names_all_that_is_in_it(built: Image) -> None:
    document = json.loads(built.read("opt/manyhost-image/sbom.cdx.json"))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    named = {part["purl"].partition("?")[0] for part in document["components"]}
    assert "pkg:pypi/vllm@0.33.0" in named
    extras = [line.split()[0] for line in stock.requirements(VERSION).splitlines()]
    assert {f"pkg:pypi/{extra.replace('==', '@')}" for extra in extras} <= named
    assert {part.partition("@")[0] for part in named} >= {"pkg:deb/debian/bash", "pkg:deb/debian/libc6"}


# ------------------------------------------------------------------ what is not built


def test_an_extra_that_replaces_a_package_of_the_engine_is_no_image(site: Site) -> None:
    file = site.source / f"requirements/{VERSION}.txt"
    list_before = file.read_text()
    file.write_text(list_before + stock.replacement())
    try:
        done = site.build("replaced")
    finally:
        file.write_text(list_before)
    assert done.returncode
    name, has = stock.NEEDED
    assert f"manyhost: {name} was {has} in the base and is {stock.OTHER[1]}\n" in done.stderr
    assert site.docker("push", f"{site.image('replaced')}:{VERSION}").returncode


def test_the_same_files_are_built_once_and_other_ones_do_not_replace_them(site: Site, built: Image) -> None:
    again = site.build("vllm-openai")
    assert (again.returncode, "is there, made from the same files" in again.stdout) == (0, True), again.stderr
    assert "STEP" not in again.stdout
    file = site.source / "inventory.py"
    text = file.read_text()
    file.write_text(f"{text}\n")
    try:
        other = site.build("vllm-openai")
    finally:
        file.write_text(text)
    assert (other.returncode, "STEP" in other.stdout) == (1, False)
    assert f"{built.name} exists and was made from something else" in other.stderr
    assert site.registry.tags["p/r/vllm-openai"] == {VERSION: built.digest}


def test_a_tag_that_holds_something_else_than_the_locked_base_is_not_taken(site: Site) -> None:
    digest = Catalog(ROOT).engine(LOCKED).image_lock[LOCKED].digest
    site.registry.tags[stock.REPOSITORY][LOCKED] = site.base
    done = site.build("locked", LOCKED)
    assert done.returncode
    assert f"{stock.REPOSITORY}@{digest}" in done.stdout
    assert "manifest unknown" in done.stderr


# ------------------------------------------------------------------ what charts and launcher take of it


def engines() -> list[Any]:
    """Name and pod's container of every committed rendering that runs the engine's image."""
    found = []
    for path in sorted((ROOT / "tests/golden").glob("*/manifests.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document and document["kind"] == "LeaderWorkerSet":
                template = document["spec"]["leaderWorkerTemplate"]
                for role in ("leaderTemplate", "workerTemplate"):
                    pod = template[role]["spec"]
                    (engine,) = [item for item in pod["containers"] if item["name"] == "vllm"]
                    found.append(pytest.param(pod, engine, id=f"{path.parent.name}-{role}"))
    return found


@pytest.mark.parametrize(("pod", "engine"), engines())
def test_a_pod_finds_in_it_what_the_chart_names(pod: Any, engine: Any, built: Image) -> None:
    """Programs, folders, user and port; what the stock image alone has is not to be seen here."""
    environment = dict(entry.split("=", 1) for entry in built.config["Env"])
    assert "PATH" not in {item["name"] for item in engine["env"]}
    probes = [engine[key]["exec"]["command"] for key in engine if key.endswith("Probe")]
    for program in {words[0] for words in [engine["command"], *probes]} | {"python3", "vllm"}:
        places = [f"{folder}/{program}".strip("/") for folder in environment["PATH"].split(":")]
        found = [built.files[place] for place in places if place in built.files]
        assert found, program
        assert found[0].issym() or found[0].mode & 0o001, program  # for any user
    for mount in engine["volumeMounts"]:
        hidden = [name for name in built.files if name.startswith(mount["mountPath"].strip("/") + "/")]
        assert hidden == [], mount
    assert "ExposedPorts" not in built.config  # so the chart's are the only ones
    user = {**pod.get("securityContext", {}), **engine.get("securityContext", {})}.get("runAsUser", 0)
    files = [item for name, item in built.added.items() if not item.isdir()]
    assert built.config.get("User", "") in ("", "0", "root")
    assert user == 0 or all(item.mode & 0o004 for item in files)


def test_a_group_of_it_answers(place: Place, namespace: str, built: Image) -> None:
    if place.own is None:
        pytest.skip("the built image is put on the test cluster's hosts")
    place.own.import_image(built.archive)
    name, _, tag = built.name.rpartition(":")
    here = ["--namespace", namespace, *standin((name, tag))]
    run("deploy", "local", *here, "--timeout", "120").ok()
    said = run("chat", "local", *here, "--prompt", "hello", "--output", "json").ok().output
    assert "hello" in said.result["answer"]
    for pod in ("tiny-r1-0", "tiny-r1-0-1"):
        execute = ("exec", "-n", namespace, pod, "-c", "vllm", "--")
        imported = "import ray, msgpack; from importlib.metadata import version; print(version('ray'))"
        assert f"ray=={place.kube(*execute, 'python3', '-c', imported).strip()} " in stock.requirements(
            VERSION
        )
        bill = place.kube(*execute, "cat", "/opt/manyhost-image/sbom.cdx.json")
        assert bill == built.read("opt/manyhost-image/sbom.cdx.json")
        (status,) = [
            item
            for item in place.get("pod", pod, "-n", namespace)["status"]["containerStatuses"]
            if item["name"] == "vllm"
        ]
        assert status["image"] == built.name
    run("teardown", "local", *here, "--yes").ok()
