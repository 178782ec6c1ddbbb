"""What one member is told (docs/reference/launcher.md), and the clock that all its programs share."""

from __future__ import annotations

import dataclasses
import hmac
import pathlib
import re
from collections.abc import Mapping

from manyhost_group import Limits

# Variables that hold what must not be shown; shorter values would mask ordinary words.
SECRET_NAME = re.compile(r"(TOKEN|API_KEY|SECRET|PASSWORD|ACCESS_KEY)$")
SHORTEST_SECRET = 6


def uptime() -> float:
    """Seconds since boot, from the file that probe.sh and launch.sh read too."""
    return float(pathlib.Path("/proc/uptime").read_text().split()[0])


@dataclasses.dataclass(frozen=True)
class Settings:
    """The launcher's contract, as launch.sh hands it on.

    Attributes:
        key: Of the control channel; empty without a file.
        ray: What Ray's programs are told; nothing for another executor.
        secrets: Texts that are never printed.
    """

    rank: int
    executor: str
    leader_host: str
    own_address: str
    bind_address: str
    beacon_port: int
    http_port: int
    engine_port: int
    startup: float
    started: float
    state_dir: pathlib.Path
    group: str
    generation: str
    key: bytes
    ray: Mapping[str, str]
    secrets: tuple[str, ...]
    limits: Limits

    @classmethod
    def read(cls, env: Mapping[str, str], flags: list[str]) -> Settings:
        """Read them.

        Raises:
            KeyError: A variable without a default is missing.
            ValueError: One is no number.
        """
        of_ray = env["MANYHOST_EXECUTOR"] == "ray"
        startup = float(env["MANYHOST_STARTUP_SECONDS"])
        key = read_key(env.get("MANYHOST_CONTROL_KEY_FILE", ""))
        group, generation = env.get("MANYHOST_GROUP", ""), env.get("MANYHOST_GENERATION", "")
        ray = ray_login(key, group, generation) if of_ray and "RAY_AUTH_MODE" not in env else {}
        secrets = {value for name, value in {**env, **ray}.items() if SECRET_NAME.search(name)}
        secrets |= {flag_value(flags, "--api-key"), key.decode(errors="replace")}
        return cls(
            rank=int(env["MANYHOST_RANK"]),
            executor=env["MANYHOST_EXECUTOR"],
            leader_host=env["MANYHOST_LEADER"],
            own_address=env["VLLM_HOST_IP"],
            bind_address=env.get("MANYHOST_ADDRESS", ""),
            beacon_port=int(env.get("MANYHOST_BEACON_PORT", "29511")),
            http_port=int(env["MANYHOST_PORT"]),
            engine_port=int(env["MANYHOST_RAY_PORT" if of_ray else "MANYHOST_MASTER_PORT"]),
            startup=startup,
            started=int(env["MANYHOST_STARTED"]) / 100,
            state_dir=pathlib.Path(env.get("MANYHOST_STATE_DIR", "/dev/shm/manyhost")),  # noqa: S108 the pod's own
            group=group,
            generation=generation,
            key=key,
            ray=ray,
            secrets=tuple(sorted((s for s in secrets if len(s) >= SHORTEST_SECRET), key=len, reverse=True)),
            limits=Limits(
                size=int(env["MANYHOST_SIZE"]),
                attempts=int(env["MANYHOST_START_ATTEMPTS"]),
                beat=float(env.get("MANYHOST_BEAT_SECONDS", "2")),
                peer_wait=float(env["MANYHOST_PEER_WAIT_SECONDS"]),
                progress=min(startup, float(env.get("MANYHOST_PROGRESS_SECONDS", "600"))),
                failing=startup,
                stall=float(env["MANYHOST_STALL_SECONDS"]),
                drain=float(env["MANYHOST_DRAIN_SECONDS"]),
            ),
        )

    def mask(self, text: str) -> str:
        """The text without any secret."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def clean(self, reason: str) -> str:
        """One line, no quotes inside, of bounded length, without secrets."""
        return " ".join(self.mask(reason).replace('"', "'").split())[:300]


def read_key(file: str) -> bytes:
    """The control channel's key; nothing when there is no such file."""
    try:
        return pathlib.Path(file).read_bytes().strip() if file else b""
    except OSError:
        return b""


def ray_login(key: bytes, group: str, generation: str) -> dict[str, str]:
    """What lets the members of one group into their Ray and nobody else.

    Ray before 2.52 knows neither variable (docs.ray.io, "Ray token authentication"). Without a key it is
    open, and told so: from 2.61 on it would ask for a token that nobody has.
    """
    if not key:
        return {"RAY_AUTH_MODE": "disabled"}
    token = hmac.digest(key, f"ray\n{group}\n{generation}".encode(), "sha256").hex()
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}


def flag_value(flags: list[str], name: str) -> str:
    """The value of `--name value` or `--name=value`, or nothing."""
    for i, flag in enumerate(flags):
        if flag == name and i + 1 < len(flags):
            return flags[i + 1]
        if flag.startswith(name + "="):
            return flag[len(name) + 1 :]
    return ""
