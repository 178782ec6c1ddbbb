"""One measurement, from the client's calibration to the evidence: what is known of it, and no verdict.

    python3 measure.py SPEC.json

The last thing it prints is the evidence: JSON, compressed, cut into marked lines, with a checksum. So it
leaves a pod through its log, whole or recognisably not. generator/manyhost/benchmark reads it, decides
whether the numbers count, and has the meaning of every field (evidence.py). Standard library alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import engine
import runner
from summary import peaks, statistics

VERSION = 1
MARK = "manyhost-evidence"
PROGRESS = "manyhost-bench: "
_LINE = 8000  # characters: container runtimes cut lines at 16 KiB
_IDLE_SECONDS = 60.0
_SERIES = (
    "running",
    "waiting",
    "kv_usage",
    "preemptions",
    "generation_tokens",
    "prompt_tokens",
    "resident_bytes",
)
_MOST_SAMPLES = 2000
_TELL_SECONDS = 30.0
# What the steady server can keep, milliseconds.
_STEADY_MS = {"ttft_ms": (20.0, 2000.0), "tpot_ms": (5.0, 200.0)}


def say(text: str) -> None:
    """Print one line of progress."""
    print(f"{PROGRESS}{text}", flush=True)


class Sampler(threading.Thread):
    """Reads the engines' counters while the load runs; a scrape that fails is left out."""

    def __init__(self, urls: list[str], every: float) -> None:
        super().__init__(daemon=True)
        self.urls, self.every = urls, every
        self.stopped = threading.Event()
        self.at: list[float] = []
        self.told = 0.0
        self.samples: list[dict[str, Any]] = []

    def run(self) -> None:
        """Look until stopped."""
        while not self.stopped.wait(self.every):
            if len(self.samples) >= _MOST_SAMPLES:  # keep the whole run, half as often
                self.at, self.samples, self.every = self.at[::2], self.samples[::2], self.every * 2
            try:
                found = engine.scrape(self.urls)
            except (OSError, ValueError):
                continue
            self.at.append(time.perf_counter())
            self.samples.append(found)
            if found["running"] and self.at[-1] - self.told >= _TELL_SECONDS:
                self.told = self.at[-1]
                say(
                    f"{found['running']:.0f} requests run, {found['waiting']:.0f} wait, "
                    f"{found['kv_usage']:.0%} of the KV cache, {found['generation_tokens']:,.0f} tokens"
                )

    def series(self, begin: float) -> dict[str, list[float]]:
        """Return the samples from `begin` on as columns; before it the tool was still starting."""
        during = [(at, found) for at, found in zip(self.at, self.samples, strict=True) if at >= begin]
        columns = {name: [found[name] for _, found in during] for name in _SERIES}
        return {"seconds": [round(at - begin, 3) for at, _ in during], **columns}


def latencies(requests: runner.Requests) -> dict[str, Any]:
    """Return the statistics of the times, milliseconds."""
    return {
        "ttft_ms": statistics(requests.good("ttft"), 1000),
        "tpot_ms": statistics(requests.tpots(), 1000),
        "itl_ms": statistics(requests.gaps, 1000),
        "e2e_ms": statistics(requests.good("e2e"), 1000),
    }


