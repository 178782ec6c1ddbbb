"""What goes over the wire: headers, connections, refusals."""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from multidict import CIMultiDict, CIMultiDictProxy

CONNECT_SECONDS = 3.0  # an engine that listens accepts at once; a lost host answers nothing
# A host that is lost answers nothing, not even that: the kernel asks it after 15 s of silence.
_KEEPALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30_000))
_AT_ONCE = struct.pack("ii", 1, 0)
BUFFER_BYTES = 1 << 16
FROM_CLIENT_BYTES = 1 << 15  # 1 MB/s at a distance of 30 ms
# Fields of one connection (RFC 9110, section 7.6.1), and what the client library sets itself.
_HOP = frozenset(
    (
        *("connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te"),
        *("trailer", "transfer-encoding", "upgrade", "http2-settings", "host", "content-length", "expect"),
    )
)


class Refusal(Exception):
    """A request that no engine gets to see.

    Args:
        status: The HTTP status.
        reason: One word for the counter.
        message: A sentence for the client.
        headers: More headers of the answer.
    """

    def __init__(self, status: int, reason: str, message: str, **headers: str) -> None:
        self.status, self.reason, self.message = status, reason, message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def answer(self) -> web.Response:
        """Return it in the form of the engine's own errors."""
        error = {"message": self.message, "type": self.reason, "code": self.status}
        return web.json_response({"error": error}, status=self.status, headers=self.headers)


def say(text: str) -> None:
    """Log a change, not each request."""
    sys.stdout.write(f"manyhost router: {text}\n")
    sys.stdout.flush()


def kept(headers: CIMultiDictProxy[str] | CIMultiDict[str], *more: str) -> CIMultiDict[str]:
    """Return the headers that are passed on, each as often as it came."""
    named = [name.strip().lower() for line in headers.getall("Connection", ()) for name in line.split(",")]
    gone = _HOP.union(more, named)
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in gone)


def limit_buffers(made: socket.socket, receive: int = BUFFER_BYTES) -> None:
    """Bound what the kernel holds of a connection: it grows to megabytes, which count as the container's."""
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)


def _socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    limit_buffers(made)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):  # Linux has them
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


def reset(request: web.BaseRequest) -> None:
    """Close a client's connection so that it learns of an error; what was not sent is dropped."""
    if request.transport:
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        request.transport.abort()


def open_session() -> ClientSession:
    """Open the client for engines.

    One connection a request: a kept one may be closed by the engine in the moment in which it is used
    again, or lead to a host that has gone.
    """
    return ClientSession(
        connector=TCPConnector(limit=0, force_close=True, socket_factory=_socket),
        timeout=ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        auto_decompress=False,
        skip_auto_headers=("Accept-Encoding", "User-Agent", "Content-Type"),
    )
