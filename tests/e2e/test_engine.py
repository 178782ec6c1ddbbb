"""The real engine in real pods: vLLM's CPU build on two hosts, both executors, PP and TP.

The model (testbed/engine/tinymodel.py) has saved weights, so every layout must give the same
tokens, with log-probabilities that depend on all of its layers.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from testbed import engine as local_engine
from testbed.engine.tinymodel_text import ANSWER, THOUGHT
from tests.e2e.place import Place, engine_settings, run, spoken
from tests.helpers.waiting import until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
LEADER, WORKER = "tiny-r1-0", "tiny-r1-0-1"
START_SECONDS = 600
SAID = {"reasoning": THOUGHT, "answer": ANSWER}
DETECTION_SECONDS = 10
PROMPTS = ("import os", "def main():\n    return", "Hello")

ASK = """
import json, sys, urllib.request
def post(path, body):
    request = urllib.request.Request(
        "http://127.0.0.1:8000" + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=300)
"""
COMPLETIONS = (
    ASK
    + """
for prompt in json.loads(sys.argv[1]):
    body = {"model": "tiny-r1", "prompt": prompt, "max_tokens": 24, "temperature": 0,
            "logprobs": 1, "ignore_eos": True}
    print(json.dumps(json.load(post("/v1/completions", body))["choices"][0]["logprobs"]))
"""
)
STREAM = (
    ASK
    + """
body = {"model": "tiny-r1", "prompt": "import os", "max_tokens": 400, "temperature": 0,
        "ignore_eos": True, "stream": True}
print("started", flush=True)
for line in post("/v1/completions", body):
    if line.strip():
        print(line.decode().strip(), flush=True)
"""
)
CROWD = (
    ASK
    + """
import concurrent.futures
def ask(number):
    body = {"model": "tiny-r1", "prompt": f"{number} " + "import os " * 450,
            "max_tokens": 32, "ignore_eos": True}
    return json.load(post("/v1/completions", body))["usage"]
with concurrent.futures.ThreadPoolExecutor(32) as pool:
    print(json.dumps(list(pool.map(ask, range(32)))))
"""
)


@pytest.fixture(scope="module")
def settings(place: Place) -> list[str]:
    return engine_settings(place)


def status(here: list[str]) -> Any:
    return run("status", "local", *here, "--output", "json").ok().output.result


def deploy(here: list[str], *more: str) -> float:
    begin = time.monotonic()
    run("deploy", "local", *here, *more, "--timeout", str(START_SECONDS)).ok()
    return time.monotonic() - begin


def completions(place: Place, namespace: str) -> list[Any]:
    """Tokens and log-probabilities of the fixed prompts."""
    words = ("python3", "-c", COMPLETIONS, json.dumps(PROMPTS))
    text = place.kube("exec", "-n", namespace, LEADER, "--", *words)
    return [json.loads(line) for line in text.splitlines()]


def same(one: list[Any], other: list[Any], tolerance: float) -> None:
    for a, b in zip(one, other, strict=True):
        assert a["tokens"] == b["tokens"]
        assert a["token_logprobs"] == pytest.approx(b["token_logprobs"], abs=tolerance)


def lose(
    place: Place, here: list[str], harm: Callable[[], None], heal: Callable[[], None] | None = None
) -> None:
    """Harm the worker: the loss shows in time, and the group comes back whole.

    What has to be healed is a lost host: then all pods are new. An engine is started again in its pods.
    """
    namespace = here[here.index("--namespace") + 1]
    before = {host["pod"]: host["uid"] for host in status(here)["hosts"]}
    begin = time.monotonic()
    harm()

    def leader_ready() -> bool:
        found = place.get("pods", "-n", namespace, "-l", "role=leader")["items"]
        conditions = [c for pod in found for c in pod["status"].get("conditions", [])]
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    until("the leader takes no requests", lambda: not leader_ready(), DETECTION_SECONDS + 10)
    seen = time.monotonic() - begin
    if heal:
        heal()

    def back() -> bool:
        now = status(here)
        uids = {host["pod"]: host["uid"] for host in now["hosts"]}
        kept = not set(uids.values()) & set(before.values()) if heal else uids == before
        return now["ready_groups"] == 1 and kept

    until("the group is back", back, START_SECONDS)
    print(f"    seen in {seen:.1f} s, group back in {time.monotonic() - begin:.0f} s")
    assert seen <= DETECTION_SECONDS


def shell(place: Place, here: list[str], command: str) -> None:
    """Run a command in the worker's container."""
    namespace = here[here.index("--namespace") + 1]
    place.kube("exec", "-n", namespace, WORKER, "--", "bash", "-c", command)


