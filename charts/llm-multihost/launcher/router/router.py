#!/usr/bin/env python3
"""Stands before a decode engine: lets a prefill group read the prompt first.

    router.py serve    listen; settings come from the environment
    router.py drain    let the engine do alone what still waits for a prefill group (preStop hook)

A completion goes to a prefill group for one token, and then with the place of its KV cache to the
engine of this pod, whose answer is passed on as it comes. What the prefill group does not do (it is
away, fails, stalls) the engine does alone: such requests are slower and never lost. Everything else
goes to the engine as it is. `/metrics` has the engine's series and `manyhost_router_requests_total`.

It runs in the engine's image, with aiohttp, which vLLM requires.
"""

from __future__ import annotations

import asyncio
import collections
import json
import os
import sys
import urllib.request
from typing import Any

from aiohttp import ClientConnectionError, ClientError, ClientSession, ClientTimeout, TCPConnector, web
from yarl import URL

COMPLETIONS = ("/v1/completions", "/v1/chat/completions")
OWN = "/manyhost/router"
CONNECT_SECONDS = 3.0  # a Service without endpoints refuses at once; a lost host answers nothing
# Fields of one connection (RFC 9110, section 7.6.1), and what the client library sets itself.
HOP = frozenset(
    (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"),
        *("transfer-encoding", "upgrade", "host", "content-length", "expect"),
    )
)
# Of no use for one token that nobody reads, or in contradiction to it.
NOT_FOR_PREFILL = ("stream_options", "min_tokens", "logprobs", "top_logprobs", "n", "best_of")


