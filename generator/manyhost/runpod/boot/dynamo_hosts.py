"""NVIDIA Dynamo before the engines of a cluster, or of one pod.

    dynamo_hosts primary     on rank 0: frontend, a sidecar for each engine, and the door before them
    dynamo_hosts announce    on every other host: tells the primary that it is there

All of Dynamo is on the primary and talks to itself over loopback; it reaches engines by gRPC. So it needs
neither etcd nor NATS, and a host that is lost takes its engine along and nothing of Dynamo. Dynamo's
frontend knows no API key: the door does.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import hmac
import os
import pathlib
import signal
import sys
import time
import urllib.request

import aiohttp
from aiohttp import web
from manyhost.runpod.boot import dynamo_door

ENGINE_HTTP, ENGINE_GRPC, MEMBERS = 8001, 8002, 8003
_EVERY, _CONNECT, _MISSES = 0.5, 1.5, 2  # seconds, seconds, looks in a row
# Seconds: an engine that is slow is not gone, and whether it is stuck is the launcher's to say.
_ANSWER, _GOODBYE = 15.0, 3.0
_PARSERS = (("MANYHOST_REASONING_PARSER", "--dyn-reasoning-parser"),
            ("MANYHOST_TOOL_CALL_PARSER", "--dyn-tool-call-parser"))  # fmt: skip
# A sidecar touches its registrations every 3 s, and all of Dynamo removes what nobody touched for 10 s. So a
# host that stood still loses them; they are made once (ai-dynamo/dynamo, lib/runtime/src/storage/kv/file.rs).
_FORGOTTEN = b"FileStore::keep_alive failed"
# All of it on one host (ai-dynamo/dynamo, docs: discovery backend `file`, event plane `zmq`).
_ALONE = {
    "DYN_DISCOVERY_BACKEND": "file",
    "DYN_EVENT_PLANE": "zmq",
    "DYN_REQUEST_PLANE": "tcp",
    "DYN_TCP_RPC_HOST": "127.0.0.1",
    "DYN_EVENT_PLANE_HOST": "127.0.0.1",
    "DYN_TCP_RESPONSE_STREAM_HOST": "127.0.0.1",
    "DYN_SYSTEM_HOST": "127.0.0.1",
    "DO_NOT_TRACK": "1",
    "DYN_LOG": "warn",  # it has several lines for each request
    "DYN_SDK_DISABLE_ANSI_LOGGING": "1",
}


def say(text: str) -> None:
    """Print a line that `up`, `logs` and people read."""
    print(f"manyhost: dynamo: {text}", flush=True)


class Sidecar:
    """Dynamo's worker for an engine.

    Attributes:
        process: Its standard output is read here.
        forgotten: It says that Dynamo has removed it from its list.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process, self.forgotten = process, False
        self._reader = asyncio.create_task(self._read())

    async def end(self) -> None:
        """End it; it takes itself out of the list first, so that nobody is sent to it any more."""
        self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), _GOODBYE)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()

    async def _read(self) -> None:
        last = b""
        while part := await self.process.stdout.read(65536):  # type: ignore[union-attr]
            sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()
            self.forgotten = self.forgotten or _FORGOTTEN in last + part
            last = (last + part)[1 - len(_FORGOTTEN) :]


@dataclasses.dataclass
class Engine:
    """One engine, by the rank of its first host.

    Attributes:
        address: Of that host; empty until it has said so.
        sidecar: While it is healthy.
        misses: Looks in a row that found it ill.
    """

    rank: int
    role: str
    address: str = ""
    sidecar: Sidecar | None = None
    misses: int = 0

    def url(self) -> str:
        """Where it answers; empty until it has said so."""
        return f"http://{self.address}:{ENGINE_HTTP}" if self.address else ""


