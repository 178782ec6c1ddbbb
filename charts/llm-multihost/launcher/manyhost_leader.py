"""What the leader decides: when the engine starts, serves, drains, is started again, holds and ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from manyhost_group import (
    FORGIVE_SECONDS,
    INF,
    LIVES,
    Action,
    Armed,
    Canary,
    CheckPorts,
    Decision,
    Draining,
    Ended,
    Engine,
    Held,
    Limits,
    Me,
    Peer,
    Phase,
    Seen,
    Serving,
    Start,
    Starting,
    State,
    Stop,
    Weights,
    due,
    end,
    prepare,
)

LOST, EFFECT, ENGINE, HOPELESS = range(4)  # how much a failure tells about the cause


def decide(limits: Limits, state: State, seen: Seen, now: float) -> Decision:
    """Return what follows from what is seen now."""
    if isinstance(state, Ended):
        return Decision(state)
    if seen.stop and not isinstance(state, Serving | Draining):
        return end(state, 0, "asked to stop", 2.5 * limits.beat)
    return _STATES[type(state)](limits, state, seen, now)


def status(limits: Limits, state: State, seen: Seen, now: float) -> tuple[bool, str]:
    """Whether the group answers requests now; if not, why."""
    if not isinstance(state, Serving):
        reason = getattr(state, "reason", "")
        return False, reason
    why = (
        _unwell(limits, seen.engine, now)
        or _stalled(limits, seen.engine, now)
        or _doubted(limits, seen.engine, now)
    )
    for rank in range(1, limits.size):
        peer = seen.peers.get(rank)
        if why:
            break
        if peer is None or now - peer.heard > limits.silent:
            why = f"rank {rank} is silent"
        elif peer.attempt != state.me.attempt or peer.state not in {"engine", "serving"}:
            why = f"rank {rank}: {peer.state}"
    if not why and (seen.child is None or seen.child.status is not None):
        why = "the engine has ended"
    return not why, why


# ------------------------------------------------------------------------------------ before an attempt


def _in_weights(limits: Limits, state: Weights, seen: Seen, now: float) -> Decision:
    held = _held_by_worker(limits, state.me, seen, now)
    if held:
        return held
    return prepare(limits, state, seen, now, _awaited(limits, state.me, seen, now))


def _held_by_worker(limits: Limits, me: Me, seen: Seen, now: float) -> Decision | None:
    """A worker that holds holds the group; one that says so of another leader's time does not."""
    for rank, peer in sorted(seen.peers.items()):
        if peer.state == "held" and peer.bound == me.run and now - peer.heard <= limits.away:
            reason = f"rank {rank}: {peer.reason}"
            held = Held(me, now, reason, rank, peer.run)
            return Decision(held, (Phase("held", reason), Stop(2.5 * limits.beat)))
    return None


def _present(limits: Limits, me: Me, peer: Peer | None, now: float) -> bool:
    return peer is not None and now - peer.heard <= limits.away and peer.bound == me.run


def _missing(limits: Limits, me: Me, seen: Seen, now: float) -> list[int]:
    return [rank for rank in range(1, limits.size) if not _present(limits, me, seen.peers.get(rank), now)]


def _awaited(limits: Limits, me: Me, seen: Seen, now: float) -> str:
    """Which workers are not ready for an attempt, for a phase line."""
    late = []
    for rank in range(1, limits.size):
        peer = seen.peers.get(rank)
        if not _present(limits, me, peer, now) or peer is None:
            late.append(f"{rank}:absent")
        elif peer.state != "armed" or now - peer.heard > limits.silent:
            late.append(f"{rank}:{peer.state}")
    return ",".join(late) or "nobody"


