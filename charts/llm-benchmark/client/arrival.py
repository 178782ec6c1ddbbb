"""When data came: the kernel notes it, so a process that was busy elsewhere reads the right time later.

Shared by the client that measures and the server with known times that it is held against.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time

# SO_TIMESTAMPNS (Linux, include/uapi/asm-generic/socket.h): with what is read comes when its last packet had
# come, by the wall clock. Other systems have another number for it, or nothing alike.
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("qq")
_MOST = 1 << 18  # bytes of one read
_OLDEST = 60.0  # seconds; more is a wall clock that was set meanwhile


def note(sock: socket.socket) -> None:
    """Have the kernel note when data comes; where it cannot, receive() says when it was read."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


def receive(sock: socket.socket) -> tuple[bytes, float]:
    """Read what is there, and when it had come (time.perf_counter).

    Raises:
        BlockingIOError: Nothing is there.
        OSError: The connection broke.
    """
    data, notes, _, _ = sock.recvmsg(_MOST, 64)
    now = time.perf_counter()
    for level, kind, value in notes:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack(value)
            ago = time.time() - seconds - nanoseconds / 1e9
            if 0 <= ago < _OLDEST:
                return data, now - ago
    return data, now
