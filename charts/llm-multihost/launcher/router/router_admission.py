"""How much the router takes on at the same time: requests, and bytes of bodies that it holds. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

# Measured (benchmarks/router.py): Python with aiohttp, and a request in flight without its body, which is for
# the most part what lies between the router and the engine.
BASE_BYTES = 64 << 20
REQUEST_BYTES = 150 << 10
# A connection whose request is not taken on yet, or has been refused, holds what the kernel gave at once.
CONNECTIONS = 4  # for each request in flight
CONNECTION_BYTES = 50 << 10
# Of what is left bodies get this share: kernel buffers count as the container's memory too, and a body that
# has just arrived is there twice for a moment.
BODY_SHARE = 0.5


class Full(Exception):
    """No more can be taken on; the text says of what there is too much."""


@dataclass
class Admission:
    """What is in flight.

    Attributes:
        most_requests: Requests at the same time.
        most_bytes: Bytes of bodies at the same time.
    """

    most_requests: int
    most_bytes: int
    requests: int = field(default=0, init=False)
    bytes: int = field(default=0, init=False)

    def enter(self) -> None:
        """Take a request on.

        Raises:
            Full: There are enough.
        """
        if self.requests >= self.most_requests:
            raise Full("requests")
        self.requests += 1

    def leave(self) -> None:
        """A request is over."""
        self.requests -= 1

    def hold(self, size: int) -> None:
        """Take bytes of a body on.

        Raises:
            Full: There is no room for them.
        """
        if self.bytes + size > self.most_bytes:
            raise Full("memory")
        self.bytes += size

    def drop(self, size: int) -> None:
        """Bytes of a body have been let go."""
        self.bytes -= size


def room_for_bodies(memory: int, requests: int) -> int:
    """Return the bytes that bodies may take.

    Args:
        memory: The container's limit in bytes.
        requests: Requests at the same time.

    Raises:
        ValueError: The limit has no room for bodies.
    """
    left = memory - BASE_BYTES - requests * (REQUEST_BYTES + CONNECTIONS * CONNECTION_BYTES)
    room = int(left * BODY_SHARE)
    if room <= 0:
        raise ValueError(f"a memory limit of {memory >> 20} MiB has no room for {requests} requests")
    return room