def _in_armed(limits: Limits, state: Armed, seen: Seen, now: float) -> Decision:
    held = _held_by_worker(limits, state.me, seen, now)
    if held:
        return held
    if seen.child is not None and now - state.since > limits.killing:
        return end(state, 1, "the engine's processes do not end", 0)
    missing = _missing(limits, state.me, seen, now)
    since = (state.missing_since or now) if missing else 0.0
    if since != state.missing_since:
        state = dataclasses.replace(state, missing_since=since)
    if missing and state.me.served and now - since > limits.gone:
        # Only a new group brings a host back that was lost.
        return end(state, 1, f"rank {missing[0]} is gone", 0)
    actions: list[Action] = []
    if missing and now - since > limits.peer_wait and state.waiting != str(missing):
        reason = f"rank {', '.join(map(str, missing))} not seen for {now - since:.0f} s"
        state = dataclasses.replace(state, waiting=str(missing), reason=reason)
        actions.append(Phase("waiting", reason))
    awaited = _awaited(limits, state.me, seen, now)
    if state.waiting and not missing:
        state = dataclasses.replace(state, waiting="", reason="")
        actions.append(Phase("peers", "", (("waiting_for", awaited),)))
    if awaited != "nobody" or now < state.retry_at or seen.child is not None:
        heard = [peer.heard for peer in seen.peers.values()]
        kill = state.since + limits.killing + 0.001 if seen.child else INF
        gone = since + (limits.gone if state.me.served else limits.peer_wait) + 0.001 if missing else INF
        times = [at + limit + 0.001 for at in heard for limit in (limits.silent, limits.away)]
        return Decision(state, tuple(actions), due(now, state.retry_at, kill, gone, *times))
    return _begin(limits, state, seen, now, actions)


def _begin(limits: Limits, state: Armed, seen: Seen, now: float, actions: list[Action]) -> Decision:
    """Start the next attempt on all members, when the ports are free."""
    ports = seen.ports
    if not state.ports_asked or ports is None or ports.at < state.ports_asked:
        state = dataclasses.replace(state, ports_asked=now)
        return Decision(state, (*actions, CheckPorts()))
    if ports.busy:
        since = state.ports_busy_since or now
        if now - since >= limits.ports:
            return Decision(Held(state.me, now, ports.busy), (*actions, Phase("held", ports.busy)))
        if not state.ports_busy_since:
            actions.append(Phase("peers", ports.busy, (("waiting_for", "port"),)))
        state = dataclasses.replace(
            state, ports_busy_since=since, ports_asked=0.0, retry_at=now + limits.beat, reason=ports.busy
        )
        return Decision(state, tuple(actions), now + limits.beat)
    number = state.me.number + 1
    me = dataclasses.replace(state.me, number=number, attempt=f"{state.me.run}-{number}")
    crew = tuple(seen.peers[rank].run for rank in range(1, limits.size))
    begun = Starting(me, now, crew)
    phase = Phase("engine", "", _tries(limits, me))
    return Decision(begun, (*actions, phase, Start("engine")), now + limits.progress)


def _tries(limits: Limits, me: Me) -> tuple[tuple[str, object], ...]:
    return (("attempt", me.number), ("failed", me.failed), ("of", limits.attempts))


# ----------------------------------------------------------------------------------------- the engine


def _lost(limits: Limits, state: Starting | Serving | Draining, seen: Seen, now: float) -> tuple[int, str]:
    """The first member that is no longer part of this attempt: its rank and why; (0, "") when all are.

    Silence is not looked at: it is evidence of nothing yet.
    """
    for rank in range(1, limits.size):
        peer = seen.peers.get(rank)
        if peer is None or peer.bound != state.me.run:
            continue
        if peer.run != state.crew[rank - 1]:
            return rank, f"rank {rank} has started anew"
        if peer.state == "end":
            return rank, f"rank {rank} ended: {peer.reason}"
        if peer.state in {"armed", "weights"} and peer.attempt == state.me.attempt:
            return rank, f"rank {rank} gave the attempt up"
    return 0, ""


