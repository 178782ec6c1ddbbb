"""A server with exactly known token times: what a client says of it beyond them is the client's own error.

    python3 steady.py TTFT_MS TPOT_MS

It prints its port, answers the OpenAI API's streamed completions with a token at each tick, and notes when a
request was there and when each token went to the kernel. `GET /truth` tells these times and forgets them. All
streams tick together, as those of an engine do. Standard library alone: it runs in the engine's image, beside
the client. When a request came is the kernel's word, so a tick that is on its way does not look like the
client's slowness.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import socket
import sys
import time
from dataclasses import dataclass, field
from itertools import pairwise

import arrival

MODEL = "steady"
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_WANTED = re.compile(rb'"max_(?:completion_)?tokens": ?(\d+)')


def _chunk(data: bytes) -> bytes:
    """Return data as one chunk of HTTP/1.1's chunked coding (RFC 9112, section 7.1)."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def _event(chat: bool, choices: list[dict[str, object]], **more: object) -> bytes:
    """Return one server-sent event in a chunk of its own."""
    kind = "chat.completion.chunk" if chat else "text_completion"
    body = {"id": "steady", "object": kind, "created": 0, "model": MODEL, "choices": choices, **more}
    return _chunk(b"data: " + json.dumps(body).encode() + b"\n\n")


def _token(chat: bool, last: bool) -> bytes:
    part: dict[str, object] = {"delta": {"content": " a"}} if chat else {"text": " a"}
    return _event(chat, [{"index": 0, **part, "finish_reason": "length" if last else None}])


# By (chat, last): made once, so that a tick costs one write for each stream.
_TOKENS = {(chat, last): _token(chat, last) for chat in (False, True) for last in (False, True)}


@dataclass
class Stream:
    """One answer on its way.

    Attributes:
        arrived: When the request was there as a whole (time.perf_counter).
        sent: When each token was handed to the kernel.
    """

    connection: Connection
    chat: bool
    wanted: int
    arrived: float
    sent: list[float] = field(default_factory=list)

    def token(self) -> bool:
        """Send the next token, and after the last one the usage and the end; say whether that was it."""
        last = len(self.sent) + 1 == self.wanted
        self.sent.append(time.perf_counter())
        self.connection.write(_TOKENS[self.chat, last])
        if last:
            used = {"prompt_tokens": 1, "completion_tokens": self.wanted, "total_tokens": self.wanted + 1}
            end = _event(self.chat, [], usage=used) + _chunk(b"data: [DONE]\n\n")
            self.connection.write(end + b"0\r\n\r\n")
        return last


class Steady:
    """The server's state.

    Args:
        ttft: Seconds from a request to its first token; it comes with the first tick after them.
        tpot: Seconds between ticks.
    """

    def __init__(self, ttft: float, tpot: float) -> None:
        self.ttft, self.tpot = ttft, tpot
        self.streams: list[Stream] = []
        self.finished: list[Stream] = []

    async def tick(self) -> None:
        """Send the tokens that are due, for ever."""
        due = time.perf_counter()
        while True:
            due += self.tpot
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            now = time.perf_counter()
            due = max(due, now - self.tpot)  # after a pause of the machine there is no burst
            staying = []
            for stream in self.streams:
                if stream.connection.closed:
                    continue
                if now - stream.arrived < self.ttft or not stream.token():
                    staying.append(stream)
                else:
                    self.finished.append(stream)
            self.streams = staying

    def truth(self) -> dict[str, list[float]]:
        """Return the seconds of all answers since the last call, by metric."""
        found: dict[str, list[float]] = {"ttft": [], "tpot": [], "itl": []}
        for stream in self.finished:
            sent = stream.sent
            found["ttft"].append(sent[0] - stream.arrived)
            if len(sent) > 1:
                found["tpot"].append((sent[-1] - sent[0]) / (len(sent) - 1))
                found["itl"] += [after - before for before, after in pairwise(sent)]
        self.finished = []
        return found


class Connection:
    """One connection; requests follow each other on it."""

    def __init__(self, steady: Steady, sock: socket.socket) -> None:
        self.steady, self.socket = steady, sock
        self.data = b""
        self.unsent = b""
        self.closed = False
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        arrival.note(sock)
        asyncio.get_running_loop().add_reader(sock, self.receive)

    def write(self, data: bytes) -> None:
        """Hand data to the kernel; what it does not take goes with the next."""
        data = self.unsent + data
        try:
            self.unsent = data[self.socket.send(data) :]
        except BlockingIOError:
            self.unsent = data
        except OSError:
            self.close()
            return
        loop = asyncio.get_running_loop()
        if self.unsent:
            loop.add_writer(self.socket, self.write, b"")
        else:
            loop.remove_writer(self.socket)

    def close(self) -> None:
        """The other side has gone."""
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().remove_reader(self.socket)
            asyncio.get_running_loop().remove_writer(self.socket)
            self.socket.close()

    def receive(self) -> None:
        """Take what has come; begin an answer when a request is whole."""
        try:
            data, arrived = arrival.receive(self.socket)
        except BlockingIOError:
            return
        except OSError:
            data, arrived = b"", 0.0
        if not data:
            self.close()
            return
        self.data += data
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.data[: end + 4]
        length = _LENGTH.search(head)
        whole = end + 4 + (int(length[1]) if length else 0)
        if len(self.data) < whole:
            return
        body, self.data = self.data[end + 4 : whole], self.data[whole:]
        path = head.split(b" ", 2)[1]
        if head.startswith(b"POST") and path.endswith(b"/completions"):
            wanted = _WANTED.search(body)
            self.write(_HEAD)
            stream = Stream(self, b"/chat/" in path, int(wanted[1]) if wanted else 1, arrived)
            self.steady.streams.append(stream)
        else:
            self._plain(path)

    def _plain(self, path: bytes) -> None:
        answer: object = {"error": {"message": "not found"}}
        status = b"200 OK"
        if path == b"/v1/models":
            answer = {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
        elif path == b"/truth":
            answer = self.steady.truth()
        else:
            status = b"404 Not Found"
        data = json.dumps(answer).encode()
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self.write(head % (status, len(data)) + data)


async def main() -> None:
    """Serve until killed."""
    steady = Steady(float(sys.argv[1]) / 1000, float(sys.argv[2]) / 1000)
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0), backlog=8192)
    listener.setblocking(False)

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            Connection(steady, sock)

    loop.add_reader(listener, accept)
    print(listener.getsockname()[1], flush=True)
    gc.disable()  # a collection would delay tokens; a calibration is over before memory counts
    await steady.tick()


if __name__ == "__main__":
    asyncio.run(main())
