#!/usr/bin/env python3
"""One member of a multi-host engine group: when the engine starts, serves, drains and ends.

    group.py run HELD_REASON LAUNCH_SH [ENGINE FLAG]...   supervise this member (launch.sh execs it)
    group.py address INTERFACE                            print the interface's IPv4 address
    group.py weights FOLDER [ENGINE FLAG]...              check a staged model folder
    group.py download MODEL [ENGINE FLAG]...              fetch a model before the engine needs it

Every worker keeps one TCP connection to the leader; both sides say every beat (2 s) what they do.
The leader alone decides: it starts an attempt when all members are ready for one, so a member that
still downloads delays the others and never fails them. Before the group has answered a first
token a failed attempt is repeated in place (downloaded weights stay), a bounded number of times;
then the pod holds: alive, never Ready, its reason in the status file and the log. After the first
answer the loss of a member or of an engine ends the pod, so that the group is created anew.

It runs in the engine's image: Python 3.9 or later, standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import fcntl
import http.client
import json
import os
import pathlib
import queue
import re
import selectors
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from typing import Any, NoReturn

NO_RETRY = 78  # launch.sh's exit status for a failure that no further attempt cures
USAGE = 2  # argparse's exit status
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
SIOCGIFADDR = 0x8915  # linux/sockios.h
KEPT_LINES = 200  # of the engine's output, to find its error in
EFFECT, ENGINE, HOPELESS = range(3)  # how much a failure tells about the cause


def uptime() -> float:
    """Seconds since boot, from the file that probe.sh and launch.sh read too."""
    return float(pathlib.Path("/proc/uptime").read_text().split()[0])


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the chart and the LeaderWorkerSet controller put into the environment."""

    rank: int
    size: int
    executor: str
    leader_host: str
    own_address: str
    bind_address: str
    beacon_port: int
    http_port: int
    engine_port: int
    attempts: int
    peer_wait: float
    startup: float
    stall: float
    drain: float
    beat: float
    started: float
    state_dir: pathlib.Path
    secret: str

    @classmethod
    def read(cls) -> Settings:
        """Read them.

        Raises:
            KeyError: a variable that the chart always sets is missing.
        """
        env = os.environ
        ray = env["MANYHOST_EXECUTOR"] == "ray"
        return cls(
            rank=int(env["LWS_WORKER_INDEX"]),
            size=int(env["LWS_GROUP_SIZE"]),
            executor=env["MANYHOST_EXECUTOR"],
            leader_host=env["LWS_LEADER_ADDRESS"],
            own_address=env["VLLM_HOST_IP"],
            bind_address=env.get("POD_IP", ""),
            beacon_port=int(env.get("MANYHOST_BEACON_PORT", "29511")),
            http_port=int(env["MANYHOST_PORT"]),
            engine_port=int(env["MANYHOST_RAY_PORT" if ray else "MANYHOST_MASTER_PORT"]),
            attempts=int(env["MANYHOST_START_ATTEMPTS"]),
            peer_wait=float(env["MANYHOST_PEER_WAIT_SECONDS"]),
            startup=float(env["MANYHOST_STARTUP_SECONDS"]),
            stall=float(env["MANYHOST_STALL_SECONDS"]),
            drain=float(env["MANYHOST_DRAIN_SECONDS"]),
            beat=float(env.get("MANYHOST_BEAT_SECONDS", "2")),
            started=int(env["MANYHOST_STARTED"]) / 100,
            state_dir=pathlib.Path(env.get("MANYHOST_STATE_DIR", "/tmp/manyhost")),
            secret=env.get("HF_TOKEN", ""),
        )


# ---------------------------------------------------------------- child processes


def descendants() -> list[int]:
    """Process ids of everything below this process, orphans that it adopted included."""
    children: dict[int, list[int]] = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            after_name = stat.read_text(errors="replace").rpartition(")")[2].split()
            children.setdefault(int(after_name[1]), []).append(int(stat.parent.name))
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def kill_descendants() -> None:
    """End engine cores and Ray daemons whatever they did to their sessions and parents."""
    for _ in range(3):  # a fork may slip through one listing
        for pid in descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


GENERIC = re.compile(r"Engine core initialization failed|Failed core proc|See root cause|SystemExit")
ERROR = re.compile(r"(?:\b\w*(?:Error|Exception|Interrupt)\b(?:\(|:)|\berror: ).*")


def error_line(lines: list[str]) -> str:
    """The line that says best why an engine ended: its last error that is not a mere echo."""
    for line in reversed(lines):
        match = ERROR.search(line)
        if match and not GENERIC.search(line):
            return match.group(0).strip().removeprefix("error: ")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


