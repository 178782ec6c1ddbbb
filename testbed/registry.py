"""A registry on loopback that keeps what is pushed to it, as the OCI distribution specification says."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_UNKNOWN = b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
_PIECE = 1 << 20


class Registry:
    """A running registry; blobs are the same for all its repositories.

    Args:
        folder: Where content is kept, each file under its digest.

    Attributes:
        host: Its name and port.
        tags: repository -> tag -> digest.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.tags: dict[str, dict[str, str]] = {}
        self._kinds: dict[str, str] = {}  # of manifests
        handler = type("Handler", (_Handler,), {"registry": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, archive: Path, repository: str, tag: str) -> str:
        """Put the one image of a docker archive under a tag, and return its digest."""
        with tarfile.open(archive) as tar:

            def take(name: str) -> tuple[str, int]:
                source = tar.extractfile(name)
                assert source
                return self.keep(iter(lambda: source.read(_PIECE), b""))

            source = tar.extractfile("manifest.json")
            assert source
            (image,) = json.load(source)
            config, *layers = [take(name) for name in (image["Config"], *image["Layers"])]
        document = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, "digest": config[0], "size": config[1]},
            "layers": [{"mediaType": _LAYER, "digest": digest, "size": size} for digest, size in layers],
        }
        return self.put(repository, tag, _MANIFEST, json.dumps(document).encode())

    def put(self, repository: str, reference: str, kind: str, manifest: bytes) -> str:
        """Keep a manifest, under a tag unless the reference is its digest; return the digest."""
        digest, _ = self.keep(iter([manifest]))
        self._kinds[digest] = kind
        known = self.tags.setdefault(repository, {})
        if reference != digest:
            known[reference] = digest
        return digest

    def keep(self, pieces: Iterator[bytes]) -> tuple[str, int]:
        """Keep content; return its digest and size."""
        sums, partial = hashlib.sha256(), self.folder / secrets.token_hex(8)
        with partial.open("wb") as file:
            for piece in pieces:
                sums.update(piece)
                file.write(piece)
        digest = f"sha256:{sums.hexdigest()}"
        return digest, partial.rename(self.folder / digest).stat().st_size

    def find(self, repository: str, what: str, reference: str) -> tuple[Path, str] | None:
        """Return the file and the type of a manifest or blob; None without one."""
        named = self.tags.get(repository, {}).get(reference, reference)
        path = self.folder / named
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", named) or not path.is_file():
            return None
        if what == "blobs":
            return path, "application/octet-stream"
        known = repository in self.tags and named in self._kinds
        return (path, self._kinds[named]) if known else None


class _Handler(BaseHTTPRequestHandler):
    registry: Registry
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", path)
        kept = self.registry.find(found[1], found[2], found[3]) if found else None
        if path == "/v2/":
            self._answer(200)
        elif kept is None:
            self._answer(404, body=_UNKNOWN)
        else:
            file, kind = kept
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(file.stat().st_size))
            self.send_header("Docker-Content-Digest", file.name)
            self.end_headers()
            if self.command == "GET":
                with file.open("rb") as source:
                    shutil.copyfileobj(source, self.wfile, _PIECE)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Begin an upload."""
        list(self._pieces())
        place = self.path.partition("?")[0].rstrip("/")
        self._answer(202, Location=f"{place}/{secrets.token_hex(8)}")

    def do_PATCH(self) -> None:
        """Go on with an upload."""
        with self._partial().open("ab") as file:
            for piece in self._pieces():
                file.write(piece)
            size = file.tell()
        self._answer(202, Location=self.path.partition("?")[0], Range=f"0-{size - 1}")

    def do_PUT(self) -> None:
        """End an upload, or take a manifest."""
        address = urlsplit(self.path)
        manifest = re.fullmatch(r"/v2/(.+)/manifests/([^/]+)", address.path)
        if manifest:
            kind = self.headers["Content-Type"]
            digest = self.registry.put(manifest[1], manifest[2], kind, b"".join(self._pieces()))
        else:
            partial = self._partial()
            with partial.open("ab") as file:
                for piece in self._pieces():
                    file.write(piece)
            with partial.open("rb") as file:
                digest, _ = self.registry.keep(iter(lambda: file.read(_PIECE), b""))
            partial.unlink()
            if parse_qs(address.query)["digest"] != [digest]:
                (self.registry.folder / digest).unlink()
                self._answer(400, body=b'{"errors": [{"code": "DIGEST_INVALID"}]}')
                return
        self._answer(201, Location=address.path)

    def _partial(self) -> Path:
        return self.registry.folder / f"upload-{urlsplit(self.path).path.rpartition('/')[2]}"

    def _pieces(self) -> Iterator[bytes]:
        """What comes with the request; clients send what they compress in chunks."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            yield self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...
