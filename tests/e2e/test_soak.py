"""A real group under a steady stream of requests while one random fault follows another (make soak).

Requests go to whatever address the Service's endpoints have, as a proxy would send them. A loss is explained
by a fault that ends an engine, and only until the endpoints are empty. What is no reason to end anything
must end nothing. MANYHOST_SOAK_SECONDS says how long; the seed is printed.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.place import ROOT, Place, engine_settings, run
from tests.helpers.waiting import until

SECONDS = float(os.environ.get("MANYHOST_SOAK_SECONDS", "0"))
pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(SECONDS + 1800),
    pytest.mark.skipif(not SECONDS, reason="make soak runs it"),
]
LEADER, WORKER = "tiny-r1-0", "tiny-r1-0-1"
START_SECONDS = 600
STREAMS = 3
LATE_SECONDS = 2.0  # between two looks at the endpoints, and on the way
BODY = json.dumps({"model": "tiny-r1", "prompt": "Hello", "max_tokens": 8, "ignore_eos": True}).encode()


@dataclass
class Group:
    """The group, its endpoints as they are seen, and the requests that go to them."""

    place: Place
    namespace: str
    address: str = ""
    gone: list[tuple[float, float]] = field(default_factory=list)  # without an address: from, until
    done: int = 0
    lost: list[tuple[float, float, str]] = field(default_factory=list)  # sent, lost, why
    over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Look at the endpoints twice a second; without an API server they stay as they were."""
        assert self.place.own is not None
        path = f"/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices"
        since = time.monotonic()
        while not self.over.wait(0.5):
            try:
                slices = self.place.own.api.get(path)["items"]
            except Exception:
                continue
            ready = [
                address
                for one in slices
                if one["metadata"]["labels"].get("kubernetes.io/service-name") == "tiny-r1-svc"
                for endpoint in one.get("endpoints") or ()
                if endpoint["conditions"].get("ready")
                for address in endpoint["addresses"]
            ]
            now = ready[0] if ready else ""
            if self.address and not now:
                since = time.monotonic()
            if now and not self.address:
                self.gone.append((since, time.monotonic()))
            self.address = now

    def ask(self) -> None:
        """Send one request after the other."""
        while not self.over.is_set():
            if not self.address:
                time.sleep(0.1)
                continue
            sent = time.monotonic()
            request = urllib.request.Request(
                f"http://{self.address}:8000/v1/completions", BODY, {"Content-Type": "application/json"}
            )
            try:
                json.load(urllib.request.urlopen(request, timeout=120))
                self.done += 1
            except Exception as error:
                self.lost.append((sent, time.monotonic(), repr(error)))
            time.sleep(0.2)

    def pods(self) -> dict[str, str]:
        """The members' pods: name and uid."""
        items = self.place.get("pods", "-n", self.namespace)["items"]
        return {one["metadata"]["name"]: one["metadata"]["uid"] for one in items}

    def starts(self) -> int:
        """How often the leader's pod has started its engine."""
        return self.place.kube("logs", "-n", self.namespace, LEADER, "-c", "vllm").count(
            "manyhost phase=engine "
        )

    def inside(self, pod: str, command: str) -> None:
        self.place.kube("exec", "-n", self.namespace, pod, "-c", "vllm", "--", "bash", "-c", command)

    def pid(self, rank: int) -> int:
        """The member's loop, as this machine numbers it."""
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words, env = (path / "cmdline").read_bytes(), (path / "environ").read_bytes()
            except OSError:
                continue
            told = (f"\0MANYHOST_RANK={rank}\0", f".{self.namespace}\0")  # the leader's address ends so
            if b"manyhost_run.py" in words and all(text.encode() in env for text in told):
                return int(path.name)
        raise LookupError(f"no member {rank}")

    def network(self, rank: int, *words: str) -> None:
        """Run a program in a member's network."""
        subprocess.run(
            ["nsenter", f"--net=/proc/{self.pid(rank)}/ns/net", *words],
            check=True,
            capture_output=True,
            timeout=30,
        )