class Router:
    """The two legs of each request, and how many went which way."""

    def __init__(self, engine: str, prefill: str, prefill_seconds: float) -> None:
        self.engine = engine
        self.prefill = prefill
        self.prefill_timeout = ClientTimeout(total=prefill_seconds, sock_connect=CONNECT_SECONDS)
        self.draining = asyncio.Event()
        self.counts: collections.Counter[str] = collections.Counter()
        self.failing = ""

    async def sessions(self, _app: web.Application) -> Any:
        """Hold the client connections while the server runs."""
        # One connection a request: a Service spreads connections, and a kept one may lead to a lost pod.
        prefill = ClientSession(connector=TCPConnector(force_close=True, limit=0))
        engine = ClientSession(
            connector=TCPConnector(limit=0),
            timeout=ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "User-Agent"),
        )
        async with prefill as self.to_prefill, engine as self.to_engine:
            yield

    # -- handlers

    async def alive(self, _request: web.Request) -> web.Response:
        """Whether this process answers; the engine has probes of its own."""
        return web.Response(text="ok\n")

    async def drain(self, request: web.Request) -> web.Response:
        """From now on the engine works alone, so that nothing it has to answer is out of its sight."""
        if request.remote != "127.0.0.1":
            raise web.HTTPForbidden(text="for this pod only\n")
        self.draining.set()
        return web.Response(text="draining\n")

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Answer a completion: prefill leg, decode leg."""
        data = await request.read()
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            return await self.forward(request, data)  # the engine says what is wrong
        # Where to fetch a KV cache from is never a client's to say.
        body.pop("kv_transfer_params", None)
        outcome, place = "skipped", None
        if divisible(body) and not self.draining.is_set():
            outcome, place = await self.read_prompt(request, body)
        self.counts[outcome] += 1
        if place is not None:
            body["kv_transfer_params"] = place
        return await self.forward(request, json.dumps(body).encode())

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Return the engine's metrics and the own counter."""
        url, headers = address(self.engine, request), kept(request.headers, "accept-encoding")
        async with self.to_engine.get(url, headers=headers) as answer:
            text = await answer.read()
        name = "manyhost_router_requests_total"
        lines = [
            f"# HELP {name} Completions by what a prefill group did for them.",
            f"# TYPE {name} counter",
            *(f'{name}{{prefill="{key}"}} {self.counts[key]}' for key in ("done", "failed", "skipped")),
        ]
        return web.Response(body=text + "\n".join(lines).encode() + b"\n", headers=kept(answer.headers))

    async def other(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on as it is."""
        return await self.forward(request, await request.read())

    # -- legs

    async def read_prompt(self, request: web.Request, body: dict[str, Any]) -> tuple[str, Any]:
        """Let a prefill group read the prompt; return what came of it, and where the KV cache is."""
        asked = {key: value for key, value in body.items() if key not in NOT_FOR_PREFILL}
        asked |= {"max_tokens": 1, "stream": False, "kv_transfer_params": {"do_remote_decode": True}}
        if "max_completion_tokens" in asked:
            asked["max_completion_tokens"] = 1
        leg = asyncio.ensure_future(self.ask_prefill(request, asked))
        drained = asyncio.ensure_future(self.draining.wait())
        try:
            await asyncio.wait({leg, drained}, return_when=asyncio.FIRST_COMPLETED)
            if not leg.done():
                return "skipped", None
            status, place = leg.result()
        except (ClientError, asyncio.TimeoutError, ValueError) as error:  # noqa: UP041 two before 3.11
            self.say(f"prefill failed, decoding alone: {type(error).__name__}: {error}")
            return "failed", None
        finally:  # also when the client has gone: both ends of the leg are given up
            leg.cancel()
            drained.cancel()
        if place:
            self.say("")
            return "done", place
        if 400 <= status < 500:  # the engine refuses it in its own words
            return "skipped", None
        self.say(f"prefill failed, decoding alone: status {status} without a KV cache")
        return "failed", None

    async def ask_prefill(self, request: web.Request, body: dict[str, Any]) -> tuple[int, Any]:
        """Send the prefill leg."""
        async with self.to_prefill.post(
            address(self.prefill, request),
            json=body,
            headers=kept(request.headers, "content-type", "content-encoding", "accept-encoding"),
            timeout=self.prefill_timeout,
        ) as answer:
            said = await answer.json(content_type=None)
            return answer.status, said.get("kv_transfer_params") if isinstance(said, dict) else None

    async def forward(self, request: web.Request, data: bytes) -> web.StreamResponse:
        """Pass a request to the engine and its answer to the client, piece by piece."""
        url, headers = address(self.engine, request), kept(request.headers, "content-encoding")
        try:
            answer = await self.to_engine.request(
                request.method, url, data=data, headers=headers, allow_redirects=False
            )
        except ClientConnectionError as error:
            return web.json_response({"error": {"message": f"engine: {error}", "code": 503}}, status=503)
        async with answer:
            passed = web.StreamResponse(status=answer.status, headers=kept(answer.headers))
            if "Content-Length" in answer.headers:
                passed.content_length = int(answer.headers["Content-Length"])
            await passed.prepare(request)
            async for piece in answer.content.iter_any():
                await passed.write(piece)
            await passed.write_eof()
            return passed

    def say(self, problem: str) -> None:
        """Log a change between well and not, not each request."""
        if problem != self.failing:
            sys.stdout.write(f"manyhost router: {problem or 'prefill works again'}\n")
            sys.stdout.flush()
        self.failing = problem


def address(server: str, request: web.Request) -> URL:
    """Return where a request goes, its path as the client wrote it."""
    return URL(server + request.raw_path, encoded=True)


def kept(headers: Any, *more: str) -> dict[str, str]:
    """Return the headers that are passed on."""
    gone = HOP.union(more)
    return {name: value for name, value in headers.items() if name.lower() not in gone}


def divisible(body: dict[str, Any]) -> bool:
    """Whether a request is one prompt with one answer: only those have one KV cache to hand over."""
    prompt = body.get("prompt")
    many = isinstance(prompt, list) and not all(isinstance(token, int) for token in prompt)
    several = any(body.get(key) not in (None, 1) for key in ("n", "best_of"))
    # Log-probabilities of the prompt need the prompt's own pass.
    whole = body.get("echo") or body.get("prompt_logprobs") is not None or body.get("use_beam_search")
    return not (many or several or whole)


def application(router: Router) -> web.Application:
    """Return the server."""
    app = web.Application(client_max_size=0)  # no limit of its own
    app.cleanup_ctx.append(router.sessions)
    app.router.add_get(OWN, router.alive)
    app.router.add_post(OWN + "/drain", router.drain)
    app.router.add_get("/metrics", router.metrics)
    for path in COMPLETIONS:
        app.router.add_post(path, router.complete)
    app.router.add_route("*", "/{path:.*}", router.other)
    return app


def serve() -> None:
    """Serve until SIGTERM, which comes after the engine has ended."""
    env = os.environ
    router = Router(
        env["MANYHOST_ROUTER_ENGINE"],
        env["MANYHOST_ROUTER_PREFILL"],
        float(env["MANYHOST_ROUTER_PREFILL_SECONDS"]),
    )
    web.run_app(
        application(router),
        port=int(env["MANYHOST_ROUTER_PORT"]),
        access_log=None,
        print=None,
        handler_cancellation=True,  # a client that goes away cancels both legs
        shutdown_timeout=5,
    )


def drain() -> None:
    """Tell the router of this pod."""
    url = f"http://127.0.0.1:{os.environ['MANYHOST_ROUTER_PORT']}{OWN}/drain"
    urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10).close()


if __name__ == "__main__":
    {"serve": serve, "drain": drain}[sys.argv[1]]()
