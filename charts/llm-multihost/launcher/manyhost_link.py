"""The connections between a leader and its workers: sockets around manyhost_wire's channels."""

from __future__ import annotations

import contextlib
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from manyhost_settings import Settings
from manyhost_wire import Channel, Identity, Refused

MOST_UNSENT = 65536  # bytes; a message is sent whole or not at all
MOST_STRANGERS = 32  # connections that have not proved who they are


class Link:
    """One connection.

    `refused` says why it was closed, when the other side is to blame; `seat` that it speaks for its rank.
    """

    def __init__(self, sock: socket.socket, settings: Settings) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.since = time.monotonic()
        self.open = True
        self.refused = ""
        identity = Identity(settings.group, settings.generation, settings.key)
        self.channel = Channel(identity, settings.limits.size, settings.rank, secrets.token_hex(16))
        self.seat = False
        self._unsent = b""
        self._send(self.channel.hello())

    @property
    def rank(self) -> int:
        """The other side's; -1 until it is proven."""
        return self.channel.peer if self.channel.ready else -1

    def say(self, message: dict[str, Any]) -> None:
        """Send, if the other side is known and takes it; else it shows as silence soon enough."""
        if self.channel.ready and len(self._unsent) < MOST_UNSENT:
            self._send(self.channel.say(message))

    def read(self) -> list[dict[str, Any]]:
        """Take in what has arrived; `open` turns False at the end of the connection."""
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.open = False
            return []
        try:
            answer, messages = self.channel.take(data)
        except Refused as error:
            self.open, self.refused = False, str(error)
            return []
        self._send(answer)
        return messages

    def _send(self, data: bytes) -> None:
        self._unsent += data
        with contextlib.suppress(OSError):
            self._unsent = self._unsent[self.sock.send(self._unsent) :]


class Dialer(threading.Thread):
    """Connects to the leader: a name that does not resolve yet must not stop the heartbeat."""

    def __init__(self, settings: Settings, wake: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.found: queue.Queue[socket.socket] = queue.Queue()
        self._settings = settings
        self._wake = wake
        self._wanted = threading.Semaphore(1)

    def again(self) -> None:
        """Look for the leader once more: the last connection is no more."""
        self._wanted.release()

    def run(self) -> None:
        """Connect whenever it is asked for."""
        where = (self._settings.leader_host, self._settings.beacon_port)
        pause = self._settings.limits.beat / 2
        while True:
            self._wanted.acquire()
            while True:
                try:
                    self.found.put(socket.create_connection(where, timeout=5))
                except OSError:
                    time.sleep(pause)
                else:
                    break
            self._wake()
            time.sleep(pause)
