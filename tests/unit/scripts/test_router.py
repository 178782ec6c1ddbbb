"""The router before a decode engine: two legs, and what happens when one of them is lost.

The router runs as it does in a pod, as a program of its own; engine and prefill group are small
servers of this process that note what they are asked.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.helm import CHART

SCRIPTS = CHART / "launcher" / "router"
PLACE = {"remote_host": "10.0.0.7", "remote_block_ids": [[1, 2]], "do_remote_prefill": True}
SECONDS = 20  # until a test gives up waiting for what must happen


@dataclass
class Asked:
    """One request as a server got it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """A server of this process; `answer` gets the handler of each POST and says what it wants."""

    answer: Callable[[Any], None]
    asked: queue.Queue[Asked] = field(default_factory=queue.Queue)
    lost: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.asked.put(Asked(self.command, self.path, dict(self.headers), body))
                outer.answer(self)

            do_POST = do_DELETE = do_GET

            def say(self, status: int, value: Any, kind: str = "application/json") -> None:
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def wait_for_loss(self) -> None:
                """Answer nothing until the other side goes."""
                self.connection.settimeout(SECONDS)
                if self.connection.recv(1) == b"":
                    outer.lost.set()
                self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def next(self) -> Asked:
        return self.asked.get(timeout=SECONDS)


def decoded(handler: Any) -> None:
    handler.say(200, {"choices": [{"text": "answer"}]})


def prefilled(handler: Any) -> None:
    handler.say(200, {"choices": [{"text": "x"}], "kv_transfer_params": PLACE})


@contextlib.contextmanager
def running(answer: Callable[[Any], None]) -> Iterator[Server]:
    server = Server(answer)
    server.start()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def engine() -> Iterator[Server]:
    with running(decoded) as server:
        yield server


@pytest.fixture
def prefill() -> Iterator[Server]:
    with running(prefilled) as server:
        yield server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Running:
    """A router that runs."""

    process: subprocess.Popen[str]
    port: int
    links: list[http.client.HTTPConnection] = field(default_factory=list)

    def connect(self) -> http.client.HTTPConnection:
        self.links.append(http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS))
        return self.links[-1]

    def ask(self, path: str, body: Any = None, method: str = "", **headers: str) -> tuple[int, bytes]:
        link = self.connect()
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
        try:
            link.request(method or ("POST" if data else "GET"), path, data, headers)
            answer = link.getresponse()
            return answer.status, answer.read()
        finally:
            link.close()

    def counts(self) -> dict[str, int]:
        text = self.ask("/metrics")[1].decode()
        found = {}
        for line in text.splitlines():
            if line.startswith("manyhost_router_requests_total{"):
                name, _, number = line.rpartition(" ")
                found[name.split('"')[1]] = int(number)
        return found


@pytest.fixture
def router(engine: Server, prefill: Server, request: pytest.FixtureRequest) -> Iterator[Running]:
    seconds = getattr(request, "param", 60)
    port = free_port()
    env = {
        **os.environ,
        "MANYHOST_ROUTER_PORT": str(port),
        "MANYHOST_ROUTER_ENGINE": engine.url,
        "MANYHOST_ROUTER_PREFILL": prefill.url,
        "MANYHOST_ROUTER_PREFILL_SECONDS": str(seconds),
    }
    words = [sys.executable, "-B", str(SCRIPTS / "router.py"), "serve"]
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) as process:
        running = Running(process, port)
        end = time.monotonic() + SECONDS
        while True:
            try:
                assert running.ask("/manyhost/router")[0] == 200
                break
            except ConnectionRefusedError:
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.05)
        yield running
        for link in running.links:
            link.close()
        process.kill()


def test_two_legs(router: Running, engine: Server, prefill: Server) -> None:
    """The prefill group reads the prompt, the engine gets the place of the KV cache."""
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "é"}],
        "max_completion_tokens": 50,
        "min_tokens": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
        "logprobs": True,
        "temperature": 0.0,
    }
    status, answer = router.ask("/v1/chat/completions", body, Authorization="Bearer key")
    assert (status, json.loads(answer)) == (200, {"choices": [{"text": "answer"}]})
    first, second = prefill.next(), engine.next()
    assert first.path == second.path == "/v1/chat/completions"
    assert first.headers["Authorization"] == second.headers["Authorization"] == "Bearer key"
    assert first.json == {
        "model": "m",
        "messages": body["messages"],
        "temperature": 0.0,
        "max_tokens": 1,
        "max_completion_tokens": 1,
        "stream": False,
        "kv_transfer_params": {"do_remote_decode": True},
    }
    assert second.json == {**body, "kv_transfer_params": PLACE}
    assert router.counts() == {"done": 1, "failed": 0, "skipped": 0}


