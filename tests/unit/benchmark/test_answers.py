"""The questions of benchmarks/gpu/answers have the answers they say, and the client counts right."""

from __future__ import annotations

import http.server
import itertools
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks" / "gpu" / "answers"


@pytest.fixture(scope="module", autouse=True)
def _beside() -> Iterator[None]:
    """The folder's scripts import each other as programs do."""
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


def answered(prompt: list[int], symbols: int) -> list[int]:
    """The answer, read from the prompt's links alone."""
    start, to, again = 8, 8 + symbols, 8 + 2 * symbols
    links = {a - start: b for a, b in itertools.pairwise(prompt) if start <= a < to}
    said, token = [], prompt[-1]
    while token != 3:
        token = links[token - to]
        said.append(token)
    return [*said, again - to + prompt[-1], *(again - to + token for token in said[:-1]), 1]


def test_each_prompt_has_the_answer_that_its_links_give() -> None:
    from prompts import Vocabulary, cases

    made = list(itertools.islice(cases(Vocabulary(300, 1024), 7, (4, 60)), 200))
    assert all(answered(case.prompt, 300) == case.answer for case in made)
    assert len({tuple(case.prompt) for case in made}) == len(made)
    again = list(itertools.islice(cases(Vocabulary(300, 1024), 7, (4, 60)), 200))
    assert [case.prompt for case in again] == [case.prompt for case in made]


def test_families_begin_alike_and_answer_differently() -> None:
    from prompts import Vocabulary, cases

    made = list(itertools.islice(cases(Vocabulary(300, 1024), 7, (20, 60)), 32))
    first = [case for case in made if ", family 0," in case.name]
    assert len(first) == 8
    assert len({tuple(case.prompt[:40]) for case in first}) == 1
    assert len({tuple(case.answer) for case in first}) == 8


class Engine(http.server.BaseHTTPRequestHandler):
    """Answers right, but every tenth wrong and every fifteenth not at all."""

    asked = itertools.count(1)
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.reply(200, b'vllm:num_preemptions_total{engine="0"} 3.0\n')

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = next(self.asked)
        if number % 15 == 0:
            self.reply(500, b"gone")
            return
        said = answered(body["prompt"], 300)
        if number % 10 == 0:
            said[0] += 1
        self.reply(200, json.dumps({"choices": [{"token_ids": said, "finish_reason": "stop"}]}).encode())

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def test_client_counts_wrong_and_failed_answers_and_keeps_them_whole() -> None:
    from ask import Server, ask
    from prompts import Vocabulary, cases

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Engine) as engine:
        threading.Thread(target=engine.serve_forever, daemon=True).start()
        server = Server("127.0.0.1", engine.server_address[1], "m")
        tally = ask(server, cases(Vocabulary(300, 1024), 7, (4, 60)), 60, 8, leave=0)
        engine.shutdown()
    assert (tally.right, tally.wrong, tally.failed, tally.left) == (52, 4, 4, 0)
    kept = {case["outcome"] for case in tally.cases}
    assert kept == {"wrong", "failed"}
    wrong = next(case for case in tally.cases if case["outcome"] == "wrong")
    assert answered(wrong["prompt"], 300) == wrong["answer"] != wrong["got"]
