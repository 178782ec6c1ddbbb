"""One archive for a bug report: what is in it, what is never in it, and what happens when parts are away."""

from __future__ import annotations

import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from manyhost.catalog import Catalog
from manyhost.cluster.collect import Collected, collect, default_path
from manyhost.cluster.connection import Connection, Missing, Refused, Unreachable, path_of
from manyhost.cluster.target import Place, Target, from_rendered
from manyhost.commands import Commands
from manyhost.errors import Failed, InvalidInput
from manyhost.render import build

from tests.helpers.cli import ROOT

PLACE = Place(Catalog(ROOT).chart("llm-multihost"), "n", "r")
NOW = 1767225600.0
SECRET = "planted-S3cret"
LOOSE = "hf_Ab12Cd34Ef56Gh78Ij90"


def pod(name: str, *, restarts: int = 0, runs: bool = True) -> dict[str, Any]:
    state: Any = {"running": {"startedAt": "2026-01-01T00:00:00Z"}} if runs else {"waiting": {}}
    env = [{"name": "HF_TOKEN", "value": SECRET}, {"name": "X", "value": LOOSE}]
    return {
        "metadata": {
            "name": name, "uid": name, "managedFields": [{"manager": "m"}],
            "annotations": {"a": f"b {SECRET}"}, "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"leaderworkerset.sigs.k8s.io/group-index": "0"},
        },
        "spec": {"nodeName": "host-1", "containers": [
            {"name": "vllm", "args": ["--api-key", SECRET], "env": env},
        ]},
        "status": {"containerStatuses": [{"name": "vllm", "state": state, "restartCount": restarts}]},
    }  # fmt: skip


class Api:
    """A cluster of two pods; some of its paths fail, some never answer."""

    context, cluster = "c", ""
    commands = Commands(namespace="n", recipe="local/tiny-r1", release="r")

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.broken: dict[str, Exception] = {}
        self.stuck: set[str] = set()
        self.over = threading.Event()
        self.log = f"loading with {SECRET}\nAuthorization: Bearer {LOOSE}\nserving\n"

    def _answer(self, path: str) -> None:
        self.asked.append(path)
        word = path.rpartition("/")[2]
        if word in self.stuck:
            self.over.wait(20)
        if word in self.broken:
            raise self.broken[word]

    def now(self) -> float:
        return NOW

    def get(self, path: str, **_: Any) -> dict[str, Any]:
        self._answer(path)
        if path == "/version":
            return {"gitVersion": "v1.34.0"}
        if path == path_of("v1", "nodes", "", "host-1"):
            return {"metadata": {"name": "host-1", "managedFields": []}}
        raise Missing("no", status=404)

    def find(self, path: str, **_: Any) -> None:
        self._answer(path)

    def create(self, path: str, *_: Any, **__: Any) -> dict[str, Any]:
        self._answer(path)
        return {"status": {"allowed": True}}

    apply = create

    def pages(self, path: str, *_: Any, labels: str = "", **__: Any) -> Iterator[dict[str, Any]]:
        self._answer(path)
        word = path.rpartition("/")[2]
        if word == "pods" and "in (llm-multihost,llm-multihost-janitor)" in labels:
            yield from (pod("r-0", restarts=1), pod("r-0-1", runs=False))
        elif word == "leaderworkersets":
            spec = {"replicas": 1, "leaderWorkerTemplate": {"size": 2}}
            yield {
                "metadata": {"name": "r", "labels": {}, "generation": 1, "creationTimestamp": ""},
                "spec": spec,
            }
        elif word == "events":
            for name in ("r-0", "other-0", "r"):
                yield {"involvedObject": {"name": name}, "message": f"about {name} {SECRET}"}

    def text(self, path: str, *, query: Any) -> str:
        self._answer(f"{path}{'/previous' if query.get('previous') else ''}")
        return self.log


def target() -> Target:
    return from_rendered(build("local/tiny-r1", release="r", namespace="n"))


