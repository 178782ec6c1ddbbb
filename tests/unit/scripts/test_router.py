"""The router before prefill and decode groups: what clients may do, and what happens when an engine is lost.

The router runs as it does in a pod, as a program of its own; engines are small servers of this process that
note what they are asked. `PROGRAM` starts it with other times than its own, so that nobody waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import json
import queue
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import router as bench
from tests.helpers.helm import CHART, ROOT

ROUTER = CHART / "launcher" / "router"
PLACE = {"remote_host": "10.0.0.7", "remote_block_ids": [[1, 2]], "do_remote_prefill": True}
EVIL = {"do_remote_prefill": True, "remote_host": "169.254.169.254"}
SECONDS = 20  # until a test gives up waiting for what must happen
PROGRAM = """
import json, runpy, sys
folder, constants = sys.argv[1], json.loads(sys.argv[2])
sys.path.insert(0, folder)
import router_backends, router_proxy, router_watch, router_wire
modules = router_backends, router_proxy, router_watch, router_wire
for name, value in constants.items():
    owners = [module for module in modules if hasattr(module, name)]
    assert owners, name
    for module in owners:
        setattr(module, name, value)
runpy.run_path(f"{folder}/router.py", run_name="__main__")
"""


@dataclass
class Asked:
    """One request as a server got it."""

    method: str
    path: str
    headers: Any  # of email.message: repeated ones are kept
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
    probes: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    server: ThreadingHTTPServer | None = None

    def start(self) -> Server:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.path == "/v1/models":
                    self.say(200, {"data": [{"id": "m"}]})
                    return
                if body == b'{"model":"m","prompt":"a","max_tokens":1}':
                    outer.probes += 1
                else:
                    outer.asked.put(Asked(self.command, self.path, self.headers, body))
                outer.answer(self)

            do_POST = do_OPTIONS = do_GET

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

        class Listener(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:
                pass  # the other side has gone, as tests want it

        self.server = Listener((self.host, self.port), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Listen no more."""
        if self.server:
            self.server.shutdown()
            self.server.server_close()
        self.server = None

    def fresh(self, answer: Callable[[Any], None]) -> Server:
        """As if it had just started."""
        self.answer, self.asked, self.lost, self.probes = answer, queue.Queue(), threading.Event(), 0
        return self if self.server else self.start()

    @property
    def place(self) -> str:
        return f"{self.host}:{self.port}"

    def next(self) -> Asked:
        return self.asked.get(timeout=SECONDS)


def decoded(handler: Any) -> None:
    handler.say(200, {"choices": [{"text": "answer"}]})


def prefilled(handler: Any) -> None:
    handler.say(200, {"choices": [{"text": "x"}], "kv_transfer_params": PLACE})


@contextlib.contextmanager
def running(answer: Callable[[Any], None]) -> Iterator[Server]:
    server = Server(answer).start()
    yield server
    server.stop()


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
    before: dict[str, float] = field(default_factory=dict)

    def at_rest(self, leaders: int) -> bool:
        """Whether it has nothing in flight and uses all leaders."""
        assert self.process.poll() is None
        found = self.series()
        states = [value for name, value in found.items() if name.startswith("backend_open")]
        return states == [0] * leaders and found["in_flight"] == 0

    def begin(self) -> None:
        """Count from here on."""
        self.before = self.series()

    def close(self) -> None:
        for link in self.links:
            link.close()

    def connect(self) -> http.client.HTTPConnection:
        self.links.append(http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS))
        return self.links[-1]

    def ask(self, path: str, body: Any = None, method: str = "", **headers: str) -> tuple[int, bytes]:
        answer, data = self.answer(path, body, method, **headers)
        return answer.status, data

    def answer(
        self, path: str, body: Any = None, method: str = "", **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        link = self.connect()
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            link.request(method or ("POST" if data else "GET"), path, data, named)
            answer = link.getresponse()
            return answer, answer.read()
        finally:
            link.close()

    def raw(self, data: bytes) -> bytes:
        """Send bytes as they are; return all that comes until the router closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS) as link:
            link.sendall(data)
            return b"".join(iter(lambda: link.recv(1 << 16), b""))

    def series(self) -> dict[str, float]:
        text = self.ask("/metrics")[1].decode()
        lines = [line.rpartition(" ") for line in text.splitlines() if line.startswith("manyhost_router_")]
        return {name.removeprefix("manyhost_router_"): float(value) for name, _, value in lines}

    def count(self, name: str) -> float:
        """What a counter has counted in this test."""
        return self.series()[name] - self.before.get(name, 0)

    def counts(self) -> dict[str, float]:
        return {
            key: self.count(f'requests_total{{prefill="{key}"}}') for key in ("done", "failed", "skipped")
        }

    def memory(self) -> int:
        """Most resident memory so far, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) << 10


