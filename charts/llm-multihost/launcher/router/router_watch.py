"""What goes on beside requests: which leaders there are, whether they answer again, what stands still."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from aiohttp import ClientError, ClientTimeout
from router_backends import Address, Backend, Pool
from router_proxy import CLIENT_SECONDS, STREAM_SECONDS, Router
from router_wire import say

LOOKUP_SECONDS = 2.0
TICK_SECONDS = 0.5
PROBE_SECONDS = 10.0
# Answers of a name server that knows: nobody is ready. Any other error says nothing of the leaders.
_NOBODY = (socket.EAI_NONAME, socket.EAI_NODATA)

_RESOLVER = Path("/etc/resolv.conf")

Resolve = Callable[[str], Awaitable[list[Address]]]


async def addresses(place: str) -> list[Address]:
    """Look up host:port; all addresses of the host.

    Raises:
        OSError: The name server does not answer.
    """
    host, _, port = place.rpartition(":")
    name = in_cluster(host.strip("[]"), _RESOLVER)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(name, int(port), type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in _NOBODY:
            return []
        raise
    return [(str(address[0]), int(address[1])) for *_, address in found]


def in_cluster(host: str, resolver: Path) -> str:
    """Return the whole name of a Service of the pod's own namespace.

    While no leader is ready the short name would be asked for in all domains that the resolver knows, those
    of the network around the cluster too, and a stranger there would get the prompts.
    """
    if "." in host or ":" in host:
        return host
    with contextlib.suppress(OSError):
        for line in resolver.read_text().splitlines():
            words = line.split()
            if words[:1] == ["search"] and len(words) > 1 and ".svc." in words[1]:
                return f"{host}.{words[1].rstrip('.')}."
    return host


async def discover(pool: Pool, places: tuple[str, ...], resolve: Resolve = addresses) -> None:
    """Look all leaders up once; while the name server is away, those stay that were there."""
    try:
        found = [address for place in places for address in await resolve(place)]
    except OSError:
        return
    before = {backend.address for backend in pool.known}
    pool.update(found)
    if before != set(found):
        names = ", ".join(sorted(backend.name for backend in pool.known))
        say(f"{pool.role} leaders: {names or 'none'}")


async def keep_discovering(router: Router) -> None:
    """Look leaders up again and again."""
    settings = router.settings
    while True:
        await discover(router.decode, settings.decode)
        await discover(router.prefill, settings.prefill)
        await asyncio.sleep(LOOKUP_SECONDS)


async def keep_watching(router: Router) -> None:
    """End what stands still, and probe the leaders that are left alone."""
    probes: set[asyncio.Task[None]] = set()
    clock = asyncio.get_running_loop().time
    while True:
        await asyncio.sleep(TICK_SECONDS)
        now = time.monotonic()
        for backend in router.prefill.stalled(now, router.settings.stall_seconds):
            router.lost(router.prefill, backend, TimeoutError("no answer to any of its requests"))
            for leg in tuple(router.legs.get(backend, ())):
                leg.cancel()
        for flow in tuple(router.flows):
            if clock() - flow.since > (CLIENT_SECONDS if flow.to_client else STREAM_SECONDS):
                flow.cut()
        for pool in (router.prefill, router.decode):
            for backend in pool.due(now):
                backend.probing = True
                probe = asyncio.ensure_future(_probe(router, pool, backend))
                probes.add(probe)
                probe.add_done_callback(probes.discard)


async def _probe(router: Router, pool: Pool, backend: Backend) -> None:
    """Ask a leader for one token; no client waits for it."""
    try:
        if await _answers(router, backend):
            router.answered(pool, backend)
        else:
            pool.unanswered(backend, time.monotonic())
    finally:
        backend.probing = False


async def _answers(router: Router, backend: Backend) -> bool:
    server = f"http://{backend.name}"
    timeout = ClientTimeout(total=PROBE_SECONDS)
    try:
        async with router.session.get(f"{server}/v1/models", timeout=timeout) as answer:
            said = await answer.read()
        model = msgspec.json.decode(said)["data"][0]["id"] if answer.status == 200 else ""
        body = msgspec.json.encode({"model": model, "prompt": "a", "max_tokens": 1})
        headers = {"Content-Type": "application/json"}
        async with router.session.post(
            f"{server}/v1/completions", data=body, headers=headers, timeout=timeout
        ) as answer:
            await answer.read()
            return answer.status < 500
    except (ClientError, OSError, msgspec.MsgspecError, LookupError, TypeError):
        return False
    except asyncio.TimeoutError:  # noqa: UP041  another one before Python 3.11
        return False
