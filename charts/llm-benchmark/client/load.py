"""Our own load generator: streamed completions, each token with the time at which the kernel had it.

    python3 load.py --url http://127.0.0.1:8000 --model NAME --requests 100 --concurrency 8 --result FILE

Prompts are random token ids of the exact length, so no tokenizer is needed; the standard library alone. With
--go it is ready first (FILE.ready) and begins once that file is there, so that processes begin together.
What happened to each request goes to --result, in the form of `vllm bench serve --save-detailed`.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import math
import random
import resource
import selectors
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import arrival
import completions
import engine

_READY_BYTES = 1 << 26  # of requests that are made before the first one is sent
_CONNECT_SECONDS = 60.0
_POLL_SECONDS = 0.0005
# Servers close connections that nobody uses (uvicorn after 5 s); one that is older is not used again.
_IDLE_SECONDS = 2.0


class Answer:
    """One answer on its way: HTTP's chunked coding taken off, events read, times kept."""

    def __init__(self, start: float) -> None:
        self.start = start
        self.times: list[float] = []
        self.text: list[str] = []
        self.usage: dict[str, int] = {}
        self.error = ""
        self.done = False  # nothing of it is to come
        self.keep = True  # the connection may be used again
        self._raw = b""
        self._body = b""
        self._status, self._reason = 0, ""
        self._chunked = False
        self._left: int | None = None  # bytes of a body that is not chunked and says its length

    def take(self, data: bytes, at: float) -> None:
        """Take what has come at a moment."""
        self._raw += data
        if not self._status and not self._head():
            return
        if self._chunked:
            self._chunks()
        else:
            self._body, self._raw = self._body + self._raw, b""
            self.done = self._left is not None and len(self._body) >= self._left
        if self._status != 200:
            if self.done:
                self._refused()
            return
        whole = len(self._body)
        *events, self._body = self._body.split(b"\n\n")
        if self._left is not None:
            self._left -= whole - len(self._body)
        for event in events:
            self._event(event, at)
        if self.done and not self.usage:
            self.error = self.error or f"the answer ended without its usage after {len(self.times)} tokens"

    def closed(self, why: str) -> None:
        """Take the end of the connection."""
        self.keep = False
        if self.done:
            return
        self.done = True
        if self._status not in {0, 200}:
            self._refused()
        if not self._sized and self.usage:
            return  # the end of the connection is the end of the answer
        self.error = self.error or f"{why} after {len(self.times)} tokens"

    def row(self) -> tuple[Any, ...]:
        """Return what happened, as a row of the result."""
        first = self.times[0] - self.start if self.times else 0.0
        gaps = [after - before for before, after in itertools.pairwise(self.times)]
        counts = (self.usage.get("prompt_tokens", 0), self.usage.get("completion_tokens", 0))
        return self.start, first, gaps, *counts, self.error, "".join(self.text)

    @property
    def _sized(self) -> bool:
        """Whether the answer says where it ends, and not the end of the connection."""
        return self._chunked or self._left is not None

    def _head(self) -> bool:
        head, found, rest = self._raw.partition(b"\r\n\r\n")
        if not found:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {
            name.strip().lower(): value.strip().lower()
            for name, _, value in (x.partition(":") for x in lines)
        }
        _, status, *reason = first.split(" ", 2)
        self._status, self._reason = int(status), "".join(reason)
        self._chunked = fields.get("transfer-encoding") == "chunked"
        if not self._chunked and "content-length" in fields:
            self._left = int(fields["content-length"])
        self.keep = self._sized and fields.get("connection") != "close"
        self._raw = rest
        return True

    def _chunks(self) -> None:
        """Take off RFC 9112's chunked coding, as far as chunks are whole."""
        while True:
            size, found, rest = self._raw.partition(b"\r\n")
            if not found:
                return
            length = int(size.partition(b";")[0], 16)
            if len(rest) < length + 2:
                return
            self._body += rest[:length]
            self._raw = rest[length + 2 :]
            if not length:
                self.done = True
                return

    def _refused(self) -> None:
        """Say why, in the engine's words where they are JSON; what others say may be a page of HTML."""
        said = self._reason
        with contextlib.suppress(ValueError, KeyError, TypeError):
            said = json.loads(self._body)["error"]["message"]
        self.error = f"HTTP status {self._status}: {said}"[:300]

    def _event(self, event: bytes, at: float) -> None:
        if not event.startswith(b"data: ") or event == b"data: [DONE]":
            return
        try:
            found = json.loads(event[6:])
            if "error" in found:
                self.error = str(found["error"].get("message", found["error"]))[:300]
                return
            self.usage = found.get("usage") or self.usage
            if found["choices"]:
                self.times.append(at)
                self.text.append(found["choices"][0]["text"])
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            self.error = f"{type(problem).__name__}: {problem}"[:300]


