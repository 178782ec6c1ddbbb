"""A Cloud Storage emulator on loopback: fake-gcs-server, built once from its pinned Go module.

Unlike in-memory imitations in Python it knows preconditions, resumable uploads, checksums and ranges.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from testbed.build import locked
from testbed.errors import ClusterError, MissingError
from testbed.layout import cache_dir

SOURCE = Path(__file__).parent / "go-gcs"
_PACKAGE = "github.com/fsouza/fake-gcs-server"


def program() -> Path:
    """The emulator, built first when its go.mod changed (about a minute, and needs the Go module proxy).

    Raises:
        MissingError: Go is not installed.
        ClusterError: the build failed.
    """
    texts = [(SOURCE / name).read_bytes() for name in ("go.mod", "go.sum")]
    target = cache_dir() / f"gcs-{hashlib.sha256(b''.join(texts)).hexdigest()[:12]}"
    if target.is_file():
        return target
    with locked("gcs"):
        if not target.is_file():
            _build(target)
    return target


def _build(target: Path) -> None:
    if not shutil.which("go"):
        raise MissingError(
            "go is missing: install Go 1.26 or newer (Debian: golang-go, or https://go.dev/dl)"
        )
    print("building the Cloud Storage emulator (a minute, once)", file=sys.stderr, flush=True)
    env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    with tempfile.TemporaryDirectory(prefix="building-", dir=target.parent) as work:
        new = Path(work, "gcs")
        command = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(new), _PACKAGE]
        if subprocess.run(command, cwd=SOURCE, env=env, check=False).returncode:
            raise ClusterError(f"go build failed in {SOURCE} (its own lines are above)")
        new.rename(target)


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
