"""What a worker decides: it does what its leader says and says how its own engine is."""

from __future__ import annotations

import dataclasses

from manyhost_group import (
    INF,
    Action,
    Armed,
    Decision,
    Draining,
    Ended,
    Failed,
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


def decide(limits: Limits, state: State, seen: Seen, now: float) -> Decision:
    """Return what follows from what is seen now."""
    leader = seen.peers.get(0)
    if isinstance(state, Ended):
        return Decision(state)
    if seen.stop:
        return _leave(limits, state, seen, leader, now)
    if leader is not None and leader.run != state.me.bound and leader.state != "end":
        return _bind(limits, state, leader, now)
    if isinstance(state, Weights):
        return prepare(limits, state, seen, now, "leader")
    if isinstance(state, Armed):
        return _in_armed(limits, state, seen, leader, now)
    if isinstance(state, Starting | Serving):
        return _in_engine(limits, state, seen, leader, now)
    if isinstance(state, Failed):
        return _in_failed(limits, state, leader, now)
    return Decision(state)


def status(limits: Limits, state: State, seen: Seen, now: float) -> tuple[bool, str]:
    """Whether this member is part of a group that answers; if not, why."""
    leader = seen.peers.get(0)
    if not isinstance(state, Serving):
        reason = getattr(state, "reason", "")
        return False, reason
    if leader is None or now - leader.heard > limits.silent:
        return False, "the leader is silent"
    if leader.state != "serving" or leader.attempt != state.me.attempt:
        return False, f"the leader: {leader.state}"
    if seen.child is None or seen.child.status is not None:
        return False, "the engine has ended"
    return True, ""


def _bind(limits: Limits, state: State, leader: Peer, now: float) -> Decision:
    """Follow another leader, or the first one: what was said and done for the last one is void."""
    me = Me(state.me.run, bound=leader.run)
    if not state.me.bound:
        return Decision(dataclasses.replace(state, me=me), (), now)
    if isinstance(state, Weights):
        return Decision(dataclasses.replace(state, me=me), (), now)
    if isinstance(state, Held):
        return Decision(Weights(me), (), now)  # perhaps it was cured meanwhile
    actions: tuple[Action, ...] = ()
    if isinstance(state, Starting | Serving):
        actions = (Phase("attempt", "the leader has started anew"), Stop(2.5 * limits.beat))
    return Decision(Armed(me, now), actions, now)


def _leave(limits: Limits, state: State, seen: Seen, leader: Peer | None, now: float) -> Decision:
    """SIGTERM: a member of a group that serves stays until the leader has drained."""
    gone = leader is None or now - leader.heard > limits.silent or leader.run != state.me.bound
    part = isinstance(state, Serving | Draining) or (
        isinstance(state, Starting) and not gone and leader is not None and leader.state == "serving"
    )
    ended = seen.child is None or seen.child.status is not None
    if not part or gone or ended or leader is None or leader.state not in {"serving", "draining"}:
        return end(state, 0, "asked to stop", 2.5 * limits.beat)
    if not isinstance(state, Draining):
        reason = "asked to stop"
        return Decision(Draining(state.me, now, reason), (Phase("draining", reason),), now)
    limit = state.since + limits.drain + 5 * limits.beat
    if now > limit:
        return end(state, 0, "asked to stop; the leader did not drain in time", 2.5 * limits.beat)
    return Decision(state, (), due(now, limit + 0.001, leader.heard + limits.silent + 0.001))


def _in_armed(limits: Limits, state: Armed, seen: Seen, leader: Peer | None, now: float) -> Decision:
    """Wait for the leader's word."""
    if seen.child is not None and now - state.since > limits.killing:
        return end(state, 1, "the engine's processes do not end", 0)
    kill = state.since + limits.killing + 0.001 if seen.child is not None else INF
    heard = max(leader.heard, state.since) if leader else state.since
    if leader is None or now - leader.heard > limits.away:
        if state.me.served and now - heard > limits.gone:
            return end(state, 1, "leader is gone", 0)
        if now - heard > limits.peer_wait and not state.waiting:
            reason = f"leader not reached for {now - heard:.0f} s"
            return Decision(
                dataclasses.replace(state, waiting="leader", reason=reason), (Phase("waiting", reason),), now
            )
        limit = limits.gone if state.me.served else limits.peer_wait
        return Decision(state, (), due(now, heard + limit + 0.001, kill))
    if leader.state == "held":
        if state.reason != leader.reason:
            held = dataclasses.replace(state, reason=leader.reason)
            return Decision(held, (Phase("held", f"leader: {leader.reason}"),), now)
        return Decision(state)
    if state.waiting or state.reason:
        told = Phase("peers", "", (("waiting_for", "leader"),))
        return Decision(dataclasses.replace(state, waiting="", reason=""), (told,), now)
    if leader.state == "engine" and leader.attempt != state.me.attempt and seen.child is None:
        me = dataclasses.replace(state.me, attempt=leader.attempt, served=False)
        return Decision(
            Starting(me, now), (Phase("engine", "", _attempt(me)), Start("engine", leader.address))
        )
    return Decision(state, (), due(now, leader.heard + limits.away + 0.001, kill))


def _in_engine(
    limits: Limits, state: Starting | Serving, seen: Seen, leader: Peer | None, now: float
) -> Decision:
    """Run the engine until it ends or the leader says otherwise."""
    child = seen.child
    if child is None or child.status is not None:
        why = child.why if child else "no process"
        failed = Failed(state.me, now, why, bool(child and child.hopeless))
        return Decision(failed, (Phase("attempt", why), Stop(0)), now)
    serving = isinstance(state, Serving)
    heard = leader.heard if leader else state.since
    if now - heard > limits.parted:
        if serving:
            return end(state, 1, "leader is gone", 0)
        return _rearm(limits, state, now, "leader lost")
    if leader is not None and leader.run == state.me.bound:
        if leader.state not in {"engine", "serving", "draining"} or leader.attempt != state.me.attempt:
            why = f"leader ended: {leader.reason}" if leader.state == "end" else leader.reason
            return _rearm(limits, state, now, why or "the attempt failed")
        if leader.state == "serving" and not serving:
            me = dataclasses.replace(state.me, served=True)
            return Decision(Serving(me, now), (Phase("serving", "", _attempt(me)),), now)
    return Decision(state, (), due(now, heard + limits.silent + 0.001, heard + limits.parted + 0.001))


def _attempt(me: Me) -> tuple[tuple[str, object], ...]:
    return (("attempt", me.attempt.rpartition("-")[2]),)


def _rearm(limits: Limits, state: State, now: float, reason: str) -> Decision:
    return Decision(Armed(state.me, now), (Phase("attempt", reason), Stop(2.5 * limits.beat)), now)


def _in_failed(limits: Limits, state: Failed, leader: Peer | None, now: float) -> Decision:
    """Say so until the leader has reacted."""
    heard = max(leader.heard, state.since) if leader else state.since
    if now - heard > limits.gone:
        if state.me.served:
            return end(state, 1, "leader is gone", 0)
        return Decision(Armed(state.me, now), (), now)
    if leader is not None and leader.run == state.me.bound:
        over = leader.state not in {"engine", "serving", "draining"} or leader.attempt != state.me.attempt
        if over:
            return Decision(Armed(state.me, now), (), now)
    return Decision(state, (), heard + limits.gone + 0.001)