def calibrate(spec: dict[str, Any], warm: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Measure the steady server with the same tool and concurrency; spread the client until it is right.

    Args:
        spec: The specification.
        warm: How the engine answered the warm-up: the steady server answers alike.
        folder: For files of the tool.

    Returns:
        The attempts, each with what the server knows (truth) and what the client says (measured).
    """
    plan = spec["calibration"]
    attempts: list[dict[str, Any]] = []
    processes, most = 1, min(plan["most_processes"], len(os.sched_getaffinity(0)))
    times = {name: min(max(warm[name], least), longest) for name, (least, longest) in _STEADY_MS.items()}
    while True:
        here = Path(__file__).with_name("steady.py")
        words = [sys.executable, str(here), *(str(times[name]) for name in ("ttft_ms", "tpot_ms"))]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
            try:
                port = int(next(iter(server.stdout or ()), "0"))
                url = f"http://127.0.0.1:{port}"
                ran = runner.run(
                    spec["tool"],
                    spec["command"],
                    values={
                        **spec["values"],
                        "url": url,
                        "model": "steady",
                        "rate": "",
                        **plan["values"],
                    },
                    requests=plan["requests"],
                    concurrency=plan["streams"],
                    processes=processes,
                    seed=0,
                    folder=folder,
                    limit=plan["limit_seconds"],
                )
                truth = json.loads(engine.fetch(f"{url}/truth"))
            finally:
                server.kill()
        measured = latencies(ran.requests)
        attempts.append(
            {
                "processes": processes,
                "requests": len(ran.requests.ok),
                "failed": ran.requests.ok.count(False),
                "truth": {f"{name}_ms": statistics(values, 1000) for name, values in truth.items()},
                "measured": {name: measured[name] for name in ("ttft_ms", "tpot_ms", "itl_ms")},
                "cpu": ran.cpu,
                "error": ran.error,
            }
        )
        off = [worst(attempt, plan) for attempt in attempts]
        say(
            f"client calibrated: {plan['streams']} streams over {processes} processes, "
            f"{off[-1]:.2f} of the budget"
        )
        if off[-1] <= 1 or ran.error or processes == most:
            chosen = off.index(min(off))
            return {"streams": plan["streams"], **times, "attempts": attempts, "chosen": chosen}
        processes = min(most, max(2 * processes, math.ceil(min(off[-1], most) * processes)))


def worst(attempt: dict[str, Any], plan: dict[str, Any]) -> float:
    """Return the largest error of an attempt as a share of what it may be; infinite without a result."""
    found = [0.0]
    for name, truth in attempt["truth"].items():
        measured = attempt["measured"][name]
        if not truth or not measured:
            return float("inf")
        budget = max(plan["budget_ms"], plan["budget_share"] * truth["p50"])
        found += [abs(measured[key] - truth[key]) / budget for key in plan["judged"]]
    return max(found)


def measure(spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Do all of it; what goes wrong is noted in the evidence."""
    url, model = spec["url"], spec["model"]
    evidence: dict[str, Any] = {
        "version": VERSION,
        "key": spec["key"],
        "started": time.time(),
        "error": "",
        "runner_version": spec["version"] or distribution(spec["command"][0], spec["distribution"]),
        "processors": len(os.sched_getaffinity(0)),
    }
    try:
        models = json.loads(engine.fetch(f"{url}/v1/models"))["data"]
        server = {"version": json.loads(engine.fetch(f"{url}/version"))["version"], "models": models}
        before = engine.scrape(spec["metrics"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return evidence | {"error": f"the engine at {url} does not answer: {error}"}
    evidence["server"] = {
        "version": str(server["version"]),
        "model": str(models[0]["id"]) if models else "",
        "context": int(models[0].get("max_model_len") or 0) if models else 0,
        "cache_config": before["cache_config"],
    }
    questions = spec["questions"]
    answers = engine.ask_all(url, model, questions["prompts"], questions["most_tokens"])
    evidence["answers"] = answers
    say(f"{len(answers)} questions asked")
    warm = evidence["warm_up"] = engine.warm_up(url, model, **spec["warm_up"])
    say(
        f"{warm['requests']} requests to warm up: "
        f"TTFT {warm['ttft_ms']:.0f} ms, TPOT {warm['tpot_ms']:.1f} ms"
    )
    calibration = evidence["calibration"] = calibrate(spec, warm, folder)
    processes = calibration["attempts"][calibration["chosen"]]["processes"]
    try:
        evidence["before"] = engine.idle(spec["metrics"], _IDLE_SECONDS)
    except (OSError, ValueError) as error:
        return evidence | {"error": f"the engine is gone before the load: {error}"}
    sampler = Sampler(spec["metrics"], spec["sample_seconds"])
    sampler.start()
    ran = runner.run(
        spec["tool"],
        spec["command"],
        values={**spec["values"], "url": url, "model": model},
        requests=spec["requests"],
        concurrency=spec["concurrency"],
        processes=processes,
        seed=spec["seed"],
        folder=folder,
        limit=spec["limit_seconds"],
    )
    sampler.stopped.set()
    evidence["load_finished"] = time.time()
    evidence |= {"error": ran.error, "commands": ran.commands, "skew": ran.skew, "cpu": ran.cpu}
    try:
        evidence["after"] = engine.idle(spec["metrics"], _IDLE_SECONDS)
    except (OSError, ValueError) as error:
        evidence["error"] = evidence["error"] or f"the engine is gone after the load: {error}"
    requests = ran.requests
    begin = min(requests.start, default=time.perf_counter())
    ends = [start + took for start, took in zip(requests.start, requests.e2e, strict=True)]
    peak_tokens, peak_requests = peaks(requests.start, ends, requests.tokens_at)
    evidence |= {
        "seconds": ran.seconds,
        "latencies": latencies(requests),
        "peak_tokens": peak_tokens,
        "peak_requests": peak_requests,
        "errors": sorted(set(requests.errors))[:10],
        "series": sampler.series(begin),
        "requests": {
            "start_us": [round((start - begin) * 1e6) for start in requests.start],
            "ttft_us": [round(value * 1e6) for value in requests.ttft],
            "e2e_us": [round(value * 1e6) for value in requests.e2e],
            "input": requests.input,
            "output": requests.output,
            "chunks": requests.chunks,
            "ok": [int(ok) for ok in requests.ok],
            "empty": [int(empty) for empty in requests.empty],
        },
    }
    say(f"{len(requests.ok)} requests in {ran.seconds:.1f} s, {requests.ok.count(False)} failed")
    return evidence


def distribution(program: str, name: str) -> str:
    """Return the version of a Python distribution that a program on this machine comes from; may be empty."""
    path = Path(program)
    found = (
        path
        if path.is_absolute()
        else next(
            (
                Path(part) / program
                for part in os.environ.get("PATH", "").split(os.pathsep)
                if (Path(part) / program).exists()
            ),
            path,
        )
    )
    try:
        first = found.read_text(errors="replace").splitlines()[0]
    except (OSError, IndexError):
        return ""
    named = first.removeprefix("#!").split()
    python = named[0] if first.startswith("#!") and "python" in first else str(found.with_name("python"))
    look = f"import importlib.metadata as m; print(m.version({name!r}))"
    done = subprocess.run([python, "-c", look], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def pack(evidence: dict[str, Any]) -> list[str]:
    """Return evidence as lines for a log."""
    data = zlib.compress(json.dumps(evidence, separators=(",", ":")).encode(), 9)
    text = base64.b64encode(data).decode()
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    body = [f"{MARK} {number} {line}" for number, line in enumerate(lines)]
    return [*body, f"{MARK} end {len(lines)} {hashlib.sha256(text.encode()).hexdigest()}"]


def main() -> None:
    """Measure and print the evidence."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the tools end too
    spec = json.loads(Path(sys.argv[1]).read_text())
    with tempfile.TemporaryDirectory() as name:
        evidence = measure(spec, Path(name))
    evidence["finished"] = time.time()
    print("\n".join(pack(evidence)), flush=True)


if __name__ == "__main__":
    main()
