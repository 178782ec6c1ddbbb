"""A Cloud Storage emulator on loopback: fake-gcs-server, built once from its pinned Go module.

Unlike in-memory imitations in Python it knows preconditions, resumable uploads, checksums and ranges.
"""

from __future__ import annotations

from pathlib import Path

from testbed.build import build_module
from testbed.loopback import Loopback, free_port

SOURCE = Path(__file__).parent / "go-gcs"
_PACKAGE = "github.com/fsouza/fake-gcs-server"


def program() -> Path:
    """The emulator, built first when its go.mod changed; see build_module."""
    return build_module(SOURCE, _PACKAGE) / "fake-gcs-server"


class Gcs(Loopback):
    """A running emulator; `url` is what STORAGE_EMULATOR_HOST takes.

    Args:
        folder: Where objects are kept; in memory by default.
        host: Where it listens.
        location: Of every bucket; it keeps none for each.
    """

    def __init__(
        self, folder: Path | None = None, host: str = "127.0.0.1", location: str = "us-central1"
    ) -> None:
        port = free_port()
        kept = (
            ["-backend", "filesystem", "-filesystem-root", str(folder)] if folder else ["-backend", "memory"]
        )
        own = ["-scheme", "http", "-host", host, "-port", str(port)]
        own += ["-public-host", f"{host}:{port}", "-location", location.upper(), "-log-level", "error"]
        command = [str(program()), *kept, *own]
        super().__init__("the Cloud Storage emulator", command, port, "/_internal/healthcheck", host=host)


if __name__ == "__main__":
    print(program())