class Child:
    """One step of launch.sh, with its output passed on and its last lines kept."""

    def __init__(self, step: str, argv: list[str], extra: dict[str, str]) -> None:
        env = {**os.environ, "MANYHOST_STEP": step, **extra}
        self.process = subprocess.Popen(  # noqa: S603 an argument list, no shell
            ["bash", *argv],  # noqa: S607
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self.process.stdout is not None  # noqa: S101 for the type checker
        self.out = self.process.stdout
        os.set_blocking(self.out.fileno(), False)
        self.started = time.monotonic()
        self.status: int | None = None
        self.lines: list[str] = []
        self.rest = b""

    def read(self) -> bool:
        """Pass waiting output on, whole lines only; False when the pipe has ended."""
        try:
            data = os.read(self.out.fileno(), 65536)
        except BlockingIOError:
            return True
        whole, found, self.rest = (self.rest + data).rpartition(b"\n")
        if not data or len(self.rest) > 8192:
            whole, found, self.rest = whole + found + self.rest, b"\n" if self.rest else b"", b""
        if whole or found:
            sys.stdout.buffer.write(whole + found)
            sys.stdout.buffer.flush()
            self.lines += whole.decode(errors="replace").splitlines()
            del self.lines[:-KEPT_LINES]
        return bool(data)

    def why(self) -> str:
        """Why it ended, in one line."""
        code = self.status or 0
        text = error_line(self.lines)
        if code == NO_RETRY:
            return text
        how = f"signal {-code}" if code < 0 else f"exit {code}"
        return f"{text} ({how})"

    def hopeless(self) -> bool:
        """Whether a further attempt would end the same way."""
        if self.status == NO_RETRY:
            return True
        text = "\n".join(self.lines)
        usage = self.status == USAGE and "error: " in text
        return usage or "Address already in use" in text


# ---------------------------------------------------------------- the engine's HTTP server


@dataclasses.dataclass
class Sample:
    """What one reading of the engine's metrics said."""

    at: float
    running: float
    waiting: float
    progress: tuple[float, ...]


PROGRESS = (
    "vllm:iteration_tokens_total_count",  # moves with every step, a chunk of a prefill too
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
)


def parse_metrics(text: str, at: float) -> Sample:
    """Sum the few series needed over engines and labels."""
    sums: dict[str, float] = {}
    for line in text.splitlines():
        name, _, rest = line.partition("{")
        if not rest:
            name, _, rest = line.partition(" ")
        if name in PROGRESS or name in ("vllm:num_requests_running", "vllm:num_requests_waiting"):
            with contextlib.suppress(ValueError):
                sums[name] = sums.get(name, 0.0) + float(rest.rpartition(" ")[2])
    return Sample(
        at,
        sums.get("vllm:num_requests_running", 0.0),
        sums.get("vllm:num_requests_waiting", 0.0),
        tuple(sums.get(name, 0.0) for name in PROGRESS),
    )


class Health(threading.Thread):
    """Watches one attempt's HTTP server: first answer, then health and progress.

    A refused connection or a 503 is a fact about the engine; a timeout only says that it is busy.
    """

    def __init__(self, settings: Settings, flags: list[str]) -> None:
        super().__init__(daemon=True)
        self.settings = settings
        self.poll = settings.beat / 2
        self.tls = any(flag.startswith("--ssl-certfile") for flag in flags)
        key = os.environ.get("VLLM_API_KEY") or flag_value(flags, "--api-key")
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.stopped = threading.Event()
        self.answered = False
        self.failure = ""  # why the first request got no token
        self.hopeless = False
        self.last_ok = 0.0
        self.bad_since = 0.0  # since when the answer is a refusal or not 200; 0 = it is not
        self.heard = 0.0  # any HTTP answer
        self.progress_at = 0.0
        self.sample: Sample | None = None

    def run(self) -> None:
        """Poll until stopped."""
        while not self.stopped.wait(self.poll):
            self.check_health()
            if self.answered:
                self.read_metrics()
            elif self.last_ok and not self.bad_since:
                self.ask_first()
                if self.failure:
                    return

    def request(self, path: str, timeout: float, body: Any = None) -> tuple[int, bytes]:
        """One HTTP exchange with the local server."""
        kind: Any = http.client.HTTPConnection
        more: dict[str, Any] = {}
        if self.tls:
            kind = http.client.HTTPSConnection
            # The certificate names the public address; this is the loopback of one container.
            more = {"context": ssl._create_unverified_context()}  # noqa: S323
        link = kind("127.0.0.1", self.settings.http_port, timeout=timeout, **more)
        try:
            if body is None:
                link.request("GET", path, headers=self.headers)
            else:
                headers = {**self.headers, "Content-Type": "application/json"}
                link.request("POST", path, json.dumps(body), headers)
            answer = link.getresponse()
            data = answer.read()
        finally:
            link.close()
        self.heard = time.monotonic()
        return answer.status, data

    def check_health(self) -> None:
        """Note whether /health is well, unwell, or too busy to say."""
        try:
            status, _ = self.request("/health", timeout=self.poll * 5)
        except TimeoutError:
            return
        except (OSError, http.client.HTTPException):
            status = 0
        now = time.monotonic()
        if status == 200:
            self.last_ok, self.bad_since = now, 0.0
        else:
            self.bad_since = self.bad_since or now

    def ask_first(self) -> None:
        """Ask for one token; an error is the attempt's failure, a timeout is the budget's affair."""
        try:
            status, data = self.request("/v1/models", timeout=30)
            if status == 200:
                model = json.loads(data)["data"][0]["id"]
                body = {"model": model, "prompt": "1", "max_tokens": 1, "temperature": 0}
                status, data = self.request("/v1/completions", self.settings.startup, body)
        except TimeoutError:
            return
        except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError) as error:
            self.failure = f"first request failed: {error!r}"
            return
        if status == 200:
            self.answered = True
            self.progress_at = time.monotonic()
        else:
            self.failure = f"first request answered {status}: {data[:200].decode(errors='replace')}"
            self.hopeless = 400 <= status < 500

    def read_metrics(self) -> None:
        """Note requests in flight and when a token counter last moved."""
        try:
            status, data = self.request("/metrics", timeout=self.poll * 10)
        except (OSError, http.client.HTTPException):
            return
        if status != 200:
            return
        now = time.monotonic()
        sample = parse_metrics(data.decode(errors="replace"), now)
        if self.sample is None or sample.running == 0 or sample.progress != self.sample.progress:
            self.progress_at = now
        self.sample = sample

    def well(self) -> bool:
        """/health is 200 now, or was within the stall limit and the server is merely busy."""
        return not self.bad_since and time.monotonic() - self.last_ok < self.settings.stall

    def stalled(self) -> str:
        """Why the engine makes no progress, or nothing."""
        if not self.answered:
            return ""
        still = self.sample.at - self.progress_at if self.sample else 0.0
        if still > self.settings.stall:
            return f"requests are running and no token counter moved for {still:.0f} s"
        silent = time.monotonic() - self.heard
        if silent > 5 * self.settings.stall:
            return f"the HTTP server answered nothing for {silent:.0f} s"
        return ""


