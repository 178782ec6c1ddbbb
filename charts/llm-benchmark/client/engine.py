"""What the client asks the served engine itself: counters, questions, a warm-up."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import random
import re
import statistics
import time
import urllib.request
from typing import Any

import completions

# Series of vLLM's /metrics that matter here, with the names under which they leave; sums over all labels.
COUNTERS = {
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:num_preemptions_total": "preemptions",
    "vllm:prefix_cache_queries_total": "prefix_cache_queries",
    "vllm:prefix_cache_hits_total": "prefix_cache_hits",
}
GAUGES = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "process_resident_memory_bytes": "resident_bytes",
}
USAGE = "vllm:kv_cache_usage_perc"  # a share, of each engine: the fullest counts
FINISHED = "vllm:request_success_total"
CACHE = "vllm:cache_config_info"
_LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ([^ ]+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_READ_SECONDS = 30.0


def headers() -> dict[str, str]:
    """Return what lets a client in where the engine has a key; ValueError when no header takes that key."""
    key = os.environ.get("VLLM_API_KEY", "")
    if not (key.isascii() and key.isprintable() and key == key.strip()):  # http.client would show it
        raise ValueError(
            "VLLM_API_KEY has a blank or a line break at an end of it, or a character that no key has"
        )
    return {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}


def fetch(url: str, body: Any = None, seconds: float = _READ_SECONDS) -> bytes:
    """Make one request; JSON goes out with POST. OSError when there is no good answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers())  # noqa: S310  http and https, checked by the caller
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:  # noqa: S310
            found: bytes = answer.read()
            return found
    except http.client.HTTPException as error:  # a server that dies in the middle of its answer
        raise OSError(f"{type(error).__name__}: {error}") from None


def read_metrics(text: str) -> dict[str, Any]:
    """Return the counters of one scrape (Prometheus text format)."""
    found: dict[str, Any] = dict.fromkeys((*COUNTERS.values(), *GAUGES.values(), "kv_usage"), 0.0)
    found |= {"finished": {}, "cache_config": {}}
    for line in text.splitlines():
        match = _LINE.match(line)
        if not match:
            continue
        name, labels, value = match[1], dict(_LABEL.findall(match[2] or "")), float(match[3])
        if name in COUNTERS:
            found[COUNTERS[name]] += value
        elif name in GAUGES:
            found[GAUGES[name]] += value
        elif name == USAGE:
            found["kv_usage"] = max(found["kv_usage"], value)
        elif name == FINISHED:
            reason = labels.get("finished_reason", "")
            found["finished"][reason] = found["finished"].get(reason, 0.0) + value
        elif name == CACHE:
            found["cache_config"] = labels
    return found


def scrape(urls: list[str]) -> dict[str, Any]:
    """Return the counters of all engines together; OSError when one does not answer."""
    total = read_metrics("")
    for url in urls:
        for key, value in read_metrics(fetch(url).decode(errors="replace")).items():
            if key == "finished":
                for reason, count in value.items():
                    total[key][reason] = total[key].get(reason, 0.0) + count
            elif key == "kv_usage":
                total[key] = max(total[key], value)
            elif key == "cache_config":
                total[key] = value or total[key]
            else:
                total[key] += value
    return total


def idle(urls: list[str], seconds: float) -> dict[str, Any]:
    """Return the counters once no request runs or waits, or as they are when the time is over."""
    end = time.monotonic() + seconds
    while True:
        found = scrape(urls)
        if not found["running"] + found["waiting"] or time.monotonic() > end:
            return found
        time.sleep(0.2)


def ask(url: str, model: str, prompt: str, most_tokens: int) -> dict[str, Any]:
    """Ask one question in a chat; what went wrong is an answer too."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": most_tokens,
        "temperature": 0,
    }
    found = {"prompt": prompt, "answer": "", "reasoning": 0, "finish_reason": "", "tokens": 0, "error": ""}
    try:
        answer = json.loads(fetch(f"{url}/v1/chat/completions", body, 900))
        message = answer["choices"][0]["message"]
        thought = message.get("reasoning") or message.get("reasoning_content") or ""
        return found | {
            "answer": message.get("content") or "",
            "reasoning": len(thought),
            "finish_reason": answer["choices"][0].get("finish_reason") or "",
            "tokens": int((answer.get("usage") or {}).get("completion_tokens") or 0),
        }
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        return found | {"error": f"{type(error).__name__}: {error}"[:300]}


def ask_all(url: str, model: str, prompts: list[str], most_tokens: int) -> list[dict[str, Any]]:
    """Ask questions side by side, eight at a time."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda prompt: ask(url, model, prompt, most_tokens), prompts))


def warm_up(
    url: str, model: str, *, requests: int, input_tokens: int, output_tokens: int, vocabulary: int, seed: int
) -> dict[str, Any]:
    """Send requests of the measured size side by side; say how many failed and how the others went.

    Prompts are random token ids, so that no prompt of the measurement is known to the prefix cache by them.

    Returns:
        requests, failed, and the medians ttft_ms and tpot_ms (0 when none succeeded).
    """

    def one(number: int) -> tuple[float, float] | None:
        ids = random.Random(seed * 1_000_003 + number)  # noqa: S311  no secret
        prompt = completions.tokens(ids, vocabulary, input_tokens)
        body = {
            "model": model,
            "prompt": prompt,
            "max_tokens": output_tokens,
            "ignore_eos": True,
            "stream": True,
        }
        request = urllib.request.Request(  # noqa: S310
            f"{url}/v1/completions", json.dumps(body).encode(), headers()
        )
        begin = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=900) as answer:  # noqa: S310
                came = [time.perf_counter() for line in answer if line.startswith(b"data: {")]
        except (OSError, ValueError, http.client.HTTPException):
            return None
        if not came:
            return None
        return came[0] - begin, (came[-1] - came[0]) / max(1, len(came) - 1)

    with concurrent.futures.ThreadPoolExecutor(max(1, requests)) as pool:
        took = [found for found in pool.map(one, range(requests)) if found]
    ttft, tpot = (
        ([value * 1000 for value in column] for column in zip(*took, strict=True)) if took else ([], [])
    )
    return {
        "requests": requests,
        "failed": requests - len(took),
        "ttft_ms": statistics.median(ttft) if took else 0.0,
        "tpot_ms": statistics.median(tpot) if took else 0.0,
    }
