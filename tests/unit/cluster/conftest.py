"""API servers and registries on loopback, and doctor's checks run against them one at a time."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from manyhost.cluster.connection import connect
from manyhost.cluster.doctor import CHECKS, Result, examine
from manyhost.cluster.target import Target

from tests.helpers import fixes
from tests.unit.cluster.doctor import NOBODY, Examine, Reply, ResultsOf, Serve


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts HTTP servers on loopback; each answers (method, path, headers) with (status, headers, body)."""
    started: list[http.server.ThreadingHTTPServer] = []

    def start(answer: Callable[[str, str, Any], Reply]) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, headers, body = answer(self.command, self.path, self.headers)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_HEAD = do_POST = do_GET

            def log_message(self, *_: object) -> None: ...

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        started.append(server)
        return f"127.0.0.1:{server.server_port}"

    yield start
    for item in started:
        item.shutdown()
        item.server_close()


@pytest.fixture
def results_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResultsOf:
    """Runs one check on a target and returns all that it has found."""

    def run(name: str, target: Target, api: str = NOBODY, context: str = "here") -> list[Result]:
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": context,
            "clusters": [{"name": "c", "cluster": {"server": api}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": context, "context": {"cluster": "c", "user": "u"}}],
        }  # fmt: skip
        (tmp_path / "config").write_text(json.dumps(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        results = examine(connect(context), target, skip=set(CHECKS) - {name})
        assert {result.check for result in results} == {name}
        for result in results:
            fixes.check(result.fix, context=context)
        return results

    return run


@pytest.fixture
def examined(results_of: ResultsOf) -> Examine:
    """Runs one check on a target and returns its only result."""

    def run(name: str, target: Target, api: str = NOBODY, context: str = "here") -> Result:
        (result,) = results_of(name, target, api, context)
        return result

    return run
