#!/usr/bin/env python3
"""One member of a multi-host engine group, as launch.sh starts it.

    manyhost_run.py HELD_REASON LAUNCH_SH [ENGINE FLAG]...

A loop around the decisions of manyhost_leader.py and manyhost_worker.py: it gathers what is seen, asks,
and does what they say. Nothing in it waits for a disk, a network, a log or a process.

It runs in the engine's image: Python 3.10 or later, standard library only.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 10):  # noqa: UP036  it runs in the engine's image, not in ours
    sys.exit("manyhost: error: the launcher needs Python 3.10 or later in the engine's image")

import contextlib
import ctypes
import os
import queue
import secrets
import selectors
import signal
import socket
import time
from typing import NoReturn

import manyhost_leader
import manyhost_worker
from manyhost_child import Step
from manyhost_engine import Watch
from manyhost_group import (
    NAMES,
    Action,
    Canary,
    CheckPorts,
    End,
    Held,
    Me,
    Peer,
    Phase,
    Ports,
    Seen,
    Serving,
    Start,
    Starting,
    State,
    Stop,
    Weights,
    message,
)
from manyhost_link import MOST_STRANGERS, Dialer, Link
from manyhost_output import Log, StatusFile, last_words
from manyhost_settings import Settings, uptime
from manyhost_wire import Refused, peer_of, takes_seat

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
LOADING_BEATS = 15  # between two lines that say how far a start is
REFUSED_BEATS = 30  # between two lines that count what was refused


class Member:
    """The shell around the decisions: sockets, processes, files, signals."""

    def __init__(self, settings: Settings, argv: list[str], held: str) -> None:
        self.s = settings
        self.limits = settings.limits
        self.argv = argv
        self.leads = settings.rank == 0
        self.rules = manyhost_leader if self.leads else manyhost_worker
        self.me = "leader" if self.leads else "worker"
        self.log = Log()
        self.status = StatusFile(settings.state_dir)
        self.selector = selectors.DefaultSelector()
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.setblocking(False)
        self.selector.register(self.near, selectors.EVENT_READ, None)
        self.beacon: socket.socket | None = None
        self.dialer: Dialer | None = None
        self.links: list[Link] = []
        self.peers: dict[int, Peer] = {}
        self.step: Step | None = None
        self.watch: Watch | None = None
        self.ports: Ports | None = None
        self.stop = False
        self.end: End | None = None
        self.end_at = 0.0
        self.ready = self.doubted = False
        self.wake_at = 0.0
        self.said: dict[str, object] = {}
        self.beat_at = self.status_at = self.loading_at = 0.0
        self.refused, self.refused_why, self.refused_at = 0, "", 0.0
        self.beacon_since = time.monotonic()
        me = Me(secrets.token_hex(4))
        self.state: State = Weights(me)
        if held:
            self.hold(held)

    # -- saying

    def phase(self, name: str, reason: str = "", more: tuple[tuple[str, object], ...] = ()) -> None:
        """Print one machine-readable line."""
        text = f"manyhost phase={name} member={self.me} rank={self.s.rank}"
        text += f" seconds={uptime() - self.s.started:.2f}"
        if reason:
            text += f' reason="{self.s.clean(reason)}"'
        text += "".join(f" {key}={value}" for key, value in more)
        self.log.put(text.encode() + b"\n", always=True)

    def output(self, data: bytes) -> None:
        """Pass a step's output on."""
        for secret in self.s.secrets:
            data = data.replace(secret.encode(), b"***")
        self.log.put(data)

    def hold(self, reason: str) -> None:
        """Give up before anything was decided."""
        self.state = Held(self.state.me, time.monotonic(), reason)
        self.phase("held", reason)

    def write_status(self, seen: Seen, changed: bool, now: float) -> None:
        """Let probe.sh know, at once when something has changed, else that this loop turns.

        While it does, the member is alive; only it decides about a start.
        """
        ready, reason = self.rules.status(self.limits, self.state, seen, now)
        if changed or ready != self.ready or now - self.status_at >= self.limits.beat / 2:
            words = f"{uptime():.2f} {NAMES[type(self.state)]} 1 {int(ready)} 1"
            self.status.set(f"{words}\n{self.s.clean(reason)}\n")
            self.ready, self.status_at = ready, now
        self.say_doubt(ready, reason)

    def say_doubt(self, ready: bool, reason: str) -> None:
        """Say when a member that serves stops to be ready, and when it is again: not everybody has probes."""
        if not isinstance(self.state, Serving):
            self.doubted = False  # another line has said what it does now
        elif ready == self.doubted:
            self.doubted = not ready
            self.phase("ready" if ready else "unready", reason)

    def say(self, seen: Seen, now: float) -> None:
        """Tell the others how this member is; a leader only those that have a seat in its group."""
        idle = round(now - seen.child.moved, 2) if seen.child else 0.0
        for link in self.links:
            if link.seat or not self.leads:
                link.say({**self.said, "idle": idle})
        self.beat_at = now

    def say_loading(self, seen: Seen, now: float) -> None:
        """From time to time say how far a start is."""
        child = seen.child
        if isinstance(self.state, Serving) and self.step:
            self.step.settled()
        if not isinstance(self.state, Starting | Weights) or child is None or child.status is not None:
            self.loading_at = now
        elif now - self.loading_at >= LOADING_BEATS * self.limits.beat:
            self.loading_at = now
            more: list[tuple[str, object]] = [("step", child.step)]
            if child.percent >= 0:
                more.append(("percent", child.percent))
            still = max(0.0, now - child.moved)
            more += [("still", f"{still:.0f}s"), ("limit", f"{self.limits.progress:.0f}s")]
            self.phase("loading", "", tuple(more))

    def say_refused(self, now: float) -> None:
        """From time to time say how many strangers were refused; a flood of them is no flood of lines."""
        if self.refused and now - self.refused_at >= REFUSED_BEATS * self.limits.beat:
            text = f"manyhost: control: {self.refused} connections refused, last: {self.refused_why}\n"
            self.log.put(text.encode(errors="replace"), always=True)
            self.refused, self.refused_at = 0, now

    # -- connections

    def open_beacon(self) -> None:
        """Listen for workers; a port that is taken may be free in a moment."""
        where = (self.s.bind_address, self.s.beacon_port)
        family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        try:
            self.beacon = socket.create_server(where, family=family, backlog=64)
        except OSError as error:
            if time.monotonic() - self.beacon_since > self.limits.ports and not isinstance(self.state, Held):
                self.hold(f"port {where[1]} of the group's beacon: {os.strerror(error.errno or 0)}")
            return
        self.beacon.setblocking(False)
        self.selector.register(self.beacon, selectors.EVENT_READ, self.beacon)

    def accept(self) -> None:
        """Take a new connection; the oldest that has not proved anything makes place for it."""
        assert self.beacon is not None  # noqa: S101
        with contextlib.suppress(OSError):
            sock, _ = self.beacon.accept()
            strangers = [link for link in self.links if link.rank < 0]
            if len(strangers) >= MOST_STRANGERS:
                self.refuse("too many at once")
                self.drop(strangers[0])
            self.add(sock)

    def add(self, sock: socket.socket) -> None:
        """Start to listen to a connection."""
        link = Link(sock, self.s)
        self.links.append(link)
        self.selector.register(sock, selectors.EVENT_READ, link)

    def drop(self, link: Link) -> None:
        """Forget a connection; what its member said last stays, with the time when it was heard."""
        if link in self.links:
            self.links.remove(link)
            self.selector.unregister(link.sock)
            link.sock.close()
            if self.dialer:
                self.dialer.again()

    def refuse(self, why: str) -> None:
        """Count a connection that was of no use."""
        self.refused += 1
        self.refused_why = why

    def read(self, link: Link, now: float) -> None:
        """Take in what a connection brings."""
        known = link.channel.ready
        for said in link.read():
            try:
                peer = peer_of(said, now)
            except Refused as error:
                link.open, link.refused = False, str(error)
                break
            if takes_seat(self.limits, self.peers.get(link.rank), peer.run, now):
                self.peers[link.rank] = peer
                self.wake_at = 0.0
                self.seat(link)
        if not known and link.channel.ready and not self.leads:
            link.say({**self.said, "idle": 0.0})
        if not link.open:
            if not link.channel.ready and self.dialer:
                self.refuse(
                    link.refused or "the leader knows no such member: release, group, generation, key?"
                )
            elif link.refused:
                self.refuse(link.refused)
            self.drop(link)

    def seat(self, link: Link) -> None:
        """This connection speaks for its rank; it is told at once how this member is."""
        if link.seat:
            return
        for other in self.links:
            if other.rank == link.rank:
                other.seat = False
        link.seat = True
        if self.leads:
            link.say({**self.said, "idle": 0.0})

    def tidy(self, now: float) -> None:
        """Close connections that say nothing or not who they are."""
        for link in list(self.links):
            heard = self.peers[link.rank].heard if link.rank in self.peers else link.since
            if link.rank < 0 and now - link.since > 2.5 * self.limits.beat:
                self.refuse("silent")
                self.drop(link)
            elif now - max(heard, link.since) > self.limits.away:
                self.drop(link)

    def poke(self) -> None:
        """Wake the loop; from any thread."""
        with contextlib.suppress(OSError):
            self.far.send(b"x")

    # -- doing

    def seen(self) -> Seen:
        """Everything that is seen now."""
        child = self.step.seen() if self.step else None
        engine = self.watch.seen() if self.watch else None
        return Seen(child, self.peers, engine, self.ports, self.stop)

    def do(self, action: Action, now: float) -> None:
        """Do what was decided."""
        if isinstance(action, Phase):
            more = action.more
            if action.name == "weights" and self.limits.size > 1:
                more = (*more, ("control", "key" if self.s.key else "open"))
            self.phase(action.name, action.reason, more)
        elif isinstance(action, Start):
            extra = {**self.s.ray, "MANYHOST_LEADER_IP": action.leader or self.s.own_address}
            self.step = Step(action.step, self.argv, extra, self.output, self.limits.beat)
            self.loading_at = now
            self.selector.register(self.step.pipe, selectors.EVENT_READ, self.step)
            if self.leads and action.step == "engine":
                self.watch = Watch(self.s, self.argv[1:], self.poke)
                self.watch.start()
        elif isinstance(action, Stop):
            self.stop_step(action.grace)
        elif isinstance(action, CheckPorts):
            self.ports = Ports(now, self.busy_port())
        elif isinstance(action, Canary):
            if self.watch:
                self.watch.canary()
        else:
            self.end, self.end_at = action, now + action.grace + 2.5 * self.limits.beat + 5
            self.stop_step(action.grace)

    def stop_step(self, grace: float) -> None:
        """Begin to end the step."""
        if self.watch:
            self.watch.stop()
            self.watch = None
        if self.step:
            self.step.stop(grace)

    def busy_port(self) -> str:
        """Which of the engine's ports is taken, or nothing."""
        for port in [self.s.http_port] + ([self.s.engine_port] if self.limits.size > 1 else []):
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("0.0.0.0", port))  # noqa: S104 asked for, never listened on
                except OSError as error:
                    return f"port {port}: {error.strerror}"
        return ""

    def reap(self) -> None:
        """Take in ended processes, and let go of a step of which nothing is left."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if self.step and pid == self.step.process.pid:
                    self.step.read()
                    self.step.status = os.waitstatus_to_exitcode(status)
        if self.step and self.step.gone():
            with contextlib.suppress(KeyError):
                self.selector.unregister(self.step.pipe)
            self.step.close()
            self.step = None

    # -- the loop

    def wait(self, now: float) -> None:
        """Wait for something to happen, for a moment at most; take it in."""
        busy = self.step is not None or self.end is not None
        limit = min(self.limits.beat / 4, 0.1 if busy else 0.5)
        for key, _ in self.selector.select(timeout=max(0.0, min(limit, self.wake_at - now))):
            thing = key.data
            if isinstance(thing, Link):
                self.read(thing, time.monotonic())
            elif isinstance(thing, Step):
                if not thing.read():
                    self.selector.unregister(thing.pipe)
            elif thing is None:
                with contextlib.suppress(BlockingIOError):
                    self.near.recv(4096)
            else:
                self.accept()
        if self.dialer:
            with contextlib.suppress(queue.Empty):
                self.add(self.dialer.found.get_nowait())

    def decide(self, now: float) -> Seen:
        """Ask until there is nothing more to do now."""
        while True:
            seen = self.seen()
            decision = self.rules.decide(self.limits, self.state, seen, now)
            moved = decision.state is not self.state or bool(decision.actions)
            self.state = decision.state
            for action in decision.actions:
                self.do(action, now)
            self.wake_at = decision.wake
            if not moved:
                return seen

    def turn(self) -> None:
        """One turn of the loop."""
        self.wait(time.monotonic())
        self.reap()
        now = time.monotonic()
        if (
            self.leads
            and self.limits.size > 1
            and self.beacon is None
            and now - self.beat_at >= self.limits.beat
        ):
            self.open_beacon()
        self.tidy(now)
        seen = self.decide(now)
        said = message(self.state, seen, self.s.own_address)
        said["reason"] = self.s.clean(str(said["reason"]))
        changed = {**said, "percent": 0} != {**self.said, "percent": 0}
        self.said = said
        if changed or now - self.beat_at >= self.limits.beat:
            self.say(seen, now)
        self.write_status(seen, changed, now)
        self.say_loading(seen, now)
        self.say_refused(now)
        if self.end and (self.step is None or now > self.end_at):
            self.leave(self.end)

    def leave(self, end: End) -> NoReturn:
        """Say why, and go."""
        self.phase("end", end.reason, (("code", end.code),))
        last_words(self.s.clean(end.reason))
        self.log.flush(2)
        os._exit(end.code)

    def run(self) -> NoReturn:
        """Loop for ever."""
        self.log.start()
        self.status.start()
        if self.leads:
            if self.limits.size > 1:
                self.open_beacon()
        else:
            self.dialer = Dialer(self.s, self.poke)
            self.dialer.start()
        while True:
            self.turn()


def run(held: str, argv: list[str]) -> NoReturn:
    """Supervise this member until it ends."""
    settings = Settings.read(os.environ, argv[1:])
    # Orphans of the engine become our children, so that they are found and reaped.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    member = Member(settings, argv, held)

    def ask_to_stop(_number: int, _frame: object) -> None:
        member.stop = True
        member.poke()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    member.run()


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2:])
