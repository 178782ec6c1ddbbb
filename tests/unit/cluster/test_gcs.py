"""The real Cloud Storage client against an emulator on loopback."""

# ruff: noqa: E501  tables of cases read better on one line each

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from manyhost.cluster import gcs
from manyhost.errors import Failed, RemoteError


@pytest.fixture(scope="module")
def store() -> Iterator[gcs.Store]:
    from gcp_storage_emulator.server import create_server

    with pytest.MonkeyPatch.context() as patch:
        server = create_server("127.0.0.1", 0, in_memory=True)
        server.start()
        port = server._api._httpd.server_port
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        opened = gcs.open_store("test")
        opened.client.create_bucket("models", location="us-east4")
        yield opened
        server.stop()


def test_bucket(store: gcs.Store) -> None:
    found = gcs.bucket_of(store, "models")
    assert found.name == "models"
    with pytest.raises(RemoteError, match="gs://none does not exist") as error:
        gcs.bucket_of(store, "none")
    assert "buckets create" in error.value.fix


def test_upload(store: gcs.Store, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text("{}")
    gcs.upload(store, "models", "runs/1.json", file)
    assert gcs.names(store, "models", "runs/") == {"runs/1.json"}
    assert gcs.names(store, "models", "none/") == set()
    with pytest.raises(RemoteError, match="gs://none"):
        gcs.upload(store, "none", "x", file)


def test_upload_never_writes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator knows no preconditions: here a server that refuses them as Cloud Storage does."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(412)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
    file = tmp_path / "run.json"
    file.write_text("{}")
    try:
        with pytest.raises(Failed, match="exists already"):
            gcs.upload(gcs.open_store("test"), "models", "runs/1.json", file)
    finally:
        server.shutdown()
        server.server_close()
    assert len(asked) == 1
    assert "ifGenerationMatch=0" in asked[0]


@pytest.mark.parametrize(
    ("member", "included"),
    [
        ("allUsers", True),
        ("principal://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p.svc.id.goog/subject/ns/n/sa/a", True),
        ("principal://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p.svc.id.goog/subject/ns/n/sa/b", False),
        ("principalSet://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p.svc.id.goog/namespace/n", True),
        ("principalSet://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p.svc.id.goog/namespace/m", False),
        ("serviceAccount:p.svc.id.goog[n/a]", True),
        ("serviceAccount:x@p.iam.gserviceaccount.com", False),
        ("user:me@example.com", False),
    ],
)  # fmt: skip
def test_who_a_policy_means(member: str, included: bool) -> None:
    assert gcs._is_account(member, "n", "a") is included