def until(what: str, done: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@contextlib.contextmanager
def routing(
    prefill: str, decode: str, *, constants: dict[str, float] | None = None, leaders: int = 2, **settings: int
) -> Iterator[Running]:
    """Run a router; `constants` are its own, `settings` the chart's; wait until it knows its leaders."""
    port = free_port()
    values = {
        "STALL_SECONDS": 60, "DRAIN_SECONDS": 20, "MOST_REQUESTS": 100, "BODY_BYTES": 1 << 20,
        "MEMORY_BYTES": 1 << 30, **settings, "PORT": port, "PREFILL": prefill, "DECODE": decode,
    }  # fmt: skip
    env = {f"MANYHOST_ROUTER_{name}": str(value) for name, value in values.items()}
    times = {"LOOKUP_SECONDS": 0.1, "TICK_SECONDS": 0.05, "FIRST_PROBE_SECONDS": 0.1, "QUEUE_SECONDS": 0.5}
    words = [sys.executable, "-B", "-c", PROGRAM, str(ROUTER), json.dumps(times | (constants or {}))]
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) as process:
        found = Running(process, port)

        def ready() -> bool:
            assert process.poll() is None
            with contextlib.suppress(ConnectionRefusedError):
                return found.at_rest(leaders)
            return False

        try:
            until("the router is ready", ready)
            yield found
        finally:
            found.close()
            process.kill()


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    """A prefill and a decode engine for all tests."""
    with running(prefilled) as first, running(decoded) as second:
        yield first, second


@pytest.fixture
def prefill(servers: tuple[Server, Server]) -> Server:
    return servers[0].fresh(prefilled)


@pytest.fixture
def engine(servers: tuple[Server, Server]) -> Server:
    return servers[1].fresh(decoded)


@pytest.fixture(scope="module")
def common(servers: tuple[Server, Server]) -> Iterator[Running]:
    """A router for all tests that need no other settings: starting one costs half a second."""
    with routing(*(server.place for server in servers)) as found:
        yield found


@pytest.fixture
def router(engine: Server, prefill: Server, request: pytest.FixtureRequest) -> Iterator[Running]:
    if hasattr(request, "param"):
        with routing(prefill.place, engine.place, **request.param) as found:
            yield found
        return
    found = request.getfixturevalue("common")
    until("the test before is over", lambda: found.at_rest(2))
    found.begin()
    yield found
    found.close()


def settings(**values: Any) -> pytest.MarkDecorator:
    """The router of a test with other settings or constants."""
    return pytest.mark.parametrize("router", [values], indirect=True, ids=[""])


# ------------------------------------------------------------------ the two legs
def test_two_legs(router: Running, engine: Server, prefill: Server) -> None:
    """The prefill group reads the prompt, the decode engine gets the place of the KV cache."""
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
    status, answer = router.ask("/v1/chat/completions?a=%2F", body, Authorization="Bearer key")
    assert (status, json.loads(answer)) == (200, {"choices": [{"text": "answer"}]})
    first, second = prefill.next(), engine.next()
    assert (first.path, second.path) == ("/v1/chat/completions", "/v1/chat/completions?a=%2F")
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


def test_a_long_body_arrives_as_it_was_written(router: Running, engine: Server, prefill: Server) -> None:
    """Numbers, escapes and blanks of its values are the client's own; no piece gets lost."""
    prompt = r'"\ud83d\ude00 ' + "ab " * 100_000 + '"'
    body = f'{{ "prompt": {prompt}, "seed": 1e400, "logit_bias" : {{"1": 1.0e0}}, "x": [1,  2] }}'
    assert router.ask("/v1/completions", body.encode())[0] == 200
    seen = engine.next().body.decode()
    for part in (prompt, "1e400", '{"1": 1.0e0}', "[1,  2]"):
        assert part in seen
        assert part in prefill.next().body.decode() if part is prompt else True


