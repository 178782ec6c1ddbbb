"""The connections between a leader and its workers."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time
from typing import Any

from settings import Settings


class Link:
    """One connection between leader and worker: a JSON object a line."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.setblocking(False)
        self.since = self.heard = time.monotonic()
        self.open = True
        self.rest = b""
        self.rank = -1  # the leader learns it from the first message
        self.last: dict[str, Any] = {}

    def send(self, message: dict[str, Any]) -> None:
        """Send; a full buffer or a broken connection shows as silence soon enough."""
        with contextlib.suppress(OSError):
            self.sock.send(json.dumps(message).encode() + b"\n")

    def read(self) -> None:
        """Take in what has arrived; `open` turns False at the end of the connection."""
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or len(self.rest) > 1 << 20:
            self.open = False
            return
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
                self.rank = int(message["rank"])
            except (ValueError, KeyError, TypeError):
                self.open = False  # not one of us
                return
            self.last = message
            self.heard = time.monotonic()

    def silent(self) -> float:
        """Seconds since the other side said anything."""
        return time.monotonic() - self.heard


class Dialer(threading.Thread):
    """Connects to the leader: a name that does not resolve yet must not stop the heartbeat."""

    def __init__(self, settings: Settings, found: queue.Queue[socket.socket]) -> None:
        super().__init__(daemon=True)
        self.settings = settings
        self.found = found

    def run(self) -> None:
        """Try until there is a connection."""
        where = (self.settings.leader_host, self.settings.beacon_port)
        while True:
            try:
                self.found.put(socket.create_connection(where, timeout=5))
            except OSError:
                time.sleep(self.settings.beat / 2)
            else:
                return