def flag_value(flags: list[str], name: str) -> str:
    """The value of `--name value` or `--name=value`, or nothing."""
    for i, flag in enumerate(flags):
        if flag == name and i + 1 < len(flags):
            return flags[i + 1]
        if flag.startswith(name + "="):
            return flag[len(name) + 1 :]
    return ""


# ---------------------------------------------------------------- the members' connections


class Link:
    """One connection between leader and worker: a JSON object a line."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.setblocking(False)
        self.since = self.heard = time.monotonic()
        self.open = True
        self.rest = b""
        self.rank = -1  # the leader learns it from the first message
        self.last: dict[str, Any] = {}

    def send(self, message: dict[str, Any]) -> None:
        """Send; a full buffer or a broken connection shows as silence soon enough."""
        with contextlib.suppress(OSError):
            self.sock.send(json.dumps(message).encode() + b"\n")

    def read(self) -> None:
        """Take in what has arrived; `open` turns False at the end of the connection."""
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or len(self.rest) > 1 << 20:
            self.open = False
            return
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
                self.rank = int(message["rank"])
            except (ValueError, KeyError, TypeError):
                self.open = False  # not one of us
                return
            self.last = message
            self.heard = time.monotonic()

    def silent(self) -> float:
        """Seconds since the other side said anything."""
        return time.monotonic() - self.heard


class Dialer(threading.Thread):
    """Connects to the leader: a name that does not resolve yet must not stop the heartbeat."""

    def __init__(self, settings: Settings, found: queue.Queue[socket.socket]) -> None:
        super().__init__(daemon=True)
        self.settings = settings
        self.found = found

    def run(self) -> None:
        """Try until there is a connection."""
        where = (self.settings.leader_host, self.settings.beacon_port)
        while True:
            try:
                self.found.put(socket.create_connection(where, timeout=5))
            except OSError:
                time.sleep(self.settings.beat / 2)
            else:
                return


# ---------------------------------------------------------------- members


class Member:
    """What leader and worker share: steps, output, status file, phase lines, signals."""

    role = ""

    def __init__(self, settings: Settings, argv: list[str], held: str) -> None:
        self.s = settings
        self.argv = argv
        self.state = "weights"
        self.reason = ""
        self.attempt = 0
        self.served = False
        self.terminating = 0.0  # when SIGTERM came
        self.child: Child | None = None
        self.prepare_failures = 0
        self.prepare_at = 0.0
        self.links: list[Link] = []
        self.selector = selectors.DefaultSelector()
        self.beat_at = 0.0
        self.status_at = 0.0
        if held:
            self.hold(held)

    # -- saying

    def phase(self, name: str, reason: str = "", **more: object) -> None:
        """Print one machine-readable line."""
        text = f"manyhost phase={name} role={self.role} rank={self.s.rank}"
        text += f" seconds={uptime() - self.s.started:.2f}"
        if reason:
            text += f' reason="{self.clean(reason)}"'
        for key, value in more.items():
            text += f" {key}={value}"
        print(text, flush=True)

    def clean(self, reason: str) -> str:
        """One line, no quotes inside, of bounded length, without the token."""
        if self.s.secret:
            reason = reason.replace(self.s.secret, "***")
        return " ".join(reason.replace('"', "'").split())[:300]

    def hold(self, reason: str) -> None:
        """Give up: stay, never Ready, say why."""
        self.state, self.reason = "held", reason
        self.phase("held", reason)

    def holding(self) -> bool:
        """Whether the group has given up."""
        return self.state == "held"

    def ready(self) -> bool:
        """Whether this member takes part in answering requests now."""
        raise NotImplementedError

    def stalled(self) -> str:
        """Why the liveness probe should fail, or nothing."""
        return ""

    def overdue(self) -> bool:
        """Whether the startup probe's budget ends: from here on only this process decides."""
        budget = self.s.startup * self.s.attempts
        return uptime() - self.s.started > budget - min(60.0, budget / 4)

    def write_status(self) -> None:
        """Rewrite the file that probe.sh reads."""
        stalled = self.stalled()
        startup = self.served or self.holding() or self.overdue()
        flags = [startup, self.ready() and not stalled, not stalled]
        words = [f"{uptime():.2f}", self.state, *(str(int(flag)) for flag in flags)]
        self.s.state_dir.mkdir(parents=True, exist_ok=True)
        new = self.s.state_dir / "status.new"
        new.write_text(" ".join(words) + "\n" + self.clean(stalled or self.reason) + "\n")
        new.rename(self.s.state_dir / "status")

    # -- one round of input, output and heartbeats, without decisions

    def message(self) -> dict[str, Any]:
        """What this member says to the others."""
        return {
            "rank": self.s.rank,
            "state": self.state,
            "attempt": self.attempt,
            "reason": self.reason,
            "address": self.s.own_address,
        }

    def say(self) -> None:
        """Tell the others now, not at the next beat."""
        for link in self.links:
            link.send(self.message())
        self.beat_at = time.monotonic()

    def step(self) -> None:
        """Wait a moment for input, take it in, reap, beat."""
        for key, _ in self.selector.select(timeout=0.1):
            thing = key.data
            if isinstance(thing, Link):
                thing.read()
                if not thing.open:
                    self.drop(thing)
            elif isinstance(thing, Child):
                if not thing.read():
                    self.selector.unregister(thing.out)
                    thing.out.close()
            else:
                self.accept()
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if self.child and pid == self.child.process.pid:
                    self.child.status = os.waitstatus_to_exitcode(status)
                    if not self.child.out.closed:
                        self.child.read()
        now = time.monotonic()
        if now - self.beat_at >= self.s.beat:
            self.say()
        if now - self.status_at >= self.s.beat / 2:
            self.status_at = now
            self.write_status()

    def accept(self) -> None:
        """Take in a new connection (the leader has a beacon)."""

    def add(self, link: Link) -> None:
        """Start to listen to a connection."""
        self.links.append(link)
        self.selector.register(link.sock, selectors.EVENT_READ, link)

    def drop(self, link: Link) -> None:
        """Forget a connection."""
        if link in self.links:
            self.links.remove(link)
            self.selector.unregister(link.sock)
            link.sock.close()

    # -- steps of launch.sh

    def start(self, step: str, extra: dict[str, str]) -> None:
        """Start a step as the one child."""
        self.child = Child(step, self.argv, extra)
        self.selector.register(self.child.out, selectors.EVENT_READ, self.child)

    def stop(self, grace: float) -> None:
        """End the child and all below it, heartbeats going on meanwhile."""
        child = self.child
        if child is None:
            return
        if child.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.process.pid, signal.SIGTERM)
            end = time.monotonic() + grace
            while child.status is None and time.monotonic() < end:
                self.step()
        kill_descendants()
        end = time.monotonic() + 5
        while (child.status is None or descendants()) and time.monotonic() < end:
            self.step()
        if not child.out.closed:
            child.read()
            self.selector.unregister(child.out)
            child.out.close()
        self.child = None

    def prepare(self) -> None:
        """Drive state `weights`: check or fetch the weights, again after a pause if it failed."""
        if self.child is None:
            if time.monotonic() >= self.prepare_at:
                self.phase("weights")
                self.start("weights", {})
            return
        if self.child.status is None:
            return
        status, why, hopeless = self.child.status, self.child.why(), self.child.hopeless()
        self.stop(0)
        if status == 0:
            self.state = "armed"
            self.say()
            self.phase("peers", waiting_for=self.awaited())
            return
        self.prepare_failures += 1
        self.phase("attempt", why, weights=self.prepare_failures, of=self.s.attempts)
        if hopeless or self.prepare_failures >= self.s.attempts:
            self.hold(why)
            self.say()
        self.prepare_at = time.monotonic() + 5 * self.s.beat

    def awaited(self) -> str:
        """Whom this member waits for, for a phase line."""
        return "leader"

    def end(self, code: int, reason: str, grace: float) -> NoReturn:
        """Leave: tell the others, stop the engine, say why."""
        self.state, self.reason = "end", reason
        self.write_status()
        self.say()
        self.stop(grace)
        self.phase("end", reason, code=code)
        with contextlib.suppress(OSError):  # shown by the kubelet as the container's last message
            pathlib.Path("/dev/termination-log").write_text(self.clean(reason) + "\n")
        sys.stdout.flush()
        os._exit(code)

    def run(self) -> NoReturn:
        """Loop for ever."""
        while True:
            self.step()
            self.decide()

    def decide(self) -> None:
        """Act on what is known."""
        raise NotImplementedError


