"""Talking to an engine that has a key."""

from __future__ import annotations

import http.client
import json
import shlex
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
from manyhost.catalog import Catalog
from manyhost.cluster.chat import Locked, ask, key_command, model_name
from manyhost.cluster.connection import Connection
from manyhost.cluster.target import Place
from manyhost.commands import Commands

KEY = "sk-secret-123"


@pytest.fixture
def client() -> Iterator[http.client.HTTPConnection]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            self.answer(json.dumps({"data": [{"id": "tiny-r1"}]}))

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            event = {"choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]}
            self.answer(f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n")

        def answer(self, text: str) -> None:
            known = self.headers["Authorization"] == f"Bearer {KEY}"
            data = text.encode() if known else b'{"error": "Unauthorized"}'  # as vLLM says it
            self.send_response(200 if known else 401)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    link = http.client.HTTPConnection("127.0.0.1", server.server_address[1])
    yield link
    link.close()
    server.shutdown()
    server.server_close()


def test_the_key_lets_in(client: http.client.HTTPConnection) -> None:
    assert model_name(client, KEY) == "tiny-r1"
    pieces = ask(client, "tiny-r1", [{"role": "user", "content": "hi"}], commands=Commands(), key=KEY)
    assert [piece.text for piece in pieces] == ["hi", "stop"]


@pytest.mark.parametrize(
    ("key", "words"), [("", "requests without its key"), ("sk-other", r"the key in \$VLLM_API_KEY")]
)
def test_without_it_nobody_does(key: str, words: str, client: http.client.HTTPConnection) -> None:
    with pytest.raises(Locked, match=words):
        model_name(client, key)
    with pytest.raises(Locked, match=words) as refused:
        list(ask(client, "m", [], commands=Commands(), key=key))
    assert "sk-" not in refused.value.message


class Cluster:
    def __init__(self, *variables: dict[str, Any]) -> None:
        self.variables = variables
        self.commands = Commands(namespace="serving")

    def pages(self, *_: Any, **__: Any) -> Iterator[dict[str, Any]]:
        yield {"spec": {"containers": [{"name": "daemon"}, {"name": "vllm", "env": list(self.variables)}]}}


def test_the_fix_takes_it_from_the_secret_that_the_pods_name(tmp_path: Path) -> None:
    """As it stands, in a shell; kubectl fills in the template."""
    place = Place(Catalog().chart("llm-multihost"), "serving", "r")
    plain = {"name": "VLLM_API_KEY", "value": "x"}
    assert key_command(cast("Connection", Cluster(plain)), place) == ""
    named = {"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": {"name": "engine", "key": "api.key"}}}
    command = key_command(cast("Connection", Cluster(named)), place).strip("`")
    (tmp_path / "kubectl").write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    (tmp_path / "kubectl").chmod(0o755)
    said = subprocess.run(
        ["bash", "-c", f'{command}; printf %s "$VLLM_API_KEY"'],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert said == (
        'get|secret|engine|-o|go-template={{index .data "api.key" | base64decode}}|--namespace|serving|'
    )
    assert shlex.split(command)[0] == "export"
