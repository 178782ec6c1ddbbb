"""Load on a running server: the `vllm bench serve` code in process, fixed prompts, open streams."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import io
import json
import random
import re
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from rig import PORT, Rig, gpu_query

URL = f"http://127.0.0.1:{PORT}"
WATCH_SECONDS = 1.0


@functools.cache
def bench_module() -> Any:
    """vLLM's benchmark, with its prompts made once for each seed and shape."""
    import vllm.benchmarks.serve as bench

    made: dict[tuple[Any, ...], list[Any]] = {}
    make = bench.get_samples

    def get_samples(args: Any, tokenizer: Any) -> list[Any]:
        key = (args.model, args.seed, args.num_prompts, args.random_input_len, args.random_output_len)
        if key not in made:
            random.seed(args.seed)
            made[key] = make(args, tokenizer)
        return [copy.copy(request) for request in made[key]]

    bench.get_samples = get_samples
    bench.get_tokenizer = functools.cache(bench.get_tokenizer)
    return bench


def vocabulary(model: str) -> range:
    """The tokens of a model folder that stand for themselves."""
    return range(3, min(128000, json.loads((Path(model) / "config.json").read_text())["vocab_size"]))


def bench_arguments(model: str, step: dict[str, int], seed: int) -> list[str]:
    """The command line of `vllm bench serve` for one repetition."""
    port = str(step.get("port", PORT))
    words = ["--backend", "openai", "--model", model, "--port", port, "--seed", str(seed)]
    words += ["--dataset-name", "random", "--ignore-eos", "--disable-tqdm"]
    words += ["--random-input-len", str(step["input"]), "--random-output-len", str(step["output"])]
    words += ["--num-prompts", str(step["prompts"])]
    words += ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,99"]
    if step.get("limit"):
        words += ["--max-concurrency", str(step["limit"])]
    return words


def parsed(words: list[str]) -> Any:
    """The benchmark's own argument object."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    bench_module().add_cli_args(parser)
    return parser.parse_args(words)


def prepare(model: str, step: dict[str, int], seed: int) -> None:
    """Makes a repetition's prompts before the server is there."""
    bench = bench_module()
    arguments = parsed(bench_arguments(model, step, seed))
    with contextlib.redirect_stdout(io.StringIO()):
        bench.get_samples(arguments, bench.get_tokenizer(model, tokenizer_mode="auto"))


def run_bench(model: str, step: dict[str, int], seed: int, limit_seconds: float) -> dict[str, Any]:
    """One repetition; numbers and strings of the benchmark's result.

    Raises:
        TimeoutError: it took longer than `limit_seconds`.
    """
    bench = bench_module()
    arguments = parsed(bench_arguments(model, step, seed))
    with contextlib.redirect_stdout(io.StringIO()):
        result = uvloop.run(asyncio.wait_for(bench.main_async(arguments), limit_seconds))
    return {name: value for name, value in result.items() if not isinstance(value, dict | list)}


async def greedy_answers(model: str, url: str = URL, count: int = 8, tokens: int = 16) -> dict[str, Any]:
    """The server's most probable continuation of fixed prompts, to compare two servers.

    Returns:
        `answers`, one text a prompt, and `gaps`, for each token how much more probable (in log
        probability) it was than the next one: random weights have near ties, at which a difference
        in rounding is enough for another token.
    """
    chooser = random.Random(0)
    prompts = [[chooser.choice(vocabulary(model)) for _ in range(200)] for _ in range(count)]
    answers, gaps = [], []
    async with aiohttp.ClientSession() as session:
        for prompt in prompts:
            body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
            body |= {"ignore_eos": True, "logprobs": 2}
            async with session.post(f"{url}/v1/completions", json=body) as answer:
                choice = (await answer.json())["choices"][0]
            answers.append(choice["text"])
            best = [sorted(top.values()) for top in choice["logprobs"]["top_logprobs"]]
            gaps.append([round(values[-1] - values[-2], 3) for values in best])
    return {"answers": answers, "gaps": gaps}