class Leader(Member):
    """Rank 0: the beacon, the HTTP server, the decisions."""

    role = "leader"

    def __init__(self, settings: Settings, argv: list[str], held: str) -> None:
        self.health: Health | None = None
        self.failures: list[tuple[int, str]] = []  # (how telling, reason) of this attempt
        self.settle_at = 0.0
        self.retry_at = 0.0
        self.missing_since = time.monotonic()
        self.told_missing = False
        self.drain_at = 0.0
        self.idle_samples = 0
        self.idle_seen = 0.0
        super().__init__(settings, argv, held)
        if settings.size > 1:
            self.open_beacon()

    def open_beacon(self) -> None:
        """Listen for workers."""
        where = (self.s.bind_address, self.s.beacon_port)
        family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        try:
            self.beacon = socket.create_server(where, family=family, backlog=64)
        except OSError as error:
            self.hold(f"port {where[1]} of the group's beacon: {os.strerror(error.errno or 0)}")
            return
        self.beacon.setblocking(False)
        self.selector.register(self.beacon, selectors.EVENT_READ, None)

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            sock, _ = self.beacon.accept()
            link = Link(sock)
            self.add(link)
            link.send(self.message())

    def workers(self) -> dict[int, Link]:
        """The live connection of each rank; the newest where one came back."""
        return {link.rank: link for link in self.links if 0 < link.rank < self.s.size}

    def missing(self) -> list[int]:
        """Ranks without a connection."""
        here = self.workers()
        return [rank for rank in range(1, self.s.size) if rank not in here]

    def awaited(self) -> str:
        here = self.workers()
        late = [
            f"{rank}:{here[rank].last['state'] if rank in here else 'absent'}"
            for rank in range(1, self.s.size)
            if rank not in here or here[rank].last.get("state") != "armed"
        ]
        return ",".join(late) or "nobody"

    def ready(self) -> bool:
        return (
            self.state == "serving"
            and not self.missing()
            and self.health is not None
            and self.health.well()
        )

    def stalled(self) -> str:
        return self.health.stalled() if self.health else ""

    def decide(self) -> None:
        # A member that loads may be slow to speak; one that serves may not.
        limit = self.s.beat * (4 if self.served else 15)
        for link in list(self.links):
            if link.silent() > limit:
                self.drop(link)
        if self.terminating and self.state not in ("draining", "serving"):
            self.end(0, "asked to stop", 5)
        getattr(self, "in_" + self.state)()

    def in_weights(self) -> None:
        """Own weights are not there yet."""
        self.check_held_worker()
        if self.state == "weights":
            self.prepare()

    def in_held(self) -> None:
        """Nothing to do; connections stay open so that workers learn the reason."""

    def check_held_worker(self) -> None:
        """A worker that holds holds the group."""
        for rank, link in sorted(self.workers().items()):
            if link.last.get("state") == "held":
                self.stop(5)
                self.hold(f"rank {rank}: {link.last.get('reason', '')}")
                self.say()
                return

    def in_armed(self) -> None:
        """Ready for an attempt; are the others?"""
        self.check_held_worker()
        if self.state != "armed":
            return
        now = time.monotonic()
        missing = self.missing()
        if not missing:
            self.missing_since = now
        elif now - self.missing_since > self.s.peer_wait and not self.told_missing:
            # Not final: a host that comes late still completes the group.
            self.told_missing = True
            ranks = ", ".join(map(str, missing))
            self.reason = f"rank {ranks} not seen for {self.s.peer_wait:.0f} s"
            self.phase("held", self.reason)
        if self.awaited() != "nobody" or now < self.retry_at:
            return
        self.told_missing = False
        self.reason = ""
        self.begin()

    def begin(self) -> None:
        """Start the next attempt on all members."""
        ports = [self.s.http_port] + ([self.s.engine_port] if self.s.size > 1 else [])
        for port in ports:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("0.0.0.0", port))  # noqa: S104 asked for, never listened on
                except OSError as error:
                    self.hold(f"port {port}: {error.strerror}")
                    self.say()
                    return
        self.attempt += 1
        self.failures, self.settle_at = [], 0.0
        self.state = "engine"
        self.phase("engine", attempt=self.attempt, of=self.s.attempts)
        self.say()
        self.start("engine", {})
        self.health = Health(self.s, self.argv[1:])
        self.health.start()

    def find_failures(self) -> None:
        """Collect what went wrong in this attempt."""
        assert self.child is not None and self.health is not None  # noqa: S101, PT018
        found: list[tuple[int, str]] = []
        if self.child.status is not None:
            found.append((HOPELESS if self.child.hopeless() else ENGINE, self.child.why()))
        for rank, link in sorted(self.workers().items()):
            said = link.last
            if said.get("state") in ("failed", "held") and said.get("attempt") == self.attempt:
                weight = HOPELESS if said.get("hopeless") else ENGINE
                found.append((weight, f"rank {rank}: {said.get('reason')}"))
            elif link.since > self.child.started:
                found.append((EFFECT, f"rank {rank}: connection lost"))
        found += [(EFFECT, f"rank {rank}: connection lost") for rank in self.missing()]
        if self.health.failure:
            found.append((HOPELESS if self.health.hopeless else EFFECT, self.health.failure))
        if time.monotonic() - self.child.started > self.s.startup:
            found.append((EFFECT, f"no answer within {self.s.startup:.0f} s"))
        for one in found:
            if one not in self.failures:
                self.failures.append(one)

    def in_engine(self) -> None:
        """The engine starts; the first answer, or a failure, comes."""
        assert self.health is not None  # noqa: S101
        now = time.monotonic()
        self.find_failures()
        if self.failures:
            # The cause on one member and its effects on the others arrive together.
            self.settle_at = self.settle_at or now + self.s.beat
            if now >= self.settle_at:
                self.fail()
        elif self.health.answered:
            self.state, self.served = "serving", True
            self.say()
            self.write_status()
            self.phase("serving", attempt=self.attempt)

    def fail(self) -> None:
        """End this attempt everywhere; hold, or arm the next one."""
        assert self.health is not None  # noqa: S101
        self.health.stopped.set()
        weight, reason = max(self.failures, key=lambda one: one[0])  # the first of its kind
        hopeless = weight == HOPELESS
        self.phase("attempt", reason, attempt=self.attempt, of=self.s.attempts)
        last = hopeless or self.attempt >= self.s.attempts
        self.state = "armed"
        if last:
            tries = "" if hopeless else f"{self.attempt} of {self.s.attempts} attempts failed: "
            self.hold(tries + reason)
        self.say()
        self.stop(5)
        self.health = None
        self.missing_since = time.monotonic()
        self.retry_at = time.monotonic() + 2.5 * self.s.beat

    def in_serving(self) -> None:
        """The group answers; any loss ends it, a signal drains it."""
        assert self.child is not None and self.health is not None  # noqa: S101, PT018
        now = time.monotonic()
        if self.child.status is not None:
            self.end(1, f"engine ended: {self.child.why()}", 0)
        for rank in self.missing():
            self.end(1, f"rank {rank} is gone", 3)
        for rank, link in self.workers().items():
            if link.last.get("state") in ("failed", "held", "end"):
                self.end(1, f"rank {rank}: {link.last.get('reason')}", 3)
        if self.health.bad_since and now - self.health.bad_since > 2.5 * self.s.beat:
            self.end(1, "the engine's /health fails", 3)
        leaving = [rank for rank, link in self.workers().items() if link.last["state"] == "draining"]
        if self.terminating or leaving:
            self.state, self.drain_at = "draining", now
            self.reason = "asked to stop" if self.terminating else f"rank {leaving[0]} is leaving"
            self.write_status()
            self.say()
            self.phase("draining", self.reason)

    def in_draining(self) -> None:
        """Unready; let requests in flight finish."""
        assert self.child is not None and self.health is not None  # noqa: S101, PT018
        passed = time.monotonic() - self.drain_at
        sample = self.health.sample
        if sample and sample.at > max(self.idle_seen, self.drain_at):
            self.idle_seen = sample.at
            idle = sample.running == 0 and sample.waiting == 0
            self.idle_samples = self.idle_samples + 1 if idle else 0
        if self.child.status is not None:
            self.end(1, f"engine ended while draining: {self.child.why()}", 0)
        if self.missing():
            self.end(1, f"rank {self.missing()[0]} is gone while draining", 3)
        if self.stalled():
            self.end(1, self.stalled(), 3)
        # Proxies learn late that this pod is leaving: requests still come for some seconds.
        if passed > 2.5 * self.s.beat and self.idle_samples >= 2:
            self.end(0, "drained", 10)
        if passed > self.s.drain:
            self.end(0, f"drain ended after {passed:.0f} s with requests in flight", 10)


