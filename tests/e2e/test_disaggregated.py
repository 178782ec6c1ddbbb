"""Prefill and decode in engines of their own, with the real engine in real pods.

One prefill group and one decode group of one host each, and two routers before them. The KV caches
really move: vLLM's own counters say how many bytes, and the plan has said so before.
"""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

import pytest
from manyhost.render import build

from testbed.engine.tinymodel_text import ANSWER, THOUGHT
from tests.e2e.place import Place, everything, run, spoken
from tests.e2e.test_engine import START_SECONDS, same, settings  # noqa: F401  the engine as a fixture
from tests.helpers.waiting import until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
RECIPE = "local/tiny-r1-disaggregated"
RELEASE = "tiny-r1-disaggregated"
DECODE, PREFILL = f"{RELEASE}-0", f"{RELEASE}-prefill-0"
ROUTER, ALONE = f"http://{RELEASE}-router:8000", f"http://{RELEASE}-prefill-leaders:8000"
COMPONENT = "app.kubernetes.io/component=router"

ASK = """
import json, sys, urllib.request
for prompt in json.loads(sys.argv[2]):
    body = {"model": "tiny-r1", "prompt": prompt, "max_tokens": 24, "temperature": 0, "logprobs": 1,
            "ignore_eos": True}
    request = urllib.request.Request(
        sys.argv[1] + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    answer = json.load(urllib.request.urlopen(request, timeout=300))
    print(json.dumps({"usage": answer["usage"], **answer["choices"][0]["logprobs"]}))
"""
STREAM = """
import json, sys, urllib.request
body = {"model": "tiny-r1", "prompt": sys.argv[2], "max_tokens": int(sys.argv[3]), "temperature": 0,
        "ignore_eos": True, "stream": True}
request = urllib.request.Request(
    sys.argv[1] + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
for line in urllib.request.urlopen(request, timeout=300):
    if line.strip():
        print(line.decode().strip(), flush=True)
"""
SCRAPE = """
import sys, urllib.request
for server in sys.argv[1:]:
    print(urllib.request.urlopen(f"http://{server}:8000/metrics", timeout=60).read().decode())
"""
STEADY = """
import json, sys, time, urllib.request
end, number = time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < end:
    body = {"model": "tiny-r1", "prompt": f"steady {number}", "max_tokens": 4, "ignore_eos": True}
    request = urllib.request.Request(
        sys.argv[1] + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    answer = json.load(urllib.request.urlopen(request, timeout=120))
    assert answer["usage"]["completion_tokens"] == 4
    number += 1
    print(number, flush=True)
"""


class Release:
    """The release as a client and an operator see it."""

    def __init__(self, place: Place, namespace: str, here: list[str]) -> None:
        self.place, self.namespace, self.here = place, namespace, here

    def python(self, pod: str, program: str, *args: str) -> str:
        return self.place.kube("exec", "-n", self.namespace, pod, "--", "python3", "-c", program, *args)

    def ask(self, server: str, *prompts: str, **more: Any) -> list[Any]:
        """Tokens and log-probabilities of an answer, and the tokens of its prompt."""
        text = self.python(DECODE, ASK, server, json.dumps(prompts), json.dumps(more))
        return [json.loads(line) for line in text.splitlines()]

    def start(self, pod: str, program: str, *args: str) -> subprocess.Popen[str]:
        words = [self.place.kubectl, "--kubeconfig", str(self.place.kubeconfig), "exec"]
        words += ["-n", self.namespace, pod, "--", "python3", "-u", "-c", program, *args]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    def stream(self, prompt: str, tokens: int, pod: str) -> subprocess.Popen[str]:
        return self.start(pod, STREAM, ROUTER, prompt, str(tokens))

    def routers(self, what: str) -> list[str]:
        """A field of each router's pod."""
        path = f"jsonpath={{.items[*]{what}}}"
        return self.place.kube("get", "pods", "-n", self.namespace, "-l", COMPONENT, "-o", path).split()

    def metrics(self) -> dict[str, float]:
        """The series of the decode leader and of all routers, without labels that are the same for all."""
        found: dict[str, float] = {}
        for line in self.python(DECODE, SCRAPE, "127.0.0.1", *self.routers(".status.podIP")).splitlines():
            if line.startswith(("manyhost_router", "vllm:nixl", "vllm:prompt_tokens_by_source")):
                name, _, value = line.rpartition(" ")
                label = next((part for part in ("prefill=", "source=") if part in name), "")
                kind = name.partition(label)[2].split('"')[1] if label else ""
                key = name.partition("{")[0] + (f":{kind}" if kind else "")
                found[key] = found.get(key, 0.0) + float(value)
        return found

    def routed(self, how: str) -> float:
        return self.metrics()[f"manyhost_router_requests_total:{how}"]

    def moved(self) -> float:
        """Bytes of KV cache that the decode engine has fetched."""
        return self.metrics().get("vllm:nixl_bytes_transferred_sum", 0.0)

    def status(self) -> Any:
        return run("status", RECIPE, *self.here, "--output", "json").ok().output.result


def planned(tokens: int) -> int:
    """What the plan says that a prompt's KV cache has, in bytes."""
    plan = build(RECIPE, assignments=[f"traffic.input_tokens={tokens}"]).plan
    assert plan.handover is not None
    return plan.handover.bytes


def text(topic: str) -> str:
    """A prompt of some blocks that no other one shares a block with."""
    return f"{topic}: " + f"def {topic}(self): return import " * 12


