"""Prefill and decode apart on two GPUs, and one engine on both: python apart.py --work FOLDER ...

The queue, the results and the options are those of ../driver.py. A job with

    "apart": {"buffer": "cpu", "env": {"UCX_TLS": "tcp,self"}}

is one prefill and one decode engine with a GPU each, on two `hosts` of their own or on one, and the
chart's router before them: its load goes through the router, except that of a step with "port": 8001,
which goes to the decode engine alone, as one of two engines that do both would get it. Beside the
readings of the driver it writes

    apart     what the chart tells each engine of the handover
    bytes     KV bytes of requests of known lengths, one after the other and all at once, by vLLM's count
    same      greedy answers through both engines against those of the prefill engine alone
    handover  after each repetition: transfers, bytes, times, and where the router sent the prompts
    loss      `lose`: what clients see when the prefill engine is killed under load
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import aiohttp  # noqa: E402
import driver  # noqa: E402
import load  # noqa: E402
import loss  # noqa: E402
from pair import BLOCK_TOKENS, DECODE, NAMES, PREFILL, Pair, kv_bytes, moved  # noqa: E402

LENGTHS = (1000, 1000, 333, 2000, 17)
AT_ONCE = 32


class Apart(driver.Driver):
    """The driver, for jobs that are apart too."""

    def write(self, kind: str, **facts: Any) -> None:
        """Beside the driver's: the version of the transfer library."""
        own = {"nixl": version("nixl")} if kind == "machine" else {}
        super().write(kind, **facts, **own)

    def run(self, job: dict[str, Any], jobs: list[dict[str, Any]]) -> None:
        """One set-up from start to end."""
        kind = Pair if "apart" in job else driver.Rig
        self.rig = kind(self.work, self.launch, self.engine, self.model)
        if isinstance(self.rig, Pair):
            self.rig.buffer = job["apart"]["buffer"]
            self.rig.transport = job["apart"].get("env", {})
        super().run(job, jobs)

    def before_load(self, job: dict[str, Any]) -> None:
        """Bytes and answers of a pair."""
        if not isinstance(self.rig, Pair):
            return
        rig, folder = self.rig, str(self.rig.model)
        told = {NAMES[rank]: rig.handover(rank) for rank in (DECODE, PREFILL)}
        self.write("apart", handover=told, environment=rig.transport, hosts=rig.hosts)
        here = asyncio.run(load.greedy_answers(folder))
        alone = asyncio.run(load.greedy_answers(folder, rig.url(PREFILL)))
        same = sum(a == b for a, b in zip(here["answers"], alone["answers"], strict=True))
        self.write("same", asked=len(alone["answers"]), same=same)
        self.write("bytes", **asyncio.run(self.bytes_moved(rig, folder)))

    async def bytes_moved(self, rig: Pair, folder: str) -> dict[str, Any]:
        """Prompts of known lengths, and what vLLM counted for each; `formula` is kv_bytes()."""
        config = json.loads((Path(folder) / "config.json").read_text())
        block = self.block_tokens()
        single = []
        async with aiohttp.ClientSession() as session:
            for number, tokens in enumerate(LENGTHS):
                before = rig.counters()
                await loss.complete(session, folder, tokens, 2, seed=9000 + number)
                found = await self.settled(rig, before, 1)
                single.append({"tokens": tokens, "formula": kv_bytes(config, tokens, block), **found})
            before = rig.counters()
            ask = [loss.complete(session, folder, 1000, 2, seed=9100 + n) for n in range(AT_ONCE)]
            await asyncio.gather(*ask)
            found = await self.settled(rig, before, AT_ONCE)
        many = {
            "requests": AT_ONCE,
            "tokens": 1000,
            "formula": AT_ONCE * kv_bytes(config, 1000, block),
            **found,
        }
        return {"block_tokens": block, "single": single, "at_once": many}

    def block_tokens(self) -> int:
        """Tokens of a block of the running engine, which says it in its metrics."""
        for line in load.urllib.request.urlopen(f"{self.rig.engine_url}/metrics", timeout=10):
            if line.startswith(b"vllm:cache_config_info") and b'block_size="' in line:
                return int(line.split(b'block_size="')[1].split(b'"')[0])
        return BLOCK_TOKENS

    async def settled(self, rig: Pair, before: dict[str, float], transfers: int) -> dict[str, Any]:
        """What was moved since; the engine counts a transfer a step or two after the answer."""
        end = time.monotonic() + 3
        while True:
            found = moved(before, rig.counters())
            if found["transfers"] >= transfers or time.monotonic() > end:
                return found
            await asyncio.sleep(0.1)

    def measure(self, step: dict[str, int], seed: int) -> None:
        """One repetition, and what was handed over in it."""
        before = self.rig.counters() if isinstance(self.rig, Pair) else {}
        super().measure(step, seed)
        if isinstance(self.rig, Pair):
            self.write("handover", step=step, seed=seed, **moved(before, self.rig.counters()))

    def loss(self, how: str) -> dict[str, Any]:
        """The prefill engine's; a rig of one engine has the driver's own."""
        if not isinstance(self.rig, Pair):
            return super().loss(how)
        before = self.rig.counters()
        found = asyncio.run(loss.prefill_loss(self.rig, how))
        lines = self.rig.router_log.read_text(errors="replace").splitlines()
        said = [line for line in lines if line.startswith("manyhost router")]
        return {**found, "counters": moved(before, self.rig.counters()), "router": said}


if __name__ == "__main__":
    driver.main(Apart)
