#!/usr/bin/env python3
"""One member of a multi-host engine group: when the engine starts, serves, drains and ends.

    group.py HELD_REASON LAUNCH_SH [ENGINE FLAG]...

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
import os
import pathlib
import queue
import selectors
import signal
import socket
import sys
import time
from typing import Any, NoReturn

from child import Child, descendants, kill_descendants
from health import Health
from link import Dialer, Link
from settings import Settings, uptime

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
# Beats without a word after which a member is lost. A host that loads may be slow to speak; one
# that serves must be seen as lost within 10 s, the kubelet's own second or two included.
SERVING_BEATS, LOADING_BEATS = 3.5, 15
# Beats of the shortest drain: 10 s. A leader that only a worker's end makes leave is behind the Service
# until its readiness probe has failed, which takes 7 s, and proxies learn of that later still.
DRAIN_BEATS = 5
EFFECT, ENGINE, HOPELESS = range(3)  # how much a failure tells about the cause


class Member:
    """What leader and worker share: steps, output, status file, phase lines, signals."""

    name = ""

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
        text = f"manyhost phase={name} member={self.name} rank={self.s.rank}"
        text += f" seconds={uptime() - self.s.started:.2f}"
        if reason:
            text += f' reason="{self.clean(reason)}"'
        for key, value in more.items():
            text += f" {key}={value}"
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

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
        last_words = pathlib.Path("/dev/termination-log")  # a kubelet that made it shows what it says
        with contextlib.suppress(OSError):
            if last_words.exists():
                last_words.write_text(self.clean(reason) + "\n")
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

    name = "leader"

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
        """Greet a new worker."""
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
        """Which workers are not ready for an attempt."""
        here = self.workers()
        late = [
            f"{rank}:{here[rank].last['state'] if rank in here else 'absent'}"
            for rank in range(1, self.s.size)
            if rank not in here or here[rank].last.get("state") != "armed"
        ]
        return ",".join(late) or "nobody"

    def ready(self) -> bool:
        """The group answers and all of it is here."""
        return (
            self.state == "serving" and not self.missing() and self.health is not None and self.health.well()
        )

    def stalled(self) -> str:
        """What the engine's counters say."""
        return self.health.stalled() if self.health else ""

    def decide(self) -> None:
        """Act on the state."""
        limit = self.s.beat * (SERVING_BEATS if self.served else LOADING_BEATS)
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
            self.end(1, f"rank {rank} is gone", 0)
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
            self.end(1, f"rank {self.missing()[0]} is gone while draining", 0)
        if self.stalled():
            self.end(1, self.stalled(), 3)
        if passed > DRAIN_BEATS * self.s.beat and self.idle_samples >= 2:
            self.end(0, "drained", 10)
        if passed > self.s.drain:
            self.end(0, f"drain ended after {passed:.0f} s with requests in flight", 10)


class Worker(Member):
    """Rank 1 and up: does what the leader says, ends when it is gone."""

    name = "worker"

    def __init__(self, settings: Settings, argv: list[str], held: str) -> None:
        self.found: queue.Queue[socket.socket] = queue.Queue()
        self.lonely_since = time.monotonic()
        self.told_lonely = False
        self.hopeless = False
        super().__init__(settings, argv, held)
        Dialer(settings, self.found).start()

    def message(self) -> dict[str, Any]:
        """Also whether a further attempt is of use."""
        return {**super().message(), "hopeless": self.hopeless}

    def leader(self) -> dict[str, Any]:
        """The leader's last message; empty without a connection."""
        return self.links[0].last if self.links else {}

    def holding(self) -> bool:
        """Here or at the leader."""
        return super().holding() or self.leader().get("state") == "held"

    def ready(self) -> bool:
        """Part of a group that answers."""
        return self.state == "serving" and self.leader().get("state") == "serving"

    def drop(self, link: Link) -> None:
        """Look for the leader again."""
        super().drop(link)
        self.lonely_since = time.monotonic()
        Dialer(self.s, self.found).start()

    def decide(self) -> None:
        """Act on the leader's last word."""
        with contextlib.suppress(queue.Empty):
            self.add(Link(self.found.get_nowait()))
            self.say()
        limit = self.s.beat * (SERVING_BEATS if self.served else LOADING_BEATS)
        for link in list(self.links):
            if link.silent() > limit:
                self.drop(link)
        said = self.leader().get("state")
        if self.terminating:
            self.leave(said)
        elif said == "end" and self.served:
            self.end(1, f"leader ended: {self.leader().get('reason')}", 3)
        elif not self.links and self.served:
            self.end(1, "leader is gone", 0)
        else:
            self.follow(said)

    def leave(self, said: str | None) -> None:
        """SIGTERM: stay until the leader has drained."""
        passed = time.monotonic() - self.terminating
        engine_ended = self.child is not None and self.child.status is not None
        served = self.served or said in ("serving", "draining")
        if not served or not self.links or said == "end" or engine_ended:
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
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    member = (Worker if settings.rank else Leader)(settings, argv, held)

    def ask_to_stop(_number: int, _frame: object) -> None:
        member.terminating = member.terminating or time.monotonic()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    member.run()


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2:])
