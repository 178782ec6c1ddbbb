"""A registry that answers as the OCI distribution specification says, as far as images are asked about."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"

Answer = Callable[[str, str, Any], tuple[int, dict[str, str], Any]]


class Server:
    """An HTTP server on loopback; (method, path, headers) is answered with (status, headers, body).

    Attributes:
        host: Its name and port.
    """

    def __init__(self, answer: Answer) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, headers, body = answer(self.command, self.path, self.headers)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_HEAD = do_POST = do_GET

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Oci:
    """Answers (method, path, headers) with (status, headers, body).

    Args:
        token: Access token that it wants of everybody; empty for none.
        silent: Whether it leaves out the header with the digest, which not every registry sends.

    Attributes:
        tags: repository -> tag -> digest.
        asked: Every request.
    """

    def __init__(self, token: str = "", *, silent: bool = False) -> None:
        self.tags: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        self._kept: dict[str, tuple[str, bytes]] = {}
        self._token, self._silent = token, silent

    def push(self, repository: str, tag: str, labels: dict[str, str], *, index: bool = False) -> str:
        """Put an image under a tag and return the tag's digest."""
        config = self._keep("application/vnd.oci.image.config.v1+json", {"config": {"Labels": labels}})
        digest = self._keep(_MANIFEST, {"mediaType": _MANIFEST, "config": {"digest": config}, "layers": []})
        if index:
            entry = {"digest": digest, "platform": {"os": "linux", "architecture": "amd64"}}
            digest = self._keep(_INDEX, {"mediaType": _INDEX, "manifests": [entry]})
        self.tags.setdefault(repository, {})[tag] = digest
        return digest

    def _keep(self, kind: str, document: Any) -> str:
        data = json.dumps({"schemaVersion": 2, **document}).encode()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._kept[digest] = (kind, data)
        return digest

    def __call__(self, method: str, path: str, headers: Any) -> tuple[int, dict[str, str], Any]:
        self.asked.append(f"{method} {path}")
        assert method in ("GET", "HEAD"), "nothing may be changed"
        if self._token and headers.get("Authorization") != f"Bearer {self._token}":
            return 401, {"WWW-Authenticate": 'Bearer realm="https://elsewhere.example/token"'}, {}
        what = "manifests" if "/manifests/" in path else "blobs"
        repository, _, name = path.removeprefix("/v2/").partition(f"/{what}/")
        digest = name if name.startswith("sha256:") else self.tags.get(repository, {}).get(name, "")
        if repository not in self.tags or digest not in self._kept:
            return 404, {}, {"errors": [{"code": "MANIFEST_UNKNOWN"}]}
        kind, data = self._kept[digest]
        told = {} if self._silent else {"Docker-Content-Digest": digest}
        return 200, {"Content-Type": kind, **told}, data
