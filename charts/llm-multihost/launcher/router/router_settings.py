"""What the environment says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router_admission import room_for_bodies


@dataclass(frozen=True)
class Settings:
    """What differs from release to release.

    Attributes:
        port: Where it listens.
        decode: host:port of the decode leaders; a host may have many addresses.
        prefill: The same of the prefill leaders.
        stall_seconds: Without an answer of a prefill group that has requests, until it is left alone.
        drain_seconds: That requests in flight have to finish when it is to end.
        most_requests: Requests at the same time.
        body_bytes: Largest body.
        room_bytes: What bodies may take together.
    """

    port: int
    decode: tuple[str, ...]
    prefill: tuple[str, ...]
    stall_seconds: float
    drain_seconds: float
    most_requests: int
    body_bytes: int
    room_bytes: int


def read(env: Mapping[str, str]) -> Settings:
    """Read the environment.

    Raises:
        KeyError: A variable is missing.
        ValueError: One holds no number, or the memory has no room for so many requests.
    """

    def own(name: str) -> str:
        return env[f"MANYHOST_ROUTER_{name}"]

    most_requests = int(own("MOST_REQUESTS"))
    return Settings(
        port=int(own("PORT")),
        decode=tuple(own("DECODE").split(",")),
        prefill=tuple(own("PREFILL").split(",")),
        stall_seconds=float(own("STALL_SECONDS")),
        drain_seconds=float(own("DRAIN_SECONDS")),
        most_requests=most_requests,
        body_bytes=int(own("BODY_BYTES")),
        room_bytes=room_for_bodies(int(own("MEMORY_BYTES")), most_requests),
    )