PARSE = """
import json, sys
from transformers import AutoTokenizer
from vllm.reasoning import ReasoningParserManager
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
parser = ReasoningParserManager.get_reasoning_parser("deepseek_r1")(tokenizer)
ids = tokenizer.encode(sys.argv[2], add_special_tokens=False)
text = tokenizer.decode(ids, skip_special_tokens=True)  # as the server shows tokens
said = parser.extract_reasoning_streaming("", text, text, [], ids, ids)
print(json.dumps({"reasoning": said.reasoning, "answer": said.content}))
"""


def test_end_of_a_thought_inside_a_chunk() -> None:
    """A busy engine says thought and answer in one chunk; vLLM's parser takes it apart where it should."""
    engine = local_engine.engine_dir()
    words = [engine / "vllm/bin/python", "-c", PARSE, engine / "model/tiny-r1", f"{THOUGHT}</think>{ANSWER}"]
    said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=200)
    assert json.loads(said.stdout.splitlines()[-1]) == SAID


def test_pipeline_over_two_hosts(place: Place, namespace: str, settings: list[str]) -> None:
    """mp, PP=2: chat, the same tokens as on one host, a crowd, lost workers, a drain, a wrong flag."""
    here = ["--namespace", namespace, *settings]
    print(f"two hosts, mp, PP=2: deploy {deploy(here):.0f} s")
    said = run("chat", "local", *here, "--prompt", "Who are you?", "--temperature", "0", "--output", "json")
    answer = said.ok().output.result
    assert spoken(answer) == SAID
    two = completions(place, namespace)

    crowded(place, namespace)

    print("mp: the worker's engine is killed")
    kill = """kill -9 $(pgrep -f "[-]-headless")"""
    lose(place, here, lambda: shell(place, here, kill))
    same(two, completions(place, namespace), 0.02)

    own = place.own
    assert own is not None
    node = next(host["node"] for host in status(here)["hosts"] if host["pod"] == WORKER)
    print(f"mp: {node}, the worker's node, loses its power")
    lose(place, here, lambda: own.kill_node(node), lambda: own.restore_node(node))

    drained(place, namespace)
    until("the group after the drain", lambda: status(here)["ready_groups"] == 1, START_SECONDS)

    wrong_flag(place, namespace, here)
    run("teardown", "local", *here, "--yes").ok()

    print(f"one host: deploy {deploy(here, '--set', 'parallelism.pipeline=1'):.0f} s")
    same(two, completions(place, namespace), 0.02)
    run("teardown", "local", *here, "--yes").ok()


def crowded(place: Place, namespace: str) -> None:
    """Twice the requests that run at once, with long prompts: the probes stay content throughout."""
    begin = time.monotonic()
    words = [place.kubectl, "--kubeconfig", str(place.kubeconfig), "exec", "-n", namespace, LEADER]
    words += ["--", "python3", "-c", CROWD]
    seen = set()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as crowd:
        while crowd.poll() is None:
            for pod in place.get("pods", "-n", namespace)["items"]:
                ready = next(c["status"] for c in pod["status"]["conditions"] if c["type"] == "Ready")
                seen.add((ready, pod["status"]["containerStatuses"][0]["restartCount"]))
            time.sleep(0.5)
        assert crowd.stdout is not None
        used = json.loads(crowd.stdout.read())
    tokens = used[0]["prompt_tokens"]
    print(f"a crowd: {len(used)} requests of {tokens} tokens in {time.monotonic() - begin:.0f} s")
    assert all(one["completion_tokens"] == 32 for one in used)
    assert tokens > 800
    assert seen == {("True", 0)}


def drained(place: Place, namespace: str) -> None:
    """A stream that runs when its pod is deleted arrives whole."""
    words = [place.kubectl, "--kubeconfig", str(place.kubeconfig), "exec", "-n", namespace, LEADER]
    words += ["--", "python3", "-c", STREAM]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as stream:
        assert stream.stdout is not None
        for _ in range(4):
            assert stream.stdout.readline()
        place.kube("delete", "pod", "-n", namespace, LEADER, "--wait=false")
        lines = stream.stdout.read().splitlines()
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"


def wrong_flag(place: Place, namespace: str, here: list[str]) -> None:
    """A flag that the engine does not know: held, with argparse's words in manyhost status."""
    args = "/spec/leaderWorkerTemplate/{}/spec/containers/0/args/-"
    patch = [
        {"op": "add", "path": args.format(which), "value": "--no-such-flag"}
        for which in ("leaderTemplate", "workerTemplate")
    ]
    place.kube("patch", "lws", "tiny-r1", "-n", namespace, "--type=json", "-p", json.dumps(patch))
    begin = time.monotonic()

    def said() -> bool:
        problems = [host.get("problem") or {} for host in status(here)["hosts"]]
        return any("--no-such-flag" in problem.get("message", "") for problem in problems)

    until("status says why", said, START_SECONDS)
    print(f"a wrong flag shows in manyhost status after {time.monotonic() - begin:.0f} s")
    assert status(here)["ready_groups"] == 0
    pods = place.get("pods", "-n", namespace)["items"]
    assert all(pod["status"]["containerStatuses"][0]["restartCount"] == 0 for pod in pods)


