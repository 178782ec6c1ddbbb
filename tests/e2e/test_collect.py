"""The archive of a bug report, of real pods with secrets planted wherever one may stand."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.place import Place, run, standin
from tests.helpers.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
TOKEN = "planted-S3cret.of-the-user"
LOOSE = "hf_Ab12Cd34Ef56Gh78Ij90Kl12"
PLANTED = (TOKEN, LOOSE, base64.b64encode(TOKEN.encode()).decode(), "opaque-thing")


def plant(place: Place, namespace: str, image: tuple[str, str]) -> None:
    """A Secret, annotations and an event, and a pod with tokens in arguments, environment and log."""
    place.kube(
        "create", "secret", "generic", "hf-secret", f"--from-literal=hf_api_token={TOKEN}", "-n", namespace
    )
    place.kube("annotate", "lws", "tiny-r1", "-n", namespace, f"example.com/note=mine is {TOKEN}")
    labels = {"app.kubernetes.io/name": "llm-multihost-janitor", "app.kubernetes.io/instance": "tiny-r1"}
    say = f"echo using {TOKEN}; echo 'Authorization: Bearer opaque-thing'; echo {LOOSE}; exec sleep 600"
    container: Any = {
        "name": "job", "image": ":".join(image), "command": ["bash", "-c", say, "--api-key", "opaque-thing"],
        "env": [{"name": "HF_TOKEN", "value": "opaque-thing"}, {"name": "NOTE", "value": TOKEN}],
        "securityContext": {"runAsUser": 1000},
    }  # fmt: skip
    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "planted", "namespace": namespace, "labels": labels},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1,
                 "nodeSelector": {"kubernetes.io/hostname": "host-1"}},
    }  # fmt: skip
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(pod, file)
        file.flush()
        place.kube("create", "-f", file.name)
    until("it has said so", lambda: LOOSE in said(place, namespace, "planted"))


def said(place: Place, namespace: str, pod: str) -> str:
    """The log of a pod, empty before it has one."""
    with contextlib.suppress(RuntimeError):
        return place.kube("logs", pod, "-n", namespace)
    return ""


def texts(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        return {
            entry.name.partition("/")[2]: archive.extractfile(entry).read().decode()  # type: ignore[union-attr]
            for entry in archive.getmembers()
        }


def test_an_archive_has_everything_but_the_secrets(
    place: Place, image: tuple[str, str], namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made by the command; then by teardown itself, of a group that does not answer, before it goes."""
    if place.own is None:
        pytest.skip("needs the name of a node")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    here = ["--namespace", namespace, *standin(image, "variables.STANDIN_START_SECONDS=manual")]
    assert run("deploy", "local", *here, "--timeout", "5").code in (1, 4)  # it may not even exist yet
    plant(place, namespace, image)
    for pod in ("tiny-r1-0", "tiny-r1-0-1"):
        until("its engine starts", lambda pod=pod: "phase=" in said(place, namespace, pod))  # type: ignore[misc]
    found = run("collect", "local", *here, "--to", "report.tar.gz", "--output", "json").ok().output.result
    assert found["unread"] == []
    files = texts(tmp_path / "report.tar.gz")
    assert len(files) == found["files"]
    assert {
        "versions.json", "plan.json", "values.yaml", "doctor.json", "events.yaml", "hosts.json",
        "pods/tiny-r1-0.yaml", "pods/tiny-r1-0-1.yaml", "pods/planted.yaml", "logs/tiny-r1-0/vllm.log",
        "logs/tiny-r1-0-1/vllm.log", "logs/planted/job.log", "objects/leaderworkerset.yaml",
        "objects/configmap.yaml", "objects/statefulset.yaml", "unread.txt",
    } <= set(files)  # fmt: skip
    assert any(name.startswith("nodes/host-") for name in files)
    assert "using [redacted]" in files["logs/planted/job.log"]
    assert "phase=start" in files["logs/tiny-r1-0/vllm.log"]
    for name, text in files.items():
        assert not [secret for secret in PLANTED if secret in text], name
        assert "managedFields" not in text, name
    assert json.loads(files["versions.json"])["lws"].startswith("v")

    gone = run("teardown", "local", *here, "--yes", "--timeout", "60").ok()
    (path,) = re.findall(
        r"no group answers; logs and events are kept in (build/tiny-r1-\d{8}T\d{6}Z.tar.gz)", gone.out
    )
    kept = texts(tmp_path / path)
    assert "phase=start" in kept["logs/tiny-r1-0/vllm.log"]
    assert not [secret for text in kept.values() for secret in PLANTED if secret in text]
    assert "kept in" not in run("teardown", "local", *here, "--yes").ok().out


def test_a_release_that_serves_leaves_no_archive(
    place: Place, image: tuple[str, str], namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = ["--namespace", namespace, *standin(image)]
    run("deploy", "local", *here, "--timeout", "120").ok()
    run("teardown", "local", *here, "--yes", "--timeout", "60").ok()
    assert not (tmp_path / "build").exists()
