"""NVIDIA Dynamo before engines at RunPod's stand-in: its frontend, router and sidecars are real, and so are
vLLM's Rust frontend, the gRPC between them, and NIXL, which hands KV caches over.
"""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from testbed import ClusterError
from tests.e2e.place import run
from tests.e2e.rented import KEY, RECIPE, Account, lay_engine, pair_dynamo, rented
from tests.helpers.waiting import until

__all__ = ["rented"]
# NIXL's handshake runs out within seconds where the machine stands still: make e2e-runpod.
pytestmark = [pytest.mark.engine, pytest.mark.dynamo, pytest.mark.more, pytest.mark.timeout(900)]

QUESTION = "Who are you, and what is it that you do all day long? " * 4
DYNAMO = ("--set", "routing=dynamo", "--set", "variables.VLLM_RUST_FRONTEND_PATH=/opt/dynamo/vllm-rs")
APART = ("--set", "roles.prefill.groups=1", "--set", "parallelism.pipeline=1",
         "--set", "network.interconnect=runpod")  # fmt: skip


def ask(url: str, text: str, key: str = KEY) -> dict[str, Any]:
    body = {"model": "tiny-r1", "temperature": 0, "max_tokens": 40,
            "messages": [{"role": "user", "content": text}]}  # fmt: skip
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def status(url: str, *, key: str = KEY) -> int:
    try:
        ask(url, QUESTION, key)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
    return 200


def metrics(url: str, rank: str = "") -> str:
    with urllib.request.urlopen(f"{url}/metrics{rank}", timeout=20) as answer:
        text: str = answer.read().decode()
    return text


def value(text: str, name: str) -> float:
    found = [float(line.split()[-1]) for line in text.splitlines() if re.match(rf"{name}[{{ ]", line)]
    return sum(found)


def start(rented: Account, tmp_path: Path, *words: str) -> tuple[str, list[str]]:
    pair_dynamo(tmp_path / "here")
    lay_engine(rented)
    up = rented.ask("up", "--hours", "1", *DYNAMO, *words)
    return up["url"], [pod["id"] for pod in up["pods"]]


def arrived(rented: Account, pod: str) -> int:
    """Bytes that came to a pod over its cluster's network."""
    return int(rented.pods.run(pod, "cat", "/sys/class/net/ens1/statistics/rx_bytes"))


def said(rented: Account, pod: str) -> str:
    return "\n".join(line for _, line in rented.pods.hosts[pod].lines)


