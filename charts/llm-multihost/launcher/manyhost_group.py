"""What the members of a group know, see and do: the types of `decide`, without input or output.

`decide(limits, state, seen, now)` of manyhost_leader.py and manyhost_worker.py returns the next state,
the actions to take and when to be asked again if nothing happens before. Times are seconds of one
clock. A time of INF in what is seen means "without a break until now".
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

INF = math.inf
LIVES = 5  # ends of an engine that had answered, until the group holds
FORGIVE_SECONDS = 3600.0  # that a group serves until one of its ends is forgotten


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """The time limits of a group, most of them in beats so that tests can be in a hurry.

    Attributes:
        size: Members of the group.
        attempts: Starts of an engine that never answered, until the group holds.
        beat: Between two heartbeats.
        peer_wait: Until a member says for whom it waits.
        progress: A step without any sign of progress is stuck.
        failing: Weights that cannot be had for so long hold the member.
        stall: Requests wait and nothing moves: the engine is stuck.
        drain: Requests in flight have so long to finish.
    """

    size: int
    attempts: int
    beat: float
    peer_wait: float
    progress: float
    failing: float
    stall: float
    drain: float
    silent: float = dataclasses.field(init=False)  # without a word: the group is not ready
    away: float = dataclasses.field(init=False)  # ... it is not there for an attempt
    gone: float = dataclasses.field(init=False)  # ... it ends a serving group, unless its engine works
    parted: float = dataclasses.field(init=False)  # ... it ends a start, and a group whose engine works
    bad: float = dataclasses.field(init=False)  # /health refuses: the engine is dead
    pause: float = dataclasses.field(init=False)  # before the next attempt; doubled each time
    longest: float = dataclasses.field(init=False)  # pause
    quiet: float = dataclasses.field(init=False)  # without a token: one is asked for
    canary: float = dataclasses.field(init=False)  # that this token has
    ports: float = dataclasses.field(init=False)  # until a port in use is a reason to hold
    leaving: float = dataclasses.field(init=False)  # the shortest drain: probes and proxies learn late
    killing: float = dataclasses.field(init=False)  # until processes that do not die end the member

    def __post_init__(self) -> None:
        """Derive what is told in beats; with the default of 2 s: 7, 30, 45 s and so on."""
        for name, beats in (
            ("silent", 3.5), ("away", 15), ("gone", 22.5), ("parted", 150), ("bad", 2.5), ("pause", 2.5),
            ("longest", 150), ("quiet", 30), ("canary", 15), ("ports", 30), ("leaving", 5),
            ("killing", 30),
        ):  # fmt: skip
            object.__setattr__(self, name, beats * self.beat)
        object.__setattr__(self, "canary", min(self.canary, self.stall))

    def backoff(self, times: int) -> float:
        """Seconds to wait after something failed for the nth time."""
        return min(self.longest, self.pause * 2.0 ** min(times - 1, 20))


# --------------------------------------------------------------------------------------- what is seen


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """What another member last said of itself, and when it was last heard.

    Attributes:
        run: The incarnation of its launcher; a new process has a new one.
        bound: A worker's: the run of the leader that it follows.
        attempt: Of which start of the engine it speaks.
        moved: When its step last made progress.
    """

    run: str
    state: str
    attempt: str = ""
    reason: str = ""
    hopeless: bool = False
    bound: str = ""
    address: str = ""
    heard: float = INF
    moved: float = 0.0
    percent: int = -1


@dataclasses.dataclass(frozen=True, slots=True)
class Child:
    """A step of launch.sh.

    Attributes:
        status: Its exit status; None while it runs. It is seen until all its processes are gone.
        moved: When it last made progress.
        percent: How far it says that it is; -1 when it does not.
    """

    step: str
    moved: float
    status: int | None = None
    why: str = ""
    hopeless: bool = False
    percent: int = -1


@dataclasses.dataclass(frozen=True, slots=True)
class Engine:
    """What the engine's HTTP server says (leader only). A time of 0 means never, or not now.

    Attributes:
        answered: A first token has come.
        failure: Why the first request got none.
        hopeless: The failure will be the same next time.
        bad_since: Since when every answer of /health is a refusal or not 200.
        bad_answers: How many of them. A server too busy to answer gives none.
        well_at: When /health was last 200.
        heard: When the server last answered anything.
        busy: Requests run or wait; None when the metrics do not say.
        busy_since: Since when they do without a break.
        idle_since: Since when the metrics say without a break that none does.
        moved: When a counter or the KV cache's use last changed: a step was completed, on all ranks.
        canary_since: When the request of one token was sent that is still open.
        canary_bad: How many of these in a row were answered with a server error.
    """

    answered: bool = False
    failure: str = ""
    hopeless: bool = False
    bad_since: float = 0.0
    bad_answers: int = 0
    well_at: float = 0.0
    heard: float = 0.0
    busy: bool | None = None
    busy_since: float = 0.0
    idle_since: float = 0.0
    moved: float = 0.0
    canary_since: float = 0.0
    canary_bad: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Ports:
    """Whether the engine's ports are free."""

    at: float
    busy: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """Everything that a member sees.

    Attributes:
        peers: By rank: a leader's workers, a worker's leader.
        stop: It was asked to end (SIGTERM).
    """

    child: Child | None = None
    peers: dict[int, Peer] = dataclasses.field(default_factory=dict)
    engine: Engine | None = None
    ports: Ports | None = None
    stop: bool = False


