"""Talking to a ready leader or router: a tunnel through the API server, and the answer as it is written."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from manyhost.cluster.connection import Connection, Forbidden, Unreachable, path_of
from manyhost.cluster.phases import NAME, WORKER, is_ready
from manyhost.cluster.router import selector
from manyhost.cluster.target import Place
from manyhost.commands import Commands, line
from manyhost.errors import Failed, NotReady, RemoteError

_ANSWER_SECONDS = 600.0  # without a byte of an answer: a long prompt is read before the first token
_LINE_LIMIT = 1 << 20
KEY = "VLLM_API_KEY"  # the engine's own variable, and the client's
_OPENING = threading.Lock()  # the library replaces a method of its client for the time of the call


class Piece(msgspec.Struct, frozen=True):
    """A piece of an answer.

    Attributes:
        kind: reasoning, answer, or end.
        text: The text; of the end, why it ended (stop, length, ...).
    """

    kind: Literal["reasoning", "answer", "end"]
    text: str


class Locked(Failed):
    """The engine answers nobody without its key."""


class Server(msgspec.Struct, frozen=True):
    """A pod that takes requests."""

    pod: str
    port: int


def ready_server(connection: Connection, place: Place) -> Server:
    """Return a ready router of a release that has one, else a ready leader.

    Raises:
        NotReady: There is none.
    """
    path = path_of("v1", "pods", place.namespace)
    what = "router"
    pods = list(connection.pages(path, dict[str, Any], labels=selector(place)))
    if not pods:
        what = "group"
        labels = f"{NAME}={place.release},{WORKER}=0"
        pods = list(connection.pages(path, dict[str, Any], labels=labels))
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["name"])):
        if is_ready(pod):
            return Server(pod["metadata"]["name"], port_of(pod))
    raise NotReady(
        f"no {what} of release {place.release} is ready",
        fix=f"{connection.commands.manyhost('status')} says why",
    )


@contextlib.contextmanager
def tunnel(
    connection: Connection, namespace: str, server: Server, seconds: float = _ANSWER_SECONDS
) -> Iterator[http.client.HTTPConnection]:
    """Open one HTTP connection to a pod through the API server; no local port is opened.

    Args:
        connection: The cluster.
        namespace: The pod's.
        server: The pod.
        seconds: Without a byte of an answer.

    Raises:
        Unreachable: The API server or the host does not take the connection.
    """
    from kubernetes.client import ApiException, CoreV1Api
    from kubernetes.stream import portforward

    api = CoreV1Api(connection.client)
    try:
        with _OPENING:
            forward = portforward(
                api.connect_get_namespaced_pod_portforward, server.pod, namespace, ports=str(server.port)
            )
    except (ApiException, OSError) as error:
        reason = " ".join(str(getattr(error, "reason", "") or error).split())[:200]
        if getattr(error, "status", 0) == 403 or "403 Forbidden" in reason:
            raise Forbidden(
                f"you may not open a tunnel to {server.pod} (create pods/portforward)",
                status=403,
                fix="ask for it; "
                + connection.commands.kubectl("auth", "can-i", "create", "pods/portforward")
                + " says yes when you have it",
            ) from None
        raise Unreachable(
            f"no tunnel to {server.pod}: {reason}",
            fix=f"see whether it runs: {connection.commands.kubectl('get', 'pod', server.pod)}",
        ) from None
    http_connection = http.client.HTTPConnection(server.pod, server.port)
    socket = forward.socket(server.port)
    socket.setblocking(True)
    socket.settimeout(seconds)
    http_connection.sock = socket
    try:
        yield http_connection
    finally:
        http_connection.close()
        forward.close()


def model_name(client: http.client.HTTPConnection, key: str = "") -> str:
    """Return the model that is served.

    Args:
        client: From tunnel().
        key: The engine's, where it has one.

    Raises:
        Locked: It has another one.
        RemoteError: It does not say.
    """
    try:
        client.request("GET", "/v1/models", headers=_login(key))
        answer = client.getresponse()
        body = answer.read()
        if answer.status == 401:
            raise _locked(key)
        return str(msgspec.json.decode(body)["data"][0]["id"])
    except (
        OSError,
        http.client.HTTPException,
        msgspec.DecodeError,
        KeyError,
        IndexError,
        TypeError,
    ) as error:
        raise RemoteError(f"the engine does not say which model it serves: {type(error).__name__}") from None


def key_command(connection: Connection, place: Place) -> str:
    """Return the command that takes the engine's key from the Secret that its pods name; may be empty."""
    path = path_of("v1", "pods", place.namespace)
    labels = f"{NAME}={place.release},{WORKER}=0"
    for pod in connection.pages(path, dict[str, Any], labels=labels):
        for variable in (one for c in pod["spec"]["containers"] for one in c.get("env") or ()):
            secret = (variable.get("valueFrom") or {}).get("secretKeyRef")
            if variable["name"] == KEY and secret:
                template = f'go-template={{{{index .data "{secret["key"]}" | base64decode}}}}'
                read = connection.commands.kubectl("get", "secret", secret["name"], "-o", template)
                assignment = f'{KEY}="$({read[1:-1]})"'
                return line("export", shell=assignment)
    return ""