def test_a_router_before_one_engine_of_two_hosts(rented: Account, tmp_path: Path) -> None:
    """It answers what the engine alone answers, asks for the key, and is benchmarked as an engine is."""
    url, (leader, worker) = start(rented, tmp_path)
    message = ask(url, QUESTION)["choices"][0]["message"]
    alone = rented.pods.run(
        leader, "curl", "-s", "http://127.0.0.1:8001/v1/completions", "-H", f"Authorization: Bearer {KEY}",
        "-H", "Content-Type: application/json",
        "-d", json.dumps({"model": "tiny-r1", "prompt": "Who", "temperature": 0, "max_tokens": 20}),
    )  # fmt: skip
    request = urllib.request.Request(
        f"{url}/v1/completions",
        json.dumps({"model": "tiny-r1", "prompt": "Who", "temperature": 0, "max_tokens": 20}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["choices"][0]["text"] == json.loads(alone)["choices"][0]["text"]
    assert message["reasoning"], message
    assert "</think>" not in message["content"]
    assert status(url, key="another key") == 401
    assert set(rented.pods.hosts[leader].ports) == {8000, 22}
    page = metrics(url)
    assert value(page, "vllm:request_success_total") >= 2
    assert value(page, "dynamo_frontend_requests_total") >= 2

    runs = tmp_path / "runs"
    run("bench", RECIPE, *DYNAMO, "--url", url, "--to", str(runs), "--scenario", "published").ok()
    (found,) = runs.glob("*/run.json")
    (point,) = json.loads(found.read_text())["points"]
    assert point["metrics"]["output_token_rate"], point

    logs = said(rented, leader) + said(rented, worker)
    assert KEY not in logs
    shown = rented.pods.run(leader, "ps", "-eo", "args")
    assert KEY not in shown


def test_prefill_and_decode_apart(rented: Account, tmp_path: Path) -> None:
    """Prompts go to one host and answers come from the other, which gets the prompt's KV cache over NIXL."""
    url, (prefill, decode) = start(rented, tmp_path, *APART)
    message = ask(url, QUESTION)["choices"][0]["message"]
    assert message["content"]
    assert message["reasoning"]
    first = tokens = ask(url, "And " + QUESTION)["usage"]["prompt_tokens"]
    assert tokens > 64

    def moved() -> bool:
        return value(metrics(url, "/1"), "vllm:external_prefix_cache_hits_total") >= tokens

    received = arrived(rented, decode)
    question = "Now and again: " + QUESTION * 3
    tokens += ask(url, question)["usage"]["prompt_tokens"]
    # MLA: 512 + 64 elements of two bytes in each of four layers.
    cache = (tokens - first) // 16 * 16 * 4 * 576 * 2
    assert cache < arrived(rented, decode) - received < 2 * cache, "the KV cache of its prompt"

    until("the decode engine has counted the prompts that came to it", moved, 30)
    assert value(metrics(url, "/0"), "vllm:request_success_total") >= 2, "the prefill engine read them"
    with pytest.raises(ClusterError):  # a stranger to the control key
        rented.pods.run(prefill, "curl", "-sf", "-X", "PUT", "http://10.65.0.2:8003/hosts/1")

    rented.pods.run(decode, "pkill", "-KILL", "-f", "vllm serve")  # an engine that ends is started again
    until("the engine is missed", lambda: status(url) != 200, 30)
    until("the engine is taken in again", lambda: status(url) == 200, 300)

    rented.pods.kill(decode)
    lost = time.monotonic()
    until("nobody is sent to a host that is lost", lambda: status(url) in {404, 503}, 30)
    seconds = time.monotonic() - lost
    print(f"lost after {seconds:.1f} s")
    until("its loss is said", lambda: "is lost" in said(rented, prefill), 10)
    assert seconds < 10


def test_two_whole_engines(rented: Account, tmp_path: Path) -> None:
    """Dynamo gives both something to do, and one that is lost is not asked any more."""
    url, (first, other) = start(
        rented, tmp_path, "--set", "groups=2", "--set", "parallelism.pipeline=1",
        "--set", "network.interconnect=runpod",
    )  # fmt: skip

    def answered(rank: int) -> float:
        return value(metrics(url, f"/{rank}"), "vllm:request_success_total")

    def asked_again(before: list[float]) -> bool:
        ask(url, f"{time.monotonic()} and again: {QUESTION}")
        return all(answered(rank) > before[rank] for rank in (0, 1))

    until("the second engine is taken in", lambda: "rank 1 (serve)" in said(rented, first), 120)
    for number in range(12):
        ask(url, f"{number} and once more: {QUESTION}")
    assert answered(0) > 0
    assert answered(1) > 0

    # Dynamo's registrations run out after 10 s, and nothing of Dynamo makes them again.
    rented.pods.run(first, "sh", "-c", "kill -STOP -1; sleep 20; kill -CONT -1")
    until("Dynamo has forgotten its workers", lambda: "is forgotten by Dynamo" in said(rented, first), 60)
    until("they are in its list again", lambda: status(url) == 200, 60)
    before = [answered(rank) for rank in (0, 1)]
    until("both are given something to do", lambda: asked_again(before), 120)

    rented.pods.kill(other)
    lost = time.monotonic()
    until("its loss is said", lambda: "is lost" in said(rented, first), 30)
    assert time.monotonic() - lost < 10
    for number in range(3):
        ask(url, f"{number} after it: {QUESTION}")
