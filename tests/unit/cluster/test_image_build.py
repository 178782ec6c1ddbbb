"""manyhost image: a gcloud that remembers what it is asked, and a registry that answers as registries do."""

# ruff: noqa: E501  recorded commands and answers read better whole

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from manyhost.catalog import Catalog
from manyhost.cluster.image_build import BASE, INPUTS, inputs, is_same, standing
from manyhost.cluster.registry import Registry, Silent, is_google
from manyhost.errors import RemoteError

from testbed import gcloud
from testbed.oci import Oci
from tests.helpers.cli import ROOT, Ran, checkout, manyhost
from tests.unit.cluster.doctor import Serve

FOLDER = ROOT / "docker/vllm"
VERSION = "v0.33.0"
LOCKED = f"sha256:{'b' * 64}"  # as if somebody had read it
MADE = f"{inputs(FOLDER, VERSION)}-{LOCKED}"
PUSHED = f"sha256:{'d' * 64}"


class Cloud:
    """The fake gcloud's state, the registry that its builds push to, and a checkout with settings."""

    def __init__(self, folder: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state, self.oci = folder / "state", Oci()
        (folder / "bin").mkdir()
        gcloud.install(folder / "bin/gcloud", self.state)
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setattr("manyhost.cluster.image_build._LOOK_SECONDS", 0.01)
        monkeypatch.setattr("manyhost.cluster.image_build.CloudBuild.wait.__defaults__", (0.01,))
        self.host = serve(self._answer)
        self.repository = f"{self.host}/p/r/vllm-openai"
        own = checkout(folder / "own", monkeypatch)
        (own / "docker").symlink_to(ROOT / "docker")
        engine = own / f"values/engines/vllm/{VERSION}.yaml"
        engine.write_text(engine.read_text().replace(f"{VERSION}: {{", f"{VERSION}: {{digest: {LOCKED}, "))
        self.local = own / "values/local.yaml"
        self.local.write_text(
            f"# Ours.\nsite:\n  project_id: p\n  region: us-east4\n  artifact_registry: {self.host}/p/r\n"
        )
        self.next = Oci().push("p/r/vllm-openai", VERSION, self.labels())
        self.set("pushed", self.next)

    def labels(self, made: str = MADE) -> dict[str, str]:
        return {INPUTS: made, BASE: LOCKED}

    def set(self, name: str, text: str) -> None:
        (self.state / name).write_text(text)

    def _answer(self, method: str, path: str, headers: Any) -> Any:
        if (self.state / "push").exists() and "p/r/vllm-openai" not in self.oci.tags:
            self.oci.push("p/r/vllm-openai", VERSION, self.labels())
        return self.oci(method, path, headers)

    def calls(self) -> list[list[str]]:
        """What gcloud was asked; each of it is a command that gcloud has."""
        file = self.state / "calls"
        found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        for words in found:
            gcloud.check(words)
        return found

    def build(self, *more: str) -> Ran:
        return manyhost("image", "build", "a3mega", "--yes", *more)


@pytest.fixture
def cloud(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    for name in ("ARTIFACT_REGISTRY", "VLLM_IMAGE", "VLLM_VERSION", "PROJECT_ID", "REGION", "MANYHOST_LOCAL"):
        monkeypatch.delenv(name, raising=False)
    return Cloud(tmp_path, serve, monkeypatch)


# ------------------------------------------------------------------ build


def test_a_build_is_started_watched_and_pinned(cloud: Cloud) -> None:
    done = cloud.build()
    assert (done.code, done.err) == (0, "")
    submit, log, *looks = cloud.calls()
    assert submit[:2] == ["builds", "submit"]
    assert submit[submit.index("--substitutions") + 1] == (
        f"_ARTIFACT_REGISTRY={cloud.host}/p/r,_VLLM_IMAGE=vllm-openai,_VLLM_VERSION={VERSION}"
    )
    assert submit[-4:] == ["--region", "us-east4", "--project", "p"]
    assert log[:5] == ["beta", "builds", "log", "b1", "--stream"]
    assert [words[:3] for words in looks] == [["builds", "describe", "b1"]] * 2
    assert "https://console/b1" in done.out
    assert "Step #0 - build: pulling the base\nPUSH DONE\n" in done.out
    assert re.search(rf"(?m)^\+    digest: \S*{cloud.next}", done.out)
    text = cloud.local.read_text()
    assert text.startswith("# Ours.\nsite:\n")
    resolved = manyhost("image", "status", "a3mega", "--output", "json").output.result
    assert resolved["image"] == f"{cloud.repository}@{cloud.next}"
    assert resolved["pinned"] == "values/local.yaml: a3mega"


def test_what_was_pinned_is_rendered_and_another_version_of_the_environment_is_refused(
    cloud: Cloud, tmp_path: Path
) -> None:
    assert cloud.build().code == 0
    done = manyhost("render", "a3mega", "--out", str(tmp_path / "out"))
    assert done.code == 0, done.err
    assert f"digest: {cloud.next}" in (tmp_path / "out/values.yaml").read_text().replace('"', "")
    other = manyhost("render", "a3mega/deepseek-r1-671b-published", "--out", str(tmp_path / "other"))
    assert other.code == 3
    assert "v0.33.0 is not vLLM v0.7.3" in other.err


def test_the_same_again_builds_nothing_and_changes_nothing(cloud: Cloud) -> None:
    assert cloud.build().code == 0
    text, calls = cloud.local.read_text(), len(cloud.calls())
    again = cloud.build("--output", "json")
    assert again.code == 0
    result = again.output.result
    assert (result["command"], result["diff"], result["written"]) == ("", "", False)
    assert result["registry"]["state"] == "there"
    assert (cloud.local.read_text(), len(cloud.calls())) == (text, calls)


@pytest.mark.parametrize(
    "made",
    ["", f"{'0' * 64}-{LOCKED}", f"{inputs(FOLDER, VERSION)}-sha256:{'9' * 64}"],
    ids=["of somebody else", "of other files", "of another base"],
)
def test_a_tag_with_other_content_is_never_written_over(made: str, cloud: Cloud) -> None:
    cloud.oci.push("p/r/vllm-openai", VERSION, {INPUTS: made} if made else {}, index=True)
    before = cloud.local.read_text()
    done = cloud.build()
    assert done.code == 3
    assert f"{cloud.repository}:{VERSION} is there, was made from something else" in done.err
    assert "VLLM_IMAGE" in done.err
    assert cloud.calls() == []
    assert cloud.local.read_text() == before


@pytest.mark.parametrize("how", ["log breaks", "no log"])
def test_a_log_that_breaks_off_is_no_end_of_the_build(how: str, cloud: Cloud) -> None:
    cloud.set("how", how)
    done = cloud.build()
    assert done.code == 0
    assert cloud.next in cloud.local.read_text()
    assert ("its log cannot be shown here" in done.out) == (how == "no log")


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("denied", 5, "PERMISSION_DENIED: The caller does not have permission"),
        ("logged out", 4, "gcloud: is not logged in\n  fix: log in: `gcloud auth login`"),
        ("build fails", 1, "build b1: ended with FAILURE: step exited with non-zero status: 1\n  fix: its log says why: "
                           "`gcloud beta builds log b1 --region us-east4 --project p`"),
        ("describe fails", 5, "build b1: (gcloud.builds.describe) INTERNAL: try again\n  fix: it may go on all the same: "
                              "`gcloud builds describe b1 --region us-east4 --project p` says"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_said_in_two_lines_and_pins_nothing(
    how: str, code: int, said: str, cloud: Cloud
) -> None:
    cloud.set("how", how)
    before = cloud.local.read_text()
    done = cloud.build()
    assert done.code == code
    assert said in done.err
    assert len(done.err.splitlines()) <= 2
    assert cloud.local.read_text() == before
    assert manyhost("image", "build", "a3mega", "--yes", "--output", "json").code in (code, 3)


def test_a_digest_on_which_cloud_build_and_registry_differ_is_not_pinned(cloud: Cloud) -> None:
    cloud.set("pushed", PUSHED)
    before = cloud.local.read_text()
    done = cloud.build()
    assert done.code == 5
    assert f"the build pushed {PUSHED}, the registry has {cloud.next}" in done.err
    assert cloud.local.read_text() == before


def test_a_dry_run_only_shows_what_it_would_do(cloud: Cloud) -> None:
    before = cloud.local.read_text()
    done = manyhost("image", "build", "a3mega", "--dry-run")
    assert done.code == 0
    line = re.search(r"would run: `gcloud (.*)`", done.out)
    assert line
    assert "--config" in line[1]
    assert cloud.calls() == []
    assert cloud.local.read_text() == before


def test_a_settings_file_that_cannot_be_edited_is_found_before_the_build(cloud: Cloud) -> None:
    cloud.local.write_text(f"site: {{artifact_registry: {cloud.host}/p/r}}\na3mega: {{groups: 1}}\n")
    done = cloud.build()
    assert done.code == 3
    assert "not written in plain block style" in done.err
    assert cloud.calls() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("a3mega", "--set", "site.artifact_registry="),
            "site.artifact_registry: says not where the image is to go",
        ),
        (("a3mega", "--set", "site.artifact_registry=vllm"), "vllm is no registry of your own"),
        (("a4x", "--set", "groups=1"), "docker/vllm builds for amd64; a4x is arm64"),
        (("local",), "docker/vllm has no list of extras for vLLM v0.32.0-cpu"),
        (("a3mega", "--set", "engine.image=x/y"), "x is no registry of your own"),
        (("a3mega", "--set", 'engine.tag="mine"'), "mine is not what a build is tagged with: v0.33.0"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments: tuple[str, ...], said: str, cloud: Cloud) -> None:
    done = manyhost("image", "build", "--yes", *arguments)
    assert done.code == 3
    assert said in done.err
    assert cloud.calls() == []


def test_without_gcloud_its_place_is_named(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = cloud.build()
    assert done.code == 4
    assert done.err.startswith("manyhost: gcloud: is not installed\n  fix: install it")


# ------------------------------------------------------------------ status


def test_status_of_an_image_that_was_built_and_pinned(cloud: Cloud) -> None:
    assert cloud.build().code == 0
    done = manyhost("image", "status", "a3mega")
    assert done.code == 0
    assert done.out.splitlines() == [
        f"image     {cloud.repository}@{cloud.next}",
        f"registry  {cloud.repository}@{cloud.next} is {cloud.next}",
        "pinned    values/local.yaml: a3mega",
        "inside    vLLM v0.33.0; executors mp, ray; CUDA 13.0; driver R580 or newer; NCCL 2.30.7; amd64, arm64",
        "build     b1 SUCCESS 2026-11-26T08:20:00Z https://console/b1",
    ]


def test_status_before_anything_was_built(cloud: Cloud) -> None:
    done = manyhost("image", "status", "a3mega", "--output", "json")
    assert done.code == 0
    result = done.output.result
    assert (result["registry"]["state"], result["pinned"], result["build"]) == ("absent", "", None)
    assert result["image"] == f"{cloud.repository}:{VERSION}"
    assert result["lock"] is None


def test_a_stock_tag_that_has_moved_is_not_the_image_that_somebody_has_read(cloud: Cloud) -> None:
    file = cloud.local.parent / f"engines/vllm/{VERSION}.yaml"
    moved = cloud.oci.push("stock/vllm", VERSION, {})
    text = file.read_text().replace("image: vllm/vllm-openai", f"image: {cloud.host}/stock/vllm")
    file.write_text(text)
    cloud.local.unlink()
    done = manyhost("image", "status", "a3mega")
    assert f"inside    not known: the tag has moved, and the image lock knows {LOCKED}" in done.out
    file.write_text(text.replace(LOCKED, moved))
    assert "inside    vLLM v0.33.0; executors mp; CUDA 13.0" in manyhost("image", "status", "a3mega").out


def test_status_without_registry_or_gcloud_says_what_can_be_said(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = manyhost("image", "status", "a3mega", "--set", "site.artifact_registry=127.0.0.1:9/p/r")
    assert done.code == 0
    assert "registry  not known: does not answer: NewConnectionError" in done.out
    assert "build     not known: is not installed" in done.out


# ------------------------------------------------------------------ the registry


def test_what_a_registry_holds(serve: Serve) -> None:
    for oci in (Oci(), Oci(silent=True)):
        digest = oci.push("team/vllm", "v1", {"a": "b"}, index=True)
        host = serve(oci)
        found = standing(f"{host}/team/vllm:v1", lambda: "none")
        assert (found.state, found.digest, found.labels) == ("there", digest, {"a": "b"})
        assert standing(f"{host}/team/vllm:v2", lambda: "none").state == "absent"
        assert standing(f"{host}/team/vllm@{digest}", lambda: "none").digest == digest


def test_a_token_is_given_only_when_strangers_are_refused_and_to_google_alone(serve: Serve) -> None:
    closed = Oci("secret")
    closed.push("team/vllm", "v1", {})
    host = serve(closed)
    assert Registry(host, "secret").digest("team/vllm", "v1")[0] == 200
    assert (
        standing(f"{host}/team/vllm:v1", lambda: pytest.fail("somebody else's registry")).state == "private"
    )
    assert is_google("us-east4-docker.pkg.dev")
    assert is_google("eu.gcr.io")
    assert not any(
        map(is_google, ("us-docker.pkg.dev.example", "ghcr.io", "127.0.0.1:5000", "xgcr.io.example"))
    )


@pytest.mark.parametrize("body", [b"no JSON", b"[]", b'{"manifests": []}', b'{"config": 1}'])
def test_something_that_is_no_image(body: bytes, serve: Serve) -> None:
    host = serve(lambda method, path, headers: (200, {}, body))
    with pytest.raises(RemoteError, match="no image"):
        standing(f"{host}/a/b:1", lambda: "")


def test_a_registry_that_is_busy_or_away(serve: Serve) -> None:
    busy = serve(lambda method, path, headers: (429, {}, {}))
    with pytest.raises(RemoteError, match="answers 429"):
        standing(f"{busy}/a/b:1", lambda: "")
    with pytest.raises(Silent):
        standing("127.0.0.1:9/a/b:1", lambda: "")


# ------------------------------------------------------------------ what an image was made from


def test_the_files_sum_is_the_one_that_build_sh_writes(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text(
        f'#!/bin/sh\n[ "$1" = build ] && echo "$*" > {tmp_path}/call && exit\necho ": not found" >&2; exit 1\n'
    )
    docker.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    subprocess.run(
        ["sh", str(FOLDER / "build.sh"), "eu.pkg.dev/p/r/vllm", "v0.26.0"], env=environment, check=True
    )
    locked = Catalog(ROOT).engine("v0.26.0").image_lock["v0.26.0"].digest
    (label,) = re.findall(rf"--label {re.escape(INPUTS)}=(\S+)", (tmp_path / "call").read_text())
    assert label == f"{inputs(FOLDER, 'v0.26.0')}-{locked}"
    assert is_same({INPUTS: label}, inputs(FOLDER, "v0.26.0"), locked)
    assert is_same({INPUTS: f"{inputs(FOLDER, VERSION)}-sha256:other"}, inputs(FOLDER, VERSION), "")