def test_answer_streams(router: Running, engine: Server) -> None:
    """The first piece reaches the client before the engine has written the second."""
    go_on = threading.Event()

    def stream(handler: Any) -> None:
        begin_stream(handler)
        assert go_on.wait(SECONDS)
        handler.wfile.write(b"data: [DONE]\n\n")

    engine.answer = stream
    link = router.connect()
    link.request("POST", "/v1/completions", json.dumps({"prompt": "p", "stream": True}))
    answer = link.getresponse()
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.readline() == b"data: one\n"
    go_on.set()
    assert answer.read() == b"\ndata: [DONE]\n\n"


def begin_stream(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(b"data: one\n\n")
    handler.wfile.flush()
    handler.close_connection = True


@pytest.mark.parametrize(
    "more",
    [{"n": 2}, {"best_of": 3}, {"prompt": ["a", "b"]}, {"prompt": [[1], [2]]}, {"echo": True},
     {"prompt_logprobs": 0}, {"use_beam_search": True}, {"prompt_embeds": "x"}],
    ids=str,
)  # fmt: skip
def test_requests_with_several_answers_stay_with_the_decode_engine(
    router: Running, engine: Server, prefill: Server, more: dict[str, Any]
) -> None:
    assert router.ask("/v1/completions", {"prompt": "p", **more})[0] == 200
    assert engine.next().json == {"prompt": "p", **more}
    assert prefill.asked.empty()


def test_token_ids_are_one_prompt(router: Running, prefill: Server) -> None:
    assert router.ask("/v1/completions", {"prompt": [1, 2, 3], "n": 1, "echo": False})[0] == 200
    assert prefill.next().json["prompt"] == [1, 2, 3]


# ------------------------------------------------------------------ prefill groups that are lost
@pytest.mark.parametrize(
    ("answer", "count"),
    [
        (lambda h: h.say(500, {"error": {"message": "no"}}), "failed"),
        (lambda h: h.say(200, {"choices": []}), "failed"),
        (lambda h: h.say(200, {"kv_transfer_params": "x"}), "failed"),
        (lambda h: h.say(200, b"no JSON"), "failed"),
        (lambda h: h.connection.shutdown(socket.SHUT_RDWR), "failed"),
        (lambda h: h.say(400, {"error": {"message": "bad temperature"}}), "skipped"),
    ],
    ids=["error", "no-place", "no-object", "no-json", "reset", "bad-request"],
)
def test_the_decode_engine_does_alone_what_prefill_does_not(
    router: Running, engine: Server, prefill: Server, answer: Callable[[Any], None], count: str
) -> None:
    prefill.answer = answer
    assert router.ask("/v1/completions", {"prompt": "p", "max_tokens": 9})[0] == 200
    assert engine.next().json == {"prompt": "p", "max_tokens": 9}
    assert router.counts()[count] == 1


@settings()
def test_prefill_away_and_back(router: Running, engine: Server, prefill: Server) -> None:
    """No request is lost while the prefill group is away; its loss and its return are logged once."""
    prefill.stop()
    for _ in range(3):
        assert router.ask("/v1/completions", {"prompt": "p"})[0] == 200
        assert "kv_transfer_params" not in engine.next().json
    prefill.start()

    def back() -> bool:
        assert router.ask("/v1/completions", {"prompt": "p"})[0] == 200
        return engine.next().json.get("kv_transfer_params") == PLACE

    until("the prefill group is used again", back)
    assert router.counts()["done"] == 1
    router.process.kill()
    said = [line for line in router.process.communicate()[0].splitlines() if "prefill" in line]
    assert len(said) == 3
    assert "is left alone: ClientConnectorError" in said[1]
    assert said[2] == f"manyhost router: prefill {prefill.place} answers again"


@settings(STALL_SECONDS=1, constants={"PROBE_SECONDS": 0.5})
def test_a_mute_prefill_group_costs_its_time_once(router: Running, engine: Server, prefill: Server) -> None:
    """It accepts and says nothing: those that wait for it are given up together, later ones do not ask it."""
    prefill.answer = lambda handler: handler.wait_for_loss()
    with ThreadPoolExecutor(4) as pool:
        statuses = pool.map(lambda _: router.ask("/v1/completions", {"prompt": "p"})[0], range(4))
        assert list(statuses) == [200] * 4
    assert prefill.lost.wait(SECONDS)
    for _ in range(20):
        assert router.ask("/v1/completions", {"prompt": "later"})[0] == 200
    bodies = [engine.next().json for _ in range(24)]
    assert not any("kv_transfer_params" in body for body in bodies)
    asked = [prefill.next().json["prompt"] for _ in range(prefill.asked.qsize())]
    assert asked == ["p"] * 4
    until("it is probed, though no client waits for it", lambda: prefill.probes > 0)
    prefill.answer = prefilled
    until("it is used again", lambda: bool(
        router.ask("/v1/completions", {"prompt": "p"})[0] == 200 and router.counts()["done"]
    ))  # fmt: skip


@settings(STALL_SECONDS=1)
def test_a_slow_prefill_group_that_answers_others_is_waited_for(
    router: Running, engine: Server, prefill: Server
) -> None:
    """What counts is whether the group gets on, not how long one request has waited."""
    end = threading.Event()

    def answer(handler: Any) -> None:
        if prefill.asked.queue[-1].json["prompt"] == "long":
            assert end.wait(SECONDS)
        prefilled(handler)

    prefill.answer = answer
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(router.ask, "/v1/completions", {"prompt": "long"})
        until("it is there", lambda: not prefill.asked.empty())
        for _ in range(8):
            time.sleep(0.25)
            assert router.ask("/v1/completions", {"prompt": "short"})[0] == 200
        end.set()
        assert long.result()[0] == 200
    assert router.counts() == {"done": 9, "failed": 0, "skipped": 0}


# ------------------------------------------------------------------ several groups
def test_work_is_spread_over_all_groups(tmp_path: Path) -> None:
    """By requests in flight: two slow ones at each of two groups."""
    gate = threading.Barrier(4)

    def slow(handler: Any) -> None:
        gate.wait(SECONDS)
        decoded(handler)

    with (
        running(prefilled) as p1, running(prefilled) as p2, running(slow) as d1, running(slow) as d2,
        routing(f"{p1.place},{p2.place}", f"{d1.place},{d2.place}", leaders=4) as router,
        ThreadPoolExecutor(4) as pool,
    ):  # fmt: skip
        statuses = pool.map(lambda _: router.ask("/v1/completions", {"prompt": "p"})[0], range(4))
        assert list(statuses) == [200] * 4
        assert [server.asked.qsize() for server in (p1, p2, d1, d2)] == [2, 2, 2, 2]


def test_a_lost_group_costs_no_request(engine: Server) -> None:
    """One of two prefill and one of two decode groups refuses connections; the cache is still handed over."""
    with running(prefilled) as here, routing(
        f"127.0.0.1:{free_port()},{here.place}", f"127.0.0.1:{free_port()},{engine.place}", leaders=4
    ) as router:  # fmt: skip
        for _ in range(6):
            assert router.ask("/v1/completions", {"prompt": "p"})[0] == 200
            assert engine.next().json["kv_transfer_params"] == PLACE
        assert router.counts() == {"done": 6, "failed": 0, "skipped": 0}


def test_a_request_that_met_an_ending_engine_goes_to_another(prefill: Server, engine: Server) -> None:
    """Whether its cache was fetched nobody knows: the second engine reads the prompt itself."""
    with running(lambda handler: handler.connection.shutdown(socket.SHUT_RDWR)) as ending, routing(
        prefill.place, f"{ending.place},{engine.place}", leaders=3
    ) as router:  # fmt: skip
        for _ in range(2):
            assert router.ask("/v1/completions", {"prompt": "p"})[0] == 200
        assert ending.next().json["kv_transfer_params"] == PLACE
        bodies = [engine.next().json for _ in range(2)]
        assert sum("kv_transfer_params" not in body for body in bodies) == 1
        assert router.count("retries_total") == 1


def test_what_may_have_killed_an_engine_is_not_shown_to_the_next(prefill: Server) -> None:
    def die(handler: Any) -> None:
        time.sleep(0.4)
        handler.connection.shutdown(socket.SHUT_RDWR)

    with running(die) as one, running(die) as two, routing(
        prefill.place, f"{one.place},{two.place}", leaders=3, constants={"AGAIN_SECONDS": 0.2}
    ) as router:  # fmt: skip
        status, answer = router.ask("/v1/completions", {"prompt": "poison"})
        assert status == 502
        assert "the engine gave no answer" in json.loads(answer)["error"]["message"]
        assert one.asked.qsize() + two.asked.qsize() == 1


def test_an_engine_that_closes_kept_connections_loses_nothing(router: Running, engine: Server) -> None:
    """vLLM closes a connection that was idle for 5 s, in the moment in which the next request may come."""
    seen: set[int] = set()

    def once(handler: Any) -> None:
        if id(handler) in seen:
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        seen.add(id(handler))
        keep.append(handler)
        decoded(handler)

    keep: list[Any] = []
    engine.answer = once
    for _ in range(5):
        assert router.ask("/tokenize", {"prompt": "p"})[0] == 200


def test_no_decode_group(prefill: Server) -> None:
    """It says so and when to come back, and no prefill group reads a prompt for nobody."""
    with routing(prefill.place, "127.0.0.1:1", constants={"CONNECT_SECONDS": 0.5}) as router:
        answer, data = router.answer("/v1/completions", {"prompt": "p"})
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        assert json.loads(data)["error"]["message"] == "no decode group answers"
    with routing(prefill.place, "nobody.invalid:1", leaders=1) as router:
        assert router.ask("/ready") == (503, b"no decode group is ready\n")
        assert router.ask("/health")[0] == 200
        prefill.asked.queue.clear()
        assert router.ask("/v1/completions", {"prompt": "p"})[0] == 503
        assert prefill.asked.empty()


# ------------------------------------------------------------------ what clients may not do
@pytest.mark.parametrize(
    "path",
    ["/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages", "/tokenize", "/detokenize"],
)
def test_clients_do_not_say_where_caches_are(router: Running, engine: Server, path: str) -> None:
    """On no path, under no spelling, and not through the field that vLLM lays over these."""
    text = json.dumps(EVIL)
    bodies = [
        f'{{"prompt": "p", "n": 2, "kv_transfer_params": {text}, "ec_transfer_params": {text}}}',
        f'{{"n": 2, "kv_transfer_params": null, "kv_transfer_param\\u0073": {text}, "prompt": "p"}}',
        f'{{"n": 2, "prompt": "p", "vllm_xargs": {{"a": 1, "kv_transfer_params": {text}}}}}',
    ]
    for body in bodies:
        assert router.ask(path, body.encode())[0] == 200
        seen = engine.next()
        assert b"169.254" not in seen.body
        assert seen.json == {"n": 2, "prompt": "p"} | ({"vllm_xargs": {"a": 1}} if "xargs" in body else {})


def test_a_prompt_may_speak_of_them(router: Running, engine: Server) -> None:
    messages = [{"role": "user", "content": "what is kv_transfer_params?", "kv_transfer_params": 1}]
    assert router.ask("/v1/chat/completions", {"messages": messages})[0] == 200
    assert engine.next().json["messages"] == messages


def test_neither_leg_passes_them_on(router: Running, engine: Server, prefill: Server) -> None:
    router.ask("/v1/completions", {"prompt": "p", "kv_transfer_params": EVIL})
    assert prefill.next().json["kv_transfer_params"] == {"do_remote_decode": True}
    assert engine.next().json["kv_transfer_params"] == PLACE


@pytest.mark.parametrize(
    "body",
    [b"no json", b"[1]", b"[" * 100_000, b'{"a":' + b"[" * 100_000, b"", '{"prompt": "p"}'.encode("utf-16"),
     b'\xef\xbb\xbf{"prompt": "p"}', b'{"prompt": "p"} {"kv_transfer_params": 1}', b'{"a": NaN}'],
    ids=["text", "list", "deep", "deeper", "empty", "utf-16", "bom", "two", "nan"],
)  # fmt: skip
def test_what_it_cannot_read_no_engine_gets(router: Running, engine: Server, body: bytes) -> None:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}"
    answer = router.raw(f"{head}\r\n\r\n".encode() + body)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"type": "json"' in answer
    assert engine.asked.empty()