class Worker(Member):
    """Rank 1 and up: does what the leader says, ends when it is gone."""

    role = "worker"

    def __init__(self, settings: Settings, argv: list[str], held: str) -> None:
        self.found: queue.Queue[socket.socket] = queue.Queue()
        self.lonely_since = time.monotonic()
        self.told_lonely = False
        self.hopeless = False
        super().__init__(settings, argv, held)
        Dialer(settings, self.found).start()

    def message(self) -> dict[str, Any]:
        return {**super().message(), "hopeless": self.hopeless}

    def leader(self) -> dict[str, Any]:
        """The leader's last message; empty without a connection."""
        return self.links[0].last if self.links else {}

    def holding(self) -> bool:
        return super().holding() or self.leader().get("state") == "held"

    def ready(self) -> bool:
        return self.state == "serving" and self.leader().get("state") == "serving"

    def drop(self, link: Link) -> None:
        super().drop(link)
        self.lonely_since = time.monotonic()
        Dialer(self.s, self.found).start()

    def decide(self) -> None:
        with contextlib.suppress(queue.Empty):
            self.add(Link(self.found.get_nowait()))
            self.say()
        limit = self.s.beat * (4 if self.served else 15)
        for link in list(self.links):
            if link.silent() > limit:
                self.drop(link)
        said = self.leader().get("state")
        if self.terminating:
            self.leave(said)
        elif said == "end" and self.served:
            self.end(1, f"leader ended: {self.leader().get('reason')}", 3)
        elif not self.links and self.served:
            self.end(1, "leader is gone", 3)
        else:
            self.follow(said)

    def leave(self, said: str | None) -> None:
        """SIGTERM: stay until the leader has drained."""
        passed = time.monotonic() - self.terminating
        engine_ended = self.child is not None and self.child.status is not None
        if not self.served or not self.links or said == "end" or engine_ended:
            self.end(0, "asked to stop", 5)
        if passed > self.s.drain + 10:
            self.end(0, "asked to stop; the leader did not drain in time", 5)
        if self.state != "draining":
            self.state, self.reason = "draining", "asked to stop"
            self.write_status()
            self.say()
            self.phase("draining", self.reason)

    def follow(self, said: str | None) -> None:
        """Bring the own state to what the leader says."""
        if self.state == "weights":
            self.prepare()
        elif self.state == "armed":
            self.in_armed(said)
        elif self.state in ("engine", "serving"):
            self.in_engine(said)
        elif self.state == "failed" and said in (None, "armed", "held"):
            self.state, self.reason, self.hopeless = "armed", "", False
            self.say()

    def in_armed(self, said: str | None) -> None:
        """Wait for the leader's word."""
        if not self.links:
            alone = time.monotonic() - self.lonely_since
            if alone > self.s.peer_wait and not self.told_lonely:
                self.told_lonely = True
                where = f"{self.s.leader_host}:{self.s.beacon_port}"
                self.reason = f"leader not reached at {where} for {alone:.0f} s"
                self.phase("held", self.reason)
            return
        self.told_lonely = False
        number = int(self.leader().get("attempt", 0))
        if said == "held" and self.reason != self.leader()["reason"]:
            self.reason = self.leader()["reason"]
            self.phase("held", f"leader: {self.reason}")
        elif said == "engine" and number != self.attempt:
            self.attempt, self.reason = number, ""
            self.state = "engine"
            self.phase("engine", attempt=number)
            self.start("engine", {"MANYHOST_LEADER_IP": self.leader()["address"]})
            self.say()

    def in_engine(self, said: str | None) -> None:
        """Run the engine until it fails or the leader says otherwise."""
        assert self.child is not None  # noqa: S101
        if self.child.status is not None:
            why, self.hopeless = self.child.why(), self.child.hopeless()
            if self.served:
                self.end(1, f"engine ended: {why}", 0)
            self.state, self.reason = "failed", why
            self.say()
            self.stop(0)
        elif said in (None, "armed", "held", "weights", "end"):
            reason = "leader lost" if said is None else "the attempt failed"
            self.phase("attempt", reason, attempt=self.attempt)
            self.stop(5)
            # A new leader counts its attempts anew.
            self.attempt = self.attempt if said else 0
            self.state = "armed"
            self.say()
        elif said == "serving" and not self.served:
            self.state, self.served = "serving", True
            self.write_status()
            self.phase("serving", attempt=self.attempt)