# -------------------------------------------------------------------------------------- what is known


@dataclasses.dataclass(frozen=True, slots=True)
class Me:
    """What a member keeps from state to state.

    Attributes:
        run: Its incarnation.
        bound: A worker's: the run of the leader that it follows.
        attempt: The last start of its engine that it took part in.
        number: Starts so far, which makes their names unique within a run.
        failed: Of these, in a row, those that ended without an answer though no member was lost.
        deaths: Ends of engines that had answered, less those that are forgiven.
        served: The group has answered while this member was in it.
    """

    run: str
    bound: str = ""
    attempt: str = ""
    number: int = 0
    failed: int = 0
    deaths: int = 0
    served: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Weights:
    """Own weights are not there yet.

    Attributes:
        stuck: Why the step that runs was told to end.
        over: The step has ended and was counted; what is still seen of it are its last processes.
    """

    me: Me
    failures: int = 0
    failing_since: float = 0.0
    retry_at: float = 0.0
    stuck: str = ""
    over: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Armed:
    """Ready for an attempt, as soon as the others are."""

    me: Me
    since: float
    retry_at: float = 0.0
    missing_since: float = 0.0
    waiting: str = ""  # for whom it has said that it waits
    reason: str = ""
    ports_asked: float = 0.0
    ports_busy_since: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Starting:
    """The engine starts.

    Attributes:
        crew: A leader's: the runs of its workers at the start.
        failures: What went wrong, each with its weight and whether it is counted.
        settle_at: When all members will have had time to say what went wrong.
    """

    me: Me
    since: float
    crew: tuple[str, ...] = ()
    failures: tuple[tuple[int, str], ...] = ()
    settle_at: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Serving:
    """The group answers."""

    me: Me
    since: float
    crew: tuple[str, ...] = ()
    canary_at: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """A worker's engine has ended; the leader has not reacted yet."""

    me: Me
    since: float
    reason: str
    hopeless: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Draining:
    """Takes no requests; those in flight finish."""

    me: Me
    since: float
    reason: str
    crew: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """Has given up, says why, and stays.

    Attributes:
        rank: Whose failure it was, with that member's run: another run of it is another chance.
    """

    me: Me
    since: float
    reason: str
    rank: int = 0
    run: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """On its way out."""

    me: Me
    reason: str


State = Weights | Armed | Starting | Serving | Failed | Draining | Held | Ended
NAMES: dict[type, str] = {
    Weights: "weights", Armed: "armed", Starting: "engine", Serving: "serving", Failed: "failed",
    Draining: "draining", Held: "held", Ended: "end",
}  # fmt: skip