class Connection:
    """One connection to the server; one request at a time."""

    def __init__(self, url: SplitResult, context: ssl.SSLContext | None) -> None:
        port = url.port or (443 if url.scheme == "https" else 80)
        self.socket = socket.create_connection((url.hostname or "", port), _CONNECT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        arrival.note(self.socket)
        self.answer: Answer | None = None
        self.used = time.perf_counter()
        # TLS over buffers of ours: its own reads know no times.
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=url.hostname) if context else None
        if self._tls:
            self._shake_hands(self._tls)

    def _shake_hands(self, tls: ssl.SSLObject) -> None:
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                self.socket.sendall(self._out.read())
                return
            self.socket.sendall(self._out.read())
            data = self.socket.recv(1 << 16)
            if not data:
                raise OSError("the server closed the connection during the TLS handshake")
            self._in.write(data)

    def send(self, request: bytes) -> None:
        """Send a request; the clock starts."""
        self.socket.setblocking(True)
        data = request
        if self._tls:
            self._tls.write(request)
            data = self._out.read()
        self.answer = Answer(time.perf_counter())
        self.socket.sendall(data)
        self.socket.setblocking(False)

    def receive(self, answer: Answer) -> None:
        """Read what is there of an answer."""
        try:
            data, at = arrival.receive(self.socket)
            ended = not data
            if self._tls:
                self._in.write(data)
                data = b"".join(self._decrypted(self._tls))
            answer.take(data, at)
            if ended:
                answer.closed("the connection was closed")
            self.used = at
        except BlockingIOError:
            return
        except OSError as problem:
            answer.closed(f"{type(problem).__name__}: {problem}")
        except (ValueError, IndexError) as problem:
            answer.closed(f"no HTTP: {problem}")

    def _decrypted(self, tls: ssl.SSLObject) -> Iterator[bytes]:
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while part := tls.read(1 << 16):
                yield part


