"""Members of a group as processes on loopback, with the fake engine of tests/shell, and what harms them."""

from __future__ import annotations

import contextlib
import functools
import random
import re
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers import processes, waiting
from tests.helpers.helm import CHART, ROOT

LAUNCHER = CHART / "launcher"
FAKES = ROOT / "tests/shell/fakes"
BEAT = 0.2


def ports(count: int) -> list[int]:
    """Free ports below those that the kernel gives to outgoing connections."""
    held: list[socket.socket] = []
    while len(held) < count:
        with contextlib.suppress(OSError):
            held.append(socket.create_server(("127.0.0.1", random.randrange(10000, 32000))))
    found = [item.getsockname()[1] for item in held]
    for item in held:
        item.close()
    return found


until = functools.partial(waiting.until, pause=0.05)


class Members:
    """A group. `env` may be changed before a member starts; `fake` is the fake engine's folder."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self.fake = folder / "fake"
        self.fake.mkdir(parents=True)
        self.http, self.master, self.beacon = ports(3)
        self.env = {
            "PATH": f"{FAKES}:/usr/local/bin:/usr/bin:/bin", "FAKE": str(self.fake),
            "MANYHOST_ENGINE": "vllm", "MANYHOST_EXECUTOR": "mp", "MANYHOST_MODEL": "some/model",
            "MANYHOST_MODEL_PATH": "", "MANYHOST_GPUS_PER_HOST": "0", "MANYHOST_PORT": str(self.http),
            "MANYHOST_MASTER_PORT": str(self.master), "MANYHOST_RAY_PORT": str(self.master),
            "MANYHOST_BEACON_PORT": str(self.beacon), "MANYHOST_INTERFACE": "lo", "MANYHOST_PROFILE": "",
            "MANYHOST_PEER_WAIT_SECONDS": "30", "MANYHOST_STARTUP_SECONDS": "30",
            "MANYHOST_STALL_SECONDS": "30", "MANYHOST_DRAIN_SECONDS": "20", "MANYHOST_START_ATTEMPTS": "2",
            "MANYHOST_BEAT_SECONDS": str(BEAT), "HF_HUB_OFFLINE": "1", "MANYHOST_ADDRESS": "127.0.0.1",
            "MANYHOST_LEADER": "127.0.0.1", "MANYHOST_SIZE": "2",
        } | env  # fmt: skip
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.set("metrics", "vllm:num_requests_running{} 0\nvllm:generation_tokens_total{} 5\n")

    def state(self, rank: int) -> Path:
        return self.folder / f"state.{rank}"

    def start(self, rank: int, *flags: str, stdout: Any = None, **env: str) -> subprocess.Popen[bytes]:
        own = {"MANYHOST_RANK": str(rank), "MANYHOST_STATE_DIR": str(self.state(rank))}
        out = stdout if stdout is not None else (self.folder / f"log.{rank}").open("ab")
        process = subprocess.Popen(
            ["bash", str(LAUNCHER / "launch.sh"), *flags],
            env=self.env | own | env,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        if stdout is None:
            out.close()
        self.processes[rank] = process
        return process

    def serve(self, *flags: str) -> None:
        """Start all members and wait until they are ready."""
        for rank in range(int(self.env["MANYHOST_SIZE"])):
            self.start(rank, *flags)
        for rank in range(int(self.env["MANYHOST_SIZE"])):
            # The fake engines do not meet: the leader's may answer before a worker's has begun.
            until(f"rank {rank} ready", lambda rank=rank: self.ready(rank) and self.starts(rank))

    def log(self, rank: int) -> str:
        file = self.folder / f"log.{rank}"
        return file.read_text(errors="replace") if file.exists() else ""

    def phases(self, rank: int, name: str) -> list[str]:
        return [line for line in self.log(rank).splitlines() if f"manyhost phase={name} " in line]

    def seen(self, rank: int, pattern: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not re.search(pattern, self.log(rank)):
            assert time.monotonic() < end, f"{pattern} not seen:\n{self.log(0)}\n{self.log(1)}"
            time.sleep(0.05)

    def probe(self, rank: int, kind: str) -> tuple[bool, str]:
        done = subprocess.run(
            ["bash", str(LAUNCHER / "probe.sh"), kind],
            env=self.env | {"MANYHOST_STATE_DIR": str(self.state(rank))},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode == 0, done.stdout

    def ready(self, rank: int) -> bool:
        return self.probe(rank, "ready")[0]

    def inner(self, rank: int) -> int:
        """The process id of the member's loop."""
        return int(subprocess.check_output(["pgrep", "-P", str(self.processes[rank].pid)]).split()[0])

    def starts(self, rank: int) -> int:
        """How often its engine was started."""
        file = self.fake / f"argv.{rank}"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def set(self, name: str, text: str = "") -> None:
        new = self.fake / f"{name}.new"
        new.write_text(text)
        new.rename(self.fake / name)

    def kill(self, rank: int) -> None:
        """End a member's launcher without a word; its engine goes with it."""
        subprocess.run(["kill", "-KILL", str(self.inner(rank)), str(self.processes[rank].pid)], check=True)
        self.processes[rank].wait(10)

    def close(self) -> None:
        """End all of it at once, in whatever state it is."""
        processes.end(f"FAKE={self.fake}")
        for process in self.processes.values():
            process.wait()


class Wire:
    """A network between a worker and its leader that can be harmed: workers dial 127.0.0.2."""

    def __init__(self, port: int) -> None:
        self._server = socket.create_server(("127.0.0.2", port))
        self._port = port
        self._open: list[socket.socket] = []
        self.silent = threading.Event()
        self._threads: list[threading.Thread] = []
        self._go(self._accept)

    def _go(self, what: Callable[..., None], *args: socket.socket) -> None:
        self._threads.append(threading.Thread(target=what, args=args, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                near.close()
                continue
            self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                self._go(self._pump, one, other)

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                while self.silent.is_set():
                    time.sleep(0.02)
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """A TCP reset of every connection."""
        for end in self._open:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.silent.clear()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.reset()
        for thread in self._threads:
            thread.join(5)
        for end in self._open:
            end.close()
