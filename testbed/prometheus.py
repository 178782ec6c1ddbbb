"""A Prometheus on loopback, built once from its pinned Go module, and promtool beside it.

Without the optional ways to discover targets (build tag remove_all_sd), which are most of its dependencies.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from testbed.build import build_module, module_folder
from testbed.errors import ClusterError
from testbed.loopback import Loopback, free_port

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


class Prometheus(Loopback):
    """A running Prometheus.

    Args:
        folder: For its data, and the configuration.
        configuration: prometheus.yml; JSON is YAML.
    """

    def __init__(self, folder: Path, configuration: dict[str, Any]) -> None:
        file, port = folder / "prometheus.yml", free_port()
        file.write_text(json.dumps(configuration))
        command = [
            str(programs() / "prometheus"),
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--scrape.discovery-reload-interval=100ms",  # 5 s until it begins, otherwise
        ]
        super().__init__("Prometheus", command, port, "/-/ready", folder / "log")

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


if __name__ == "__main__":
    print(programs())
