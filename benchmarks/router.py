"""The router beside the engine alone: requests a second, added latency, streams, memory under overload.

    python benchmarks/router.py [--seconds 5] [--chats 2000] [--peer NAME=COMMAND ...]

A stand-in answers as prefill and as decode engine at once, so that what is measured is the router. A peer
is another router that is measured in the same run: a command in which {port}, {prefill} and {decode} stand
for its port and the URLs of the two engines. Prints one table; exits 1 when the router goes beyond its
memory or loses a request.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

ROOT = Path(__file__).resolve().parents[1]
ROUTER = ROOT / "charts/llm-multihost/launcher/router/router.sh"
MEMORY = 1 << 30  # the chart's limit
PLACE = {"do_remote_prefill": True, "remote_host": "127.0.0.1", "remote_block_ids": [[1]]}
PROMPT = "w" * (512 << 10)  # 128k tokens or so
SMALL: dict[str, Any] = {"prompt": "w" * 1000, "max_tokens": 8}
FIRST = {"kv_transfer_params": {"do_remote_decode": True}}
STREAM: dict[str, Any] = {**SMALL, "stream": True, "max_tokens": 100, "x_gap": 0.03}
ROUNDS = 3


# ------------------------------------------------------------------ a stand-in for engines
async def _complete(request: web.Request) -> web.StreamResponse:
    body = json.loads(await request.read())
    if (body.get("kv_transfer_params") or {}).get("do_remote_decode"):
        await asyncio.sleep(body.get("x_prefill", 0.0))
        return web.json_response({"choices": [{"text": "x"}], "kv_transfer_params": PLACE})
    if not body.get("stream"):
        return web.json_response({"choices": [{"text": "answer"}]})
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    piece = b"data: " + b"x" * 200 + b"\n\n"
    for _ in range(body["max_tokens"]):
        await answer.write(piece)
        await asyncio.sleep(body.get("x_gap", 0.0))
    await answer.write_eof()
    return answer


async def _models(_: web.Request) -> web.Response:
    return web.json_response({"data": [{"id": "m"}]})


async def _ok(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def engine(port: int) -> None:
    """Serve as an engine that takes no time; x_prefill and x_gap of a request say otherwise."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/v1/completions", _complete)
    app.router.add_post("/v1/chat/completions", _complete)
    app.router.add_get("/v1/models", _models)
    app.router.add_get("/health", _ok)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


# ------------------------------------------------------------------ programs
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def program(words: list[str], port: int, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server; wait until it listens."""
    with subprocess.Popen(words, env={**os.environ, **env}, stdout=subprocess.DEVNULL) as process:
        try:
            for _ in range(600):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.05)
            time.sleep(1)  # it finds its engines
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def routers(peers: list[str], prefill: int, decode: int) -> dict[str, tuple[list[str], dict[str, str], int]]:
    """Return command, environment and port of each router that is measured."""
    port = free_port()
    env = {
        "PORT": port, "PREFILL": f"127.0.0.1:{prefill}", "DECODE": f"127.0.0.1:{decode}", "STALL_SECONDS": 60,
        "DRAIN_SECONDS": 5, "MOST_REQUESTS": 1024, "BODY_BYTES": 16 << 20,
        "MEMORY_BYTES": MEMORY,
    }  # fmt: skip
    own = {f"MANYHOST_ROUTER_{key}": str(value) for key, value in env.items()}
    found = {"router": (["bash", str(ROUTER)], own | {"MANYHOST_ENGINE": sys.executable}, port)}
    for peer in peers:
        name, _, command = peer.partition("=")
        port = free_port()
        urls = {"prefill": f"http://127.0.0.1:{prefill}", "decode": f"http://127.0.0.1:{decode}"}
        found[name] = ([word.format(port=port, **urls) for word in shlex.split(command)], {}, port)
    return found


def memory(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Return resident memory now and at most, in MiB."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) >> 10, int(fields["VmHWM"].split()[0]) >> 10


def cpu(process: subprocess.Popen[bytes] | None) -> float:
    """Return the seconds of processor time that a process has used."""
    if not process:
        return 0.0
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ------------------------------------------------------------------ load
Ask = Callable[[ClientSession], Awaitable[Any]]


def asker(port: int, body: dict[str, Any], path: str = "/v1/completions") -> Ask:
    data = json.dumps({"model": "m", **body}).encode()

    async def ask(session: ClientSession) -> None:
        url = f"http://127.0.0.1:{port}{path}"
        async with session.post(url, data=data, headers={"Content-Type": "application/json"}) as answer:
            await answer.read()
            assert answer.status == 200, answer.status

    return ask


def both(*asks: Ask) -> Ask:
    async def ask(session: ClientSession) -> None:
        for one in asks:
            await one(session)

    return ask


async def rate(ask: Ask, at_once: int, seconds: float) -> tuple[float, list[float]]:
    """Ask again and again; return requests a second, and how long each took."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def client(session: ClientSession) -> None:
        while time.perf_counter() < end:
            begin = time.perf_counter()
            await ask(session)
            took.append(time.perf_counter() - begin)

    async with ClientSession(connector=TCPConnector(limit=0)) as session:
        begin = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(at_once)))
        return len(took) / (time.perf_counter() - begin), took


