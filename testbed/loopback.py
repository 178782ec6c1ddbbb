"""A program of somebody else that serves on loopback for as long as a test wants it."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from testbed.errors import ClusterError

_SECONDS = 30


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Loopback:
    """A running program; `url` is where it serves.

    Args:
        name: What it is called when it does not answer.
        command: Its command line.
        port: Where it serves.
        path: Answers once it is ready.
        log: Takes its output; nobody does by default.
        host: Where it serves: loopback, or an address of this machine that the test cluster reaches.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        port: int,
        path: str,
        log: Path | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.url = f"http://{host}:{port}"
        self._name, self._log = name, log
        with (log or Path("/dev/null")).open("wb") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        self._wait(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _wait(self, path: str) -> None:
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}{path}", timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        self.close()
        said = f": {self._log.read_text()[-2000:]}" if self._log else ""
        raise ClusterError(f"{self._name} does not answer{said}")