def made(api: Api, path: Path, render: Any = target, seconds: float = 30) -> tuple[Collected, dict[str, str]]:
    found = collect(
        cast("Connection", api), PLACE, render, path, seconds=seconds, variables={"HF_TOKEN": SECRET}
    )
    with tarfile.open(path) as archive:
        names = archive.getnames()
        texts = {name: archive.extractfile(name).read().decode() for name in names}  # type: ignore[union-attr]
    assert names == sorted(names)
    assert {name.partition("/")[0] for name in names} == {path.name.removesuffix(".tar.gz")}
    for name, text in texts.items():
        assert SECRET not in text, name
        assert LOOSE not in text, name
        assert "managedFields" not in text, name
    return found, {name.partition("/")[2]: text for name, text in texts.items()}


def test_an_archive_has_what_a_report_needs_and_no_secret(tmp_path: Path) -> None:
    api = Api()
    found, files = made(api, tmp_path / "a.tar.gz")
    assert {
        "versions.json", "plan.json", "values.yaml", "doctor.json", "events.yaml", "hosts.json",
        "pods/r-0.yaml", "pods/r-0-1.yaml", "nodes/host-1.yaml", "objects/leaderworkerset.yaml",
        "logs/r-0/vllm.log",
        "logs/r-0/vllm.previous.log", "unread.txt",
    } <= set(files)  # fmt: skip
    assert "logs/r-0-1/vllm.log" not in files  # it has not started
    assert (found.files, found.unread) == (len(files), [])
    assert files["unread.txt"] == "everything was read\n"
    assert "serving" in files["logs/r-0/vllm.log"]
    assert "about r-0" in files["events.yaml"]
    assert "other-0" not in files["events.yaml"]
    assert '"kubernetes": "v1.34.0"' in files["versions.json"]
    assert not [path for path in api.asked if "secrets" in path and "namespaces/n/secrets/" not in path]


def test_the_bodies_of_secrets_are_never_read(tmp_path: Path) -> None:
    _, files = made(Api(), tmp_path / "a.tar.gz")
    assert not [name for name in files if "secret" in name.lower()]


def test_parts_that_do_not_answer_are_listed(tmp_path: Path) -> None:
    api = Api()
    api.broken = {
        "events": Refused("events is forbidden", status=403),
        "previous": Unreachable("node host-1 does not answer"),
        "host-1": Unreachable("no answer"),
    }

    def render() -> Target:
        raise InvalidInput(f"unknown key with {SECRET}", where="recipe.yaml")

    found, files = made(api, tmp_path / "a.tar.gz", render)
    assert found.unread == [
        "events.yaml: events is forbidden",
        "logs/r-0/vllm.previous.log: node host-1 does not answer",
        "nodes/host-1.yaml: no answer",
        "plan.json: unknown key with [redacted]",
    ]
    assert files["unread.txt"].splitlines() == found.unread
    assert "logs/r-0/vllm.log" in files


def test_it_ends_in_time(tmp_path: Path) -> None:
    api = Api()
    api.stuck = {"events", "log"}
    begin = time.monotonic()
    try:
        found, files = made(api, tmp_path / "a.tar.gz", seconds=1.5)
        assert time.monotonic() - begin < 10
    finally:
        api.over.set()
    assert "events.yaml: not read in time" in found.unread
    assert "pods/r-0.yaml" in files


def test_long_logs_keep_their_end(tmp_path: Path) -> None:
    api = Api()
    api.log = "x" * (3 << 20) + "\nthe end\n"
    _, files = made(api, tmp_path / "a.tar.gz")
    log = files["logs/r-0/vllm.log"]
    assert log.endswith("the end\n")
    assert len(log) < (1 << 20) + 100
    assert "bytes before this" in log.splitlines()[0]


def test_it_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").mkdir()
    with pytest.raises(Failed, match="cannot be written"):
        collect(cast("Connection", Api()), PLACE, target, tmp_path / "a.tar.gz", variables={})
    assert list(tmp_path.iterdir()) == [tmp_path / "a.tar.gz"]


def test_the_usual_place() -> None:
    assert str(default_path("r", NOW)) == "build/r-20260101T000000Z.tar.gz"