def _broken(state: Starting | Serving | Draining, seen: Seen) -> list[tuple[int, str]]:
    """Engines of this attempt that have ended, here and elsewhere, each with its weight."""
    found = []
    child = seen.child
    if child is not None and child.status is not None:
        found.append((HOPELESS if child.hopeless else ENGINE, child.why))
    for rank, peer in sorted(seen.peers.items()):
        if peer.state == "failed" and peer.attempt == state.me.attempt:
            found.append((HOPELESS if peer.hopeless else ENGINE, f"rank {rank}: {peer.reason}"))
        elif peer.state == "held" and peer.bound == state.me.run:
            found.append((HOPELESS, f"rank {rank}: {peer.reason}"))
    return found


def _in_starting(limits: Limits, state: Starting, seen: Seen, now: float) -> Decision:
    found, wake = _start_failures(limits, state, seen, now)
    new = tuple(one for one in found if one not in state.failures)
    if new:
        # The cause on one member and its effects on the others arrive together.
        settle = state.settle_at or now + limits.beat
        state = dataclasses.replace(state, failures=state.failures + new, settle_at=settle)
    if state.failures:
        if now >= state.settle_at:
            return _fail(limits, state, now)
        return Decision(state, (), state.settle_at)
    if seen.engine is not None and seen.engine.answered:
        me = dataclasses.replace(state.me, served=True, failed=0)
        serving = Serving(me, now, state.crew, now)
        return Decision(serving, (Phase("serving", "", (("attempt", me.number),)),), now)
    return Decision(state, (), wake)


def _start_failures(
    limits: Limits, state: Starting, seen: Seen, now: float
) -> tuple[list[tuple[int, str]], float]:
    """What is wrong with this attempt; and when to look again."""
    found = _broken(state, seen)
    rank, why = _lost(limits, state, seen, now)
    if rank:
        found.append((LOST, why))
    moved = max(state.since, seen.child.moved if seen.child else 0.0)
    percent = seen.child.percent if seen.child else -1
    wake = INF
    for rank in range(1, limits.size):
        peer = seen.peers.get(rank)
        # A load goes on without the launchers' connection: what it cost so far is not thrown away for it.
        if peer is None or now - peer.heard > limits.parted:
            found.append((LOST, f"rank {rank}: connection lost"))
            continue
        wake = min(wake, peer.heard + limits.parted + 0.001)
        if peer.attempt == state.me.attempt:
            moved, percent = max(moved, peer.moved), max(percent, peer.percent)
    engine = seen.engine
    if engine is not None and engine.failure:
        found.append((HOPELESS if engine.hopeless else EFFECT, engine.failure))
    if now - moved > limits.progress:
        at = f" at {percent} %" if percent >= 0 else ""
        found.append((EFFECT, f"the start made no progress for {limits.progress:.0f} s{at}"))
    return found, min(wake, moved + limits.progress + 0.001)


def _fail(limits: Limits, state: Starting, now: float) -> Decision:
    """End this attempt everywhere; hold, or arm the next one."""
    weight, reason = max(state.failures, key=lambda one: one[0])  # the first of its kind
    # A lost member says nothing about the engine, and the next attempt waits for it anyway.
    failed = state.me.failed + (weight != LOST)
    me = dataclasses.replace(state.me, failed=failed)
    actions = (Phase("attempt", reason, _tries(limits, me)), Stop(2.5 * limits.beat))
    if weight == HOPELESS or failed >= limits.attempts:
        text = reason if weight == HOPELESS else f"{failed} of {limits.attempts} attempts failed: {reason}"
        return Decision(Held(me, now, text), (*actions, Phase("held", text)))
    return _rearm(me, now, limits.backoff(failed or 1), reason, actions)


def _rearm(me: Me, now: float, pause: float, reason: str, actions: tuple[Action, ...]) -> Decision:
    return Decision(Armed(me, now, now + pause, reason=reason), actions, now + pause)