class Watch:
    """What the engine says of itself while a repetition runs, read once a second."""

    def __init__(self, url: str = URL) -> None:
        self.url = url

    def __enter__(self) -> Watch:
        self.over = threading.Event()
        self.before = engine_counters(self.url)
        self.most = {"running": 0.0, "kv_usage": 0.0}
        self.memory = [0] * len(gpu_query("memory.used"))
        self.thread = threading.Thread(target=self.look)
        self.thread.start()
        return self

    def look(self) -> None:
        """Keeps the highest of every reading."""
        while not self.over.wait(WATCH_SECONDS):
            with contextlib.suppress(OSError):
                now = engine_counters(self.url)
                self.most = {name: max(most, now[name]) for name, most in self.most.items()}
            used = map(int, gpu_query("memory.used"))
            self.memory = [max(pair) for pair in zip(self.memory, used, strict=True)]

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def seen(self) -> dict[str, Any]:
        """Preemptions over the repetition; the most requests in a batch, share of the KV cache and
        memory of each GPU in MiB that were seen."""
        counted = engine_counters(self.url)["preemptions"] - self.before["preemptions"]
        return {"preemptions": counted, **self.most, "memory": self.memory}


def engine_counters(url: str = URL) -> dict[str, float]:
    """The engine's own gauges and counters, https://docs.vllm.ai/en/v0.26.0/usage/metrics/."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        text = answer.read().decode()

    def total(metric: str) -> float:
        return sum(map(float, re.findall(rf"^vllm:{metric}(?:{{.*}})? (\S+)$", text, re.MULTILINE)))

    return {
        "preemptions": total("num_preemptions_total"),
        "running": total("num_requests_running"),
        "kv_usage": total("kv_cache_usage_perc"),
    }


class Streams:
    """Many streams that run on until something ends them."""

    def __init__(self, model: str, count: int) -> None:
        self.model = model
        self.count = count
        self.open = 0
        self.tokens = 0
        self.last_token = 0.0
        self.ends: dict[str, int] = {}

    async def run(self, session: aiohttp.ClientSession, seed: int) -> None:
        """One stream, to its end."""
        chooser = random.Random(seed)
        prompt = [chooser.choice(vocabulary(self.model)) for _ in range(500)]
        body = {"model": self.model, "prompt": prompt, "max_tokens": 8000, "stream": True}
        self.open += 1
        how = "still open"
        try:
            url = f"{URL}/v1/completions"
            async with session.post(url, json={**body, "ignore_eos": True}) as answer:
                async for line in answer.content:
                    if b'"error"' in line:
                        how = "error chunk"
                    elif line.startswith(b"data: {"):
                        self.tokens += 1
                        self.last_token = time.monotonic()
            how = how if how == "error chunk" else "finished"
        except aiohttp.ClientError as error:
            how = type(error).__name__
        finally:
            self.open -= 1
            self.ends[how] = self.ends.get(how, 0) + 1


async def host_loss(rig: Rig, how: str, streams: int = 128, watch: float = 60.0) -> dict[str, Any]:
    """Takes the second host away under load and times what is noticed.

    Returns:
        Seconds after the loss: `last_token`, `unready` (the chart's readiness probe on the
        leader), `leader_ended` and `worker_ended` (the launch scripts), `streams_closed`,
        `health_not_200`; null for what did not happen while watching.
    """
    seen: dict[str, float] = {}
    load = Streams(str(rig.model), streams)
    unlimited = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=unlimited) as session:
        tasks = [asyncio.create_task(load.run(session, seed)) for seed in range(streams)]
        await asyncio.sleep(8)
        before = load.tokens
        lost = time.monotonic()
        await asyncio.to_thread(rig.lose, how)
        while (passed := time.monotonic() - lost) < watch:
            health = await asyncio.to_thread(rig.health)
            ready = await asyncio.to_thread(rig.probe, 0, "ready")
            facts = {
                "unready": not ready,
                "leader_ended": rig.ended(0),
                "worker_ended": rig.ended(1),
                "streams_closed": load.open == 0,
                "health_not_200": health != 200,
            }
            for name, is_so in facts.items():
                if is_so:
                    seen.setdefault(name, round(passed, 2))
            if {"leader_ended", "worker_ended", "streams_closed"} <= seen.keys():
                break
            await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    names = ("unready", "leader_ended", "worker_ended", "streams_closed", "health_not_200")
    times = {name: seen.get(name) for name in names}
    last = round(load.last_token - lost, 2)
    counts = {"streams": streams, "tokens_before": before, "stream_ends": load.ends}
    return {"how": how, "last_token": last, **times, **counts}


def server_load(rig: Rig) -> dict[str, float]:
    """CPU seconds used so far by each process of the two hosts, by process title."""
    import psutil

    used: dict[str, float] = {}
    for number, process in enumerate(rig.processes):
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    title = " ".join(child.cmdline()[:1])[:40] or child.name()
                    times = child.cpu_times()
                    key = f"host{number} {title}"
                    used[key] = used.get(key, 0.0) + times.user + times.system
    return used


def dumps(record: dict[str, Any]) -> str:
    """One line of the results file."""
    return json.dumps(record, default=float, sort_keys=True)