@dataclass(frozen=True)
class Fault:
    """What is done to the group.

    Attributes:
        name: For the table.
        harm: Does it, and undoes it where it is undone at once.
        ends: What it may end: nothing, engine (it starts again in its pods) or pods (they are new).
        loses: Whether requests in flight may be lost with it.
    """

    name: str
    harm: Callable[[Group], None]
    ends: str
    loses: bool = True


def _signal(pod: str, what: str, number: str, seconds: float = 0) -> Callable[[Group], None]:
    def do(group: Group) -> None:
        group.inside(pod, f"pkill -{number} -f '{what}'")
        if seconds:
            time.sleep(seconds)
            group.inside(pod, f"pkill -CONT -f '{what}'")

    return do


def _power(group: Group) -> None:
    own = group.place.own
    assert own is not None
    pods = group.place.get("pods", "-n", group.namespace)["items"]
    node = next(one["spec"]["nodeName"] for one in pods if one["metadata"]["name"] == WORKER)
    own.kill_node(node)
    until("unready", lambda: not group.address, 60)
    own.restore_node(node)


def _delete(pod: str) -> Callable[[Group], None]:
    return lambda group: (
        group.place.kube("delete", "pod", pod, "-n", group.namespace, "--wait=false") and None
    )


def _channel(seconds: float, *answer: str) -> Callable[[Group], None]:
    """Every packet that the worker sends to its leader on the control channel is answered so for a while."""

    def do(group: Group) -> None:
        rule = ("OUTPUT", "-p", "tcp", "--dport", "29511", "-j", *answer)
        group.network(1, "iptables", "-I", *rule)
        time.sleep(seconds)
        group.network(1, "iptables", "-D", *rule)

    return do


def _full(group: Group) -> None:
    for pod in (LEADER, WORKER):
        group.inside(pod, "dd if=/dev/zero of=/dev/shm/fill bs=1M 2>/dev/null; true")
    time.sleep(15)
    for pod in (LEADER, WORKER):
        group.inside(pod, "rm /dev/shm/fill")


def _away(what: str) -> Callable[[Group], None]:
    """A part of the control plane is stopped for a while."""

    def do(group: Group) -> None:
        getattr(group.place.own, f"stop_{what}")()
        time.sleep(20)
        getattr(group.place.own, f"start_{what}")()

    return do


def _busy(group: Group) -> None:
    group.inside(LEADER, "for i in 1 2 3 4; do timeout 15 sh -c 'while :; do :; done' & done; wait; true")


ENGINE = "[E]ngineCore|[V]LLM::|-[-]headless"
FAULTS = (
    Fault("the worker's engine is killed", _signal(WORKER, ENGINE, "KILL"), "engine"),
    Fault("the leader's engine is killed", _signal(LEADER, ENGINE, "KILL"), "engine"),
    Fault("the worker's launcher is killed", _signal(WORKER, "[m]anyhost_run.py", "KILL"), "pods"),
    Fault("the worker's node loses its power", _power, "pods"),
    Fault("the worker's pod is deleted", _delete(WORKER), "pods", loses=False),
    Fault("the leader's pod is deleted", _delete(LEADER), "pods", loses=False),
    Fault("the worker's engine stops for 4 s", _signal(WORKER, ENGINE, "STOP", 4), "nothing"),
    Fault("the worker's launcher stops for 3 s", _signal(WORKER, "[m]anyhost_run.py", "STOP", 3), "nothing"),
    Fault("the leader's launcher stops for 3 s", _signal(LEADER, "[m]anyhost_run.py", "STOP", 3), "nothing"),
    Fault(
        "the control channel is reset for 3 s", _channel(3, "REJECT", "--reject-with", "tcp-reset"), "nothing"
    ),
    Fault("the control channel is cut for 15 s", _channel(15, "DROP"), "nothing"),
    Fault("/dev/shm of both is full for 15 s", _full, "nothing"),
    Fault("the API server is away for 20 s", _away("api_server"), "nothing"),
    Fault("the LeaderWorkerSet controller is away for 20 s", _away("lws_controller"), "nothing"),
    Fault("four busy loops beside the leader for 15 s", _busy, "nothing"),
)


@dataclass
class Row:
    """What one fault did."""

    fault: Fault
    unready: float
    lost: int
    unexplained: list[str]
    ended: str
    back: float


