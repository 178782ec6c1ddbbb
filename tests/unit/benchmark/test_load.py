"""Our own load generator: what it sends, what it makes of answers, and when it says that they came."""

# ruff: noqa: E501  tables of cases read better on one line each

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import arrival
import pytest
import runner

from tests.helpers.waiting import until
from tests.unit.benchmark.conftest import CLIENT
from tests.unit.benchmark.service import Service

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(*events: Any) -> bytes:
    """Events as the engine sends them, in one chunk."""
    data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    return b"%x\r\n%s\r\n" % (len(data), data)


TOKEN = {"choices": [{"text": " a"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 3}}
WHOLE = HEAD + chunk(TOKEN) * 3 + chunk(USAGE) + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


def whole(text: bytes) -> int:
    """The length of a request, 0 while it is not whole."""
    head, found, body = text.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]) if found else 0
    return len(head) + 4 + length if found and len(body) >= length else 0


@pytest.fixture
def scripted() -> Iterator[Callable[..., str]]:
    """A server that plays pieces for every request, and ends the connection after `lives` of them."""
    servers = []

    def play(*pieces: bytes, lives: int = 1000, context: ssl.SSLContext | None = None) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        servers.append(listener)

        def talk(plain: socket.socket) -> None:
            with context.wrap_socket(plain, server_side=True) if context else plain as link:
                link.settimeout(20)
                for _ in range(lives):
                    text = b""
                    while not whole(text):
                        data = link.recv(65536)
                        if not data:
                            return
                        text += data
                    for piece in pieces:
                        link.sendall(piece)
                        time.sleep(0.002)

        def accept() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=(sock,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return f"{'https' if context else 'http'}://127.0.0.1:{listener.getsockname()[1]}"

    yield play
    for listener in servers:
        listener.close()


def load(url: str, folder: Path, *more: str, requests: int = 1) -> dict[str, Any]:
    """Run the program; return its columns."""
    words = [
        sys.executable,
        str(CLIENT / "load.py"),
        "--url",
        url,
        "--model",
        "tiny",
        "--requests",
        str(requests),
    ]
    words += ["--input-tokens", "4", "--output-tokens", "3", "--vocabulary", "4096"]
    done = subprocess.run(
        [*words, "--result", str(folder / "r.json"), *more],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "r.json").read_text())
    return found


@pytest.mark.parametrize("cut", [1, 7, 50, len(WHOLE)])
def test_an_answer_in_any_pieces(scripted: Any, tmp_path: Path, cut: int) -> None:
    found = load(scripted(*(WHOLE[at : at + cut] for at in range(0, len(WHOLE), cut))), tmp_path)
    assert found["errors"] == [""]
    assert (found["input_lens"], found["output_lens"], found["generated_texts"]) == ([4], [3], [" a a a"])
    assert len(found["itls"][0]) == 2
    assert found["ttfts"][0] > 0