class Primary:
    """Frontend and sidecars, each started again when it ends.

    Args:
        roles: Of the engines: serve, prefill or decode.
        address: Of this host.
        token: What other hosts show.
        folder: Where the parts of Dynamo find each other.
        session: To ask engines.
    """

    def __init__(
        self, roles: list[str], address: str, token: str, folder: pathlib.Path, session: aiohttp.ClientSession
    ) -> None:
        self.engines = [Engine(rank, role) for rank, role in enumerate(roles)]
        self.engines[0].address = address
        self._token, self._session = token, session
        # Nothing of Dynamo needs a key, and what has none cannot show it.
        own = {name: value for name, value in os.environ.items() if not name.endswith("_KEY")}
        self._env = own | _ALONE | {"DYN_FILE_KV": str(folder)}

    async def frontend(self) -> None:
        """Keep it up."""
        words = ["-m", "dynamo.frontend", "--http-host", "127.0.0.1"]
        words += ["--http-port", str(dynamo_door.FRONTEND), "--router-mode", "kv"]
        words += ["--reasoning-field-name", "reasoning"]  # as vLLM calls it
        words += ["--migration-limit", "3"]  # a request whose engine is gone goes on at another one
        while True:
            process = await self._start(*words)
            say(f"the frontend ended with {await process.wait()}, and is started again")
            await asyncio.sleep(_EVERY)

    async def watch(self, engine: Engine) -> None:
        """Have a sidecar for an engine for as long as it is healthy."""
        while True:
            healthy = bool(engine.address) and await self.healthy(engine)
            engine.misses = 0 if healthy else engine.misses + 1
            if engine.sidecar and engine.sidecar.process.returncode is not None:
                say(f"the sidecar of rank {engine.rank} ended with {engine.sidecar.process.returncode}")
                engine.sidecar = None
            name = f"rank {engine.rank} ({engine.role}) at {engine.address}"
            if healthy and not engine.sidecar:
                say(f"{name} is taken in")
                engine.sidecar = await self._start_sidecar(engine)
            elif engine.sidecar and (engine.misses >= _MISSES or engine.sidecar.forgotten):
                say(f"{name} is {'forgotten by Dynamo' if engine.sidecar.forgotten else 'lost'}")
                await engine.sidecar.end()
                engine.sidecar = None
            await asyncio.sleep(_EVERY)

    async def announced(self, request: web.Request) -> web.Response:
        """Take in a host that is there, by the address that it comes from."""
        shown = request.headers.get("Authorization", "")
        if not hmac.compare_digest(shown.encode(), f"Bearer {self._token}".encode()):
            raise web.HTTPUnauthorized
        rank = int(request.match_info["rank"])
        if not 0 < rank < len(self.engines):
            raise web.HTTPNotFound
        self.engines[rank].address = request.remote or ""
        return web.Response()

    async def healthy(self, engine: Engine) -> bool:
        """Ask an engine once; a host that goes meanwhile is not waited for."""
        answer = asyncio.create_task(self._asked(engine))
        try:
            while not (await asyncio.wait({answer}, timeout=_EVERY))[0]:
                if not await _reachable(engine.address):
                    return False
            return answer.result()
        finally:
            answer.cancel()

    async def _asked(self, engine: Engine) -> bool:
        limit = aiohttp.ClientTimeout(total=_ANSWER, sock_connect=_CONNECT)
        with contextlib.suppress(OSError, asyncio.TimeoutError, aiohttp.ClientError):
            async with self._session.get(f"{engine.url()}/health", timeout=limit) as answer:
                return answer.status == 200
        return False

    async def _start_sidecar(self, engine: Engine) -> Sidecar:
        words = ["-m", "dynamo.vllm.sidecar", "--grpc-endpoint", f"{engine.address}:{ENGINE_GRPC}"]
        if engine.role == "prefill":
            words += ["--component", "prefill"]
        if engine.role != "serve":
            words += ["--disaggregation-mode", engine.role]
        for variable, flag in _PARSERS:
            if os.environ.get(variable):
                words += [flag, os.environ[variable]]
        return Sidecar(await self._start(*words, output=asyncio.subprocess.PIPE))

    async def _start(self, *words: str, output: int | None = None) -> asyncio.subprocess.Process:
        both = output and asyncio.subprocess.STDOUT
        return await asyncio.create_subprocess_exec(
            sys.executable, *words, env=self._env, cwd="/", stdout=output, stderr=both
        )


async def _reachable(address: str) -> bool:
    """Whether something listens where the engine answers."""
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        _, writer = await asyncio.wait_for(asyncio.open_connection(address, ENGINE_HTTP), _CONNECT)
        writer.close()
        return True
    return False


async def primary() -> None:
    """Run until the pod ends."""
    folder = pathlib.Path("/dev/shm/manyhost-dynamo")  # noqa: S108  the pod's own
    folder.mkdir(mode=0o700, exist_ok=True)
    address = os.environ.get("NODE_ADDR") or "127.0.0.1"
    fresh = aiohttp.TCPConnector(force_close=True)  # a host that is gone does not take a new connection
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False) as session,
        aiohttp.ClientSession(connector=fresh) as looks,
    ):
        found = Primary(os.environ["MANYHOST_ENGINES"].split(), address, token(), folder, looks)
        engines = [dynamo_door.Place(one.rank, one.role, one.url) for one in found.engines]
        door = dynamo_door.Door(session, os.environ["VLLM_API_KEY"], engines)
        await dynamo_door.listen(door.application(), "0.0.0.0", dynamo_door.PUBLIC)  # noqa: S104  the public port
        if len(found.engines) > 1:
            members = web.Application()
            members.add_routes([web.put("/hosts/{rank:[0-9]{1,3}}", found.announced)])
            await dynamo_door.listen(members, address, MEMBERS)
        await asyncio.gather(found.frontend(), *(found.watch(engine) for engine in found.engines))


def announce() -> None:
    """Tell the primary every few seconds; it may have been started again."""
    url = f"http://{os.environ['PRIMARY_ADDR']}:{MEMBERS}/hosts/{os.environ['NODE_RANK']}"
    while True:
        request = urllib.request.Request(url, method="PUT", headers={"Authorization": f"Bearer {token()}"})
        with contextlib.suppress(OSError):
            urllib.request.urlopen(request, timeout=_CONNECT).close()
        time.sleep(_EVERY)


def token() -> str:
    """What members show each other: only they have the control key."""
    key = pathlib.Path(os.environ["MANYHOST_CONTROL_KEY_FILE"]).read_bytes()
    return hashlib.sha256(b"dynamo " + key).hexdigest()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if sys.argv[1] == "announce":
        announce()
    else:
        asyncio.run(primary())