def _unwell(limits: Limits, engine: Engine | None, now: float) -> str:
    """Why requests should go elsewhere for a while; it may pass."""
    if engine is None:
        return "the engine is not watched"
    if engine.bad_answers >= 2:
        return "the engine's /health fails"
    if engine.canary_bad:
        return "the engine answers a request of one token with an error"
    if now - engine.well_at >= limits.stall:
        return f"the engine's /health gave no answer for {now - engine.well_at:.0f} s"
    return ""


def _doubted(limits: Limits, engine: Engine | None, now: float) -> str:
    """A request of one token is open for longer than an idle engine takes; it may still come."""
    if not engine or not engine.canary_since or engine.busy is None:
        return ""
    if now - max(engine.canary_since, engine.moved) > limits.silent:
        return "an idle engine has not answered a request of one token"
    return ""


def _stalled(limits: Limits, engine: Engine | None, now: float) -> str:
    """Why the engine counts as stuck, or nothing. What the metrics do not say is unknown, not idle."""
    if engine is None:
        return ""
    still = now - max(engine.moved, engine.busy_since)
    if engine.busy and still > limits.stall:
        return f"requests wait and nothing moved for {still:.0f} s"
    still = now - max(engine.canary_since, engine.moved)
    if engine.canary_since and engine.busy is not None and still > limits.canary:
        return f"the idle engine gave no token for {still:.0f} s"
    if now - engine.heard > 5 * limits.stall:
        return f"the engine's HTTP server answered nothing for {now - engine.heard:.0f} s"
    return ""


def _dead(limits: Limits, state: Serving, seen: Seen, now: float) -> str:
    """Why the engine must be started again, or nothing."""
    broken = _broken(state, seen)
    if broken:
        _, why = max(broken, key=lambda one: one[0])
        return f"engine ended: {why}"
    _, why = _lost(limits, state, seen, now)
    if why:
        return why
    engine = seen.engine
    if engine is not None:
        if engine.bad_since and engine.bad_answers >= 3 and now - engine.bad_since > limits.bad:
            return "the engine's /health fails"
        if engine.canary_bad >= 3:
            return "the engine answers requests of one token with errors"
    return _stalled(limits, engine, now)


def _in_serving(limits: Limits, state: Serving, seen: Seen, now: float) -> Decision:
    dead = _dead(limits, state, seen, now)
    if dead:
        if seen.stop:
            return end(state, 1, dead, limits.beat)
        return _die(limits, state, now, dead)
    engine = seen.engine
    doubt, times = False, []
    leaving = 0
    for rank in range(1, limits.size):
        peer = seen.peers.get(rank)
        heard = peer.heard if peer else state.since
        silence = now - heard
        times += [heard + limits.silent + 0.001, heard + limits.gone + 0.001, heard + limits.parted + 0.001]
        if silence > limits.silent:
            doubt = True
            # An engine over all hosts that still completes steps proves them alive: the network between
            # the launchers is what is broken. It is believed for a while only.
            proved = engine is not None and engine.moved > heard + limits.silent
            if silence > limits.parted or (silence > limits.gone and not proved):
                return end(state, 1, f"rank {rank} is gone", 0)
        if peer and peer.state == "draining" and peer.bound == state.me.run:
            leaving = leaving or rank
    if seen.stop or leaving:
        reason = "asked to stop" if seen.stop else f"rank {leaving} is leaving"
        return Decision(Draining(state.me, now, reason, state.crew), (Phase("draining", reason),), now)
    if engine is None:
        return Decision(state, (), due(now, *times))
    ask = _canary_at(limits, state, engine, doubt)
    if now >= ask:
        return Decision(dataclasses.replace(state, canary_at=now), (Canary(),), now)
    if engine.busy:
        times.append(max(engine.moved, engine.busy_since) + limits.stall + 0.001)
    if engine.canary_since:
        asked = max(engine.canary_since, engine.moved)
        times += [asked + limits.silent + 0.001, asked + limits.canary + 0.001]
    if engine.bad_since:
        times.append(engine.bad_since + limits.bad + 0.001)
    times += [engine.well_at + limits.stall, engine.heard + 5 * limits.stall + 0.001, ask]
    return Decision(state, (), due(now, *times))


