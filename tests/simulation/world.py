"""A world for the launcher's decisions: clock, network, engines, disks, hosts, kubelets and LWS.

Everything happens at events of one queue; between two of them nothing changes, which is why what moves
or is heard without a break is seen as a time of INF. What is true of engines, hosts and links is kept
apart from what the members see of it, and each decision is held against the truth as it is taken.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from tests.simulation.code import Code, readiness_probe
from tests.simulation.schedule import FOREVER, HARMLESS, KINDS, Fault, Schedule

INF = float("inf")
ATTEMPTS, PEER_WAIT, PROGRESS, FAILING, STALL, DRAIN = 3, 600.0, 600.0, 1800.0, 120.0, 300.0
GRACE = DRAIN + 30  # terminationGracePeriodSeconds
UNREADY_SECONDS = 10.0  # after a loss that can be seen, in the eyes of the kubelet
PROBE_TAKES = (0.1, 0.8)  # seconds of a probe, and until the pod's condition tells its answer
PARTED_SECONDS = 295.0  # of silence, whatever made it, after which a member that works may be given up
SETTLE_SECONDS = 20_000.0  # after the last fault, to serve again or to hold with a cause


class Violation(AssertionError):
    """An invariant does not hold."""


class Process:
    """A launcher with its step: one incarnation of a pod's container."""

    def __init__(self, pod: Pod, run: str) -> None:
        world = pod.group.world
        g = world.code.group
        self.pod, self.run, self.rank = pod, run, pod.rank
        self.code = world.code.leader if pod.rank == 0 else world.code.worker
        self.state: Any = g.Weights(g.Me(run))
        self.alive, self.frozen, self.stop = True, False, False
        self.child: Any = None
        self.step: Step | None = None
        self.peers: dict[int, Any] = {}
        self.engine: Engine | None = None
        self.ports: Any = None
        self.said: dict[str, Any] = {}
        self.ready = False
        self.thawed_at = 0.0
        self.wake = INF


class Step:
    """A step of launch.sh: what is true of it."""

    def __init__(self, process: Process, kind: str, attempt: str) -> None:
        self.process, self.kind, self.attempt = process, kind, attempt
        self.alive, self.loaded, self.hung = True, False, False


class Engine:
    """The HTTP server of a group, in truth and as its leader's watcher sees it."""

    def __init__(self) -> None:
        self.up = self.answered = False
        self.failure, self.hopeless = "", False
        self.stuck_at = 0.0
        self.core_dead = self.errors = False
        self.bad_since = 0.0
        self.mute_since = 0.0
        self.hidden = False  # no series
        self.shown_at = 0.0  # when they came back
        self.running: dict[int, float] = {}  # request -> when it is done
        self.busy_since = 0.0
        self.idle_since = 0.0
        self.moved = 0.0
        self.canary_since, self.canary_bad = 0.0, 0
        self.view: Any = None


class Pod:
    """A pod's place in its group; the process in it comes and goes."""

    def __init__(self, group: Group, rank: int) -> None:
        self.group, self.rank = group, rank
        self.process: Process | None = None
        self.host_up = True
        self.here_at = 0.0  # when its host comes, if it is late
        self.ready = False  # as the kubelet says
        self.deleted = False
        self.gone = False
        self.disk_until = 0.0


class Group:
    """A leader and its workers, and what is true of them."""

    def __init__(self, world: World, index: int, size: int) -> None:
        self.world, self.index, self.size = world, index, size
        self.bare = index in world.schedule.bare
        self.generation = 0
        self.pods = [Pod(self, rank) for rank in range(size)]
        self.links = [Link(self, rank) for rank in range(size)]
        self.recreating = self.stopped = False
        self.excuses: list[str] = []  # why it need not serve now
        self.forever: set[str] = set()
        self.once: dict[str, float] = {}  # faults that wait for a start; value: until when
        self.deaths = self.failures = self.losses = self.starts = self.recreations = 0
        self.served_at = 0.0
        self.slow_until = 0.0

    @property
    def leader(self) -> Process | None:
        return self.pods[0].process


class Link:
    """The network between a leader's launcher and a worker's."""

    def __init__(self, group: Group, rank: int) -> None:
        self.group, self.rank = group, rank
        self.cut_until = 0.0
        self.up = False
        self.ends: tuple[Process, Process] | None = None


