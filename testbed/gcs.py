"""A Cloud Storage emulator on loopback: fake-gcs-server, built once from its pinned Go module.

Unlike in-memory imitations in Python it knows preconditions, resumable uploads, checksums and ranges.
"""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from testbed.build import build_module
from testbed.errors import ClusterError

SOURCE = Path(__file__).parent / "go-gcs"
_PACKAGE = "github.com/fsouza/fake-gcs-server"


def program() -> Path:
    """The emulator, built first when its go.mod changed; see build_module."""
    return build_module(SOURCE, _PACKAGE) / "fake-gcs-server"


class Gcs:
    """A running emulator; `url` is what STORAGE_EMULATOR_HOST takes.

    Args:
        folder: Where objects are kept; in memory by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        kept = (
            ["-backend", "filesystem", "-filesystem-root", str(folder)] if folder else ["-backend", "memory"]
        )
        own = [
            "-scheme",
            "http",
            "-host",
            "127.0.0.1",
            "-port",
            str(port),
            "-public-host",
            f"127.0.0.1:{port}",
        ]
        command = [str(program()), *kept, *own, "-log-level", "error"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._wait()

    def __enter__(self) -> Gcs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _wait(self) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/_internal/healthcheck", timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        self.close()
        raise ClusterError("the Cloud Storage emulator does not answer")


if __name__ == "__main__":
    print(program())
