"""The start of each group as a waterfall: which step took how long on which host, beside what was planned.

Pure functions: what goes in are pod objects, log texts and events.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from manyhost.cluster.phases import (
    ENGINE_CONTAINER,
    GROUP,
    ROLE,
    WORKER,
    Pod,
    condition,
    loading,
    named,
    script_line,
    stamp,
    timestamp,
)
from manyhost.plan import Plan

# What the engine says of itself (vLLM, model_executor/model_loader/default_loader.py and v1/engine/core.py).
# Each rank of a host says the first line; the unit is "seconds" or "s".
_LOADED = re.compile(r"\bLoading weights took ([0-9.]+) s")
_COMPILED = re.compile(r"\binit engine \(.*?\) took ([0-9.]+) s")
# Successfully pulled image "x" in 1m2.3s (...). Image size: 1 bytes. (kubernetes, images/image_manager.go)
_PULLED = re.compile(r"Successfully pulled image .* in ([0-9a-zµ.]+) \(.*Image size: ([0-9]+) bytes")
_PRESENT = "already present on machine"
_GO_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT[0-9:.]+Z) ")
_ENDS = {"serving", "held", "end", "draining"}  # phases with which a start is over
_SAME = {"loading", "waiting"}  # lines that say how a step goes on, and begin none


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a host's start.

    Attributes:
        name: schedule, image (until the engine's container runs, so sidecars too), a phase of the launcher
            (docs/reference/launcher.md), or a part of its phase engine where the engine's log tells them:
            import, load, compile, answer.
        start: Seconds after the first pod of its group was made.
        seconds: How long it took, or has taken so far.
        planned: What the plan says, seconds; None for what it does not foresee.
        running: Whether it goes on.
        detail: How far it is, or why it ended.
    """

    name: str
    start: float
    seconds: float
    planned: float | None = None
    running: bool = False
    detail: str = ""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One host's start.

    Attributes:
        pod: Its pod.
        host: Its number in the group; 0 is the leader.
        node: Where it is; empty without a node.
        steps: In their order.
        usd: List price of the host from its node on; None where nobody publishes one.
    """

    pod: str
    host: int
    node: str
    steps: tuple[Step, ...]
    usd: float | None

    @property
    def member(self) -> str:
        """The leader is host 0."""
        return "worker" if self.host else "leader"


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """The first start of a group's pods, up to the first answer.

    Attributes:
        role: prefill or decode where these are apart; else empty.
        group: Its number.
        since: When its first pod was made.
        answered: Whether it has answered.
        seconds: Until the first answer, or until now.
        planned: What the plan says, seconds.
        usd: List price of its hosts for that time, each from its node on; None where nobody publishes one.
        members: By host.
    """

    role: str
    group: int
    since: str
    answered: bool
    seconds: float
    planned: float
    usd: float | None
    members: tuple[Member, ...]


class _Part(msgspec.Struct, kw_only=True):
    """A step in absolute time; `end` is 0.0 while it goes on."""

    name: str
    start: float
    end: float = 0.0
    detail: str = ""
    loaded: list[tuple[float, float]] = []  # begin and end, by the engine's own words
    compiled: tuple[float, float] | None = None


class Planned(msgspec.Struct, frozen=True):
    """The plan's cold start, as the steps of a timeline.

    Attributes:
        phases: plan.cold_start.
        downloads: Whether the weights come from the hub, before the engine starts.
    """

    phases: Mapping[str, int]
    downloads: bool

    @property
    def total(self) -> float:
        """Seconds of all phases."""
        return float(sum(self.phases.values()))

    def of(self, step: str) -> float | None:
        """Seconds of a step; None for one that the plan does not foresee."""
        reads = "weights" if self.downloads else "load"
        by_step = {name: float(seconds) for name, seconds in self.phases.items() if name != "weights"}
        by_step[reads] = float(self.phases["weights"])
        by_step["engine"] = sum(by_step.get(part, 0.0) for part in ("import", "load", "compile"))
        return by_step.get(step)


def planned_start(plan: Plan) -> Planned:
    """Return what a plan says of a start."""
    return Planned(dict(plan.cold_start), downloads=plan.weights.kind == "hub")


def timelines(
    pods: Iterable[Pod],
    logs: Mapping[str, str],
    pulls: Mapping[str, str],
    planned: Planned,
    usd_per_hour: float | None,
    now: float,
) -> tuple[Timeline, ...]:
    """Return the start of every group.

    Args:
        pods: The pods of the release's groups.
        logs: The log of each pod's engine container with timestamps, by the pod's uid; missing without one.
        pulls: What the kubelet said of the engine's image, by the pod's uid.
        planned: The plan's cold start.
        usd_per_hour: Of one host.
        now: The API server's clock.
    """
    groups: dict[tuple[str, int], list[Pod]] = {}
    for pod in pods:
        labels = pod["metadata"].get("labels") or {}
        groups.setdefault((labels.get(ROLE, ""), int(labels.get(GROUP, 0))), []).append(pod)
    return tuple(
        _timeline(place, sorted(found, key=_host), logs, pulls, planned, usd_per_hour, now)
        for place, found in sorted(groups.items())
    )


def _timeline(
    place: tuple[str, int],
    pods: Sequence[Pod],
    logs: Mapping[str, str],
    pulls: Mapping[str, str],
    planned: Planned,
    usd_per_hour: float | None,
    now: float,
) -> Timeline:
    since = min(timestamp(pod["metadata"].get("creationTimestamp", "")) for pod in pods)
    parts = {}
    answered = 0.0
    for pod in pods:
        uid = pod["metadata"].get("uid", "")
        parts[uid], serves = _parts(pod, logs.get(uid, ""), pulls.get(uid, ""))
        if _host(pod) == 0:
            answered = serves
    until = answered or now
    members = []
    for pod in pods:
        steps = [_step(part, since, planned, until) for part in parts[pod["metadata"].get("uid", "")]]
        placed = _placed(pod)
        hours = max(0.0, until - placed) / 3600 if placed else 0.0
        members.append(
            Member(
                pod=pod["metadata"]["name"],
                host=_host(pod),
                node=(pod.get("spec") or {}).get("nodeName", ""),
                steps=tuple(steps),
                usd=None if usd_per_hour is None else round(usd_per_hour * hours, 2),
            )
        )
    return Timeline(
        role=place[0],
        group=place[1],
        since=stamp(since),
        answered=bool(answered),
        seconds=round(max(0.0, until - since), 1),
        planned=planned.total,
        usd=None if usd_per_hour is None else round(sum(each.usd or 0.0 for each in members), 2),
        members=tuple(members),
    )


def _host(pod: Pod) -> int:
    return int((pod["metadata"].get("labels") or {}).get(WORKER, 0))


def _placed(pod: Pod) -> float:
    """When it got its node; 0.0 as long as it has none."""
    scheduled = condition(pod, "PodScheduled") or {}
    return timestamp(scheduled.get("lastTransitionTime") or "") if scheduled.get("status") == "True" else 0.0


def _step(part: _Part, since: float, planned: Planned, until: float) -> Step:
    end = part.end or max(until, part.start)
    return Step(
        name=part.name,
        start=round(max(0.0, part.start - since), 1),
        seconds=round(max(0.0, end - part.start), 1),
        planned=planned.of(part.name),
        running=not part.end,
        detail=part.detail,
    )


def _parts(pod: Pod, log: str, pull: str) -> tuple[list[_Part], float]:
    """The steps of one pod, and when it said that it serves (0.0 when it has not)."""
    created, placed = timestamp(pod["metadata"].get("creationTimestamp", "")), _placed(pod)
    before = [_Part(name="schedule", start=created, end=placed)]
    if not placed:
        return before, 0.0
    engine = named((pod.get("status") or {}).get("containerStatuses") or [], ENGINE_CONTAINER)
    state = engine.get("state") or {}
    ran = state.get("running") or state.get("terminated") or {}
    started = timestamp(ran.get("startedAt") or "")
    restarts = int(engine.get("restartCount", 0))
    detail = _pull(pull)
    if restarts:  # only the log of the last life is there
        detail = f"and {restarts} former {'life' if restarts == 1 else 'lives'} of the container"
    before.append(_Part(name="image", start=placed, end=started, detail=detail))
    if not started:
        return before, 0.0
    found, serves = launcher_parts(log, started)
    ready = condition(pod, "Ready") or {}
    if not serves and ready.get("status") == "True":
        serves = timestamp(ready.get("lastTransitionTime") or "")
    if not found:
        lost = "what it said of its start is no longer in its log" if serves else ""
        found = [_Part(name="start", start=started, end=serves, detail=lost)]
    return [*before, *found], serves


def launcher_parts(log: str, started: float) -> tuple[list[_Part], float]:
    """Return the steps that a launcher's log tells, up to its first answer, and when that was.

    Args:
        log: Lines, each after its time; without times the phase lines' own seconds count, and the engine's
            part is not divided.
        started: When the container started.
    """
    parts: list[_Part] = []
    for text in log.splitlines():
        match = _TIME.match(text)
        at = timestamp(match[1]) if match else 0.0
        line = script_line(text)
        if line is None:
            if at and parts and parts[-1].name == "engine":
                _mark(parts[-1], text, at)
            continue
        at = at or started + line.seconds
        if line.phase in _SAME:
            if parts:
                parts[-1].detail = loading(line) if line.phase == "loading" else line.reason
            continue
        again = bool(parts) and parts[-1].name == line.phase
        if parts and not again:
            parts[-1].end = at
            parts[-1].detail = line.reason if line.phase in {"attempt", *_ENDS} else ""
        if line.phase in _ENDS:
            return [each for part in parts for each in _divided(part)], at if line.phase == "serving" else 0.0
        if not again:
            parts.append(_Part(name=line.phase, start=at))
    return [each for part in parts for each in _divided(part)], 0.0


def _mark(part: _Part, text: str, at: float) -> None:
    if found := _LOADED.search(text):
        part.loaded = [*part.loaded, (at - float(found[1]), at)]
    elif found := _COMPILED.search(text):
        part.compiled = (at - float(found[1]), at)


def _divided(part: _Part) -> Iterator[_Part]:
    """The engine's start as import, load, compile and answer, as far as its log tells."""
    if part.name != "engine" or not part.loaded:
        yield part
        return
    first = max(part.start, min(begin for begin, _ in part.loaded))
    last = max(end for _, end in part.loaded)
    yield _Part(name="import", start=part.start, end=first)
    yield _Part(name="load", start=first, end=last)
    if part.compiled is None:  # it compiles, or it is a worker, whose leader says when that is done
        yield _Part(name="compile", start=last, end=part.end, detail=part.detail)
        return
    done = max(last, part.compiled[1])
    yield _Part(name="compile", start=last, end=done)
    yield _Part(name="answer", start=done, end=part.end, detail=part.detail)


