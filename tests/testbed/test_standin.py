"""The stand-in engine answers, streams, waits for its group and fails as it is told."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed import build
from testbed.system import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first one may have to build


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Engine:
    """One process of the stand-in, on loopback."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, control: int) -> None:
        self.process, self.port, self.control_port = process, port, control

    def ask(self, path: str, body: object = None, *, seconds: float = 5, control: bool = False) -> str:
        data = None if body is None else json.dumps(body).encode()
        port = self.control_port if control else self.port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data, timeout=seconds) as reply:
            return str(reply.read().decode())

    def tell(self, **change: object) -> None:
        self.ask("/control", change, control=True)

    def healthy(self) -> bool:
        try:
            self.ask("/health", seconds=1)
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except OSError:
            return False
        return True

    def metric(self, name: str) -> float:
        lines = [s for s in self.ask("/metrics").splitlines() if s.startswith(f"vllm:{name}{{")]
        return float(lines[0].split()[-1])


Start = Callable[..., Engine]


@pytest.fixture
def start() -> Iterator[Start]:
    program = build.programs() / "standin"
    started: list[subprocess.Popen[bytes]] = []

    def _start(*flags: str, **environment: str) -> Engine:
        port, control = free_port(), free_port()
        words = ["serve", "org/model", "--served-model-name", "m", "--host", "127.0.0.1"]
        process = subprocess.Popen(
            [program, *words, "--port", str(port), *flags],
            env={"STANDIN_CONTROL_PORT": str(control), **environment},
            stdout=subprocess.DEVNULL,
        )
        started.append(process)
        engine = Engine(process, port, control)
        wait_for("control port", lambda: engine.ask("/control", control=True))
        return engine

    yield _start
    for process in started:
        process.kill()
        process.wait()


CHAT = {"model": "m", "messages": [{"role": "user", "content": "good day"}]}


def test_it_answers_with_reasoning_apart(start: Start) -> None:
    engine = start("--reasoning-parser", "deepseek_r1")
    wait_for("health", engine.healthy)
    answer: dict[str, Any] = json.loads(engine.ask("/v1/chat/completions", CHAT))
    message = answer["choices"][0]["message"]
    assert message["reasoning"] == "Let me see."
    assert message["content"].startswith("You said: good day")
    assert engine.metric("generation_tokens_total") == answer["usage"]["completion_tokens"]
    assert json.loads(engine.ask("/v1/models"))["data"][0]["id"] == "m"


def test_it_streams_the_same_answer(start: Start) -> None:
    engine = start("--reasoning-parser", "deepseek_r1")
    wait_for("health", engine.healthy)
    whole = json.loads(engine.ask("/v1/chat/completions", CHAT))["choices"][0]["message"]
    text = engine.ask(
        "/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    )
    events = [json.loads(s[6:]) for s in text.splitlines() if s.startswith("data: {")]
    assert text.endswith("data: [DONE]\n\n")
    assert events[-1]["usage"]["completion_tokens"] == 16
    deltas = [c["delta"] for e in events for c in e["choices"]]
    for field in ("reasoning", "content"):
        assert "".join(d.get(field) or "" for d in deltas) == whole[field]


def test_it_starts_when_it_is_told(start: Start) -> None:
    engine = start(STANDIN_START_SECONDS="manual")
    assert not engine.healthy()
    engine.tell(state="ready")
    wait_for("health", engine.healthy)


def test_it_fails_in_every_way(start: Start) -> None:
    engine = start()
    wait_for("health", engine.healthy)
    engine.tell(state="unhealthy")
    assert not engine.healthy()
    engine.tell(state="failing")
    assert engine.healthy()
    with pytest.raises(urllib.error.HTTPError) as refused:
        engine.ask("/v1/chat/completions", CHAT)
    refused.value.close()
    engine.tell(state="hanging")
    with pytest.raises(TimeoutError):
        engine.ask("/v1/chat/completions", CHAT, seconds=0.3)
    assert engine.healthy()
    engine.tell(state="frozen")
    assert not engine.healthy()
    engine.tell(state="ready")
    assert engine.healthy()
    with pytest.raises(OSError):
        engine.tell(exit=3)
    assert engine.process.wait(5) == 3


def test_an_unknown_model_and_a_long_prompt_are_refused(start: Start) -> None:
    engine = start("--max-model-len", "8")
    wait_for("health", engine.healthy)
    for body, code in (({**CHAT, "model": "other"}, 404), ({**CHAT, "max_tokens": 7}, 400)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            engine.ask("/v1/chat/completions", body)
        assert refused.value.code == code
        refused.value.close()


def test_a_leader_waits_for_its_worker_and_ends_with_it(start: Start) -> None:
    master = ["--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    leader = start(*master, "--node-rank", "0")
    assert not leader.healthy()
    worker = start(*master, "--node-rank", "1", "--headless")
    wait_for("health", leader.healthy)
    worker.process.kill()
    assert leader.process.wait(5) == 1


def test_a_drain_lets_an_answer_finish(start: Start, tmp_path: Path) -> None:
    engine = start(STANDIN_TOKEN_SECONDS="0.05")
    wait_for("health", engine.healthy)
    command = ["curl", "-sN", f"http://127.0.0.1:{engine.port}/v1/chat/completions", "-d", json.dumps(CHAT)]
    with (tmp_path / "answer").open("wb") as out, subprocess.Popen(command, stdout=out) as client:
        wait_for("a running request", lambda: engine.metric("num_requests_running") == 1)
        engine.process.terminate()
        assert client.wait(10) == 0
    assert "You said" in (tmp_path / "answer").read_text()
    assert engine.process.wait(5) == 0