@pytest.mark.parametrize(
    "path",
    ["/", "/v1/completion%73", "/v1/completions/", "/v1/x/../completions", "//v1/completions", "/invocations",
     "/inference/v1/generate", "/v1/chat/completions/batch", "/sleep", "/v1/load_lora_adapter", "/load",
     "http://other/v1/completions", "/v1/responses/abc", "/manyhost/router/drain"],
)  # fmt: skip
def test_other_paths_are_not_there(router: Running, engine: Server, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}"
    assert router.raw(head.encode()).startswith(b"HTTP/1.1 404 ")
    assert engine.asked.empty()


def test_other_methods_are_refused(router: Running, engine: Server) -> None:
    answer, _ = router.answer("/v1/completions", method="DELETE")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST, OPTIONS")
    assert router.ask("/v1/models")[0] == 200
    assert router.ask("/v1/completions", method="OPTIONS", Origin="http://x")[0] == 200
    assert engine.next().headers["Origin"] == "http://x"


def test_websockets_are_refused_and_other_upgrades_ignored(router: Running, engine: Server) -> None:
    for name, status in (("websocket", b"501"), ("h2c", b"200")):
        text = f"GET /version HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: {name}\r\n\r\n"
        assert router.raw(text.encode()).startswith(b"HTTP/1.1 " + status)
    assert "Upgrade" not in engine.next().headers