@pytest.mark.parametrize(
    ("pieces", "why"),
    [
        ((HEAD + chunk(TOKEN),), "the connection was closed after 1 tokens"),
        ((HEAD + chunk(TOKEN) + b"0\r\n\r\n",), "the answer ended without its usage after 1 tokens"),
        ((HEAD + chunk(TOKEN, {"error": {"message": "out of memory"}}) + b"0\r\n\r\n",), "out of memory"),
        ((HEAD + chunk({"choices": [{}]}) + b"0\r\n\r\n",), "KeyError: 'text'"),
        ((b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 6\r\n\r\n<html>",), "HTTP status 503: Service Unavailable"),
        (
            (b'HTTP/1.1 400 Bad Request\r\nContent-Length: 99\r\n\r\n{"error": {"message": "too long"}}',),
            "HTTP status 400: too long",
        ),
        ((b"SSH-2.0-OpenSSH_9\r\n\r\n",), "no HTTP: "),
        ((), "the connection was closed after 0 tokens"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_a_failure_with_its_reason(
    scripted: Any, tmp_path: Path, pieces: tuple[bytes, ...], why: str
) -> None:
    found = load(scripted(*pieces, lives=1), tmp_path, requests=2)
    assert len(found["errors"]) == 2
    assert all(error.startswith(why) for error in found["errors"]), found["errors"]
    read = tmp_path / "r.json"
    assert runner.read_requests(read).ok == [False, False]


def test_refusals_with_a_length_end_with_it(scripted: Any, tmp_path: Path) -> None:
    """The connection stays, as uvicorn's does, and nobody waits for its end."""
    told = b'{"error": {"message": "too long"}}'
    head = b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n" % len(told)
    url = scripted(head, told[:9], told[9:])
    begin = time.monotonic()
    found = load(url, tmp_path, "--concurrency", "1", requests=3)
    assert found["errors"] == ["HTTP status 400: too long"] * 3
    assert time.monotonic() - begin < 15


def test_an_answer_with_a_length_and_one_that_ends_with_its_connection(scripted: Any, tmp_path: Path) -> None:
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in (TOKEN, TOKEN, USAGE))
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    found = load(scripted(head, body[:70], body[70:]), tmp_path, "--concurrency", "1", requests=2)
    assert found["errors"] == ["", ""]
    assert [len(gaps) for gaps in found["itls"]] == [1, 1]
    ended = scripted(b"HTTP/1.0 200 OK\r\n\r\n" + body, lives=1)
    assert load(ended, tmp_path, "--concurrency", "1", requests=2)["errors"] == ["", ""]


def test_nobody_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    words = [sys.executable, str(CLIENT / "load.py"), "--url", f"http://127.0.0.1:{port}", "--requests", "1"]
    done = subprocess.run(
        [*words, "--result", str(tmp_path / "r")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"load: no connection to 127.0.0.1:{port}: [Errno 111] Connection refused\n"


def test_a_server_that_goes_away(tmp_path: Path) -> None:
    """Its end is seen, and the end of the load too when the last requests find nobody."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve_one() -> None:
        link, _ = listener.accept()
        listener.close()
        with link:
            link.recv(65536)
            link.sendall(WHOLE)

    threading.Thread(target=serve_one, daemon=True).start()
    found = load(f"http://127.0.0.1:{listener.getsockname()[1]}", tmp_path, "--concurrency", "1", requests=3)
    assert found["errors"][0] == ""
    assert all(found["errors"][1:])


def test_a_server_that_ends_connections_gets_new_ones(scripted: Any, tmp_path: Path) -> None:
    answer = WHOLE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    assert load(scripted(answer, lives=1), tmp_path, requests=5)["errors"] == [""] * 5


def test_over_tls(scripted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*words, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    found = load(
        scripted(WHOLE[:90], WHOLE[90:], context=context), tmp_path, "--concurrency", "2", requests=6
    )
    assert found["errors"] == [""] * 6
    assert found["output_lens"] == [3] * 6


def test_prompts_are_of_the_exact_length_and_all_others(tmp_path: Path) -> None:
    with Service() as service:
        found = load(service.url, tmp_path, "--concurrency", "4", "--input-tokens", "40", requests=20)
    assert found["input_lens"] == [40] * 20
    assert found["output_lens"] == [3] * 20
    assert len({tuple(prompt) for prompt in service.prompts}) == 20
    assert all(512 <= token < 4096 for prompt in service.prompts for token in prompt)


def test_beginnings_that_prompts_share_over_processes_too(tmp_path: Path) -> None:
    more = ["--input-tokens", "40", "--prefix-tokens", "30", "--prefix-count", "2", "--prefix-seed", "7"]
    with Service() as service:
        for seed in ("1", "2"):
            load(service.url, tmp_path, *more, "--seed", seed, requests=4)
    assert {len(prompt) for prompt in service.prompts} == {40}
    assert len({tuple(prompt[:30]) for prompt in service.prompts}) == 2
    assert len({tuple(prompt) for prompt in service.prompts}) == 8


def test_arrivals_by_rate(tmp_path: Path) -> None:
    """At 50 a second 10 requests arrive one after the other, however long answers take."""
    with Service() as service:
        found = load(service.url, tmp_path, "--rate", "50", requests=10)
    assert found["errors"] == [""] * 10
    assert found["start_times"][-1] - found["start_times"][0] > 0.03
    assert load(service.url, tmp_path, "--rate", "inf", requests=0)["errors"] == []


def test_processes_begin_together(tmp_path: Path) -> None:
    """None sends anything until the last one is ready."""
    go = tmp_path / "go"
    with Service() as service:
        words = [
            sys.executable,
            str(CLIENT / "load.py"),
            "--url",
            service.url,
            "--requests",
            "1",
            "--go",
            str(go),
        ]
        words += ["--output-tokens", "1", "--input-tokens", "1", "--result"]
        first = subprocess.Popen([*words, str(tmp_path / "a")])
        until("it is ready", (tmp_path / "a.ready").exists)
        time.sleep(0.2)
        assert service.counts["asked"] == 0
        go.touch()
        assert first.wait(20) == 0
    assert service.counts["asked"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's note is Linux's")
def test_when_something_came_is_the_kernels_word() -> None:
    """Somebody who reads late reads the right time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
        arrival.note(far)
        for _ in range(10):  # the kernel begins to note a moment after the first one who asks for it
            near.sendall(b"x")
            sent = time.perf_counter()
            time.sleep(0.5)
            data, at = arrival.receive(far)
            if at < sent + 0.4:
                break
        near.close()
        far.close()
    assert data == b"x"
    assert at == pytest.approx(sent, abs=0.2), "not half a second later"