def test_answer_streams(router: Running, engine: Server) -> None:
    """The first piece reaches the client before the engine has written the second."""
    go_on = threading.Event()

    def stream(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(b"data: one\n\n")
        handler.wfile.flush()
        assert go_on.wait(SECONDS)
        handler.wfile.write(b"data: [DONE]\n\n")
        handler.close_connection = True

    engine.answer = stream
    link = router.connect()
    link.request("POST", "/v1/completions", json.dumps({"prompt": "p", "stream": True}))
    answer = link.getresponse()
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.readline() == b"data: one\n"
    go_on.set()
    assert answer.read() == b"\ndata: [DONE]\n\n"


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        (lambda h: h.say(500, {"error": {"message": "no"}}), "failed"),
        (lambda h: h.say(200, {"choices": []}), "failed"),
        (lambda h: h.say(200, b"no JSON"), "failed"),
        (lambda h: h.connection.shutdown(socket.SHUT_RDWR), "failed"),
        (lambda h: h.say(400, {"error": {"message": "bad temperature"}}), "skipped"),
    ],
    ids=["error", "no-place", "no-json", "reset", "bad-request"],
)
def test_engine_does_alone_what_prefill_does_not(
    router: Running, engine: Server, prefill: Server, answer: Callable[[Any], None], count: str
) -> None:
    prefill.answer = answer
    assert router.ask("/v1/completions", {"prompt": "p", "max_tokens": 9})[0] == 200
    assert engine.next().json == {"prompt": "p", "max_tokens": 9}
    assert router.counts()[count] == 1


def test_prefill_away_and_back(router: Running, engine: Server, prefill: Server) -> None:
    """No request is lost while the prefill group is away; its loss and its return are logged once."""
    port = prefill.server.server_port
    prefill.server.shutdown()
    prefill.server.server_close()
    for _ in range(3):
        assert router.ask("/v1/completions", {"prompt": "p"})[0] == 200
        assert "kv_transfer_params" not in engine.next().json
    back = ThreadingHTTPServer(("127.0.0.1", port), prefill.server.RequestHandlerClass)
    back.daemon_threads = True
    threading.Thread(target=back.serve_forever, daemon=True).start()
    assert router.ask("/v1/completions", {"prompt": "p"})[0] == 200
    back.shutdown()
    back.server_close()
    assert engine.next().json["kv_transfer_params"] == PLACE
    assert router.counts() == {"done": 1, "failed": 3, "skipped": 0}
    router.process.send_signal(signal.SIGTERM)
    said = router.process.communicate(timeout=SECONDS)[0].splitlines()
    assert len(said) == 2
    assert "prefill failed, decoding alone" in said[0]
    assert said[1] == "manyhost router: prefill works again"


@pytest.mark.parametrize("router", [0.5], indirect=True)
def test_prefill_stalls(router: Running, engine: Server, prefill: Server) -> None:
    """A prefill group that accepts and says nothing is given up in time."""
    prefill.answer = lambda handler: handler.wait_for_loss()
    assert router.ask("/v1/completions", {"prompt": "p"})[0] == 200
    assert "kv_transfer_params" not in engine.next().json
    assert prefill.lost.wait(SECONDS)


@pytest.mark.parametrize(
    "more",
    [{"n": 2}, {"best_of": 3}, {"prompt": ["a", "b"]}, {"prompt": [[1], [2]]}, {"echo": True},
     {"prompt_logprobs": 0}, {"use_beam_search": True}],
    ids=str,
)  # fmt: skip
def test_requests_with_several_answers_stay_with_the_engine(
    router: Running, engine: Server, prefill: Server, more: dict[str, Any]
) -> None:
    assert router.ask("/v1/completions", {"prompt": "p", **more})[0] == 200
    assert engine.next().json == {"prompt": "p", **more}
    assert prefill.asked.empty()


def test_token_ids_are_one_prompt(router: Running, prefill: Server) -> None:
    assert router.ask("/v1/completions", {"prompt": [1, 2, 3]})[0] == 200
    assert prefill.next().json["prompt"] == [1, 2, 3]