def test_compressed_bodies_are_refused(router: Running, engine: Server) -> None:
    bomb = gzip.compress(b'{"prompt": "' + b"a" * (64 << 20) + b'"}')
    answer, _ = router.answer("/v1/completions", bomb, Content_Encoding="gzip")
    assert (answer.status, answer.headers["Accept-Encoding"]) == (415, "identity")
    assert engine.asked.empty()
    assert router.memory() < 100 << 20


def test_large_bodies_are_refused(router: Running, engine: Server) -> None:
    """Announced or not; the limit here is 1 MiB."""
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    with socket.create_connection(("127.0.0.1", router.port), timeout=SECONDS) as link:
        link.sendall(f"{head}Content-Length: {1 << 30}\r\n\r\n".encode())
        assert link.recv(100).startswith(b"HTTP/1.1 413 ")  # before any of it was sent
    chunk = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
    data = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + 17 * chunk + b"0\r\n\r\n"
    assert router.raw(data).startswith(b"HTTP/1.1 413 ")
    assert engine.asked.empty()


def test_a_chunked_body_within_the_limit_is_taken(router: Running, engine: Server) -> None:
    data = (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert router.raw(data + b'8\r\n{"prompt\r\n6\r\n":"p"}\r\n0\r\n\r\n').startswith(b"HTTP/1.1 200 ")
    assert engine.next().json == {"prompt": "p", "kv_transfer_params": PLACE}


def test_a_client_that_asks_before_it_sends_is_told(router: Running) -> None:
    with socket.create_connection(("127.0.0.1", router.port), timeout=SECONDS) as link:
        link.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 14\r\n\r\n"
        )
        assert link.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        link.sendall(b'{"prompt":"p"}')
        assert link.recv(100).startswith(b"HTTP/1.1 200 ")


