#!/usr/bin/env python3
"""Stands before prefill and decode groups: one reads the prompt, the other writes the answer.

A completion goes to a prefill leader for one token, and then with the place of its KV cache to a decode
leader, whose answer is passed on as it comes. What no prefill group does, the decode engine does alone:
such requests are slower and never lost. It keeps nothing between requests, so that any number of routers
may stand side by side.

It runs in the engine's image, with aiohttp (3.12 or newer) and msgspec, which vLLM requires.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from typing import Any

import router_proxy
import router_settings
from aiohttp import web
from aiohttp.http import HttpProcessingError
from router_admission import CONNECTIONS
from router_proxy import RETRY_AFTER, Router
from router_watch import keep_discovering, keep_watching
from router_wire import FROM_CLIENT_BYTES, limit_buffers, open_session, say

# Clients' libraries keep connections for less; an answer that comes while draining closes its own.
KEEPALIVE_SECONDS = 75.0
BACKLOG = 4096
SENT_AWAY = (
    "HTTP/1.1 429 Too Many Requests\r\n"
    f"Retry-After: {RETRY_AFTER}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
).encode()
READ_BYTES = 1 << 14  # aiohttp reads on until a connection has given twice as much


class Server(web.Server):
    """aiohttp's, with a limit to its connections: of those beyond it nothing is read."""

    def __init__(self, router: Router, **options: Any) -> None:
        super().__init__(router.handle, **options)
        self._most = CONNECTIONS * router.settings.most_requests
        self._count = 0

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection on, or send it away."""
        super().connection_made(handler, transport)
        self._count += 1
        if self._count > self._most:
            transport.write(SENT_AWAY)
            transport.close()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """A connection has gone."""
        super().connection_lost(handler, exc)
        self._count -= 1


async def serve(settings: router_settings.Settings) -> None:
    """Serve until SIGTERM, and then until the requests in flight have their answers, or time is up."""
    logging.getLogger("aiohttp.server").addFilter(lambda record: not _of_a_peer(record))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with open_session() as session:
        router = Router(settings, session)
        beside = [asyncio.create_task(work(router)) for work in (keep_discovering, keep_watching)]
        try:
            await _serve_until(stop, router, beside)
        finally:
            for task in beside:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*beside)


async def _serve_until(stop: asyncio.Event, router: Router, beside: list[asyncio.Task[None]]) -> None:
    server = Server(
        router,
        handler_cancellation=True,  # a client that goes away cancels both legs
        access_log=None,
        keepalive_timeout=KEEPALIVE_SECONDS,
        auto_decompress=False,
        read_bufsize=READ_BYTES,
    )
    runner = web.ServerRunner(server, shutdown_timeout=1)
    await runner.setup()
    site = web.SockSite(runner, _listen(router.settings.port), backlog=BACKLOG)
    await site.start()
    say(f"listens on port {router.settings.port}")
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({stopped, *beside}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        router.draining = True
        say(f"draining: {router.admission.requests} requests in flight")
        await asyncio.sleep(router_proxy.LAG_SECONDS)
        await site.stop()
        server.pre_shutdown()  # idle connections close, the others do after their answer
        await _until_idle(router)
    await runner.cleanup()


async def _until_idle(router: Router) -> None:
    """Wait for the requests in flight, as long as they may take."""
    deadline = time.monotonic() + router.settings.drain_seconds
    while router.admission.requests and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    say(f"ends: {router.admission.requests} requests in flight")


def _of_a_peer(record: logging.LogRecord) -> bool:
    """Whether a peer caused it: a request that is wrong, or a connection that ended in mid-stream.

    The first is answered with 400, the second is counted where it is an engine's. Tracebacks would fill the
    log as fast as others like.
    """
    error = record.exc_info and record.exc_info[1]
    return isinstance(error, (HttpProcessingError, ConnectionResetError))


def _listen(port: int) -> socket.socket:
    """Listen on all addresses, of both families where there are two."""
    dual = socket.has_dualstack_ipv6()
    family, host = (socket.AF_INET6, "::") if dual else (socket.AF_INET, "0.0.0.0")  # noqa: S104
    made = socket.create_server((host, port), family=family, dualstack_ipv6=dual, backlog=BACKLOG)
    limit_buffers(made, FROM_CLIENT_BYTES)  # accepted connections have the same
    return made


if __name__ == "__main__":
    try:
        found = router_settings.read(os.environ)
    except (KeyError, ValueError) as error:
        sys.exit(f"manyhost router: {error}")
    asyncio.run(serve(found))
