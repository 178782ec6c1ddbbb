"""The door before Dynamo's frontend: asks for the API's key, and has one page of metrics."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
from collections.abc import Callable, Iterable

import aiohttp
from aiohttp import web
from yarl import URL  # aiohttp's own

PUBLIC, FRONTEND = 8000, 8004
_HOP = {
    "authorization", "connection", "content-length", "host", "keep-alive", "proxy-authenticate",
    "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade",
}  # fmt: skip
_CONNECT_SECONDS, _METRICS_SECONDS = 3.0, 5.0


@dataclasses.dataclass(frozen=True)
class Place:
    """An engine, as it is seen from here.

    Attributes:
        rank: Of its first host.
        role: serve, prefill or decode.
        url: Says where it answers; nothing as long as nobody knows.
    """

    rank: int
    role: str
    url: Callable[[], str]


class Door:
    """What is public.

    Args:
        session: To reach what is behind it.
        key: What a client shows for /v1.
        engines: What it leads to.
    """

    def __init__(self, session: aiohttp.ClientSession, key: str, engines: list[Place]) -> None:
        self._session, self._key, self._engines = session, key, engines
        self._url = f"http://127.0.0.1:{FRONTEND}"

    def application(self) -> web.Application:
        """Return what is served; every other path is 404."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/health", self.health),
                web.get("/version", self.version),
                web.get("/metrics", self.metrics),
                web.get("/metrics/{rank:[0-9]{1,3}}", self.metrics_of),
                web.route("*", "/v1/{path:.+}", self.forward),
            ]
        )
        return app

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """Hand a request of a client with the key on, and its answer back as it comes."""
        shown = request.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(shown, f"Bearer {self._key}".encode()):
            return web.json_response({"error": "Unauthorized"}, status=401)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        body = request.content if request.body_exists else None
        limit = aiohttp.ClientTimeout(
            total=None, sock_connect=_CONNECT_SECONDS
        )  # an answer may take its time
        url = URL(self._url + request.raw_path, encoded=True)
        begun: web.StreamResponse | None = None
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=body, timeout=limit, allow_redirects=False
            ) as answer:
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
                begun = web.StreamResponse(status=answer.status, headers=kept)
                await begun.prepare(request)
                async for piece in answer.content.iter_any():
                    await begun.write(piece)
                await begun.write_eof()
                return begun
        except aiohttp.ClientError as error:
            if begun is None:
                return web.json_response({"error": f"no answer: {type(error).__name__}"}, status=502)
            # It broke off: the client must not take it for whole.
            if request.transport:
                request.transport.abort()
            return begun

    async def health(self, _: web.Request) -> web.Response:
        """Say whether a model can be asked."""
        with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError, ValueError):
            limit = aiohttp.ClientTimeout(total=_METRICS_SECONDS)
            async with self._session.get(f"{self._url}/v1/models", timeout=limit) as answer:
                if (await answer.json())["data"]:
                    return web.Response()
        return web.Response(status=503, text="no engine is there\n")

    async def version(self, _: web.Request) -> web.Response:
        """The engine's, as it says it."""
        for _rank, url in self._answering():
            return web.Response(text=await self._page(f"{url}/version"), content_type="application/json")
        raise web.HTTPServiceUnavailable

    async def metrics(self, _: web.Request) -> web.Response:
        """Dynamo's, and those of the engines that give answers."""
        pages = [(await self._page(f"{self._url}/metrics"), "")]
        pages += [(await self._page(f"{url}/metrics"), str(rank)) for rank, url in self._answering()]
        return web.Response(text=merged(pages))

    async def metrics_of(self, request: web.Request) -> web.Response:
        """Those of one engine."""
        for one in self._engines:
            if one.rank == int(request.match_info["rank"]) and one.url():
                return web.Response(text=await self._page(f"{one.url()}/metrics"))
        raise web.HTTPNotFound

    def _answering(self) -> list[tuple[int, str]]:
        return [(one.rank, one.url()) for one in self._engines if one.role != "prefill" and one.url()]

    async def _page(self, url: str) -> str:
        limit = aiohttp.ClientTimeout(total=_METRICS_SECONDS)
        try:
            async with self._session.get(url, timeout=limit) as answer:
                return await answer.text()
        except (TimeoutError, aiohttp.ClientError) as error:
            raise web.HTTPServiceUnavailable(text=f"{url}: {type(error).__name__}\n") from None


def merged(pages: Iterable[tuple[str, str]]) -> str:
    """Return pages of metrics as one, each family once; what comes with a host gets it as a label."""
    families: dict[str, tuple[list[str], list[str]]] = {}
    for page, host in pages:
        name = ""
        for line in page.splitlines():
            if line.startswith("#"):
                words = line.split(" ", 3)
                if len(words) < 4 or words[1] not in {"HELP", "TYPE"}:
                    continue
                name = words[2]
                heads = families.setdefault(name, ([], []))[0]
                if not any(head.startswith(f"# {words[1]} ") for head in heads):
                    heads.append(line)
            elif line:
                families.setdefault(name, ([], []))[1].append(_labelled(line, host) if host else line)
    return "\n".join(line for heads, samples in families.values() for line in (*heads, *samples)) + "\n"


def _labelled(sample: str, host: str) -> str:
    name, brace, rest = sample.partition("{")
    if brace:
        return f'{name}{{host="{host}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{host="{host}"}} {value}'


async def listen(app: web.Application, host: str, port: int) -> None:
    """Serve until the program ends; what a client no longer waits for is given up."""
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