def run(held: str, argv: list[str]) -> NoReturn:
    """Supervise this member until it ends."""
    settings = Settings.read()
    # Orphans of the engine become our children, so that stop() finds and reaps them.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    member = (Worker if settings.rank else Leader)(settings, argv, held)

    def ask_to_stop(_number: int, _frame: object) -> None:
        member.terminating = member.terminating or time.monotonic()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    member.run()


# ---------------------------------------------------------------- small steps for launch.sh


def address(interface: str) -> str:
    """The interface's IPv4 address.

    Raises:
        OSError: there is no such interface, or it has no IPv4 address.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("256s", interface.encode()[:15])
        return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)[20:24])


def missing_weights(folder: pathlib.Path, flags: list[str]) -> str:
    """What a staged model folder lacks, or nothing."""
    if not (folder / "config.json").is_file():
        return f"weights missing at {folder}: no config.json"
    if flag_value(flags, "--load-format") == "dummy":
        return ""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = set(json.loads(index.read_text())["weight_map"].values())
        absent = sorted(name for name in names if not (folder / name).is_file())
        if absent:
            return f"weights missing at {folder}: {len(absent)} of {len(names)} files, {absent[0]}"
    kinds = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
    if not any(next(folder.glob(kind), None) for kind in kinds):
        return f"weights missing at {folder}: no {', '.join(kinds)}"
    return ""


def download(model: str, flags: list[str]) -> str:
    """Fetch a model's files into the Hugging Face cache, as the engine would; return why not.

    Done before the group starts its engines: their own time limits are shorter than a download.
    """
    if "://" in model or flag_value(flags, "--load-format") not in ("", "auto", "safetensors"):
        return ""
    try:
        from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415 in the image or not
        from huggingface_hub.errors import (  # noqa: PLC0415
            GatedRepoError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError:
        return ""  # the engine fetches them itself
    revision = flag_value(flags, "--revision") or None
    try:
        files = HfApi().list_repo_files(model, revision=revision)
        safe = any(name.endswith(".safetensors") for name in files)
        skip = ["original/*", "*.pth", "*.gguf", *(["*.bin", "*.pt"] if safe else [])]
        cache = flag_value(flags, "--download-dir") or None
        snapshot_download(model, revision=revision, cache_dir=cache, ignore_patterns=skip)
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        return f"weights of {model}: {type(error).__name__}: check its name and the token's access"
    return ""


def main(words: list[str]) -> int:
    """Dispatch one of the four uses."""
    verb, rest = words[0], words[1:]
    if verb == "run":
        run(rest[0], rest[1:])
    if verb == "address":
        try:
            print(address(rest[0]))
        except OSError:
            return 1
        return 0
    problem = ""
    if verb == "weights":
        problem = missing_weights(pathlib.Path(rest[0]), rest[1:])
    elif verb == "download":
        problem = download(rest[0], rest[1:])
    if problem:
        print(f"manyhost: error: {problem}", file=sys.stderr)
        return NO_RETRY
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
