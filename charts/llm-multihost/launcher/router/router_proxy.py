"""The way of a request: taken on, read by a prefill engine, answered by a decode engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientSession,
    ConnectionTimeoutError,
    HttpVersion11,
    web,
)
from multidict import CIMultiDict
from router_admission import Admission, Full
from router_backends import Backend, Pool
from router_metrics import Metrics
from router_requests import (
    COMPLETIONS,
    PATHS,
    Fields,
    NotAnObject,
    divisible,
    fields_of,
    for_decode,
    for_prefill,
    length_of,
    pieces,
    place_of,
)
from router_settings import Settings
from router_wire import Refusal, kept, reset, say
from yarl import URL

WAIT_SECONDS = 0.2  # between two looks for a decode leader
QUEUE_SECONDS = 10.0  # for a decode leader to take the request; prefill keeps a cache for 30 s and more
# A second sending is for requests that met an engine on its way out: those it gives back at once. What an
# engine has worked on may be what killed it, and is not shown to the next.
AGAIN_SECONDS = 1.0
LAG_SECONDS = 10.0  # after SIGTERM, in which new requests still come: not everybody knows at once
BODY_SECONDS = 30.0  # without a byte of a body
CLIENT_SECONDS = 120.0  # in which a client reads nothing of its answer
# Without a byte of an answer that has begun. A request that gave way to others may pause for minutes, and
# groups find out by themselves that they stall: this is for answers that nothing else ends.
STREAM_SECONDS = 900.0
RETRY_AFTER = "2"


class Body:
    """What a client has sent, for as long as it may have to be sent once more."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._size = 0
        self.fields: Fields = {}

    def hold(self, size: int) -> None:
        """Take bytes on; raises Full."""
        self._admission.hold(size)
        self._size += size

    def let_go(self) -> None:
        """Forget it."""
        self.fields = {}
        self._admission.drop(self._size)
        self._size = 0


@dataclass(eq=False)
class Flow:
    """An answer on its way to a client: whom it waits for, and since when."""

    request: web.BaseRequest
    answer: ClientResponse
    since: float
    to_client: bool = False

    def cut(self) -> None:
        """End it from the side that it waits for."""
        if self.to_client:
            reset(self.request)
        else:
            self.answer.close()


