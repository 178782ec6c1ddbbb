"""A model hub on loopback: those paths of the Hugging Face API that downloads use, small models, faults.

Served as the hub does (https://huggingface.co/docs/hub/api, huggingface_hub's client): `/api/models/ID`,
`/api/models/ID/revision/REV`, `/api/models/ID/tree/REV` in pages, `/ID/resolve/REV/FILE` with HEAD, ranges,
X-Repo-Commit, X-Linked-Etag and X-Linked-Size, and a redirect to another host for files in LFS storage.
A model with `xet` announces Xet storage at an address that accepts connections and never answers.

    python -m testbed.hub FOLDER...     serves each folder as test/<its name>, prints the address
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_FROM = 100_000  # bytes; the hub stores these and every safetensors file outside of git
_PIECE = 1 << 20


@dataclass(frozen=True)
class Blob:
    path: Path
    size: int
    sha256: str  # empty for a file of git's
    git_oid: str


@dataclass
class Repo:
    commit: str
    files: dict[str, Blob]
    branch: str = "main"
    token: str = ""  # needed to see it
    gated: bool = False
    xet: bool = False


@dataclass
class Fault:
    """What goes wrong with requests for some files.

    Attributes:
        kind: limit (429 with the hub's header), retry (429 with Retry-After), error (a 5xx), cut (connection
            closed within the body), short (a clean end too early), wrong (other bytes, same length), hang
            (some bytes, then silence), slow (a byte at a time), whole (the range is ignored).
        files: Names, with * and ?; "api" for the API.
        times: How often; below 0 for ever.
        seconds: Of limit and retry.
        status: Of error.
        at: Bytes that are sent before it goes wrong.
    """

    kind: str
    files: str = "*"
    times: int = 1
    seconds: int = 1
    status: int = 503
    at: int = 0


@dataclass
class Seen:
    """A request that was answered."""

    method: str
    path: str
    file: str
    range: str
    authorization: str
    at: float = field(default_factory=time.monotonic)


class Hub:
    """The server; `url` is its address for clients (HF_ENDPOINT)."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.page = 1000  # files of a page of the tree
        self.sent = 0  # bytes of files, about
        self._blobs: dict[str, tuple[str, Blob]] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._server = _Server((host, port), type("Handler", (_Handler,), {"hub": self}))
        self.port = self._server.server_address[1]
        self.url = f"http://{host}:{self.port}"
        # Another host, as the hub's storage is: clients must not take the token there.
        self.storage_url = f"http://{'localhost' if host == '127.0.0.1' else host}:{self.port}"
        self._silent = socket.create_server(("127.0.0.1", 0))
        self.silent_url = f"http://127.0.0.1:{self._silent.getsockname()[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._silent.close()

    def add(self, model: str, folder: Path, **how: Any) -> Repo:
        """Publishes the files of a folder as they are now; again, after a change, makes a new commit."""
        files = {
            path.relative_to(folder).as_posix(): _blob(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        text = "".join(f"{name} {blob.git_oid or blob.sha256}\n" for name, blob in files.items())
        repo = Repo(hashlib.sha1(text.encode()).hexdigest(), files, **how)
        self.repos[model] = repo
        self._blobs.update({blob.sha256: (name, blob) for name, blob in files.items() if blob.sha256})
        return repo

    def fail(self, kind: str, files: str = "*", **how: Any) -> Fault:
        """Plants a fault."""
        fault = Fault(kind, files, **how)
        with self._lock:
            self.faults.append(fault)
        return fault

    def downloads(self, files: str = "*") -> list[Seen]:
        """Requests for the bytes of files."""
        return [
            one for one in self.seen if one.method == "GET" and one.file and fnmatch.fnmatch(one.file, files)
        ]

    def fault_for(self, file: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times and fnmatch.fnmatch(file, fault.files):
                    fault.times -= 1
                    return fault
        return None

    def blob(self, sha256: str) -> tuple[str, Blob] | None:
        return self._blobs.get(sha256)

    def silence(self) -> None:
        """Says nothing until the client or the server ends."""
        self._ended.wait(600)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is nothing to tell of."""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path).strip("/")
        words = path.split("/")
        if words[0] == "api":
            self._note("")
            self._api(words[2:], parse_qs(parts.query))
        elif words[0] == "cdn":
            found = self.hub.blob(words[1])
            self._note(found[0] if found else "")
            self._send(*found, fault=self._trouble(found[0])) if found else self._refuse(404, "EntryNotFound")
        elif len(words) > 4 and words[2] == "resolve":
            self._resolve("/".join(words[:2]), words[3], "/".join(words[4:]))
        else:
            self._refuse(404, "RepoNotFound")

    def _note(self, file: str) -> None:
        wanted = self.headers.get("Range", "")
        token = self.headers.get("Authorization", "")
        self.hub.seen.append(Seen(self.command, self.path, file, wanted, token))

    def _repo(self, model: str, revision: str) -> Repo | None:
        repo = self.hub.repos.get(model)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repo is None or (repo.token and token != repo.token and not repo.gated):
            self._refuse(401 if not token else 404, "RepoNotFound")
        elif repo.gated and token != repo.token:
            self._refuse(403, "GatedRepo")
        elif revision not in (repo.branch, repo.commit):
            self._refuse(404, "RevisionNotFound")
        else:
            return repo
        return None

    def _api(self, words: list[str], query: dict[str, list[str]]) -> None:
        if self._early(self.hub.fault_for("api")):
            return
        model, rest = "/".join(words[:2]), words[2:]
        verb, revision = (rest[0], rest[1]) if len(rest) > 1 else ("revision", "main")
        repo = self._repo(model, revision)
        if repo is None:
            return
        if verb == "revision":
            names = [{"rfilename": name} for name in repo.files]
            self._json({"id": model, "modelId": model, "sha": repo.commit, "siblings": names})
        elif verb == "xet-read-token":
            self._json(
                {},
                {
                    "X-Xet-Cas-Url": self.hub.silent_url,
                    "X-Xet-Access-Token": "token",
                    "X-Xet-Token-Expiration": str(int(time.time()) + 3600),
                },
            )
        else:
            self._tree(model, revision, repo, int(query.get("cursor", ["0"])[0]))

    def _tree(self, model: str, revision: str, repo: Repo, start: int) -> None:
        entries = [_entry(name, blob, repo) for name, blob in repo.files.items()]
        folders = sorted({name.rpartition("/")[0] for name in repo.files if "/" in name})
        entries += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": name} for name in folders]
        end = start + self.hub.page
        headers = {}
        if end < len(entries):
            where = f"{self.hub.url}/api/models/{model}/tree/{revision}?recursive=True&cursor={end}"
            headers["Link"] = f'<{where}>; rel="next"'
        self._json(entries[start:end], headers)

    def _resolve(self, model: str, revision: str, name: str) -> None:
        repo = self._repo(model, revision)
        if repo is None:
            return
        blob = repo.files.get(name)
        if blob is None:
            self._refuse(404, "EntryNotFound")
            return
        headers = {"X-Repo-Commit": repo.commit}
        if not blob.sha256:
            self._note(name)
            self._send(name, blob, fault=self._trouble(name), headers=headers)
            return
        self._start(
            302,
            {
                **headers,
                "Location": f"{self.hub.storage_url}/cdn/{blob.sha256}",
                "X-Linked-Etag": f'"{blob.sha256}"',
                "X-Linked-Size": str(blob.size),
                "Content-Length": "0",
            },
        )

    def _trouble(self, name: str) -> Fault | None:
        return self.hub.fault_for(name) if self.command == "GET" else None

    def _early(self, fault: Fault | None) -> bool:
        """Answers with a fault that comes before any byte of the body."""
        if fault is None or fault.kind not in ("limit", "retry", "error"):
            return False
        headers = {"Content-Length": "0"}
        if fault.kind == "limit":
            headers |= {
                "RateLimit": f'"resolvers";r=0;t={fault.seconds}',
                "RateLimit-Policy": '"fixed window";"resolvers";q=3000;w=300',
            }
        elif fault.kind == "retry":
            headers["Retry-After"] = str(fault.seconds)
        self._start(fault.status if fault.kind == "error" else 429, headers)
        return True

    def _send(
        self, name: str, blob: Blob, *, fault: Fault | None = None, headers: dict[str, str] | None = None
    ) -> None:
        if self._early(fault):
            return
        kind = fault.kind if fault else ""
        wanted = self.headers.get("Range", "") if kind != "whole" else ""
        start, end = _range(wanted, blob.size)
        size = end - start
        own = {"ETag": f'"{blob.sha256 or blob.git_oid}"', "Accept-Ranges": "bytes", **(headers or {})}
        own["Content-Length"] = str(size if kind != "short" else min(fault.at, size) if fault else size)
        if wanted:
            own["Content-Range"] = f"bytes {start}-{end - 1}/{blob.size}"
        self._start(206 if wanted else 200, own)
        if self.command == "HEAD":
            return
        with blob.path.open("rb") as source:
            source.seek(start)
            if fault is None or kind == "whole":
                self.wfile.flush()
                while start < end:
                    sent = self.connection.sendfile(source, start, min(_PIECE, end - start))
                    start += sent
                    self.hub.sent += sent
                return
            self._misbehave(fault, source.read(size))

    def _misbehave(self, fault: Fault, data: bytes) -> None:
        if fault.kind == "wrong":
            middle = fault.at or len(data) // 2
            self.wfile.write(data[:middle] + bytes(byte ^ 0xFF for byte in data[middle : middle + 16]))
            self.wfile.write(data[middle + 16 :])
        elif fault.kind == "slow":
            for byte in data:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.hub._ended.wait(0.2):
                    break
            self.close_connection = True
        else:
            self.wfile.write(data[: fault.at])
            self.wfile.flush()
            if fault.kind == "hang":
                self.hub.silence()
            self.close_connection = True

    def _start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _json(self, document: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(document).encode()
        own = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        self._start(200, own)
        if self.command == "GET":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self._start(status, {"X-Error-Code": code, "X-Error-Message": code, "Content-Length": "0"})


def _range(wanted: str, size: int) -> tuple[int, int]:
    if not wanted:
        return 0, size
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    return int(first), min(int(last) + 1 if last else size, size)


def _entry(name: str, blob: Blob, repo: Repo) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": blob.git_oid, "size": blob.size, "path": name}
    if blob.sha256:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 134}
        if repo.xet:
            entry["xetHash"] = blob.sha256
    return entry


def _blob(path: Path) -> Blob:
    size = path.stat().st_size
    lfs = path.suffix == ".safetensors" or size >= LFS_FROM
    digest = hashlib.sha256() if lfs else hashlib.sha1(b"blob %d\0" % size)
    with path.open("rb") as source:
        while piece := source.read(_PIECE):
            digest.update(piece)
    if lfs:  # what git has of it is a pointer, with an object name of its own
        return Blob(path, size, digest.hexdigest(), hashlib.sha1(digest.digest()).hexdigest())
    return Blob(path, size, "", digest.hexdigest())


# --- models ---------------------------------------------------------------------------------------


def write_safetensors(path: Path, tensors: dict[str, tuple[str, list[int], int]], seed: str = "") -> None:
    """Writes a real file with tensors of pseudo-random bytes.

    Args:
        tensors: By name: type, shape, bytes.
        seed: Another one gives other bytes of the same shape.
    """
    header, place = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as target:
        target.write(struct.pack("<Q", len(text)) + text)
        for piece in _noise(f"{path.name}{seed}", place):
            target.write(piece)


def _noise(seed: str, size: int) -> Iterator[bytes]:
    block = hashlib.shake_256(seed.encode()).digest(min(size, _PIECE))
    number = 0
    while size > 0:
        piece = number.to_bytes(8, "little") + block[8:] if len(block) >= 8 else block
        yield piece[:size]
        size -= len(piece[:size])
        number += 1


def write_model(
    folder: Path, *, shards: int = 3, shard_bytes: int = 40_000, fp8: bool = True, seed: str = ""
) -> Path:
    """Writes a model folder: shards with an index, config, tokenizer, as DeepSeek-V3's kin have them.

    Each shard has one FP8 matrix of 128 columns with its scales, or one of BF16, of about `shard_bytes`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, str] = {}
    total = 0
    for number in range(shards):
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        weight = f"model.layers.{number}.mlp.down_proj.weight"
        rows = max(128, shard_bytes // 128 // 128 * 128) if fp8 else max(1, shard_bytes // 256)
        tensors = {weight: ("F8_E4M3" if fp8 else "BF16", [rows, 128], rows * 128 * (1 if fp8 else 2))}
        if fp8:
            tensors[f"{weight}_scale_inv"] = ("F32", [rows // 128, 1], rows // 128 * 4)
        write_safetensors(folder / name, tensors, seed)
        index |= dict.fromkeys(tensors, name)
        total += sum(size for _, _, size in tensors.values())
    config: dict[str, Any] = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "hidden_size": 128,
        "num_hidden_layers": shards,
        "num_attention_heads": 4,
        "vocab_size": 4096,
        "max_position_embeddings": 4096,
    }
    if fp8:
        config["quantization_config"] = {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "weight_block_size": [128, 128],
            "activation_scheme": "dynamic",
        }
    texts = {
        "model.safetensors.index.json": {"metadata": {"total_size": total}, "weight_map": index},
        "config.json": config,
        "generation_config.json": {"temperature": 0.6},
        "tokenizer_config.json": {"model_max_length": 4096},
        "tokenizer.json": {"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}},
    }
    for name, document in texts.items():
        (folder / name).write_text(json.dumps(document, indent=1))
    (folder / "README.md").write_text("# A model\n")
    (folder / "LICENSE").write_text("MIT\n")
    return folder


def main() -> int:
    with Hub(int(os.environ.get("PORT", "0"))) as hub:
        for folder in map(Path, sys.argv[1:]):
            hub.add(f"test/{folder.name}", folder)
        print(hub.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