def one(group: Group, fault: Fault) -> Row:
    """Harm the group once and watch until it serves again."""
    until("calm", lambda: group.address, START_SECONDS)
    time.sleep(5)
    pods, starts, lost, gone = group.pods(), group.starts(), len(group.lost), len(group.gone)
    begin = time.monotonic()
    fault.harm(group)
    if fault.ends == "nothing":
        time.sleep(20)
    else:
        until("unready", lambda: not group.address or len(group.gone) > gone, 60)
    until("the group serves", lambda: group.address, START_SECONDS)
    time.sleep(10)
    until("the group serves still", lambda: group.address, START_SECONDS)
    holes = group.gone[gone:]
    ended = "pods" if group.pods() != pods else "engine" if group.starts() != starts else "nothing"
    first = holes[0][0] if holes else float("inf")
    mine = group.lost[lost:]
    unexplained = [
        f"sent {sent - begin:.1f} s and lost {end - begin:.1f} s after: {why}"
        for sent, end, why in mine
        if not fault.loses or fault.ends == "nothing" or sent > first + LATE_SECONDS
    ]
    unready = sum(to - since for since, to in holes)
    return Row(fault, unready, len(mine), unexplained, ended, time.monotonic() - begin)


def table(rows: list[Row]) -> str:
    """One line a kind of fault."""
    lines = [
        "| Fault | times | may end | ended | unready, s | requests lost | unexplained |",
        "|---|---|---|---|---|---|---|",
    ]
    for fault in FAULTS:
        mine = [row for row in rows if row.fault is fault]
        if not mine:
            continue
        ended = ", ".join(f"{name} {count}" for name in ("nothing", "engine", "pods")
                          if (count := sum(row.ended == name for row in mine)))  # fmt: skip
        spans = sorted(row.unready for row in mine)
        unready = f"{spans[0]:.0f} to {spans[-1]:.0f}" if spans[-1] else "0"
        lost, wrong = sum(row.lost for row in mine), sum(len(row.unexplained) for row in mine)
        lines.append(
            f"| {fault.name} | {len(mine)} | {fault.ends} | {ended} | {unready} | {lost} | {wrong} |"
        )
    return "\n".join(lines)


def test_soak(place: Place, namespace: str) -> None:
    if place.own is None:
        pytest.skip("only the test cluster's own hosts are harmed")
    seed = int(os.environ.get("MANYHOST_SOAK_SEED", "0")) or random.randrange(1, 1_000_000)
    rng = random.Random(seed)
    here = ["--namespace", namespace, *engine_settings(place)]
    run("deploy", "local", *here, "--timeout", str(START_SECONDS)).ok()
    group = Group(place, namespace)
    threads = [
        threading.Thread(target=group.watch),
        *(threading.Thread(target=group.ask) for _ in range(STREAMS)),
    ]
    for thread in threads:
        thread.start()
    rows: list[Row] = []
    begin = time.monotonic()
    todo: list[Fault] = []
    try:
        while time.monotonic() - begin < SECONDS:
            todo = todo or rng.sample(FAULTS, len(FAULTS))
            rows.append(one(group, todo.pop()))
            row = rows[-1]
            said = f"ended {row.ended}, unready {row.unready:.0f} s, lost {row.lost}"
            said += f", unexplained {row.unexplained}"
            print(f"{time.monotonic() - begin:5.0f} s  {row.fault.name}: {said}", flush=True)
    finally:
        group.over.set()
        for thread in threads:
            thread.join(130)
    text = (
        f"Seed {seed}, {time.monotonic() - begin:.0f} s, {len(rows)} faults, {group.done} requests answered, "
        f"{len(group.lost)} lost.\n\n{table(rows)}\n"
    )
    print(text)
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build/soak.md").write_text(text)
    assert not [row for row in rows if row.unexplained]
    order = ("nothing", "engine", "pods")
    assert not [row for row in rows if order.index(row.ended) > order.index(row.fault.ends)], "a false end"
    assert not re.search(r"\| pods \|.*nothing", text)
    run("teardown", "local", *here, "--yes").ok()