@settings(constants={"BODY_SECONDS": 0.2})
def test_a_body_that_does_not_come_is_given_up(router: Running, engine: Server) -> None:
    with socket.create_connection(("127.0.0.1", router.port), timeout=SECONDS) as link:
        link.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{")
        assert link.recv(100).startswith(b"HTTP/1.1 408 ")
    until("its place is free", lambda: router.series()["in_flight"] == 0)


def test_headers_pass_as_often_as_they_come(router: Running, engine: Server) -> None:
    def answer(handler: Any) -> None:
        handler.send_response(200)
        for name, value in (
            ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Connection", "X-Secret, close"),
            ("X-Secret", "s"), ("Content-Length", "2"),
        ):  # fmt: skip
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(b"{}")
        handler.close_connection = True

    engine.answer = answer
    data = router.raw(
        b"GET /version HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nX-A: 2\r\nConnection: close, X-Private\r\n"
        b"X-Private: p\r\nKeep-Alive: 5\r\nTE: trailers\r\n\r\n"
    )
    seen = engine.next().headers
    assert seen.get_all("X-A") == ["1", "2"]
    assert not {"X-Private", "Keep-Alive", "TE"} & set(seen)
    assert b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n" in data
    assert b"X-Secret" not in data


# ------------------------------------------------------------------ how much at the same time
@settings(MOST_REQUESTS=2)
def test_more_than_it_takes_on_is_told_to_come_back(router: Running, engine: Server) -> None:
    end = threading.Event()

    def wait(handler: Any) -> None:
        assert end.wait(SECONDS)
        decoded(handler)

    engine.answer = wait
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(router.ask, "/v1/completions", {"prompt": "p"}) for _ in range(2)]
        until("both are there", lambda: engine.asked.qsize() == 2)
        answer, data = router.answer("/v1/completions", {"prompt": "p"})
        assert (answer.status, answer.headers["Retry-After"]) == (429, "2")
        assert json.loads(data)["error"]["type"] == "requests"
        assert router.ask("/health")[0] == router.ask("/metrics")[0] == 200
        end.set()
        assert [one.result()[0] for one in asked] == [200, 200]
    assert router.ask("/v1/completions", {"prompt": "p"})[0] == 200
    assert router.series()['refused_total{reason="requests"}'] == 1


