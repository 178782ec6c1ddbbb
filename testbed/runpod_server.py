"""How RunPod's API is spoken: HTTP, keys, rate limits, faults, and what its description demands."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import jsonschema_rs

Query = dict[str, str]


@dataclass
class Fault:
    """One thing that goes wrong, once.

    Attributes:
        match: A regular expression for "METHOD /path".
        status: Answered in place of doing it; 0 with `lost` and with `stuck`.
        lost: The request is carried out and its answer never comes.
        late: Seconds after which what was asked for appears (with `lost`).
        headers: Of the answer.
        garbled: The request is carried out and its answer is not as described.
        stuck: The last so many members of the cluster that is asked for never leave PROVISIONING.
    """

    match: str
    status: int = 0
    lost: bool = False
    late: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    garbled: bool = False
    stuck: int = 0


class Refused(Exception):
    """What is answered with a problem (RFC 9457)."""

    def __init__(self, status: int, detail: str, errors: list[str] | None = None, retry: int = 0) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = {"Retry-After": str(retry)} if retry else {}
        self.problem: dict[str, Any] = {"title": "error", "status": status, "detail": detail}
        if errors:
            self.problem["errors"] = errors


@dataclass(frozen=True)
class Answer:
    """A status, headers, and JSON, events or nothing."""

    status: int
    data: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class Server:
    """What answers on `url`; what is answered, `do` knows.

    Args:
        clock: Seconds since 1970.
        description: RunPod's OpenAPI file; nothing is held to it without.

    Attributes:
        keys: API key to a regular expression for the "METHOD /path" that it may do.
        limits: Requests that a key has in each window of so many seconds.
        faults: What goes wrong next.
        calls: "METHOD /path" of all requests.
    """

    def __init__(self, clock: Callable[[], float], description: Path | None) -> None:
        self.clock = clock
        self.keys: dict[str, str] = {}
        self.limits = {"minute": (60, 60), "hour": (3000, 3600), "day": (50000, 86400)}
        self.faults: list[Fault] = []
        self.calls: list[str] = []
        self._used: dict[tuple[str, str, int], int] = {}
        self._lock = threading.Lock()
        self._description = _Description(json.loads(description.read_text())) if description else None
        self._http = _Listener(("127.0.0.1", 0), _handler(self))
        self.port = int(self._http.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def do(self, method: str, parts: list[str], query: Query, body: Any, fault: Fault) -> Answer:
        """Carry a request out, with what is to go wrong."""
        raise NotImplementedError

    def answer(self, method: str, path: str, body: Any, key: str) -> Answer | None:
        """Return what is answered, None when that is lost."""
        split = urlsplit(path)
        call = f"{method} {split.path}"
        with self._lock:
            self.calls.append(call)
            fault = next((one for one in self.faults if re.search(one.match, f"{method} {path}")), None)
            if fault:
                self.faults.remove(fault)
                if fault.status:
                    refused = Refused(fault.status, "a planted fault")
                    return Answer(fault.status, refused.problem, fault.headers)
            headers: dict[str, str] = {}
            try:
                if key not in self.keys:
                    raise Refused(401, "invalid API key")
                headers = self._limit(key)
                if not re.match(self.keys[key], call):
                    raise Refused(403, "the key is not permitted to do this")
                found = self._checked(method, split.path, split.query, body, fault or Fault(""))
            except Refused as refused:
                found = Answer(refused.status, refused.problem, refused.headers)
        if fault and fault.lost:
            return None
        data = "a page of a proxy" if fault and fault.garbled else found.data
        return Answer(found.status, data, headers | found.headers)

    def _checked(self, method: str, path: str, query: str, body: Any, fault: Fault) -> Answer:
        named = {name: ",".join(values) for name, values in parse_qs(query).items()}
        rules = self._description
        if rules:
            rules.request(method, path, named, body)
        parts = [unquote(part) for part in path.removeprefix("/v2/").split("/")]
        answer = self.do(method, parts, named, body, fault)
        if rules:
            rules.answer(method, path, answer)
        return answer

    def _limit(self, key: str) -> dict[str, str]:
        """Count a request; return the headers that say how many more there may be."""
        now, left = self.clock(), []
        for name, (quota, window) in self.limits.items():
            number, into = divmod(int(now), window)
            used = self._used[key, name, number] = self._used.get((key, name, number), 0) + 1
            if used > quota:
                raise Refused(429, f"rate limit exceeded ({name})", retry=window - into)
            left.append(f'"{name}";r={quota - used};t={window - into}')
        policy = ", ".join(f'"{name}";q={quota};w={window}' for name, (quota, window) in self.limits.items())
        return {"RateLimit-Policy": policy, "RateLimit": ", ".join(left)}

    def close(self) -> None:
        """Stop answering."""
        self._http.shutdown()
        self._http.server_close()

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Description:
    """Holds requests and answers to an OpenAPI document."""

    def __init__(self, document: Any) -> None:
        self._document = document
        self._paths = [(re.compile(re.sub(r"{\w+}", "[^/]+", path)), path) for path in document["paths"]]
        self._validators: dict[str, jsonschema_rs.Draft202012Validator] = {}

    def request(self, method: str, path: str, query: Query, body: Any) -> None:
        """Refuse what is not described.

        Raises:
            Refused: 404 or 422.
        """
        where, operation = self._operation(method, path)
        named = [self._resolved(one) for one in operation.get("parameters", [])]
        known = {one["name"] for one in named if one["in"] == "query"}
        errors = [f"query: {name} is unknown" for name in sorted(set(query) - known)]
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            errors += self._wrong(f"{where} request", schema, body)
        if errors:
            raise Refused(422, "the request is not valid", errors)

    def answer(self, method: str, path: str, answer: Answer) -> None:
        """Fail when the stand-in's own answer is not as described."""
        where, operation = self._operation(method, path)
        described = self._resolved(operation["responses"][str(answer.status)]).get("content", {})
        if "application/json" in described:
            schema = described["application/json"]["schema"]
            wrong = self._wrong(f"{where} {answer.status}", schema, answer.data)
            assert not wrong, f"the stand-in's own answer to {where}: {wrong}"

    def _operation(self, method: str, path: str) -> tuple[str, Any]:
        # A literal path comes before one with a parameter.
        for pattern, template in sorted(self._paths, key=lambda one: one[1].count("{")):
            if pattern.fullmatch(path) and method.lower() in self._document["paths"][template]:
                return f"{method} {template}", self._document["paths"][template][method.lower()]
        raise Refused(404, f"no such path: {method} {path}")

    def _resolved(self, one: Any) -> Any:
        found = one
        if "$ref" in one:
            found = self._document
            for name in one["$ref"].removeprefix("#/").split("/"):
                found = found[name]
        return found

    def _wrong(self, name: str, schema: Any, value: Any) -> list[str]:
        if name not in self._validators:
            whole = {**schema, "components": self._document["components"]}
            self._validators[name] = jsonschema_rs.Draft202012Validator(whole)
        errors = self._validators[name].iter_errors(value)
        return [f"{'/'.join(map(str, error.instance_path))}: {error.message}" for error in errors]


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that left, as a pod does that removed itself."""
        import sys

        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*_)


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def _serve(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            key = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            answer = server.answer(self.command, self.path, body, key)
            if answer is None:  # lost
                self.close_connection = True
                return
            self.send_response(answer.status)
            if isinstance(answer.data, Iterator):
                self._stream(answer)
                return
            text = json.dumps(answer.data).encode() if answer.data is not None else b""
            kind = "application/json" if answer.status < 400 else "application/problem+json"
            own = {"Content-Length": str(len(text))} | ({"Content-Type": kind} if text else {})
            for name, value in {**own, **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        def _stream(self, answer: Answer) -> None:
            own = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
            more = {"Cache-Control": "no-cache", "Connection": "keep-alive", "X-Accel-Buffering": "no"}
            for name, value in {**own, **more, **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            for event in answer.data:
                data = event.encode()
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    return Handler
