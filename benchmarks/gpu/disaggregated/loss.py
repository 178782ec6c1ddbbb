"""Clients in a closed loop before prefill and decode engines, while the prefill engine is killed."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import aiohttp
from load import URL, vocabulary
from pair import DECODE, Pair, status

STREAMS, INPUT, OUTPUT = 64, 1000, 200
BEFORE_SECONDS, AFTER_SECONDS = 20.0, 40.0


@dataclass
class Request:
    """What one client saw of one request; times by the monotonic clock."""

    begun: float
    tokens: list[float] = field(default_factory=list)
    ended: float = 0.0
    how: str = "open"


def prompt_of(folder: str, tokens: int, seed: int) -> list[int]:
    """Random token ids that no other seed shares a beginning with."""
    chooser = random.Random(seed)
    return chooser.choices(vocabulary(folder), k=tokens)


async def complete(session: aiohttp.ClientSession, folder: str, tokens: int, output: int, seed: int) -> None:
    """One request without a stream.

    Raises:
        aiohttp.ClientError: it was not answered.
    """
    body = {"model": folder, "prompt": prompt_of(folder, tokens, seed), "max_tokens": output}
    async with session.post(f"{URL}/v1/completions", json={**body, "ignore_eos": True}) as answer:
        answer.raise_for_status()
        await answer.read()


async def stream(session: aiohttp.ClientSession, folder: str, seed: int, request: Request) -> None:
    """One streamed request, noted token by token."""
    body = {"model": folder, "prompt": prompt_of(folder, INPUT, seed), "max_tokens": OUTPUT, "stream": True}
    try:
        async with session.post(f"{URL}/v1/completions", json={**body, "ignore_eos": True}) as answer:
            if answer.status != 200:
                request.how = f"status {answer.status}"
                return
            async for line in answer.content:
                if b'"error"' in line:
                    request.how = "error chunk"
                elif line.startswith(b"data: {"):
                    request.tokens.append(time.monotonic())
                elif line.startswith(b"data: [DONE]") and request.how == "open":
                    request.how = "whole"
        if request.how == "open":
            request.how = "broken off"
    except aiohttp.ClientError as error:
        request.how = type(error).__name__
    finally:
        request.ended = time.monotonic()


async def prefill_loss(rig: Pair, how: str) -> dict[str, Any]:
    """Kills the prefill engine under a closed load.

    Returns:
        What clients saw, in seconds from the loss: outcomes by the time of the request's start, output
        tokens of each second, the longest pause of a stream, TTFT before, of requests that waited for
        the prefill engine at the loss, and after.
    """
    folder, requests, over = str(rig.model), list[Request](), asyncio.Event()
    seeds = iter(range(20_000, 1_000_000))
    health = []

    async def client(session: aiohttp.ClientSession) -> None:
        while not over.is_set():
            request = Request(time.monotonic())
            requests.append(request)
            await stream(session, folder, next(seeds), request)
            if request.how != "whole":
                await asyncio.sleep(0.5)

    unlimited = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=unlimited) as session:
        tasks = [asyncio.create_task(client(session)) for _ in range(STREAMS)]
        await asyncio.sleep(BEFORE_SECONDS)
        lost = time.monotonic()
        await asyncio.to_thread(rig.lose, how)
        while time.monotonic() - lost < AFTER_SECONDS:
            health.append(await asyncio.to_thread(status, f"{rig.url(DECODE)}/health"))
            await asyncio.sleep(0.5)
        over.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return {"how": how, "streams": STREAMS, "input": INPUT, "output": OUTPUT, **seen(requests, lost, health)}


def seen(requests: list[Request], lost: float, health: list[int]) -> dict[str, Any]:
    """The figures of prefill_loss()."""
    groups: dict[str, list[Request]] = {"before": [], "in_prefill": [], "in_decode": [], "after": []}
    for request in requests:
        if request.begun >= lost:
            groups["after"].append(request)
        elif request.ended and request.ended < lost:
            groups["before"].append(request)
        elif request.tokens and request.tokens[0] < lost:
            groups["in_decode"].append(request)
        else:
            groups["in_prefill"].append(request)
    outcomes: dict[str, dict[str, int]] = {name: {} for name in groups}
    firsts: dict[str, list[float]] = {name: [] for name in groups}
    for name, members in groups.items():
        for request in members:
            outcomes[name][request.how] = outcomes[name].get(request.how, 0) + 1
            if request.tokens:
                firsts[name].append(request.tokens[0] - request.begun)
    seconds = range(-5, int(AFTER_SECONDS))
    stamps = [at - lost for r in requests for at in r.tokens]
    by_second = [sum(second <= at < second + 1 for at in stamps) for second in seconds]
    pauses = [
        max((b - a for a, b in zip(r.tokens, r.tokens[1:], strict=False) if b >= lost), default=0.0)
        for r in groups["in_decode"]
    ]
    ttft = {name: spread(values) for name, values in firsts.items()}
    return {
        "outcomes": outcomes,
        "ttft": ttft,
        "first_second": seconds[0],
        "tokens_by_second": by_second,
        "longest_pause": spread(pauses),
        "decode_health": {str(code): health.count(code) for code in sorted(set(health))},
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median and highest, in seconds."""
    return (
        {"count": len(values), "median": round(median(values), 3), "max": round(max(values), 3)}
        if values
        else {}
    )
