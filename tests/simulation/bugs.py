"""Bugs to plant in the decisions, each one that somebody could make or that was there once."""

# ruff: noqa: E501  a table of mistakes reads better on one line each

from __future__ import annotations

from tests.simulation.code import Bug

GROUP, WIRE, LEADER, WORKER = "manyhost_group", "manyhost_wire", "manyhost_leader", "manyhost_worker"

BUGS = (
    Bug("a worker's new process is not noticed", LEADER, "if peer.run != state.crew[rank - 1]:", "if False:", seed=145),
    Bug("silence ends at once", GROUP, '("gone", 22.5)', '("gone", 3.5)'),
    Bug("silence is never noticed", GROUP, '("silent", 3.5)', '("silent", 1e6)'),
    Bug("silence is noticed late", GROUP, '("silent", 3.5)', '("silent", 12)'),
    Bug("one refusal of /health ends", GROUP, '("bad", 2.5)', '("bad", 0)'),
    Bug("a working engine proves nothing", LEADER, "engine.moved > heard + limits.silent", "False"),
    Bug(
        "a start has a fixed budget",
        LEADER,
        "moved = max(state.since, seen.child.moved if seen.child else 0.0)",
        "moved = state.since",
    ),
    Bug("a start that hangs is waited for", LEADER, "if now - moved > limits.progress:", "if False:"),
    Bug(
        "the workers' progress counts for nothing",
        LEADER,
        "moved, percent = max(moved, peer.moved), max(percent, peer.percent)",
        "moved = min(moved, peer.moved)",
    ),
    Bug("a hung download is waited for", GROUP, "quiet = now - child.moved", "quiet = 0.0"),
    Bug(
        "quick download errors hold",
        GROUP,
        "failures >= limits.attempts and now - since >= limits.failing",
        "failures >= limits.attempts",
    ),
    Bug("a download is tried for ever", GROUP, "now - since >= limits.failing", "False"),
    Bug("a failure is counted twice", GROUP, "if state.over or", "if False or"),
    Bug("a busy port holds at once", LEADER, "if now - since >= limits.ports:", "if True:"),
    Bug("a taken port is waited for", LEADER, "if now - since >= limits.ports:", "if False:"),
    Bug(
        "a late host holds",
        LEADER,
        'actions.append(Phase("waiting", reason))',
        'return Decision(Held(state.me, now, reason), (Phase("held", reason),))',
    ),
    Bug(
        "a report of another leader's time is believed",
        LEADER,
        'if peer.state == "held" and peer.bound == me.run and now',
        'if peer.state == "held" and now',
    ),
    Bug(
        "a worker's failed engine is not noticed",
        LEADER,
        'if peer.state == "failed" and peer.attempt == state.me.attempt:',
        "if False:", seed=80),
    Bug(
        "the own engine's end is not noticed",
        LEADER,
        "if child is not None and child.status is not None:",
        "if False:",
    ),
    Bug("failures are tried for ever", LEADER, "or failed >= limits.attempts:", "or False:"),
    Bug("a wrong flag is tried again", LEADER, "if weight == HOPELESS or failed", "if failed"),
    Bug("lost members count as failures", LEADER, "state.me.failed + (weight != LOST)", "state.me.failed + 3"),
    Bug("ends after an answer are not counted", LEADER, "if deaths >= LIVES:", "if False:"),
    Bug("the first end after an answer holds", GROUP, "LIVES = 5", "LIVES = 1"),
    Bug(
        "no pause after an end",
        LEADER,
        "return _rearm(me, now, limits.backoff(deaths), reason, actions)",
        'return end(state, 1, reason, 0)  # made anew, and nobody counts',
    ),
    Bug("a stall is not seen", LEADER, "if engine.busy and still > limits.stall:", "if False:", seed=119),
    Bug("a stuck idle engine is not seen", LEADER, "+ limits.quiet", "+ INF"),
    Bug(
        "what the metrics do not say is a stall",
        LEADER,
        "if engine.busy and still > limits.stall:",
        "if engine.busy is not False and still > limits.stall:", seed=1085),
    Bug(
        "a prefill that gives no token is a stall",
        LEADER,
        "still = now - max(engine.moved, engine.busy_since)",
        "still = now - engine.busy_since",
    ),
    Bug(
        "a busy server is a dead one",
        LEADER,
        "if engine.bad_since and engine.bad_answers >= 3 and now - engine.bad_since > limits.bad:",
        "if now - engine.well_at > limits.bad:", seed=170),
    Bug(
        "errors are answers", LEADER, 'if engine.canary_bad:\n        return "the', 'if False:\n        return "the'
    ),
    Bug("a drain does not wait", LEADER, "if engine.idle_since:", "if True:", seed=2243),
    Bug("one refusal of /health makes unready", LEADER, "engine.bad_answers >= 2", "engine.bad_since"),
    Bug("a drain ends while clients are still sent", LEADER, "done = max(state.since + limits.leaving, ", "done = max(0.0, "),
    Bug("a drain has no end", LEADER, "if passed > limits.drain:", "if False:"),
    Bug(
        "a worker leaves without its leader",
        WORKER,
        'leader.state not in {"serving", "draining"}:',
        'leader.state != "x":',
    ),
    Bug("a worker that leaves is not waited for", LEADER, 'peer.state == "draining" and', "False and"),
    Bug("a worker follows one leader only", WORKER, "if leader is not None and leader.run != state.me.bound", "if leader is not None and not state.me.bound"),
    Bug("a worker drops its engine at once", WORKER, "if now - heard > limits.parted:", "if now - heard > limits.silent:"),
    Bug("a worker is ready without its leader", WORKER, "leader is None or now - leader.heard > limits.silent:\n        return False", "leader is None:\n        return False"),
    Bug("an attempt has no name of its own", LEADER, 'attempt=f"{state.me.run}-{number}"', 'attempt="1"'),
    Bug("any signature will do", WIRE, "return hmac.compare_digest(", "return True or hmac.compare_digest("),
    Bug("the generation is not part of the proof", WIRE, "{self.identity.generation}\\n{both}", "{both}"),
    Bug("the group is not part of the proof", WIRE, "\\n{self.identity.group}\\n", "\\n"),
    Bug("the key is not used", WIRE, "hmac.digest(self.identity.key, bound", 'hmac.digest(b"", bound'),
    Bug("deep JSON is a crash", WIRE, "except (ValueError, RecursionError):", "except ValueError:", seed=168),
    Bug("half a character is a crash", WIRE, 'one.encode(errors="replace"), other', "one.encode(), other"),
)  # fmt: skip