def test_clients_do_not_say_where_caches_are(router: Running, engine: Server, prefill: Server) -> None:
    """Neither leg passes a client's kv_transfer_params on."""
    evil = {"do_remote_prefill": True, "remote_host": "169.254.169.254"}
    router.ask("/v1/completions", {"prompt": "p", "kv_transfer_params": evil})
    router.ask("/v1/completions", {"prompt": "p", "n": 2, "kv_transfer_params": evil})
    assert prefill.next().json["kv_transfer_params"] == {"do_remote_decode": True}
    assert engine.next().json["kv_transfer_params"] == PLACE
    assert "kv_transfer_params" not in engine.next().json


def test_everything_else_passes_as_it_is(router: Running, engine: Server, prefill: Server) -> None:
    engine.answer = lambda handler: handler.say(418, b"\x00\xff", "application/x-own")
    link = router.connect()
    link.request("DELETE", "/v1/thing?a=1&b=%2F", b"\x01body", {"X-Own": "yes"})
    answer = link.getresponse()
    assert (answer.status, answer.read()) == (418, b"\x00\xff")
    assert answer.headers["Content-Type"] == "application/x-own"
    seen = engine.next()
    assert (seen.method, seen.path, seen.body) == ("DELETE", "/v1/thing?a=1&b=%2F", b"\x01body")
    assert seen.headers["X-Own"] == "yes"
    for wrong in (b"no json", b"[1]", b"[" * 100_000):
        assert router.ask("/v1/completions", wrong)[0] == 418
        assert engine.next().body == wrong
    assert prefill.asked.empty()


def test_metrics_hold_both(router: Running, engine: Server) -> None:
    engine.answer = lambda handler: handler.say(200, b"vllm:num_requests_running 0.0\n", "text/plain")
    text = router.ask("/metrics")[1].decode()
    assert text.startswith("vllm:num_requests_running 0.0\n# HELP manyhost_router_requests_total ")
    assert 'manyhost_router_requests_total{prefill="failed"} 0\n' in text


def test_client_leaves_during_prefill(router: Running, engine: Server, prefill: Server) -> None:
    prefill.answer = lambda handler: handler.wait_for_loss()
    link = router.connect()
    link.request("POST", "/v1/completions", json.dumps({"prompt": "p"}))
    prefill.next()
    link.close()
    assert prefill.lost.wait(SECONDS)
    assert engine.asked.empty()


def test_client_leaves_during_decode(router: Running, engine: Server) -> None:
    def begin(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(b"data: one\n\n")
        handler.wfile.flush()
        handler.wait_for_loss()

    engine.answer = begin
    link = router.connect()
    link.request("POST", "/v1/completions", json.dumps({"prompt": "p"}))
    answer = link.getresponse()
    assert answer.readline() == b"data: one\n"
    answer.close()
    link.close()
    assert engine.lost.wait(SECONDS)


def test_drain_hands_everything_to_the_engine(
    router: Running, engine: Server, prefill: Server, tmp_path: Path
) -> None:
    """The preStop hook: what waits for a prefill group goes to the engine, and so does what comes later."""
    prefill.answer = lambda handler: handler.wait_for_loss()
    link = router.connect()
    link.request("POST", "/v1/completions", json.dumps({"prompt": "waits"}))
    prefill.next()
    (tmp_path / "python3").symlink_to(sys.executable)
    (tmp_path / "vllm").write_text("")
    env = {
        "PATH": "/usr/bin:/bin",
        "MANYHOST_ENGINE": f"{tmp_path}/vllm\nmore",
        "MANYHOST_ROUTER_PORT": str(router.port),
    }
    # The engine's own Python: the system's may have no aiohttp.
    env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    subprocess.run(["bash", str(SCRIPTS / "router.sh"), "drain"], env=env, check=True, timeout=SECONDS)
    assert link.getresponse().status == 200
    assert engine.next().json == {"prompt": "waits"}
    assert prefill.lost.wait(SECONDS)
    assert router.ask("/v1/completions", {"prompt": "later"})[0] == 200
    assert engine.next().json == {"prompt": "later"}
    assert router.counts() == {"done": 0, "failed": 0, "skipped": 2}


def test_engine_gone(router: Running, engine: Server) -> None:
    engine.server.shutdown()
    engine.server.server_close()
    status, answer = router.ask("/v1/completions", {"prompt": "p"})
    assert status == 503
    assert json.loads(answer)["error"]["message"].startswith("engine: ")