def _pull(message: str) -> str:
    if _PRESENT in message:
        return "the image was there"
    found = _PULLED.search(message)
    return f"pulled {int(found[2]) / 1e9:.1f} GB in {go_seconds(found[1]):.0f} s" if found else ""


def go_seconds(text: str) -> float:
    """Return a duration of Go (1m2.3s) in seconds."""
    return sum(float(n) * _GO_UNITS[unit] for n, unit in re.findall(r"([0-9.]+)(h|ms|m|s|us|µs|ns)", text))


_BAR = 32
_COLUMNS = 80


def describe(found: Timeline) -> Iterator[str]:
    """Yield a timeline as text of 80 columns: the steps of each host that took half a second or more."""
    name = f"{found.role} group {found.group}".strip()
    what = "answered after" if found.answered else "no answer for"
    price = "" if found.usd is None else f", {found.usd:,.2f} USD"
    yield f"start of {name} at {found.since}"
    yield f"  {what} {found.seconds:,.0f} s, planned {found.planned:,.0f} s{price}"
    yield f"  {'':<10}{'from s':>8}{'took s':>8}{'plan s':>8}{'over s':>8}"
    ends = [step.start + step.seconds for member in found.members for step in member.steps]
    width = max([found.seconds, *ends, 1.0])
    for member in found.members:
        where = f"on {member.node}" if member.node else "has no node"
        yield f"  {member.member} {member.pod} {where}"[:_COLUMNS]
        for step in member.steps:
            if step.seconds < 0.5 and not step.running:
                continue
            yield _row(step, width)
            if step.detail:
                yield f"    {step.detail}"[:_COLUMNS]


def _row(step: Step, width: float) -> str:
    first = min(_BAR - 1, int(step.start / width * _BAR))
    length = max(1, round(step.seconds / width * _BAR))
    bar = " " * first + "#" * min(length, _BAR - first)
    plan = "" if step.planned is None else f"{step.planned:,.0f}"
    over = (
        "" if step.planned is None or step.seconds <= step.planned else f"+{step.seconds - step.planned:,.0f}"
    )
    going = "..." if step.running else ""
    text = f"  {step.name + going:<10.10}{step.start:>8,.0f}{step.seconds:>8,.0f}{plan:>8}{over:>8}"
    return f"{text}  {bar}"
