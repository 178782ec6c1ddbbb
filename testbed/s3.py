"""Network volumes behind RunPod's S3 endpoint: versitygw on a folder, and a proxy that is as RunPod's is.

versitygw serves files as objects, as RunPod does, with real signatures, parts and ETags. What RunPod does
otherwise (runpod/docs, storage/s3-api.mdx) the proxy adds: what is too large and what it does not know is
refused, and whatever a test plants goes wrong: answers that come too late, get lost, or are no answers.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

from testbed.build import build_module
from testbed.loopback import Loopback, free_port

SOURCE = Path(__file__).parent / "go-s3"
_PACKAGE = "github.com/versity/versitygw/cmd/versitygw"
ACCESS, SECRET = "user_standin", "rps_standin-secret"
_UNKNOWN = {"acl", "tagging", "versioning", "location", "policy", "encryption", "object-lock", "delete"}
_PAGE = b"<html><head><title>524: A timeout occurred</title></head></html>"


@dataclass
class Fault:
    """What goes wrong.

    Attributes:
        match: A regular expression for the call, such as "UploadPart models/m/a.safetensors".
        kind: refused (`status` and `code` instead of doing it), late (done, and `status` with a page of the
            proxy for an answer), lost (done, and the connection is reset), reset (not done, and it is reset),
            circle (a list whose next page is itself).
        times: How often; below 0 for ever.
    """

    match: str
    kind: str = "refused"
    status: int = 503
    code: str = "ServiceUnavailable"
    times: int = 1


class Gateway(Loopback):
    """versitygw on a folder whose subfolders are the volumes."""

    def __init__(self, folder: Path, region: str, *options: str) -> None:
        port = free_port()
        own = ["--access", ACCESS, "--secret", SECRET, "--region", region, "--quiet", "--health", "/health"]
        program = build_module(SOURCE, _PACKAGE) / "versitygw"
        command = [str(program), "--port", f"127.0.0.1:{port}", *own, "posix", *options, str(folder)]
        super().__init__("the S3 gateway", command, port, "/health")


class Endpoint:
    """The endpoint of a data center.

    Args:
        folder: Of the volumes.
        region: The data center.
        options: More of versitygw's own for its files.
        most: Bytes that one object or part may have; RunPod: 500 MB.

    Attributes:
        faults: What goes wrong next.
        volumes: Names of the volumes that there are; their folders are made.
        calls: Operation and key of all requests, in order.
        sent: Bytes of all bodies that have come.
    """

    def __init__(self, folder: Path, region: str, *options: str, most: int = 500_000_000) -> None:
        self.folder, self.most = folder, most
        self.volumes: Callable[[], Iterable[str]] = tuple
        self.faults: list[Fault] = []
        self.calls: list[str] = []
        self.sent = 0
        self._lock = threading.Lock()
        self._gateway = Gateway(folder, region, *options)
        self._target = urlsplit(self._gateway.url).netloc
        self._http = _Listener(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._gateway.close()

    def fail(
        self, match: str, kind: str = "refused", status: int = 503, code: str = "", times: int = 1
    ) -> None:
        """Let calls go wrong."""
        self.faults.append(Fault(match, kind, status, code or str(status), times))

    def asked(self, match: str) -> int:
        """Return how many calls there were."""
        return sum(bool(re.search(match, call)) for call in self.calls)

    def seen(self, call: str, size: int) -> Fault | None:
        """Note a call, and return what is to go wrong with it."""
        with self._lock:
            self.calls.append(call)
            self.sent += size
            found = next((one for one in self.faults if one.times and re.search(one.match, call)), None)
            if found:
                found.times -= 1
            return found

    def forward(
        self, request: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Let the gateway do it; Host is signed, so it stays."""
        for name in self.volumes():
            (self.folder / name).mkdir(exist_ok=True)
        connection = http.client.HTTPConnection(self._target, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            try:
                connection.endheaders(body or None)
                answer = connection.getresponse()
                status, headers, data = answer.status, answer.getheaders(), answer.read()
            except OSError:  # it has refused the request before it had all of it
                return 502, [("Content-Type", "text/html")], _PAGE
            if b"<Code>XAdminUserNotFound</Code>" in data:  # S3 has another name for it
                return 403, headers, data.replace(b"XAdminUserNotFound", b"InvalidAccessKeyId")
            return status, headers, data


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # else whoever asked was killed
            super().handle_error(*_)  # type: ignore[arg-type]


def operation(method: str, path: str) -> str:
    """Return what S3 calls a request, and its key."""
    split = urlsplit(path)
    query = parse_qs(split.query, keep_blank_values=True)
    bucket, _, key = split.path.lstrip("/").partition("/")
    known = {
        ("GET", False): "ListBuckets" if not bucket else "ListObjectsV2",
        ("HEAD", False): "HeadBucket",
        ("GET", True): "GetObject",
        ("HEAD", True): "HeadObject",
        ("PUT", True): "PutObject",
        ("DELETE", True): "DeleteObject",
    }
    of_uploads = {
        "GET": "ListParts" if key else "ListMultipartUploads",
        "PUT": "UploadPart",
        "DELETE": "AbortMultipartUpload",
        "POST": "CompleteMultipartUpload" if "uploadId" in query else "CreateMultipartUpload",
    }
    unknown = _UNKNOWN & set(query)
    if unknown:
        return f"unknown {unknown.pop()}"
    name = (
        of_uploads[method]
        if {"uploads", "uploadId"} & set(query)
        else known.get((method, bool(key)), "unknown")
    )
    number = query.get("partNumber", [""])[0]
    return " ".join(word for word in (name, key or query.get("prefix", [""])[0], number) if word)


def _handler(endpoint: Endpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.headers.get("Expect"):
                self.send_response_only(100)
                self.end_headers()
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            call = operation(self.command, self.path)
            fault = endpoint.seen(call, len(body))
            if fault and fault.kind == "reset":
                return self._reset()
            if call.startswith("unknown"):
                return self._refuse(501, "NotImplemented")
            if len(body) > endpoint.most:
                return self._refuse(400, "EntityTooLarge")
            if fault and fault.kind == "refused":
                return self._refuse(fault.status, fault.code)
            status, headers, data = endpoint.forward(self, body)
            if fault and fault.kind == "lost":
                return self._reset()
            if fault and fault.kind == "late":
                return self._answer(fault.status, [("Content-Type", "text/html")], _PAGE)
            if fault and fault.kind == "circle":
                data = data.replace(
                    b"<IsTruncated>false</IsTruncated>",
                    b"<IsTruncated>true</IsTruncated><NextContinuationToken>same</NextContinuationToken>",
                )
            return self._answer(status, headers, data)

        do_PUT = do_POST = do_HEAD = do_DELETE = do_GET

        def _refuse(self, status: int, code: str) -> None:
            text = (
                f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>a planted fault</Message></Error>"
            )
            self._answer(status, [("Content-Type", "application/xml")], text.encode())

        def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
            self.send_response_only(status)
            length = str(len(data))
            for name, value in headers:
                if name.lower() == "content-length" and self.command == "HEAD":
                    length = value
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def _reset(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

        def log_message(self, *_: object) -> None: ...

    return Handler


if __name__ == "__main__":
    print(build_module(SOURCE, _PACKAGE) / "versitygw")
