"""An API server of pods whose ports can be forwarded, as Kubernetes does it: WebSocket, v4.channel.k8s.io.

Frames carry one byte with the channel before the data; a port has two, data (0) and errors (1), and each
of them begins with the port's number (kubernetes/pkg/kubelet/cri/streaming/portforward).
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455


class Api:
    """Answers lists of pods, and tunnels to `address` of each by name.

    Attributes:
        pods: Pod objects.
        address: HOST:PORT behind each pod's port; a pod that is missing refuses.
        url: Of the API server.
    """

    def __init__(self, pods: list[dict[str, Any]], address: dict[str, str]) -> None:
        self.pods, self.address = pods, address
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                if parts.path.endswith("/portforward"):
                    self.close_connection = True
                    self.forward(parts.path.split("/")[-2], int(parse_qs(parts.query)["ports"][0]))
                    return
                self.reply(200, {"items": api.pods})

            def reply(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def forward(self, pod: str, port: int) -> None:
                if pod not in api.address:
                    self.reply(500, {"message": f"error upgrading connection: pod {pod} is gone"})
                    return
                key = self.headers["Sec-WebSocket-Key"] + _GUID
                self.send_response(101)
                self.send_header("Upgrade", "websocket")
                self.send_header("Connection", "Upgrade")
                accepted = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
                self.send_header("Sec-WebSocket-Accept", accepted)
                self.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
                self.end_headers()
                for channel in (b"\0", b"\1"):
                    self.wfile.write(frame(channel + struct.pack("<H", port)))
                host, _, number = api.address[pod].partition(":")
                with socket.create_connection((host, int(number))) as target:
                    threading.Thread(target=self.answers, args=(target,), daemon=True).start()
                    while (data := self.read()) is not None:
                        target.sendall(data[1:])

            def answers(self, target: socket.socket) -> None:
                try:
                    while data := target.recv(60000):
                        self.wfile.write(frame(b"\0" + data))
                except OSError:
                    return  # the other end has gone

            def read(self) -> bytes | None:
                """The data of the client's next frame; None at the end."""
                head = self.rfile.read(2)
                if len(head) < 2 or head[0] & 0xF == 8:
                    return None
                size = head[1] & 0x7F
                if size == 126:
                    (size,) = struct.unpack(">H", self.rfile.read(2))
                mask = self.rfile.read(4)
                data = self.rfile.read(size)
                return bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def frame(data: bytes) -> bytes:
    """A binary frame of a server."""
    size = len(data)
    head = struct.pack(">BB", 0x82, size) if size < 126 else struct.pack(">BBH", 0x82, 126, size)
    return head + data