class World:
    """Runs a schedule. `run` raises Violation."""

    def __init__(self, schedule: Schedule, code: Code, log: Callable[[str], None] | None = None) -> None:
        self.schedule, self.code, self.log = schedule, code, log
        self.random = random.Random(schedule.seed * 7919 + 1)
        self.now = 1000.0
        self.begin = self.now
        self.queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.number = 0
        self.events = 0
        self.lws_until = 0.0
        self.groups = [Group(self, i, size) for i, size in enumerate(schedule.sizes)]
        g = code.group
        self.limits = [
            g.Limits(size, ATTEMPTS, 2.0, PEER_WAIT, PROGRESS, FAILING, STALL, DRAIN)
            for size in schedule.sizes
        ]

    # ------------------------------------------------------------------------------------------ the clock

    def after(self, seconds: float, what: Callable[..., None], *args: Any) -> None:
        self.number += 1
        heapq.heappush(self.queue, (self.now + seconds, self.number, what, args))

    def tell(self, text: str) -> None:
        if self.log:
            self.log(f"{self.now - self.begin:9.2f} {text}")

    def wrong(self, text: str, group: Group | None = None) -> None:
        where = f"group {group.index}: " if group else ""
        raise Violation(f"{self.now - self.begin:.1f} s: {where}{text}")

    def run(self) -> int:
        """Run from start to drain; return the number of events."""
        last = 0.0
        for fault in self.schedule.faults:
            group = self.groups[fault.group]
            self.after(fault.at, self.strike, fault, group)
            last = max(last, fault.at + (0 if fault.kind in FOREVER else fault.seconds))
        for group in self.groups:
            for pod in group.pods:
                self.after(self.random.uniform(0.1, 4), self.boot, pod)
            self.after(self.random.uniform(50, 300), self.traffic, group, 0)
        self.after(last + 60, self.settled, self.now + last + SETTLE_SECONDS)
        queue = self.queue
        while queue:
            self.now, _, what, args = heapq.heappop(queue)
            self.events += 1
            if self.events > 60_000:
                self.wrong("it does not come to an end")
            what(*args)
        return self.events

    # -------------------------------------------------------------------------------------- the launchers

    def boot(self, pod: Pod) -> None:
        """The container starts, if its host is there."""
        if pod.gone or pod.deleted or not pod.host_up or (pod.process and pod.process.alive):
            return
        if self.now < pod.here_at:
            self.after(pod.here_at - self.now + 0.1, self.boot, pod)
            return
        self.number += 1
        process = pod.process = Process(pod, f"r{self.number}")
        self.connect_later(pod.group)
        self.poll(process)

    def poll(self, p: Process) -> None:
        """Let a launcher decide until it has nothing more to do now, as its loop does."""
        if not p.alive or p.frozen:
            return
        code, g = p.code, self.code.group
        limits = self.limits[p.pod.group.index]
        for _ in range(25):
            engine = self.engine_view(p.engine) if p.engine else None
            seen = g.Seen(p.child, p.peers, engine, p.ports, p.stop)
            state, actions, wake = code.decide(limits, p.state, seen, self.now)
            before, p.state = p.state, state
            if actions:
                self.judge(p, before, state, actions)
                for action in actions:
                    self.act(p, action)
                    if not p.alive:
                        return
            elif state is before or wake > self.now:
                if wake <= self.now:
                    self.wrong(f"rank {p.rank} asks to be asked again at once, for nothing: {state}")
                break
        else:
            self.wrong(f"rank {p.rank} does not come to rest: {p.state}")
        said = g.message(p.state, seen, "10.0.0.1")
        if said != p.said:
            p.said = said
            self.send(p)
        ready, _ = code.status(limits, p.state, seen, self.now)
        if ready != p.ready:
            p.ready = ready
            self.tell(f"g{p.pod.group.index} rank {p.rank} ready={ready}")
            self.ready_changed(p)
        if wake < INF and wake != p.wake:
            p.wake = wake
            self.after(max(0.0, wake - self.now), self.woken, p, wake)

    def woken(self, p: Process, wake: float) -> None:
        if p.wake == wake:
            p.wake = INF
            self.poll(p)

    def act(self, p: Process, action: Any) -> None:
        kind = type(action).__name__
        if self.log:
            self.tell(f"g{p.pod.group.index} rank {p.rank} {action}")
        if kind == "Start":
            self.start(p, action.step)
        elif kind == "Stop":
            self.stop_step(p, action.grace)
        elif kind == "CheckPorts":
            busy = "port 8000: Address already in use" if self.port_busy(p.pod.group) else ""
            p.ports = self.code.group.Ports(self.now, busy)
        elif kind == "Canary":
            self.canary(p)
        elif kind == "End":
            self.exit(p, action.code, action.grace)

    def port_busy(self, group: Group) -> bool:
        return "port_taken" in group.forever or group.once.get("port_busy", 0.0) > self.now

    # -------------------------------------------------------------------------------------------- judging

    def judge(self, p: Process, before: Any, state: Any, actions: tuple[Any, ...]) -> None:
        """Hold what a launcher does against what is true."""
        group = p.pod.group
        was, now = type(before).__name__, type(state).__name__
        if was == now:
            return
        reason = getattr(state, "reason", "") or str(actions)
        asked = p.stop or group.stopped or group.recreating
        if any(self.now - peer.heard > PARTED_SECONDS for peer in p.peers.values()):
            self.excuse(group, "parted")
        if now == "Held":
            self.judge_hold(p, group, reason)
        if was == "Serving" and now != "Draining" and not group.excuses and not asked:
            self.wrong(f"a healthy group is ended by rank {p.rank}: {reason}", group)
        if was == "Starting" and now != "Serving" and not group.excuses and not asked:
            self.wrong(f"a start that was well is thrown away by rank {p.rank}: {reason}", group)
        leaving = any(pod.process and pod.process.stop for pod in group.pods)
        if now == "Draining" and not asked and not leaving:
            self.wrong(f"rank {p.rank} drains without being asked: {reason}", group)
        if now == "Serving" and p.rank == 0:
            for pod in group.pods:
                step = pod.process.step if pod.process else None
                if step is None or step.attempt != state.me.attempt:
                    self.wrong(f"serves without the engine of rank {pod.rank}", group)
            group.excuses = [] if all(pod.host_up for pod in group.pods) else ["host_lost"]
            group.failures = 0
            group.served_at = self.now
            self.served(group)
        if now == "Ended" and "drained" in reason and p.engine and self.unfinished(p.engine):
            self.wrong("a drain ends with requests in flight", group)

    def judge_hold(self, p: Process, group: Group, reason: str) -> None:
        if not reason:
            self.wrong(f"rank {p.rank} holds and does not say why", group)
        spent = group.deaths >= 5 or group.failures >= ATTEMPTS
        if not group.forever and not spent:
            self.wrong(f"rank {p.rank} holds for something that waiting cures: {reason}", group)

    def unfinished(self, engine: Engine) -> bool:
        return any(done > self.now + 0.001 for done in engine.running.values()) and not engine.stuck_at

    # ------------------------------------------------------------------------------------------ the steps

    def start(self, p: Process, kind: str) -> None:
        group = p.pod.group
        if p.child is not None:
            self.wrong(f"rank {p.rank} starts a step while another runs", group)
        attempt = p.state.me.attempt if kind == "engine" else ""
        step = p.step = Step(p, kind, attempt)
        p.child = self.code.group.Child(kind, INF)
        uniform = self.random.uniform
        if kind == "weights":
            self.after(uniform(1, 40), self.weights_end, step)
            if "weights_missing" not in group.forever and group.once.pop("download_hang", 0.0):
                self.hang(step)
            return
        group.starts += p.rank == 0
        if group.starts > (ATTEMPTS + 5) * (2 + len(self.schedule.faults)):
            self.wrong(f"{group.starts} starts", group)
        if p.rank == 0:
            p.engine = Engine()
            p.engine.hidden = False
        seconds = uniform(20, 150)
        seconds += group.once.pop("slow_load", 0.0)
        seconds += max(0.0, group.slow_until - self.now)
        if "wrong_flag" in group.forever:
            if p.rank == 0 and p.state.me.failed > group.failures:
                self.wrong("tries again what cannot work", group)
            self.excuse(group, "wrong_flag")
            self.after(uniform(2, 6), self.end_step, step, 2, True, "unrecognized arguments: --x")
        elif "always_crashes" in group.forever:
            self.excuse(group, "always_crashes")
            self.after(uniform(2, 60), self.end_step, step, 1, False, "ValueError: x")
            group.failures += p.rank == 0
        elif group.once.pop("load_crash", 0.0):
            self.excuse(group, "load_crash")
            group.failures += 1
            self.after(uniform(2, 60), self.end_step, step, 1, False, "Address already in use")
        elif group.once.pop("load_hang", 0.0):
            self.excuse(group, "load_hang")
            group.failures += 1
            self.after(uniform(2, 15), self.hang, step)
        else:
            self.after(seconds, self.loaded, step)

    def hang(self, step: Step) -> None:
        if step.alive and not step.hung:
            step.hung = True
            self.set_child(step, moved=self.now)
            self.moved_seen(step)
            # The other engines wait for it, without moving.
            for pod in step.process.pod.group.pods:
                other = pod.process.step if pod.process else None
                if other and other is not step and other.kind == "engine" and other.attempt == step.attempt:
                    other.hung = True
                    self.set_child(other, moved=self.now)
                    self.moved_seen(other)

    def moved_seen(self, step: Step) -> None:
        """The leader hears of it with the next heartbeat."""
        leader = step.process.pod.group.leader
        if leader and step.process.rank in leader.peers:
            leader.peers[step.process.rank] = self.replace(
                leader.peers[step.process.rank], moved=step.process.child.moved if step.process.child else 0.0
            )
            self.poll(leader)

    def replace(self, thing: Any, **changes: Any) -> Any:
        fields = {name: getattr(thing, name) for name in thing.__dataclass_fields__}
        return type(thing)(**{**fields, **changes})

    def set_child(self, step: Step, **changes: Any) -> None:
        p = step.process
        if p.step is step and p.child is not None:
            p.child = self.replace(p.child, **changes)
            self.poll(p)

    def weights_end(self, step: Step) -> None:
        if not step.alive or step.hung:
            return
        group = step.process.pod.group
        if "weights_missing" in group.forever:
            self.end_step(step, 78, True, "weights missing at /m: no config.json")
        elif "hub_away" in group.forever or group.once.get("download_errors", 0.0) > self.now:
            self.end_step(step, 1, False, "hub unreachable")
        else:
            self.end_step(step, 0, False, "")

    def end_step(self, step: Step, status: int, hopeless: bool, why: str) -> None:
        if not step.alive:
            return
        step.alive = False
        p = step.process
        if step.kind == "engine":
            self.engine_lost(step)
        if p.step is step and p.child is not None:
            p.child = self.replace(p.child, status=status, why=why, hopeless=hopeless, moved=self.now)
            self.poll(p)

    def engine_lost(self, step: Step) -> None:
        """The other engines of the group cannot go on; some notice, and some hang."""
        group = step.process.pod.group
        for pod in group.pods:
            other = pod.process.step if pod.process else None
            if other and other.alive and other.kind == "engine" and other.attempt == step.attempt:
                if other.process.rank == 0 and other.process.engine and not other.process.engine.stuck_at:
                    self.get_stuck(other.process)
                if not other.loaded:
                    other.hung = True
                    self.set_child(other, moved=self.now)
                if self.random.random() < 0.6:
                    self.after(self.random.uniform(0.5, 90), self.end_step, other, 1, False, "NCCL error")

    def stop_step(self, p: Process, grace: float) -> None:
        step = p.step
        if step is None:
            return
        if step.alive:
            self.after(min(grace, self.random.uniform(0.1, 3)), self.stopped_step, step, p)
        else:
            self.after(0.05, self.stopped_step, step, p)

    def stopped_step(self, step: Step, p: Process) -> None:
        if p.step is not step:
            return
        was = step.alive
        step.alive = False
        p.step, p.child, p.engine = None, None, None
        if was and step.kind == "engine":
            self.engine_lost(step)
        self.poll(p)

    def loaded(self, step: Step) -> None:
        """One member's engine is loaded; the server answers once all are."""
        if not step.alive or step.hung:
            return
        step.loaded = True
        group = step.process.pod.group
        steps = [pod.process.step if pod.process else None for pod in group.pods]
        same = [s for s in steps if s and s.loaded and s.alive and s.attempt == step.attempt]
        if len(same) == group.size:
            self.after(0.5, self.first_answer, same[0])
        else:
            step.hung = any(s and s.hung and s.attempt == step.attempt for s in steps)
            self.set_child(step, moved=self.now)  # it waits for the others
            self.moved_seen(step)

    def first_answer(self, step: Step) -> None:
        p = step.process
        engine = p.engine
        if not step.alive or engine is None or p.step is not step:
            return
        engine.up = True
        group = p.pod.group
        if group.once.pop("first_500", 0.0):
            self.excuse(group, "first_500")
            group.failures += 1
            engine.failure = "first request answered 500"
        else:
            engine.answered = True
            engine.idle_since = engine.moved = self.now
        engine.view = None
        self.poll(p)

    def served(self, group: Group) -> None:
        if "poison" in group.forever:
            leader = group.leader
            assert leader is not None
            assert leader.step is not None
            seconds = next(f.seconds for f in self.schedule.faults if f.kind == "poison")
            self.after(seconds, self.poisoned, group, leader.step)

    def poisoned(self, group: Group, step: Step) -> None:
        if step.alive:
            self.excuse(group, "poison")
            group.deaths += 1
            self.end_step(step, -11, False, "signal 11")

    # ----------------------------------------------------------------------------------------- the engine

    def engine_view(self, e: Engine) -> Any:
        if e.view is None:
            stuck = e.stuck_at
            busy = bool(e.running) or bool(e.canary_since)
            if stuck:
                busy = e.busy_since > 0
            moving = busy and not stuck
            mute = e.mute_since
            e.view = self.code.group.Engine(
                answered=e.answered,
                failure=e.failure,
                hopeless=e.hopeless,
                bad_since=e.bad_since if not mute else 0.0,
                bad_answers=1 + int(self.now - e.bad_since) if e.bad_since and not mute else 0,
                well_at=mute or e.bad_since or (INF if e.up else 0.0),
                heard=mute or (INF if e.up else 0.0),
                busy=None if e.hidden or mute else busy,
                busy_since=e.busy_since,
                idle_since=0.0 if busy or e.hidden or mute else e.idle_since,
                moved=INF if moving and not (e.hidden or mute) else e.moved,
                canary_since=e.canary_since,
                canary_bad=e.canary_bad,
            )
        return e.view

    def touch(self, p: Process) -> None:
        """Something about its engine has changed."""
        e = p.engine
        if e is None:
            return
        if not e.stuck_at:
            e.moved = self.now
            busy = bool(e.running) or bool(e.canary_since)
            if busy and not e.busy_since:
                e.busy_since, e.idle_since = self.now, 0.0
            elif not busy:
                if e.busy_since or not e.idle_since:
                    e.idle_since = self.now
                e.busy_since = 0.0
        e.view = None
        self.poll(p)

    def get_stuck(self, p: Process) -> None:
        e = p.engine
        if e is None or e.stuck_at:
            return
        # Gauges stay as the last step left them; nothing moves any more.
        e.stuck_at = e.moved = self.now
        e.view = None
        self.poll(p)

    def canary(self, p: Process) -> None:
        e = p.engine
        if e is None or (e.running and not e.stuck_at):
            return  # the watcher looks at the gauges again before it asks
        e.canary_since = self.now
        e.view = None
        if e.core_dead or e.errors:
            self.after(0.2, self.canary_answered, p, e, False)
        elif not e.stuck_at:
            self.touch(p)
            self.after(self.random.uniform(0.1, 2), self.canary_answered, p, e, True)

    def canary_answered(self, p: Process, e: Engine, well: bool) -> None:
        if p.engine is not e or e.stuck_at or not e.canary_since:
            return
        e.canary_since = 0.0
        e.canary_bad = 0 if well else e.canary_bad + 1
        if well:
            self.touch(p)
        e.view = None
        self.poll(p)
        if not well and p.ready:
            self.wrong("is ready though a request was answered with an error", p.pod.group)

    def traffic(self, group: Group, number: int) -> None:
        """Clients ask the pods that the kubelet calls ready."""
        if group.stopped:
            return
        leader = group.leader
        if leader and leader.alive and group.pods[0].ready:
            self.request(group, leader, self.random.choice((0.5, 3, 20, 60, 150)))
        if number < 8:
            self.after(self.random.choice((1, 10, 100, 300)), self.traffic, group, number + 1)

    def request(self, group: Group, leader: Process, seconds: float, prefill: float = 0.0) -> None:
        e = leader.engine
        if e is None or not e.up or e.core_dead or e.errors:
            return
        self.number += 1
        name = self.number
        e.running[name] = self.now + seconds + prefill if not e.stuck_at else INF
        self.touch(leader)
        self.after(seconds + prefill, self.request_done, leader, e, name)

    def request_done(self, leader: Process, e: Engine, name: int) -> None:
        if leader.engine is e and not e.stuck_at and e.running.pop(name, None) is not None:
            self.touch(leader)

    # ---------------------------------------------------------------------------------------- the network

    def connect_later(self, group: Group) -> None:
        for link in group.links[1:]:
            self.after(self.random.uniform(0.05, 1.5), self.connect, link)

    def connect(self, link: Link) -> None:
        group = link.group
        a, b = group.pods[0].process, group.pods[link.rank].process
        if link.up or a is None or b is None or not a.alive or not b.alive or a.frozen or b.frozen:
            return
        if self.now < link.cut_until or group.pods[0].group.generation != group.generation:
            return
        holder = a.peers.get(link.rank)
        if not self.code.wire.takes_seat(self.limits[group.index], holder, b.run, self.now):
            self.after(2.0, self.connect, link)
            return
        link.up, link.ends = True, (a, b)
        self.deliver(link, a, b)
        self.deliver(link, b, a)

    def deliver(self, link: Link, sender: Process, receiver: Process) -> None:
        """What the sender says now arrives."""
        if not link.up or link.ends is None or sender not in link.ends or receiver not in link.ends:
            return
        if self.now < link.cut_until or receiver.frozen or not receiver.alive or not sender.said:
            return
        said = sender.said
        heard = INF if sender.alive and not sender.frozen else self.now
        moved = sender.child.moved if sender.child else 0.0
        receiver.peers[sender.rank] = self.code.group.Peer(
            run=said["run"], state=said["state"], attempt=said["attempt"], reason=said["reason"],
            hopeless=said["hopeless"], bound=said["bound"], address=said["address"], heard=heard,
            moved=moved, percent=said["percent"],
        )  # fmt: skip
        self.poll(receiver)

    def send(self, p: Process) -> None:
        group = p.pod.group
        for link in group.links[1:]:
            if link.up and link.ends and p in link.ends:
                other = link.ends[1] if link.ends[0] is p else link.ends[0]
                self.after(self.random.uniform(0.001, 0.05), self.deliver, link, p, other)

    def silence(self, receiver: Process, rank: int) -> None:
        """From now on the receiver hears nothing of a rank; the last word was within a heartbeat."""
        peer = receiver.peers.get(rank)
        if peer is not None and peer.heard == INF:
            receiver.peers[rank] = self.replace(peer, heard=self.now - self.random.uniform(0, 2))
            self.poll(receiver)

    def drop(self, link: Link) -> None:
        if link.up and link.ends:
            a, b = link.ends
            link.up, link.ends = False, None
            self.silence(a, link.rank)
            self.silence(b, 0)

    def cut(self, link: Link, seconds: float) -> None:
        link.cut_until = max(link.cut_until, self.now + seconds)
        if link.up and link.ends:
            a, b = link.ends
            self.silence(a, link.rank)
            self.silence(b, 0)
        self.after(seconds + 0.01, self.healed, link)

    def healed(self, link: Link) -> None:
        if self.now < link.cut_until:
            return
        if link.up and link.ends:
            a, b = link.ends
            self.deliver(link, a, b)
            self.deliver(link, b, a)
        else:
            self.after(self.random.uniform(0.05, 1.5), self.connect, link)

    # --------------------------------------------------------------------------------- the kubelet and LWS

    def ready_changed(self, p: Process) -> None:
        """The kubelet asks once a period, and believes a refusal after some in a row."""
        every, refusals = readiness_probe()
        misses = 0 if p.ready else every * (refusals - 1)
        delay = misses + self.random.uniform(0, every) + self.random.uniform(*PROBE_TAKES)
        self.after(max(delay, p.pod.disk_until - self.now), self.probed, p, p.ready)

    def probed(self, p: Process, ready: bool) -> None:
        if p.alive and p.pod.process is p and p.ready == ready:
            p.pod.ready = ready

    def exit(self, p: Process, code: int, grace: float) -> None:
        """A launcher ends by its own decision; its engine first."""
        step = p.step
        if p.rank == 0 and code == 0 and not p.stop and p.pod.ready and p.pod.disk_until < self.now:
            self.wrong("has drained while clients are still sent to it", p.pod.group)
        p.said = self.code.group.message(p.state, self.code.group.Seen(), "")
        self.send(p)
        p.child = None
        if p.ready:
            p.ready = False
            self.ready_changed(p)
        if step and step.alive:
            step.alive = False
            if step.kind == "engine":
                self.engine_lost(step)
        self.after(0.2 + min(grace, self.random.uniform(0, 3)), self.die, p, code)

    def die(self, p: Process, code: int) -> None:
        """The process is gone, whatever the reason."""
        if not p.alive:
            return
        p.alive = p.ready = False
        pod = p.pod
        pod.ready = False
        if p.step and p.step.alive:
            p.step.alive = False
            if p.step.kind == "engine":
                self.engine_lost(p.step)
        group = pod.group
        self.tell(f"g{group.index} rank {p.rank} has ended with {code}")
        for link in group.links[1:]:
            if link.up and link.ends and p in link.ends:
                self.drop(link)
        if group.stopped:
            if code and not group.excuses:
                self.wrong(f"rank {p.rank} ends with {code} when asked to stop", group)
            return
        if pod.deleted:
            pod.gone = True
            self.all_gone(group)
            return
        if not group.excuses and not group.recreating:
            self.wrong(f"rank {p.rank} ends with {code}", group)
        self.after(self.random.uniform(0.5, 2), self.boot, pod)
        self.excuse(group, "a container ended")
        if group.bare:
            return
        wait = max(self.random.uniform(0.5, 3), self.lws_until - self.now)
        self.after(wait, self.recreate, group)

    def recreate(self, group: Group) -> None:
        """RecreateGroupOnPodRestart: all pods go, then a new group comes."""
        if group.recreating or group.stopped or group.bare:
            return
        group.recreating = True
        group.recreations += 1
        if group.recreations > 3 * (1 + len(self.schedule.faults)):
            self.wrong(f"made anew {group.recreations} times", group)
        self.excuse(group, "recreated")
        self.tell(f"g{group.index} is made anew")
        for pod in group.pods:
            pod.deleted = True
            self.terminate(pod)
        self.all_gone(group)

    def terminate(self, pod: Pod) -> None:
        process = pod.process
        if process is None or not process.alive:
            pod.gone = not pod.group.bare and (pod.host_up or process is None)
            return
        process.stop = True
        process.frozen = False  # launch.sh lets a stopped launcher go on to take the signal
        self.after(GRACE, self.overdue, process)
        self.poll(process)

    def overdue(self, process: Process) -> None:
        if process.alive:
            self.wrong(f"rank {process.rank} is killed at the end of its grace period", process.pod.group)

    def all_gone(self, group: Group) -> None:
        if group.recreating and not group.stopped and all(pod.gone for pod in group.pods):
            group.recreating = False
            for link in group.links:
                link.up, link.ends = False, None
            old = group.pods
            group.pods = [Pod(group, rank) for rank in range(group.size)]
            for pod in group.pods:
                pod.host_up = old[pod.rank].host_up
                self.after(self.random.uniform(1, 6), self.boot, pod)

    # ----------------------------------------------------------------------------------------- the faults

    def excuse(self, group: Group, why: str) -> None:
        group.excuses.append(why)

    def strike(self, fault: Fault, group: Group) -> None:
        self.tell(f"g{group.index} rank {fault.member}: {fault.kind} for {fault.seconds} s")
        if group.stopped:
            return
        leader = group.leader
        serving = bool(leader and leader.alive and leader.ready)
        kind = fault.kind
        if kind in FOREVER:
            group.forever.add(kind)
            if kind == "poison":
                group.losses += 1
        elif kind in ("load_crash", "load_hang", "first_500", "download_hang"):
            group.once[kind] = 1.0
        elif kind in ("port_busy", "download_errors"):
            group.once[kind] = self.now + fault.seconds
        elif kind == "slow_load":
            group.once[kind] = fault.seconds
        elif kind == "late_host":
            group.pods[fault.member].here_at = self.now + fault.seconds
        else:
            getattr(self, "do_" + kind)(fault, group)
        if kind in HARMLESS:
            self.after(fault.seconds + 16, self.well_again, group, len(group.excuses), group.served_at)
        elif serving and kind in (
            "engine_killed", "launcher_killed", "host_lost", "link_long", "health_503",
        ):  # fmt: skip
            if kind == "link_long" and group.size == 1:
                return
            self.after(UNREADY_SECONDS, self.unready_by, group, self.now, kind, UNREADY_SECONDS)
            if kind in ("host_lost", "link_long") and fault.member == 0:
                self.after(UNREADY_SECONDS, self.workers_unready, group, self.now)
        struck = serving and group.pods[fault.member].host_up
        if struck and kind in ("engine_killed", "health_503", "evicted", "launcher_killed"):
            self.after(UNREADY_SECONDS + 5, self.acted_by, group, self.now, kind)
        elif serving and kind in ("stall", "answers_500"):
            seconds = STALL + 60 + 30 + 40
            self.after(seconds, self.unready_by, group, self.now, kind, seconds)

    def well_again(self, group: Group, excuses: int, served_at: float) -> None:
        """After a fault that harms nothing the group is as ready as before."""
        leader = group.leader
        if (
            group.stopped
            or group.recreating
            or group.excuses
            or group.served_at != served_at
            or not served_at
        ):
            return
        soft = any(self.now < link.cut_until + 10 for link in group.links)
        frozen = any(pod.process and (pod.process.frozen or not pod.process.alive) for pod in group.pods)
        e = leader.engine if leader else None
        if soft or frozen or e is None or e.mute_since or e.bad_since or leader is None:
            return
        if self.now - getattr(group, "disturbed", 0.0) > 12 and not leader.ready:
            self.wrong("is not ready though nothing is wrong any more", group)

    def unready_by(self, group: Group, at: float, kind: str, seconds: float) -> None:
        """A group that cannot answer is not ready so long after this could be seen."""
        if group.served_at >= at:
            return
        leader, pod = group.leader, group.pods[0]
        engine = leader.engine if leader else None
        if engine and engine.hidden:
            return  # who knows nothing of requests cannot tell a stall from rest
        known = max(
            at, pod.disk_until, leader.thawed_at if leader else 0.0, engine.shown_at if engine else 0.0
        )
        if known + seconds > self.now + 0.001:
            self.after(known + seconds - self.now, self.unready_by, group, at, kind, seconds)
            return
        if leader and leader.alive and not leader.frozen and pod.ready:
            self.wrong(f"is ready {self.now - at:.0f} s after {kind}", group)

    def workers_unready(self, group: Group, at: float) -> None:
        """Workers that have lost their leader are not ready."""
        for pod in group.pods[1:]:
            p = pod.process
            if p is None or max(pod.disk_until, p.thawed_at) > at:
                continue
            if p.alive and not p.frozen and pod.ready and group.served_at < at:
                self.wrong(f"rank {p.rank} is ready {self.now - at:.0f} s after it lost its leader", group)

    def acted_by(self, group: Group, at: float, kind: str) -> None:
        """What is certain is acted upon at once."""
        leader = group.leader
        if leader is None or not leader.alive or leader.frozen or group.served_at > at or group.stopped:
            return
        if any(self.now < link.cut_until + 10 for link in group.links):
            return
        if any(pod.process and (pod.process.frozen or pod.process.thawed_at > at) for pod in group.pods):
            return
        if type(leader.state).__name__ == "Serving":
            self.wrong(f"waits {self.now - at:.0f} s after {kind}", group)

    def links_of(self, fault: Fault, group: Group) -> list[Link]:
        return [link for link in group.links[1:] if fault.member in (0, link.rank)]

    def do_link_reset(self, fault: Fault, group: Group) -> None:
        for link in self.links_of(fault, group):
            self.drop(link)
            self.after(self.random.uniform(0.05, 1.5), self.connect, link)

    def do_link_short(self, fault: Fault, group: Group) -> None:
        for link in self.links_of(fault, group):
            self.cut(link, fault.seconds)

    do_link_medium = do_link_delay = do_link_long = do_link_short

    def do_slow_prefill(self, fault: Fault, group: Group) -> None:
        leader = group.leader
        if leader and leader.alive and group.pods[0].ready:
            self.request(group, leader, 5.0, fault.seconds)

    def do_burst(self, fault: Fault, group: Group) -> None:
        leader = group.leader
        if leader and leader.alive and group.pods[0].ready:
            for _ in range(3):
                self.request(group, leader, fault.seconds)

    def with_engine(self, group: Group) -> Engine | None:
        leader = group.leader
        if leader and leader.alive and leader.engine and leader.engine.answered:
            return leader.engine
        return None

    def do_mute(self, fault: Fault, group: Group) -> None:
        e = self.with_engine(group)
        if e and not e.mute_since and not e.canary_since:
            e.mute_since = e.moved = self.now
            e.view = None
            self.poll(group.leader)  # type: ignore[arg-type]
            self.after(fault.seconds, self.unmute, group, e)

    def unmute(self, group: Group, e: Engine) -> None:
        e.mute_since, e.view = 0.0, None
        if group.leader and group.leader.engine is e:
            self.touch(group.leader)

    def do_one_503(self, fault: Fault, group: Group) -> None:
        """One refusal; after it the server is too busy to say anything for a while."""
        e, leader = self.with_engine(group), group.leader
        if e and leader and not e.mute_since and not e.bad_since:
            before = leader.ready
            self.refuse(leader, e)
            if before and not leader.ready:
                self.wrong("is not ready after one refusal", group)
            self.after(fault.seconds, self.after_503, group, e)

    def refuse(self, leader: Process, e: Engine) -> None:
        """From now on /health is refused each second."""
        e.bad_since = self.now
        for seconds in range(10):
            self.after(seconds, self.refused, leader, e)
        self.refused(leader, e)

    def refused(self, leader: Process, e: Engine) -> None:
        if leader.alive and leader.engine is e and e.bad_since:
            e.view = None
            self.poll(leader)

    def after_503(self, group: Group, e: Engine) -> None:
        if not e.core_dead:
            e.bad_since, e.view = 0.0, None
            if group.leader and group.leader.engine is e:
                self.poll(group.leader)

    def do_metrics_away(self, fault: Fault, group: Group) -> None:
        e = self.with_engine(group)
        if e:
            if e.busy_since and not e.stuck_at:
                e.moved = self.now
            e.hidden, e.view = True, None
            self.poll(group.leader)  # type: ignore[arg-type]
            self.after(fault.seconds, self.metrics_back, group, e)

    def metrics_back(self, group: Group, e: Engine) -> None:
        e.hidden, e.shown_at = False, self.now
        if not e.busy_since:
            e.idle_since = self.now
        e.view = None
        if group.leader and group.leader.engine is e:
            self.touch(group.leader)

    def do_disk_full(self, fault: Fault, group: Group) -> None:
        """The status lies in memory and is written in place: nothing is noticed."""

    do_stdout_blocked = do_disk_full

    def do_disk_frozen(self, fault: Fault, group: Group) -> None:
        group.pods[fault.member].disk_until = self.now + fault.seconds

    def do_freeze_short(self, fault: Fault, group: Group) -> None:
        p = group.pods[fault.member].process
        if p and p.alive and not p.stop:
            p.frozen = True
            for link in group.links[1:]:
                if link.up and link.ends and p in link.ends:
                    other = link.ends[1] if link.ends[0] is p else link.ends[0]
                    self.silence(other, p.rank)
            self.after(fault.seconds, self.thaw, p)

    def do_freeze_long(self, fault: Fault, group: Group) -> None:
        """The status gets old, liveness fails, and the kubelet ends the container."""
        p = group.pods[fault.member].process
        self.after(28, self.excuse, group, "freeze_long")
        self.do_freeze_short(fault, group)
        if p and p.alive:
            self.after(62, self.liveness, p)

    def liveness(self, p: Process) -> None:
        if p.frozen and p.alive:
            self.excuse(p.pod.group, "liveness")
            self.terminate(p.pod)

    def thaw(self, p: Process) -> None:
        if p.alive and p.frozen:
            p.frozen, p.thawed_at = False, self.now
            for link in p.pod.group.links[1:]:
                if link.up and link.ends and p in link.ends:
                    other = link.ends[1] if link.ends[0] is p else link.ends[0]
                    self.deliver(link, other, p)
                    self.deliver(link, p, other)
            self.poll(p)
            self.connect_later(p.pod.group)

    def do_slow_disk(self, fault: Fault, group: Group) -> None:
        group.slow_until = self.now + fault.seconds

    def do_stranger(self, fault: Fault, group: Group) -> None:
        """Nothing from outside is taken as a message, whatever it looks like."""
        wire, rng = self.code.wire, self.random
        end = wire.Channel(wire.Identity("g", "1", b"key"), 2, 0, "0" * 32)
        lines = (
            b'{"rank":1}\n', b'{"rank":Infinity}\n', b"[" * 100_000 + b"\n", b"GET / HTTP/1.1\r\n\r\n",
            b'{"rank":1,"state":"held","reason":"x"}\n', b"\xff\xfe\n", b"null\n", b"x" * 20_000, b"\n",
            b"[" * 8000 + b"\n",
            b'{"proof":"\\ud800"}\n', b'{"body":"{}","mac":"00"}\n',
            b'{"body":"{\\"run\\":\\"x\\",\\"state\\":\\"end\\"}","mac":"00"}\n',
        )  # fmt: skip
        try:
            greeting = b'{"manyhost":1,"rank":1,"nonce":"00000000000000000000"}\n'
            for line in ([greeting] if rng.random() < 0.5 else []) + rng.sample(lines, 3):
                _, messages = end.take(line)
                if messages:
                    self.wrong("a stranger is believed")
        except wire.Refused:
            pass

    def do_other_group(self, fault: Fault, group: Group) -> None:
        """A member of something else is refused, and learns nothing that it could use."""
        wire, rng = self.code.wire, self.random
        own = wire.Identity("ns/r1/0", "rev1", rng.choice((b"", b"key")))
        other = rng.choice((
            own._replace(group="ns/r2/0"), own._replace(generation="rev0"), own._replace(key=b"other"),
        ))  # fmt: skip
        leader = wire.Channel(own, 2, 0, "a" * 32)
        worker = wire.Channel(other, 2, 1, "b" * 32)
        try:
            leader.take(worker.hello())
            proof, _ = worker.take(leader.hello())
            _, messages = leader.take(proof)
            _, messages = leader.take(worker.say({"run": "x", "state": "held", "reason": "y"}))
            self.wrong(f"a member of another group is believed: {messages}")
        except wire.Refused:
            pass

    def do_old_worker(self, fault: Fault, group: Group) -> None:
        """A worker of the last incarnation holds, for a reason of that time, and reaches the leader."""
        leader = group.leader
        if group.size == 1 or not leader or not leader.alive or leader.frozen:
            return
        rank = max(1, fault.member)
        holder = leader.peers.get(rank)
        if self.code.wire.takes_seat(self.limits[group.index], holder, "old", self.now):
            leader.peers[rank] = self.code.group.Peer(
                run="old", state="held", bound="gone", reason="weights missing", heard=self.now + 1
            )
            self.poll(leader)
            for wait in (3, 6, 9, 12, 16):
                self.after(wait, self.connect, group.links[rank])

    def do_lws_away(self, fault: Fault, group: Group) -> None:
        self.lws_until = max(self.lws_until, self.now + fault.seconds)

    def do_engine_killed(self, fault: Fault, group: Group) -> None:
        p = group.pods[fault.member].process
        if p and p.step and p.step.alive and p.step.kind == "engine":
            self.excuse(group, fault.kind)
            if group.leader and type(group.leader.state).__name__ == "Serving":
                group.deaths += 1
            else:
                group.failures += 1
            self.end_step(p.step, -9, False, "signal 9")
        elif p and p.step and p.step.alive:
            self.end_step(p.step, -9, False, "signal 9")

    def do_launcher_killed(self, fault: Fault, group: Group) -> None:
        p = group.pods[fault.member].process
        if p and p.alive:
            self.excuse(group, fault.kind)
            self.die(p, 137)

    def do_host_lost(self, fault: Fault, group: Group) -> None:
        pod = group.pods[fault.member]
        p = pod.process
        self.excuse(group, fault.kind)
        pod.host_up = pod.ready = False
        if p and p.alive:
            p.alive = p.ready = False
            if p.step and p.step.alive:
                p.step.alive = False
                if p.step.kind == "engine":
                    self.engine_lost(p.step)
            for link in group.links[1:]:
                if link.up and link.ends and p in link.ends:
                    other = link.ends[1] if link.ends[0] is p else link.ends[0]
                    self.silence(other, p.rank)
                    link.up, link.ends = False, None
        self.after(fault.seconds, self.host_back, fault, group)

    def host_back(self, fault: Fault, group: Group) -> None:
        pod = group.pods[fault.member]
        pod.host_up = True
        if pod.deleted:
            pod.gone = True
            self.all_gone(group)
            return
        self.after(1, self.boot, pod)
        self.after(max(3, self.lws_until - self.now), self.recreate, group)

    def do_stall(self, fault: Fault, group: Group) -> None:
        e = self.with_engine(group)
        if e and group.leader:
            self.excuse(group, fault.kind)
            group.deaths += 1
            self.get_stuck(group.leader)

    def do_health_503(self, fault: Fault, group: Group) -> None:
        e = self.with_engine(group)
        if e and group.leader:
            self.excuse(group, fault.kind)
            group.deaths += 1
            e.core_dead, e.mute_since = True, 0.0
            self.refuse(group.leader, e)
            self.get_stuck(group.leader)

    def do_answers_500(self, fault: Fault, group: Group) -> None:
        e = self.with_engine(group)
        if e and group.leader:
            self.excuse(group, fault.kind)
            group.deaths += 1
            e.errors = True
            e.running.clear()
            self.touch(group.leader)

    def do_evicted(self, fault: Fault, group: Group) -> None:
        pod = group.pods[fault.member]
        if pod.process and pod.process.alive and not pod.deleted:
            self.excuse(group, "evicted")
            pod.deleted = not group.bare
            self.terminate(pod)
            self.after(max(1, self.lws_until - self.now), self.recreate_when_gone, group, pod)

    def recreate_when_gone(self, group: Group, pod: Pod) -> None:
        if group.stopped or group.recreating:
            return
        if pod.gone:
            self.recreate(group)
        else:
            self.after(2, self.recreate_when_gone, group, pod)

    def do_rolling(self, fault: Fault, group: Group) -> None:
        group.generation += 1
        self.excuse(group, "rolling")
        if group.bare:
            for pod in group.pods:
                self.terminate(pod)
        self.recreate(group)

    # ------------------------------------------------------------------------------------------- the end

    def at_rest(self, group: Group) -> str:
        """Why a group has not come to rest yet, or nothing."""
        leader = group.leader
        if group.recreating or leader is None or not leader.alive:
            return "is being made anew"
        name = type(leader.state).__name__
        if name == "Held":
            return ""
        if name == "Serving" and leader.ready and "poison" not in group.forever:
            return ""
        return f"{name}: {leader.state}"

    def settled(self, limit: float) -> None:
        """Wait until all groups serve or hold; then ask all of them to stop."""
        for group in self.groups:
            why = self.at_rest(group)
            if why:
                if self.now > limit:
                    self.wrong(f"neither serves nor holds long after the last fault: {why}", group)
                self.after(min(600.0, max(30.0, (self.now - self.begin) / 20)), self.settled, limit)
                return
        for group in self.groups:
            group.stopped = True
            leader = group.leader
            if leader and leader.engine and leader.ready and self.random.random() < 0.5:
                self.request(group, leader, self.random.choice((5.0, 100.0, 2000.0)))
            for pod in group.pods:
                if pod.process and pod.process.alive:
                    self.after(self.random.uniform(0, 1), self.ask_to_stop, pod.process)
            self.after(DRAIN + 40, self.ended, group)

    def ask_to_stop(self, p: Process) -> None:
        p.stop = True
        p.frozen = False
        self.poll(p)

    def ended(self, group: Group) -> None:
        for pod in group.pods:
            if pod.process and pod.process.alive:
                self.wrong(
                    f"rank {pod.rank} is still there {DRAIN + 40:.0f} s after it was asked to stop", group
                )


def simulate(schedule: Schedule, code: Code, log: Callable[[str], None] | None = None) -> int:
    """Run a schedule; return its number of events.

    Raises:
        Violation: An invariant does not hold.
    """
    assert all(fault.kind in KINDS for fault in schedule.faults)
    return World(schedule, code, log).run()