async def overload(port: int, chats: int) -> Counter[str]:
    """Send so many chats of 128k tokens at the same time; count what becomes of them."""
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 1,
        "x_prefill": 5.0,
    }
    data = json.dumps(body).encode()
    found: Counter[str] = Counter()

    async def chat(session: ClientSession) -> None:
        try:
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            async with session.post(url, data=data, headers={"Content-Type": "application/json"}) as answer:
                await answer.read()
                found[str(answer.status)] += 1
        except ClientError as error:
            found[type(error).__name__] += 1

    timeout = ClientTimeout(total=None)
    async with ClientSession(connector=TCPConnector(limit=0), timeout=timeout) as session:
        await asyncio.gather(*(chat(session) for _ in range(chats)))
    return found


class Measured:
    """One row: the best of some rounds."""

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes] | None) -> None:
        self.name, self.port, self.process = name, port, process
        self.best: dict[str, float] = {}
        self.answers: Counter[str] = Counter()
        self.memory = (0, 0)

    def measure(self, prefill: int, decode: int, seconds: float) -> None:
        ask, large = asker(self.port, SMALL), asker(self.port, {**SMALL, "prompt": PROMPT})
        if not self.process:
            ask = both(asker(prefill, {**SMALL, **FIRST}), asker(decode, SMALL))
            large = both(asker(prefill, {**SMALL, **FIRST, "prompt": PROMPT}), large)
        alone = asyncio.run(rate(ask, 1, seconds))[1]
        before = cpu(self.process)
        many, took = asyncio.run(rate(ask, 32, seconds))
        spent = (cpu(self.process) - before) / len(took)
        whole = asyncio.run(rate(large, 1, seconds))[1]
        before = cpu(self.process)
        streams = asyncio.run(rate(asker(self.port, STREAM), 100, seconds))[1]
        piece = (cpu(self.process) - before) / (len(streams) * STREAM["max_tokens"])
        for name, value in {
            "rate": -many, "p50": 1e3 * statistics.median(alone),
            "p99": 1e3 * sorted(alone)[int(len(alone) * 0.99)], "large": 1e3 * statistics.median(whole),
            "request": 1e6 * spent, "piece": 1e6 * piece,
        }.items():  # fmt: skip
            self.best[name] = min(value, self.best.get(name, value))

    def flood(self, chats: int) -> None:
        assert self.process
        idle = memory(self.process)[0]
        self.answers = asyncio.run(overload(self.port, chats))
        self.memory = idle, memory(self.process)[1] if self.process.poll() is None else -1

    @property
    def sound(self) -> bool:
        return 0 < self.memory[1] <= MEMORY >> 20 and not set(self.answers) - {"200", "429"}

    def cells(self) -> list[str]:
        best = self.best
        found = [f"{-best['rate']:.0f}", *(f"{best[name]:.2f}" for name in ("p50", "p99", "large"))]
        if not self.process:
            return found + ["-"] * 5
        found += [f"{best['request']:.0f}", f"{best['piece']:.0f}", *map(str, self.memory)]
        return [*found, ", ".join(f"{count} x {name}" for name, count in sorted(self.answers.items()))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--chats", type=int, default=2000, help="chats of 128k tokens at the same time")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--engine", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.engine:
        asyncio.run(engine(given.engine))
    ports = free_port(), free_port()
    itself = [sys.executable, str(Path(__file__)), "--engine"]
    with contextlib.ExitStack() as stack:
        for port in ports:
            stack.enter_context(program([*itself, str(port)], port))
        measured = [Measured("engines alone, one after the other", ports[1], None)]
        for name, (words, env, port) in routers(given.peer, *ports).items():
            measured.append(Measured(name, port, stack.enter_context(program(words, port, **env))))
        for _ in range(ROUNDS):  # in turns: what else the machine does meets all of them
            for one in measured:
                one.measure(*ports, given.seconds)
        for one in measured[1:]:
            one.flood(given.chats)
    head = ["requests/s (32)", "p50 ms", "p99 ms", "0.5 MB p50 ms", "CPU us a request", "CPU us a piece"]
    head += ["MiB", "peak MiB", "answers"]
    print("| |", " | ".join(head), "|")
    print("|---" * (len(head) + 1) + "|")
    for one in measured:
        print("|", one.name, "|", " | ".join(one.cells()), "|")
    return int(not measured[1].sound)


if __name__ == "__main__":
    sys.exit(main())