class Load:
    """Sends the requests and keeps what became of them.

    Args:
        asked: The command line.
    """

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.rate = 0.0 if math.isinf(asked.rate) else asked.rate
        self.url = urlsplit(asked.url)
        self.context = ssl.create_default_context() if self.url.scheme == "https" else None
        self.waits = selectors.DefaultSelector()
        self.idle: list[Connection] = []
        self.flying = 0
        self.rows: list[tuple[Any, ...]] = []
        self.requests = self._requests()
        self.made: collections.deque[bytes] = collections.deque()
        size = 0
        for request in self.requests:
            self.made.append(request)
            size += len(request)
            if size > _READY_BYTES:
                break

    def _requests(self) -> Iterator[bytes]:
        chance = random.Random(self.asked.seed)  # noqa: S311  no secret
        path = self.url.path.rstrip("/") + "/v1/completions"
        lines = [f"POST {path} HTTP/1.1", f"Host: {self.url.netloc.rpartition('@')[2]}"]
        lines += [f"{name}: {value}" for name, value in engine.headers().items()]
        # Processes begin their prompts with the same ones, as users of one service do.
        shared = random.Random(f"prefix {self.asked.prefix_seed}")  # noqa: S311
        prefixes = [
            completions.tokens(shared, self.asked.vocabulary, self.asked.prefix_tokens)
            for _ in range(self.asked.prefix_count)
        ] or [[]]
        for number in range(self.asked.requests):
            made = completions.body(self.asked, chance, prefixes[number % len(prefixes)])
            body = json.dumps(made, separators=(",", ":")).encode()
            yield "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body

    def connect(self) -> Connection:
        """Open a connection."""
        made = Connection(self.url, self.context)
        self.waits.register(made.socket, selectors.EVENT_READ, made)
        return made

    def run(self) -> None:
        """Send all requests and wait for the answers."""
        streams = self.asked.concurrency or (1 if self.rate else self.asked.requests)
        self.idle = [self.connect() for _ in range(min(streams, self.asked.requests))]
        _together(self.asked.go, self.asked.result)
        pace = random.Random(f"pace {self.asked.seed}")  # noqa: S311
        left, due = self.asked.requests, time.perf_counter()
        most = self.asked.concurrency or left
        while left or self.flying:
            while left and self.flying < most and time.perf_counter() >= due:
                self._send()
                left -= 1
                if self.rate:  # as many arrive as come by chance at this rate (a Poisson process)
                    due += pace.expovariate(self.rate)
            wait = None if self.flying else 0.0  # when the last ones could not even be sent, nothing comes
            if left and self.flying < most:
                wait = max(0.0, due - time.perf_counter())
            for key, _ in self.waits.select(wait):
                self._receive(key.data)

    def _send(self) -> None:
        request = self.made.popleft() if self.made else next(self.requests)
        start, connection = time.perf_counter(), self._free()
        try:
            connection = connection or self.connect()
            connection.send(request)
        except OSError as problem:
            failed = Answer(start)
            failed.error = f"{type(problem).__name__}: {problem}"[:300]
            self.rows.append(failed.row())
            if connection:
                self._drop(connection)
            return
        self.flying += 1

    def _free(self) -> Connection | None:
        """Return a connection that nobody uses."""
        while self.idle:
            connection = self.idle.pop()
            if not self.rate or time.perf_counter() - connection.used < _IDLE_SECONDS:
                return connection
            self._drop(connection)
        return None

    def _receive(self, connection: Connection) -> None:
        answer = connection.answer
        if answer is None:  # the server has closed what nobody used
            self._drop(connection)
            self.idle.remove(connection)
            return
        connection.receive(answer)
        if not answer.done:
            return
        self.rows.append(answer.row())
        self.flying -= 1
        connection.answer = None
        if answer.keep:
            self.idle.append(connection)
        else:
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        self.waits.unregister(connection.socket)
        connection.socket.close()


def _together(go: str, result: str) -> None:
    """Say that this process is ready, and wait until all are."""
    if go:
        Path(f"{result}.ready").touch()
        while not Path(go).exists():
            time.sleep(_POLL_SECONDS)


def main() -> None:
    """Send the load and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="of the service, without /v1")
    parser.add_argument("--concurrency", type=int, default=0, help="in flight at most; 0 has no such limit")
    parser.add_argument(
        "--rate", type=float, default=0.0, help="requests a second; 0 sends at once what may fly"
    )
    parser.add_argument("--prefix-tokens", type=int, default=0, help="tokens of a prompt that others share")
    parser.add_argument("--prefix-count", type=int, default=0, help="how many such beginnings there are")
    parser.add_argument("--prefix-seed", type=int, default=0, help="another one makes other beginnings")
    parser.add_argument("--go", default="", help="begin when this file is there")
    completions.options(parser)
    asked = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    load = Load(asked)
    try:
        load.run()
    except OSError as problem:  # of the first connections; later ones are failures of their requests
        sys.exit(f"load: no connection to {load.url.netloc.rpartition('@')[2]}: {problem}")
    completions.write(asked.result, sorted(load.rows, key=lambda row: row[0]))


if __name__ == "__main__":
    main()