def test_prefill_and_decode_apart(place: Place, namespace: str, settings: list[str]) -> None:  # noqa: F811
    """Deploy, answers, bytes, a lost prefill group, a stream, a drain, teardown."""
    here = ["--namespace", namespace, *settings, "--set", "drain_seconds=90"]
    begin = time.monotonic()
    out = run("deploy", RECIPE, *here, "--timeout", str(START_SECONDS)).ok().out
    print(f"prefill and decode: deploy {time.monotonic() - begin:.0f} s")
    for role, pod in (("decode", DECODE), ("prefill", PREFILL)):
        assert f"{role} group 0 host 0 ({pod} on " in out
    release = Release(place, namespace, here)
    found = release.status()
    assert (found["groups"], found["ready_groups"]) == (2, 2)
    assert {host["role"] for host in found["hosts"]} == {"prefill", "decode"}
    assert len({host["node"] for host in found["hosts"]}) == 2
    assert found["router"]["ready"] == found["router"]["wanted"] == len(found["endpoints"]) == 2
    assert found["service"] == f"{RELEASE}-router"
    assert len(set(release.routers(".spec.nodeName"))) == 2
    assert "router: 2 of 2 ready" in out

    said = run("chat", RECIPE, *here, "--prompt", "Who are you?", "--temperature", "0", "--output", "json")
    answer = said.ok().output.result
    assert answer["pod"] in release.routers(".metadata.name")
    assert spoken(answer) == {"reasoning": THOUGHT, "answer": ANSWER}

    prompts = [text(topic) for topic in ("apple", "birch", "cedar")]
    bytes_before, done = release.moved(), release.routed("done")
    apart = release.ask(ROUTER, *prompts)
    same(apart, release.ask(ALONE, *prompts), 0.02)
    expected = sum(planned(one["usage"]["prompt_tokens"]) for one in apart)
    until("the bytes are counted", lambda: release.moved() - bytes_before >= expected, 60)
    assert release.moved() - bytes_before == expected
    assert release.routed("done") == done + len(prompts)
    fetched = release.metrics()["vllm:prompt_tokens_by_source_total:external_kv_transfer"]
    assert fetched > 0
    print(
        f"{len(prompts)} prompts: {expected} bytes of KV cache moved, as planned; {fetched:.0f} tokens in all"
    )

    with release.stream(text("stream"), 300, DECODE) as stream:
        assert stream.stdout is not None
        lines = stream.stdout.read().splitlines()
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    assert len(lines) > 3, "pieces, as they come"
    theirs = {"do_remote_prefill": True, "remote_host": "192.0.2.1", "remote_port": 1}
    assert release.ask(ROUTER, text("mine"), kv_transfer_params=theirs)[0]["tokens"]

    routers_replaced(release)
    prefill_lost(release)
    drained(release)

    begin = time.monotonic()
    run("teardown", RECIPE, *here, "--yes").ok()
    print(f"teardown {time.monotonic() - begin:.0f} s")
    until("nothing is left", lambda: not everything(place, namespace), 60)


def routers_replaced(release: Release) -> None:
    """All routers are made anew, one after the other, under requests and a stream: none of them is lost."""
    before = set(release.routers(".metadata.name"))
    begin = time.monotonic()
    with (
        release.stream(text("kept"), 300, PREFILL) as stream,
        release.start(DECODE, STEADY, ROUTER, "45") as steady,
    ):
        assert stream.stdout is not None
        assert steady.stdout is not None
        assert stream.stdout.readline()
        release.place.kube("rollout", "restart", "-n", release.namespace, f"deployment/{RELEASE}-router")
        until("all routers are new", lambda: not before & set(release.routers(".metadata.name")), 300)
        seconds = time.monotonic() - begin
        lines = stream.stdout.read().splitlines()
        asked = steady.stdout.read().splitlines()
    assert lines[-1] == "data: [DONE]"
    assert steady.returncode == 0
    assert asked, "requests were answered meanwhile"
    print(f"routers replaced in {seconds:.0f} s: {asked[-1]} requests and a stream, 0 lost")


def prefill_lost(release: Release) -> None:
    """The prefill engine dies: requests go on, slower; it comes back: caches move again."""
    begin = time.monotonic()
    kill = "kill -9 $(pgrep -f '[/]vllm serve')"
    release.place.kube("exec", "-n", release.namespace, PREFILL, "--", "bash", "-c", kill)
    asked = 0

    def back() -> bool:
        nonlocal asked
        asked += 1
        assert len(release.ask(ROUTER, text(f"alone{asked}"))[0]["tokens"]) == 24
        return release.routed("failed") >= 1 and release.status()["ready_groups"] == 2

    until("the prefill group is back", back, START_SECONDS)
    alone = release.routed("failed")
    print(f"prefill lost for {time.monotonic() - begin:.0f} s: {asked} requests, {alone:.0f} alone, 0 lost")
    assert alone >= 1
    bytes_before, done = release.moved(), release.routed("done")

    def again() -> bool:
        release.ask(ROUTER, text(f"again{time.monotonic_ns()}"))
        return release.routed("done") > done and release.moved() > bytes_before

    until("KV caches move again", again, START_SECONDS)  # its loss may not even have been seen above


def drained(release: Release) -> None:
    """A stream that runs when the decode pod is deleted arrives whole, through the router."""
    with release.stream(text("drain"), 400, PREFILL) as stream:
        assert stream.stdout is not None
        for _ in range(4):
            assert stream.stdout.readline()
        release.place.kube("delete", "pod", "-n", release.namespace, DECODE, "--wait=false")
        lines = stream.stdout.read().splitlines()
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