class Router:
    """Everything that one process has in its hands."""

    def __init__(self, settings: Settings, session: ClientSession) -> None:
        self.settings, self.session = settings, session
        self.prefill = Pool("prefill")
        self.decode = Pool("decode")
        self.admission = Admission(settings.most_requests, settings.room_bytes)
        self.metrics = Metrics()
        self.draining = False
        self.legs: dict[Backend, set[asyncio.Future[Any]]] = {}
        self.flows: set[Flow] = set()
        self._own: dict[str, Callable[[], web.Response]] = {
            "/health": self._health,
            "/ready": self._ready,
            "/metrics": self._metrics,
        }

    # -- handlers

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request."""
        path = request.raw_path.partition("?")[0]
        own = self._own.get(path)
        try:
            answer = own() if own else await self._serve(request, path)
        except Refusal as refusal:
            self.metrics.count("refused_total", f'reason="{refusal.reason}"')
            answer = refusal.answer()
        if self.draining and not answer.prepared:
            answer.force_close()
        return answer

    def _health(self) -> web.Response:
        """Whether this process answers."""
        return web.Response(text="ok\n")

    def _ready(self) -> web.Response:
        """Whether a request would be answered."""
        if self.draining:
            return web.Response(status=503, text="draining\n")
        if not self.decode.known:
            return web.Response(status=503, text="no decode group is ready\n")
        return web.Response(text="ok\n")

    def _metrics(self) -> web.Response:
        text = self.metrics.text(self.admission, (self.prefill, self.decode), self.draining)
        kind = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=text.encode(), headers=kind)

    async def _serve(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        methods = PATHS.get(path)
        if methods is None:
            raise Refusal(404, "path", f"there is no {path[:100]} here")
        if request.method not in methods:
            allowed = ", ".join(methods)
            raise Refusal(405, "method", f"{path} takes {allowed}", Allow=allowed)
        if "websocket" in request.headers.get("Upgrade", "").lower():
            raise Refusal(501, "websocket", "WebSockets are not passed on")
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Refusal(415, "encoding", "compressed bodies are not taken", Accept_Encoding="identity")
        body = Body(self.admission)
        try:
            self.admission.enter()
        except Full as full:
            raise _overload(full) from None
        try:
            if request.method != "POST":
                return await self._answer(request, path, None, None)
            await self._receive(request, body)
            await self._decode_there()
            place = await self._read_prompt(request, path, body) if path in COMPLETIONS else None
            return await self._answer(request, path, body, place)
        finally:
            body.let_go()
            self.admission.leave()

    async def _receive(self, request: web.BaseRequest, body: Body) -> None:
        """Read a body as far as there is room for it."""
        most = self.settings.body_bytes
        length = request.content_length
        too_large = Refusal(413, "body", f"a body has at most {most} bytes")
        if length is not None and length > most:
            raise too_large
        chunks: list[bytes] = []
        total = 0
        try:
            body.hold(length or 0)
            expect = request.headers.get("Expect")
            if expect and expect.lower() == "100-continue" and request.transport:
                request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            while chunk := await asyncio.wait_for(request.content.readany(), BODY_SECONDS):
                total += len(chunk)
                if total > most:
                    raise too_large
                if length is None:
                    body.hold(len(chunk))
                chunks.append(chunk)
            whole = b"".join(chunks)
            chunks.clear()
            body.fields = fields_of(whole)
        except Full as full:
            raise _overload(full) from None
        except asyncio.TimeoutError:  # noqa: UP041  another one before Python 3.11
            raise Refusal(408, "slow", f"no byte of the body for {BODY_SECONDS:.0f} s") from None
        except NotAnObject as error:
            raise Refusal(400, "json", f"the body is no JSON object: {error}") from None

    # -- legs

    async def _decode_there(self) -> None:
        """Wait for a decode leader: no prefill group shall keep a cache for nobody."""
        deadline = time.monotonic() + QUEUE_SECONDS
        while not self.decode.known:
            _queue(deadline)
            await asyncio.sleep(WAIT_SECONDS)

    async def _read_prompt(self, request: web.BaseRequest, path: str, body: Body) -> Any:
        """Let a prefill group read the prompt; return where the KV cache is, None when nowhere."""
        outcome, place = "skipped", None
        if divisible(body.fields):
            outcome, place = await self._prefilled(request, path, body)
        self.metrics.count("requests_total", f'prefill="{outcome}"')
        return place

    async def _prefilled(self, request: web.BaseRequest, path: str, body: Body) -> tuple[str, Any]:
        tried: set[Backend] = set()
        while backend := self.prefill.choose(but=tried):
            tried.add(backend)
            begin = time.monotonic()
            self.prefill.begin(backend, begin)
            leg = asyncio.ensure_future(self._ask_prefill(backend, request, path, body.fields))
            legs = self.legs.setdefault(backend, set())
            legs.add(leg)
            try:
                await asyncio.wait({leg})
            finally:  # also when the client has gone: both ends of the leg are given up
                leg.cancel()
                legs.discard(leg)
                if not legs:
                    self.legs.pop(backend, None)
                self.prefill.end(backend)
            if leg.cancelled():  # by keep_watching: the whole group has stalled
                return "failed", None
            error = leg.exception()
            if error is not None:
                self.lost(self.prefill, backend, error)
                if isinstance(error, (ClientConnectorError, ConnectionTimeoutError)):
                    continue
                if isinstance(error, (ClientError, OSError)):
                    return "failed", None
                raise error
            status, place = leg.result()
            if place is not None:
                self.metrics.took(time.monotonic() - begin)
                self.answered(self.prefill, backend)
                return "done", place
            if 400 <= status < 500:  # the decode engine refuses it in its own words
                self.answered(self.prefill, backend)
                return "skipped", None
            self.lost(self.prefill, backend, status)
            return "failed", None
        return "failed", None

    async def _ask_prefill(
        self, backend: Backend, request: web.BaseRequest, path: str, fields: Fields
    ) -> tuple[int, Any]:
        headers = kept(request.headers, "content-encoding", "accept-encoding")
        async with self._send(backend, "POST", path, headers, for_prefill(fields)) as answer:
            said = await answer.read()
            return answer.status, place_of(said) if answer.status == 200 else None

    async def _answer(
        self, request: web.BaseRequest, path: str, body: Body | None, place: Any
    ) -> web.StreamResponse:
        """Let a decode engine answer."""
        headers = kept(request.headers, "content-encoding")
        _, mark, query = request.raw_path.partition("?")
        target = path + mark + query
        tried: set[Backend] = set()
        again = False
        deadline = time.monotonic() + QUEUE_SECONDS
        while True:
            backend = self.decode.choose(but=tried, desperate=True)
            if backend is None:
                _queue(deadline)
                tried.clear()
                await asyncio.sleep(WAIT_SECONDS)
                continue
            tried.add(backend)
            begin = time.monotonic()
            self.decode.begin(backend, begin)
            try:
                fields = for_decode(body.fields, place) if body else None
                try:
                    answer = await self._send(backend, request.method, target, headers, fields)
                except (ClientConnectorError, ConnectionTimeoutError) as error:
                    self.lost(self.decode, backend, error)
                    continue
                except (ClientError, OSError) as error:
                    self.lost(self.decode, backend, error)
                    if again or time.monotonic() - begin > AGAIN_SECONDS:
                        self.metrics.count("lost_total")
                        raise Refusal(502, "lost", f"the engine gave no answer: {error}") from None
                    # The engine may have fetched the KV cache, and the prefill group may have let it go:
                    # whoever reads it now reads what is there by then.
                    again, place = True, None
                    self.metrics.count("retries_total")
                    continue
                finally:
                    fields = None
                if body:
                    body.let_go()
                if answer.status < 500:
                    self.answered(self.decode, backend)
                else:
                    self.lost(self.decode, backend, answer.status)
                return await self._pass_on(request, answer)
            finally:
                self.decode.end(backend)

    async def _pass_on(self, request: web.BaseRequest, answer: ClientResponse) -> web.StreamResponse:
        """Pass an answer on as it comes, and no faster than the client takes it."""
        self.metrics.count("answers_total", f'code="{answer.status}"')
        passed = web.StreamResponse(status=answer.status, headers=kept(answer.headers))
        if "Content-Length" in answer.headers:
            passed.content_length = int(answer.headers["Content-Length"])
        if self.draining:
            passed.force_close()
        clock = asyncio.get_running_loop().time
        flow = Flow(request, answer, clock())
        async with answer:
            await passed.prepare(request)
            self.flows.add(flow)
            try:
                while piece := await answer.content.readany():
                    flow.to_client, flow.since = True, clock()
                    await passed.write(piece)
                    flow.to_client, flow.since = False, clock()
                await passed.write_eof()
            except ClientError as error:
                if flow.to_client:
                    raise
                self.metrics.count("lost_total")
                if request.version < HttpVersion11:
                    reset(request)  # its answers end with the connection
                # The connection closes without the end of the answer, so that it cannot pass for whole.
                raise ConnectionResetError(f"the engine's answer broke off: {error}") from None
            finally:
                self.flows.discard(flow)
        return passed

    def _send(
        self, backend: Backend, method: str, target: str, headers: CIMultiDict[str], fields: Fields | None
    ) -> Any:
        """Send a request; to be awaited for the answer, or entered with `async with`."""
        data = None
        if fields is not None:
            headers = headers.copy()
            headers["Content-Length"] = str(length_of(fields))
            data = _stream(fields)
        url = URL(f"http://{backend.name}{target}", encoded=True)
        return self.session.request(method, url, headers=headers, data=data, allow_redirects=False)

    # -- what engines are like

    def answered(self, pool: Pool, backend: Backend) -> None:
        """An engine has answered."""
        if pool.answered(backend, time.monotonic()):
            say(f"{pool.role} {backend.name} answers again")

    def lost(self, pool: Pool, backend: Backend, how: object) -> None:
        """An engine has not answered (an exception), or with an error (a status)."""
        status = isinstance(how, int)
        if pool.failed(backend, time.monotonic(), lost=not status):
            text = f"status {how}" if status else f"{type(how).__name__}: {how}"
            say(f"{pool.role} {backend.name} is left alone: {text}")


def _overload(full: Full) -> Refusal:
    return Refusal(429, str(full), f"no room for more {full}, try again later", Retry_After=RETRY_AFTER)


def _queue(deadline: float) -> None:
    if time.monotonic() >= deadline:
        raise Refusal(503, "decode", "no decode group answers", Retry_After=RETRY_AFTER)


async def _stream(fields: Fields) -> AsyncIterator[bytes | memoryview]:
    for piece in pieces(fields):
        yield piece