def _canary_at(limits: Limits, state: Serving, engine: Engine, doubt: bool) -> float:
    """When to ask for a token: after a quiet minute, sooner when there is a doubt; never under load.

    Without metrics nobody knows of a load: then only a doubt is worth the risk to stand in a queue.
    """
    if engine.busy or engine.canary_since or (engine.busy is None and not doubt):
        return INF
    if doubt or engine.canary_bad:
        return state.canary_at + limits.bad
    return max(state.canary_at, engine.moved, engine.idle_since) + limits.quiet


def _die(limits: Limits, state: Serving, now: float, reason: str) -> Decision:
    """An engine that had answered has ended or is stuck: again in place, or hold."""
    forgiven = int((now - state.since) / FORGIVE_SECONDS)
    deaths = max(0, state.me.deaths - forgiven) + 1
    me = dataclasses.replace(state.me, deaths=deaths, failed=0)
    actions: tuple[Action, ...] = (
        Phase("attempt", reason, (("deaths", deaths), ("of", LIVES))),
        Stop(limits.beat),
    )
    if deaths >= LIVES:
        text = f"the engine ended {deaths} times after it had answered, last: {reason}"
        return Decision(Held(me, now, text), (*actions, Phase("held", text)))
    return _rearm(me, now, limits.backoff(deaths), reason, actions)


def _in_draining(limits: Limits, state: Draining, seen: Seen, now: float) -> Decision:
    """Unready; let requests in flight finish."""
    broken = _broken(state, seen)
    if broken:
        return end(state, 1, f"engine ended while draining: {broken[0][1]}", 0)
    _, why = _lost(limits, state, seen, now)
    stuck = _stalled(limits, seen.engine, now)
    if why or stuck:
        return end(state, 1, f"while draining: {why or stuck}", limits.beat)
    passed = now - state.since
    engine = seen.engine
    times = [state.since + limits.drain + 0.001]
    for rank in range(1, limits.size):
        peer = seen.peers.get(rank)
        heard = peer.heard if peer else state.since
        if now - heard > limits.gone:
            return end(state, 1, f"rank {rank} is gone while draining", 0)
        times.append(heard + limits.gone + 0.001)
    if engine is not None:
        if now - engine.heard > limits.stall:
            return end(state, 1, f"nothing heard of the engine for {limits.stall:.0f} s while draining", 3)
        times.append(engine.heard + limits.stall + 0.001)
        if engine.busy:
            times.append(max(engine.moved, engine.busy_since) + limits.stall + 0.001)
        if engine.canary_since:
            times.append(max(engine.canary_since, engine.moved) + limits.canary + 0.001)
        if engine.idle_since:
            # Proxies learn late that this pod is leaving: requests still come for some seconds, each of
            # them perhaps too short to be seen but for the counters that it moved.
            idle = max(engine.idle_since, engine.moved)
            done = max(state.since + limits.leaving, idle + limits.beat)
            if now >= done:
                return end(state, 0, "drained", 5 * limits.beat)
            times.append(done)
    if passed > limits.drain:
        text = f"drain ended after {passed:.0f} s with requests in flight"
        return end(state, 0, text, 5 * limits.beat)
    return Decision(state, (), due(now, *times))


def _in_held(limits: Limits, state: Held, seen: Seen, now: float) -> Decision:
    """Stay; connections stay open so that workers learn the reason."""
    peer = seen.peers.get(state.rank)
    if state.rank and peer is not None and peer.run != state.run and now - peer.heard <= limits.away:
        # What held was another incarnation of that member.
        return Decision(Weights(Me(state.me.run, number=state.me.number)), (Stop(0),), now)
    return Decision(state)


_STATES: dict[type, Callable[[Limits, Any, Seen, float], Decision]] = {
    Weights: _in_weights,
    Armed: _in_armed,
    Starting: _in_starting,
    Serving: _in_serving,
    Draining: _in_draining,
    Held: _in_held,
}
