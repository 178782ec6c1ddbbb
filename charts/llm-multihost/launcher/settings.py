"""What one member is told (docs/reference/launcher.md), and the clock that all its programs share."""

from __future__ import annotations

import dataclasses
import os
import pathlib


def uptime() -> float:
    """Seconds since boot, from the file that probe.sh and launch.sh read too."""
    return float(pathlib.Path("/proc/uptime").read_text().split()[0])


@dataclasses.dataclass(frozen=True)
class Settings:
    """The launcher's contract, as launch.sh hands it on."""

    rank: int
    size: int
    executor: str
    leader_host: str
    own_address: str
    bind_address: str
    beacon_port: int
    http_port: int
    engine_port: int
    attempts: int
    peer_wait: float
    startup: float
    stall: float
    drain: float
    beat: float
    started: float
    state_dir: pathlib.Path
    secret: str

    @classmethod
    def read(cls) -> Settings:
        """Read them.

        Raises:
            KeyError: a variable without a default is missing.
        """
        env = os.environ
        ray = env["MANYHOST_EXECUTOR"] == "ray"
        return cls(
            rank=int(env["MANYHOST_RANK"]),
            size=int(env["MANYHOST_SIZE"]),
            executor=env["MANYHOST_EXECUTOR"],
            leader_host=env["MANYHOST_LEADER"],
            own_address=env["VLLM_HOST_IP"],
            bind_address=env.get("MANYHOST_ADDRESS", ""),
            beacon_port=int(env.get("MANYHOST_BEACON_PORT", "29511")),
            http_port=int(env["MANYHOST_PORT"]),
            engine_port=int(env["MANYHOST_RAY_PORT" if ray else "MANYHOST_MASTER_PORT"]),
            attempts=int(env["MANYHOST_START_ATTEMPTS"]),
            peer_wait=float(env["MANYHOST_PEER_WAIT_SECONDS"]),
            startup=float(env["MANYHOST_STARTUP_SECONDS"]),
            stall=float(env["MANYHOST_STALL_SECONDS"]),
            drain=float(env["MANYHOST_DRAIN_SECONDS"]),
            beat=float(env.get("MANYHOST_BEAT_SECONDS", "2")),
            started=int(env["MANYHOST_STARTED"]) / 100,
            state_dir=pathlib.Path(env.get("MANYHOST_STATE_DIR", "/tmp/manyhost")),  # noqa: S108 the container's own
            secret=env.get("HF_TOKEN", ""),
        )


def flag_value(flags: list[str], name: str) -> str:
    """The value of `--name value` or `--name=value`, or nothing."""
    for i, flag in enumerate(flags):
        if flag == name and i + 1 < len(flags):
            return flags[i + 1]
        if flag.startswith(name + "="):
            return flag[len(name) + 1 :]
    return ""