# --------------------------------------------------------------------------------------- what is done


class Phase(NamedTuple):
    """Print a phase line."""

    name: str
    reason: str = ""
    more: tuple[tuple[str, object], ...] = ()


class Start(NamedTuple):
    """Start a step of launch.sh; it is seen as the child from now on."""

    step: str
    leader: str = ""  # the leader's address, for a worker's engine


class Stop(NamedTuple):
    """End the step: with a signal, after the grace (seconds) without asking."""

    grace: float


class CheckPorts(NamedTuple):
    """See whether the engine's ports are free."""


class Canary(NamedTuple):
    """Ask the engine for one token, unless requests run."""


class End(NamedTuple):
    """Stop the step and leave."""

    code: int
    reason: str
    grace: float


Action = Phase | Start | Stop | CheckPorts | Canary | End


class Decision(NamedTuple):
    """What `decide` returns; wake is when to ask again if nothing happens."""

    state: State
    actions: tuple[Action, ...] = ()
    wake: float = INF


def due(now: float, *times: float) -> float:
    """The first of some times that is still to come."""
    return min((time for time in times if time > now), default=INF)


# ---------------------------------------------------------------- what leader and worker have in common


def end(state: State, code: int, reason: str, grace: float) -> Decision:
    """Leave."""
    return Decision(Ended(state.me, reason), (End(code, reason, grace),))


def message(state: State, seen: Seen, address: str) -> dict[str, Any]:
    """What a member says to the others, without what depends on the moment of saying it."""
    said: dict[str, Any] = {
        "run": state.me.run,
        "bound": state.me.bound,
        "state": NAMES[type(state)],
        "attempt": state.me.attempt,
        "reason": reason_of(state),
        "hopeless": isinstance(state, Failed) and state.hopeless,
        "address": address,
        "percent": seen.child.percent if seen.child else -1,
    }
    return said


def reason_of(state: State) -> str:
    """Why it is in this state, or nothing."""
    if isinstance(state, Armed | Failed | Draining | Held | Ended):
        return state.reason
    return ""


def prepare(limits: Limits, state: Weights, seen: Seen, now: float, awaited: str) -> Decision:
    """State `weights`: check or fetch them, again after a pause that grows when it failed.

    Args:
        limits: The group's.
        state: The state.
        seen: What is seen.
        now: The time.
        awaited: Whom the member waits for when it has its weights.
    """
    child = seen.child
    if child is None:
        if now < state.retry_at:
            return Decision(state, (), state.retry_at)
        fresh = dataclasses.replace(state, stuck="", over=False)
        return Decision(fresh, (Phase("weights"), Start("weights")))
    if state.over or (state.stuck and child.status is None):
        return Decision(state)
    if child.status is None:
        quiet = now - child.moved
        if quiet <= limits.progress:
            return Decision(state, (), child.moved + limits.progress + 0.001)
        stuck = f"the weights made no progress for {quiet:.0f} s"
        return Decision(dataclasses.replace(state, stuck=stuck), (Stop(limits.beat),))
    if child.status == 0 and not state.stuck:
        return Decision(Armed(state.me, now), (Stop(0), Phase("peers", "", (("waiting_for", awaited),))))
    why = state.stuck or child.why
    failures = state.failures + 1
    # A failure after progress begins a new count: a download that goes on is not a lost one.
    moving = state.failures and child.moved < INF and child.moved > state.retry_at + limits.failing
    since = now if not state.failures or moving else state.failing_since
    pause = limits.backoff(failures)
    more = (("weights", failures), ("next", f"{pause:.0f}s"))
    actions: tuple[Action, ...] = (Phase("attempt", why, more), Stop(0))
    if child.hopeless or (failures >= limits.attempts and now - since >= limits.failing):
        text = why if child.hopeless else f"{failures} tries in {now - since:.0f} s failed: {why}"
        return Decision(Held(state.me, now, text), (*actions, Phase("held", text)))
    waits = Weights(state.me, failures, since, now + pause, over=True)
    return Decision(waits, actions, now + pause)
