"""A Job's result reaches this machine, whatever the cluster's API and the pod's host do meanwhile."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import measure
import pytest
from manyhost.benchmark import job
from manyhost.catalog import Catalog
from manyhost.cluster.connection import Forbidden, Unreachable, connect
from manyhost.cluster.target import from_rendered
from manyhost.errors import Failed, ManyhostError
from manyhost.render import build

from tests.unit.benchmark import sample

JOB = "/apis/batch/v1/namespaces/n/jobs"
PODS = "/api/v1/namespaces/n/pods"
POINT = sample.point()


class Api:
    """An API server with a ready leader and the Job of a measurement that is done.

    Attributes:
        refused: For the end of a path the HTTP statuses that it answers with first; 0 closes the connection.
        deleted: What somebody has deleted.
        log: Of the Job's pod.
    """

    def __init__(self) -> None:
        self.refused: dict[str, list[int]] = {}
        self.deleted: list[str] = []
        self.log = "\n".join(measure.pack(sample.document(POINT)))
        self.target = from_rendered(build(sample.RECIPE, release="r", namespace="n"))
        name = f"r-bench-{POINT.key[:8]}"
        done = {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}
        self.job = {"metadata": {"name": name, "labels": {}}, **done}
        ready = {"podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
        self.leader = {
            "metadata": {"name": "r-0"}, "spec": self.target.pod("leader")["spec"], "status": ready,
        }  # fmt: skip
        made = {"name": f"{name}-x", "creationTimestamp": "2026-01-01T00:00:00Z"}
        owner = {"kind": "Job", "name": name, "uid": "1", "controller": True}
        self.pod = {"metadata": {**made, "ownerReferences": [owner]}, "spec": {"nodeName": "host-1"}}
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                for end, statuses in api.refused.items():
                    if path.endswith(end) and statuses:
                        self.reply(statuses.pop(0), {"message": "the host does not answer"})
                        return
                if path.endswith("/log"):
                    self.reply(200, api.log)
                    return
                self.reply(*api.get(path, str(parse_qs(query).get("labelSelector"))))

            def do_DELETE(self) -> None:
                api.deleted.append(urlsplit(self.path).path)
                self.reply(200, {})

            def reply(self, status: int, body: Any) -> None:
                if not status:
                    self.close_connection = True
                    return
                data = (body if isinstance(body, str) else json.dumps(body)).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def get(self, path: str, labels: str) -> tuple[int, Any]:
        there = not self.deleted
        if path == f"{JOB}/{self.job['metadata']['name']}":
            return (200, self.job) if there else (404, {"message": "not found"})
        if path == JOB:
            return 200, {"items": [self.job] * there}
        if path == PODS and "worker-index" in labels:
            return 200, {"items": [self.leader]}
        if path == PODS:
            return 200, {"items": [self.pod] * there}
        return 200, {"items": []}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setattr(job, "_LOOK_SECONDS", 0.01)
    found = Api()
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{found.server.server_port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    (tmp_path / "config").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    yield found
    found.server.shutdown()
    found.server.server_close()


def collect(
    api: Api, away: dict[str, list[int]] | None = None, said: list[str] | None = None
) -> tuple[job.Measured, list[str]]:
    """Take the result of the Job that is there; from when it was found on `away` is what the API refuses."""
    said = [] if said is None else said
    place = job.Job(connect("here"), api.target, Catalog().chart("llm-benchmark"), "manyhost")

    def report(text: str) -> None:
        if not said:
            api.refused = away or {}
        said.append(text)

    return place.measure({"key": POINT.key}, report), said


def test_the_result_of_a_job_that_is_done_is_taken_and_the_job_removed(api: Api) -> None:
    found, said = collect(api)
    assert len(found.evidence.requests.ok) == POINT.load.requests
    assert (found.node, said[0].partition(" is there")[0]) == ("host-1", f"job {api.job['metadata']['name']}")
    assert api.deleted[0] == f"{JOB}/{api.job['metadata']['name']}"


@pytest.mark.parametrize("statuses", [[500], [502, 502], [0, 0, 500, 504]])
@pytest.mark.parametrize("end", ["/log", JOB])
def test_a_host_or_an_api_that_is_away_for_a_while_costs_no_measurement(
    end: str, statuses: list[int], api: Api
) -> None:
    """An hour of load would be lost when the kubelet does not answer at the one moment at which it ends."""
    away = {f"{JOB}/{api.job['metadata']['name']}" if end == JOB else end: [*statuses]}
    found, said = collect(api, away)
    assert found.node == "host-1"
    assert away.popitem()[1] == []
    assert said[1].startswith("waiting: ")
    assert len(said) == len(set(said)), "what keeps it from reading is told once"


@pytest.mark.parametrize(("status", "kind"), [(500, ManyhostError), (0, Unreachable), (403, Forbidden)])
def test_what_cannot_be_read_now_is_left_for_the_next_call(
    status: int, kind: type[ManyhostError], api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_PATIENCE_SECONDS", 0.1)
    said: list[str] = []
    with pytest.raises(kind):
        collect(api, {"/log": [status] * 1000}, said)
    assert api.deleted == []
    assert said[-1] == f"job {api.job['metadata']['name']} stays: the same command takes its result"
    assert collect(api)[0].node == "host-1"


def test_a_job_without_a_result_says_what_its_client_said_and_goes(api: Api) -> None:
    api.log = "Traceback\nMemoryError"
    with pytest.raises(Failed, match=r"ended without a result \(Complete\): Traceback / MemoryError"):
        collect(api)
    assert api.deleted