@settings(MOST_REQUESTS=10, MEMORY_BYTES=70 << 20)
def test_bodies_beyond_its_memory_are_told_to_come_back(router: Running, engine: Server) -> None:
    end = threading.Event()

    def wait(handler: Any) -> None:
        assert end.wait(SECONDS)
        decoded(handler)

    engine.answer = wait
    body = {"prompt": "p" * 900_000}
    with ThreadPoolExecutor(1) as pool:
        one = pool.submit(router.ask, "/v1/completions", body)
        until("it is there", lambda: not engine.asked.empty())
        assert router.series()["body_bytes"] > 900_000
        assert router.ask("/v1/completions", body)[0] == 429
        end.set()
        assert one.result()[0] == 200
    until("all of it is let go", lambda: router.series()["body_bytes"] == 0)
    assert router.ask("/v1/completions", body)[0] == 200


def test_a_slow_client_is_not_buffered_for(router: Running, engine: Server) -> None:
    """The engine waits with a client that does not read."""
    written = 0
    full = threading.Event()

    def flood(handler: Any) -> None:
        nonlocal written
        begin_stream(handler)
        handler.connection.settimeout(1)
        with contextlib.suppress(OSError):
            while written < 300 << 20:
                handler.wfile.write(b"x" * (1 << 20))
                written += 1 << 20
        full.set()

    engine.answer = flood
    link = router.connect()
    link.request("POST", "/v1/completions", json.dumps({"prompt": "p", "stream": True}))
    assert full.wait(SECONDS)
    assert written < 40 << 20
    assert router.memory() < 100 << 20


@settings(constants={"CLIENT_SECONDS": 0.3})
def test_a_client_that_never_reads_is_cut_off(router: Running, engine: Server) -> None:
    def flood(handler: Any) -> None:
        begin_stream(handler)
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(b"x" * (1 << 20))
        engine.lost.set()

    engine.answer = flood
    link = router.connect()
    link.request("POST", "/v1/completions", json.dumps({"prompt": "p", "stream": True}))
    assert engine.lost.wait(SECONDS)
    until("its place is free", lambda: router.series()["in_flight"] == 0)