def test_ray_over_two_hosts(place: Place, namespace: str, settings: list[str]) -> None:
    """Ray, PP=2: the same sentence; a lost Ray node is seen and the group comes back."""
    here = ["--namespace", namespace, *settings, "--set", "engine.executor=ray"]
    print(f"two hosts, Ray, PP=2: deploy {deploy(here):.0f} s")
    said = run("chat", "local", *here, "--prompt", "Hi", "--temperature", "0", "--output", "json")
    assert spoken(said.ok().output.result) == SAID
    stranger = "ray status --address=$LWS_LEADER_ADDRESS:$MANYHOST_RAY_PORT"
    with pytest.raises(RuntimeError, match="Authentication token is missing"):
        shell(place, here, f"/opt/vllm/bin/{stranger}")
    print("Ray: the worker's raylet is killed")
    lose(place, here, lambda: shell(place, here, "kill -9 $(pgrep raylet)"))
    assert place.own is not None
    node = next(host["node"] for host in status(here)["hosts"] if host["pod"] == WORKER)
    print(f"Ray: {node}, the worker's node, loses its power")
    own = place.own
    lose(place, here, lambda: own.kill_node(node), lambda: own.restore_node(node))
    run("teardown", "local", *here, "--yes").ok()


def test_tensor_parallel_over_two_hosts(place: Place, namespace: str, settings: list[str]) -> None:
    """mp, TP=2: the same sentence."""
    split = ("--set", "parallelism.tensor=2", "--set", "parallelism.pipeline=1")
    here = ["--namespace", namespace, *settings, *split]
    print(f"two hosts, mp, TP=2: deploy {deploy(here):.0f} s")
    said = run("chat", "local", *here, "--prompt", "Hi", "--temperature", "0", "--output", "json")
    assert spoken(said.ok().output.result) == SAID
    run("teardown", "local", *here, "--yes").ok()


def test_missing_weights_hold(place: Place, namespace: str, settings: list[str]) -> None:
    """No engine starts, deploy says why, and the pods stay as they are."""
    here = ["--namespace", namespace, *settings, "--set", "weights.path=/opt/model/absent"]
    begin = time.monotonic()
    failed = run("deploy", "local", *here, "--timeout", "120")
    print(f"missing weights: deploy gives up after {time.monotonic() - begin:.0f} s")
    assert failed.code == 1
    assert "weights missing at /opt/model/absent: no config.json" in failed.out + failed.err
    pods = place.get("pods", "-n", namespace)["items"]
    assert [pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods] == [0, 0]
    run("teardown", "local", *here, "--yes").ok()


CLIENT = """
import json, os, time, urllib.request
body = json.dumps({"model": "tiny-r1", "prompt": "Hello", "max_tokens": 8, "ignore_eos": True})
done, lost = 0, []
while not os.path.exists("/tmp/stop"):
    request = urllib.request.Request(
        "http://tiny-r1-svc:8000/v1/completions", body.encode(), {"Content-Type": "application/json"})
    try:
        json.load(urllib.request.urlopen(request, timeout=120))
        done += 1
    except Exception as error:
        lost.append(f"{time.strftime('%X')} {error!r}")
    time.sleep(0.2)
print(json.dumps({"done": done, "lost": lost}), flush=True)
time.sleep(600)
"""


def test_rolling_update_loses_no_request(place: Place, namespace: str, settings: list[str]) -> None:
    """Two groups are replaced one after the other under a steady stream of requests."""
    shape = ("--set", "parallelism.pipeline=1", "--set", "groups=2")
    here = ["--namespace", namespace, *settings, *shape]
    deploy(here)
    image = ("--image", local_engine.IMAGE, "--restart=Never")
    place.kube("run", "client", "-n", namespace, *image, "--", "python3", "-u", "-c", CLIENT)
    place.kube("wait", "-n", namespace, "--for=condition=Ready", "pod/client", "--timeout=60s")
    took = deploy(here, "--set", "arguments.max-num-seqs=8")
    place.kube("exec", "-n", namespace, "client", "--", "touch", "/tmp/stop")
    text = until("the client's count", lambda: place.kube("logs", "-n", namespace, "client"), 150)
    result = json.loads(text)
    print(f"rolling update of two groups in {took:.0f} s: {result['done']} requests, lost {result['lost']}")
    assert result["done"] > 0
    assert result["lost"] == []
    run("teardown", "local", *here, "--yes").ok()
