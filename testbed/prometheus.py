"""A Prometheus on loopback, built once from its pinned Go module, and promtool beside it.

Without the optional ways to discover targets (build tag remove_all_sd), which are most of its dependencies.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from testbed.build import build_module, module_folder
from testbed.errors import ClusterError

SOURCE = Path(__file__).parent / "go-prometheus"
_PACKAGES = tuple(f"github.com/prometheus/prometheus/cmd/{name}" for name in ("prometheus", "promtool"))
_TAGS = "remove_all_sd"


def programs() -> Path:
    """The folder with prometheus and promtool, built first when its go.mod changed; see build_module."""
    return build_module(SOURCE, *_PACKAGES, tags=_TAGS)


def built() -> Path | None:
    """This folder when it is there, so that a test need not wait for a build."""
    folder = module_folder(SOURCE, *_PACKAGES, tags=_TAGS)
    return folder if folder.is_dir() else None


class Prometheus:
    """A running Prometheus.

    Args:
        folder: For its data, and the configuration.
        configuration: prometheus.yml; JSON is YAML.
    """

    def __init__(self, folder: Path, configuration: dict[str, Any]) -> None:
        file = folder / "prometheus.yml"
        file.write_text(json.dumps(configuration))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.url = f"http://{address}"
        self._log = folder / "log"
        command = [
            str(programs() / "prometheus"),
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
            "--scrape.discovery-reload-interval=100ms",  # 5 s until it begins, otherwise
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self._wait()

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def query(self, expression: str) -> list[Any]:
        """The samples of an instant query.

        Raises:
            ClusterError: Prometheus refuses it.
        """
        return list(self.get("query", query=expression)["result"])

    def get(self, path: str, **parameters: str) -> Any:
        """The data of one answer of the API.

        Raises:
            ClusterError: Prometheus refuses the request.
        """
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.loads(answer.read())["data"]
        except urllib.error.HTTPError as error:
            raise ClusterError(f"{parameters}: {error.read().decode()}") from None

    def _wait(self) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/-/ready", timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        self.close()
        raise ClusterError(f"Prometheus does not answer: {self._log.read_text()[-2000:]}")


if __name__ == "__main__":
    print(programs())