def chart_values() -> dict[str, int]:
    """What the chart sets."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())["roles"]["router"]
    memory = values["resources"]["limits"]["memory"]
    assert memory.endswith("Gi")
    return {
        "MEMORY_BYTES": int(memory.removesuffix("Gi")) << 30,
        "MOST_REQUESTS": values["maxRequests"],
        "BODY_BYTES": values["maxBodyMiB"] << 20,
    }


def test_two_thousand_long_chats_at_once_stay_within_its_memory() -> None:
    """Each has 128k tokens (0.5 MB); what it has no room for is told to come back, the rest is answered."""
    values = chart_values()
    most = values["MEMORY_BYTES"]
    port = bench.free_port()
    fake = [sys.executable, str(ROOT / "benchmarks/router.py"), "--engine", str(port)]
    here = f"127.0.0.1:{port}"
    with bench.program(fake, port), routing(here, here, **values) as router:
        # Anonymous memory beyond the limit is refused to it, as the kernel would end it in its container.
        resource.prlimit(router.process.pid, resource.RLIMIT_DATA, (most, most))
        found = asyncio.run(bench.overload(router.port, 2000))
        assert set(found) == {"200", "429"}
        assert found["200"] >= 300
        assert router.memory() < most
        assert router.series()["in_flight"] == router.series()["body_bytes"] == 0
        assert router.ask("/v1/completions", {"prompt": "p"})[0] == 200


# ------------------------------------------------------------------ what an operator sees
def test_metrics_are_its_own(router: Running, engine: Server) -> None:
    """Of engines it says what it knows itself, also when they are away."""
    engine.stop()
    status, data = router.ask("/metrics")
    assert status == 200
    assert b"vllm:" not in data
    assert b'manyhost_router_requests_total{prefill="failed"} ' in data
    assert router.series()[f'backend_open{{role="decode",backend="{engine.place}"}}'] == 0
    assert router.ask("/v1/completions", {"prompt": "p"})[0] == 503
    assert router.series()[f'backend_open{{role="decode",backend="{engine.place}"}}'] == 1
    names = [line.split()[2] for line in router.ask("/metrics")[1].decode().splitlines() if "# TYPE" in line]
    assert len(names) == len(set(names))


def test_a_malformed_request_writes_no_traceback(router: Running) -> None:
    data = b"POST /v1/models HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n"
    assert b" 400 " in router.raw(data)[:20]


# ------------------------------------------------------------------ clients that leave, answers that break
def test_client_leaves_during_prefill(router: Running, engine: Server, prefill: Server) -> None:
    prefill.answer = lambda handler: handler.wait_for_loss()
    link = router.connect()
    link.request("POST", "/v1/completions", json.dumps({"prompt": "p"}))
    prefill.next()
    link.close()
    assert prefill.lost.wait(SECONDS)
    assert engine.asked.empty()
    until("its place is free", lambda: router.series()["in_flight"] == 0)


def test_client_leaves_during_decode(router: Running, engine: Server) -> None:
    def begin(handler: Any) -> None:
        begin_stream(handler)
        handler.wait_for_loss()

    engine.answer = begin
    link = router.connect()
    link.request("POST", "/v1/completions", json.dumps({"prompt": "p"}))
    answer = link.getresponse()
    assert answer.readline() == b"data: one\n"
    answer.close()
    link.close()
    assert engine.lost.wait(SECONDS)


def break_off(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"4\r\nhalf\r\n")
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def flood(handler: Any) -> None:
    begin_stream(handler)
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b"data: more\n\n" * 1000)


@pytest.mark.parametrize("answer", [flood, break_off], ids=["client", "engine"])
def test_a_connection_that_ends_in_mid_stream_writes_no_traceback(
    engine: Server, prefill: Server, capfd: pytest.CaptureFixture[str], answer: Callable[[Any], None]
) -> None:
    """Clients that leave would fill the log with what is no error of the router."""
    engine.answer = answer
    with routing(prefill.place, engine.place) as router:
        for _ in range(10):
            link = router.connect()
            link.request("POST", "/v1/completions", json.dumps({"prompt": "p", "stream": True}))
            with contextlib.suppress(http.client.HTTPException):
                assert link.getresponse().read(4)
            link.close()
        until("all are over", lambda: router.series()["in_flight"] == 0)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_an_answer_that_breaks_off_does_not_pass_for_whole(
    router: Running, engine: Server, version: str
) -> None:
    engine.answer = break_off
    body = b'{"prompt":"p"}'
    head = f"POST /v1/completions HTTP/{version}\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    try:
        data = router.raw(head.encode() + body)
    except ConnectionResetError:
        data = b"reset"
    assert data == b"reset" if version == "1.0" else b"half" in data
    assert b"0\r\n\r\n" not in data
    assert router.count("lost_total") == 1


# ------------------------------------------------------------------ its end
@settings(constants={"LAG_SECONDS": 1.0})
def test_drain_loses_nothing(router: Running, engine: Server) -> None:
    """Not ready at once; what is in flight and what still comes is answered; then it ends."""
    end = threading.Event()

    def stream(handler: Any) -> None:
        begin_stream(handler)
        assert end.wait(SECONDS)
        handler.wfile.write(b"data: [DONE]\n\n")

    engine.answer = stream
    link = router.connect()
    link.request("POST", "/v1/completions", json.dumps({"prompt": "p", "stream": True}))
    answer = link.getresponse()
    assert answer.readline() == b"data: one\n"
    engine.answer = decoded
    idle = router.connect()
    idle.request("GET", "/health")
    idle.getresponse().read()
    router.process.send_signal(signal.SIGTERM)
    until("it is not ready", lambda: router.ask("/ready") == (503, b"draining\n"))
    late, data = router.answer("/v1/completions", {"prompt": "late"})
    assert (late.status, late.headers["Connection"], json.loads(data)["choices"][0]["text"]) == (
        200, "close", "answer",
    )  # fmt: skip
    idle.request("GET", "/version")
    kept = idle.getresponse()
    assert (kept.status, kept.headers["Connection"], kept.read() != b"") == (200, "close", True)

    def closed() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            router.ask("/health")
            return False
        return True

    until("it takes no more", closed)
    assert router.process.poll() is None
    end.set()
    assert answer.read() == b"\ndata: [DONE]\n\n"
    assert router.process.wait(SECONDS) == 0


@settings(DRAIN_SECONDS=1, constants={"LAG_SECONDS": 0.0})
def test_drain_has_an_end(router: Running, engine: Server) -> None:
    engine.answer = lambda handler: handler.wait_for_loss()
    link = router.connect()
    link.request("POST", "/v1/completions", json.dumps({"prompt": "p"}))
    engine.next()
    router.process.send_signal(signal.SIGTERM)
    assert router.process.wait(SECONDS) == 0
    assert engine.lost.wait(SECONDS)
    assert "ends: 1 requests in flight" in router.process.communicate()[0]