def _login(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _locked(key: str) -> Locked:
    return Locked(f"the engine does not take {f'the key in ${KEY}' if key else 'requests without its key'}")


def ask(
    client: http.client.HTTPConnection,
    model: str,
    messages: list[dict[str, str]],
    *,
    commands: Commands,
    key: str = "",
    max_tokens: int | None = None,
    temperature: float | None = None,
) -> Iterator[Piece]:
    """Send a conversation; yield the answer piece by piece, its reasoning apart.

    Args:
        client: From tunnel(), or any HTTP connection to the service.
        model: The served model's name.
        messages: role and content of each turn.
        commands: Builds the command that says why a connection broke off.
        key: The engine's, where it has one.
        max_tokens: Limit of the answer; the engine's own when None.
        temperature: The engine's own when None.

    Raises:
        Locked: The engine has another key.
        Failed: The engine refuses the request; its own sentence.
        RemoteError: The connection breaks off.
    """
    body: dict[str, Any] = {"model": model, "messages": messages, "stream": True}
    body |= {"max_tokens": max_tokens} if max_tokens else {}
    body |= {"temperature": temperature} if temperature is not None else {}
    try:
        client.request(
            "POST",
            "/v1/chat/completions",
            body=msgspec.json.encode(body),
            headers={"Content-Type": "application/json", "Accept": "text/event-stream", **_login(key)},
        )
        answer = client.getresponse()
        if answer.status == 401:
            raise _locked(key)
        if answer.status != 200:
            raise Failed(_sentence(answer.read(_LINE_LIMIT), answer.status), where="engine")
        yield from _pieces(answer)
    except (OSError, http.client.HTTPException) as error:
        raise RemoteError(
            f"the answer broke off: {str(error) or type(error).__name__}",
            fix=f"{commands.manyhost('status')} says what has become of the leader",
        ) from None


def _pieces(answer: http.client.HTTPResponse) -> Iterator[Piece]:
    """Read the server-sent events of one answer (WHATWG HTML, "Server-sent events"); only data is used."""
    ended = ""
    for text in iter(lambda: answer.readline(_LINE_LIMIT), b""):
        if not text.startswith(b"data:"):
            continue
        data = text[5:].strip()
        if data == b"[DONE]":
            answer.read()
            yield Piece("end", ended)
            return
        try:
            event = msgspec.json.decode(data)
        except msgspec.DecodeError:
            raise RemoteError("the engine sent something that is no JSON") from None
        if "error" in event:
            raise Failed(_sentence(data, 500), where="engine")
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            # vLLM calls it reasoning since v0.12 and reasoning_content before.
            reasoning = delta.get("reasoning") or delta.get("reasoning_content")
            if reasoning:
                yield Piece("reasoning", reasoning)
            if delta.get("content"):
                yield Piece("answer", delta["content"])
            ended = choice.get("finish_reason") or ended
    raise http.client.IncompleteRead(b"")


def _sentence(body: bytes, status: int) -> str:
    try:
        found = msgspec.json.decode(body)
        error = found.get("error", found)
        text = str(error.get("message", "")) if isinstance(error, dict) else str(error)
    except (msgspec.DecodeError, AttributeError):
        text = body.decode(errors="replace")
    return " ".join(text.split())[:400] or f"HTTP status {status}"


def port_of(pod: dict[str, Any]) -> int:
    """Return the port of a pod's API."""
    for container in pod["spec"]["containers"]:
        for port in container.get("ports") or ():
            if port.get("name") == "http":
                return int(port["containerPort"])
    return 8000
