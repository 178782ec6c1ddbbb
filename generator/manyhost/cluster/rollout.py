"""Waiting for a release until every host answers, and saying why one does not."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from manyhost.cluster.connection import Connection, Forbidden, Refused, Unreachable
from manyhost.cluster.lease import released
from manyhost.cluster.observe import Look, Observer
from manyhost.cluster.phases import ENGINE_CONTAINER, Host, Problem
from manyhost.cluster.release import newest
from manyhost.cluster.router import CONTAINER as ROUTER_CONTAINER
from manyhost.cluster.target import Place
from manyhost.errors import Failed, NotReady

_LOOK_SECONDS = 1.0  # between two looks
_EVENTS_AFTER = 4.0  # without progress, before the namespace's events are read
_EVENTS_EVERY = 5.0
_SCHEDULER_SECONDS = 3.0  # a pod may be unschedulable for a moment while another one leaves
_RECREATIONS = 3  # of one group without it ever having been ready: it will not get better
_CONTROLLER_SECONDS = 5.0  # LWS before v0.9 does not say whether it has seen a change
# Their sentences carry counts and times: said once.
_VARYING = {"unschedulable", "lost", "ending", "finalizer"}
# What the cluster lacks; other problems are of what was asked for.
_CLUSTER = _VARYING | {"quota", "limits", "evicted", "network", "volume"}
_DENIED_SECONDS = 30.0  # an API server that has just come back knows no permissions yet


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened while waiting.

    Attributes:
        event: phase, router, problem, recreated, lost, back or ready.
        seconds: Since the wait began.
        role: prefill or decode, where these are apart.
        group: Which group; -1 when it is about none.
        host: Which host of the group; -1 when it is about none.
        pod: The host's pod.
        node: The node it runs on.
        phase: The phase it has reached.
        text: More about it, or the problem in one sentence.
        fix: What to do about a problem.
        log: The last lines of a crashed engine.
    """

    event: str
    seconds: float
    role: str = ""
    group: int = -1
    host: int = -1
    pod: str = ""
    node: str = ""
    phase: str = ""
    text: str = ""
    fix: str = ""
    log: list[str] = []


Report = Callable[[Event], None]


class Wait:
    """One wait for one release.

    Args:
        connection: The cluster.
        place: The release.
        timeout: Seconds until it gives up.
        report: Receives every event as it happens.
    """

    def __init__(self, connection: Connection, place: Place, *, timeout: float, report: Report) -> None:
        self._observer = Observer(connection, place)
        self._connection = connection
        self._place = place
        self._release = place.release
        self._timeout = timeout
        self._report = report
        self._begin = time.monotonic()
        self._wall = connection.now()
        self._known: dict[str, Host] = {}
        self._router = ""
        self._problems: dict[tuple[str, str], tuple[float, Problem]] = {}
        self._recreations: dict[tuple[str, int], int] = {}
        self._causes: dict[tuple[str, int], str] = {}  # why a group last ended
        self._warnings: list[Problem] = []
        self._lost = False
        self._seen = False
        self._denied_at: float | None = None
        self._moved = 0.0
        self._events_read = 0.0

    def run(self) -> Look:
        """Wait until every host of every group is ready with the newest template.

        Raises:
            Failed: A host has given up, a group keeps crashing, the janitor frees the hosts, or time is up.
            NotReady: Time is up and the cluster has no place, or it cannot be reached any more.
        """
        look = Look(exists=False)
        while True:
            seen = self._look()
            if seen is not None:
                if seen.removal or (look.exists and not seen.exists):
                    raise self._removed(seen)
                look = seen
                if freed := released(look.sets):
                    raise Failed(
                        f"its hosts were freed while this waited: {freed.why}",
                        where=f"release {self._release}",
                        fix=f"cure it; {self._connection.commands.manyhost('deploy')} starts it again",
                    )
                self._follow(look)
                if self._done(look):
                    self._say("ready")
                    return look
                self._explain(look)
                self._give_up()
            if self._seconds() >= self._timeout:
                raise self._late(look)
            time.sleep(_LOOK_SECONDS if seen is not None else 2 * _LOOK_SECONDS)

    # ------------------------------------------------------------------ inside
    def _seconds(self) -> float:
        return round(time.monotonic() - self._begin, 1)

    def _look(self) -> Look | None:
        """Look once; None while the API server does not answer."""
        try:
            look = self._observer.look()
        except (Unreachable, Refused) as error:
            if not self._passes(error):
                raise
            if not self._lost:
                self._lost = True
                self._say("lost", text=f"{error.message}; still waiting")
            return None
        self._seen, self._denied_at = True, None
        if self._lost:
            self._lost = False
            self._say("back", text="the Kubernetes API answers again")
        return look

    def _passes(self, error: Unreachable | Refused) -> bool:
        """Whether an error may be over soon: no answer, a server in trouble, permissions not loaded yet."""
        if isinstance(error, Unreachable):
            return True
        if isinstance(error, Forbidden):
            self._denied_at = self._seconds() if self._denied_at is None else self._denied_at
            return self._seen and self._seconds() - self._denied_at < _DENIED_SECONDS
        return error.status >= 500 or error.status == 429

    def _removed(self, look: Look) -> Failed:
        """The release is taken away from under the wait: say by whom, as far as the cluster knows."""
        found = newest(self._connection, self._place)
        if found is None or found.status.startswith("uninstall"):
            who = "a teardown or helm uninstall"
        else:
            who = f"somebody by hand (Helm still has revision {found.revision}, {found.status})"
        text = look.removal.message if look.removal else f"its LeaderWorkerSet {self._release} has gone"
        fix = look.removal.fix if look.removal else ""
        return Failed(
            f"{text}: removed by {who} while this waited for it",
            where=f"release {self._release}",
            fix=fix or f"when that is done: {self._connection.commands.manyhost('deploy')}",
        )

    def _done(self, look: Look) -> bool:
        if not look.complete:
            return False
        return look.settled is not None or self._seconds() >= _CONTROLLER_SECONDS

    def _follow(self, look: Look) -> None:
        """Report the hosts that have moved, and the groups that were made anew."""
        anew: dict[tuple[str, int], Host] = {}
        for host in look.hosts:
            before = self._known.get(host.pod)
            self._known[host.pod] = host
            # A group lives as long as its leader: while that goes, a worker may come for it, and go with it.
            if host.host == 0 and before and before.uid and host.uid and before.uid != host.uid:
                anew[host.place] = before
            if before is None or (before.phase, before.detail, before.uid) != (
                host.phase,
                host.detail,
                host.uid,
            ):
                self._moved = self._seconds()
                if host.phase != "absent":
                    self._say("phase", host, phase=host.phase, text=host.detail)
        if look.router and look.router.text != self._router:
            self._router = look.router.text
            self._moved = self._seconds()
            self._say("router", text=self._router)
        for host in look.hosts:
            if host.last_words:
                self._causes[host.place] = host.last_words
        for group, before in anew.items():
            if before.revision != self._known[before.pod].revision:
                self._forget(group)  # the roll-out itself, no failure
                continue
            self._recreations[group] = self._recreations.get(group, 0) + 1
            names = {host.pod for host in self._known.values() if host.place == group}
            cause = next((p.message for (_, name), (_, p) in self._problems.items() if name in names), "")
            cause = self._causes.get(group) or cause
            self._causes[group] = cause
            self._say("recreated", before, text=cause or "the group was made anew")
            self._forget(group)
        for group in {host.place for host in look.hosts}:
            if all(host.phase == "ready" for host in look.hosts if host.place == group):
                self._recreations.pop(group, None)
                self._causes.pop(group, None)

    def _forget(self, group: tuple[str, int]) -> None:
        names = {host.pod for host in self._known.values() if host.place == group}
        self._problems = {key: value for key, value in self._problems.items() if key[1] not in names}

    def _explain(self, look: Look) -> None:
        now = self._seconds()
        current: dict[tuple[str, str], Problem] = {}
        for host in look.hosts:
            if host.problem:
                current[host.problem.kind, host.pod] = host.problem
        for pod, problem in look.router.problems if look.router else ():
            current[problem.kind, pod] = problem
        stalled = now - self._moved >= _EVENTS_AFTER
        if stalled and now - self._events_read >= _EVENTS_EVERY:
            self._events_read = now
            self._warnings = self._warned()
        if stalled:
            for problem in self._warnings:
                current.setdefault((problem.kind, problem.message.split(":")[0]), problem)
        hosts = {host.pod: host for host in look.hosts}
        for key, problem in current.items():
            first, said = self._problems.get(key, (now, None))
            if problem.kind == "unschedulable" and now - first < _SCHEDULER_SECONDS:
                self._problems[key] = (first, said or _SILENT)
                continue
            if (
                said is None
                or said is _SILENT
                or (said.kind not in _VARYING and said.message != problem.message)
            ):
                own = ENGINE_CONTAINER if key[1] in hosts else ROUTER_CONTAINER
                told = problem.kind in {"crash", "held"}
                log = self._observer.tail(key[1], container=own) if told else []
                self._say("problem", hosts.get(key[1]), text=problem.message, fix=problem.fix, log=log)
            self._problems[key] = (first, problem)
        for key in [key for key in self._problems if key not in current and key[0] != "crash"]:
            del self._problems[key]

    def _warned(self) -> list[Problem]:
        try:
            return self._observer.events(self._wall)
        except (Unreachable, Refused):
            return []  # an explanation less; the next look tells whether the server is there

    def _give_up(self) -> None:
        now = self._seconds()
        for first, problem in self._problems.values():
            if problem.patience is not None and now - first >= problem.patience:
                raise Failed(problem.message, where=f"release {self._release}", fix=problem.fix)
        for (role, group), times in self._recreations.items():
            name = f"{role} group {group}".strip()
            if times >= _RECREATIONS:
                cause = self._causes.get((role, group), "")
                raise Failed(
                    f"{name} was made anew {times} times without becoming ready"
                    f"{f': {cause}' if cause else ''}",
                    where=f"release {self._release}",
                    fix=f"{self._logs(role, group)} shows what its engine says",
                )

    def _late(self, look: Look) -> NotReady | Failed:
        where = f"release {self._release}"
        commands = self._connection.commands
        status = commands.manyhost("status")
        if self._lost:
            return NotReady(
                f"the Kubernetes API does not answer; gave up after {self._timeout:.0f} s",
                where=where,
                fix=f"when it answers again, {status} says how it is",
            )
        if not look.exists:
            return NotReady(
                f"its LeaderWorkerSet does not exist after {self._timeout:.0f} s",
                where=where,
                fix=f"{commands.manyhost('doctor')} says what is missing",
            )
        problem = next((p for _, p in self._problems.values() if p is not _SILENT), None)
        if problem:
            kind = NotReady if problem.kind in _CLUSTER else Failed
            return kind(
                f"not ready after {self._timeout:.0f} s: {problem.message}", where=where, fix=problem.fix
            )
        slow = [host for host in look.hosts if host.phase != "ready"]
        waited = [f"{host.pod} in {host.phase}" for host in slow[:4]]
        if look.router and not look.router.complete:
            waited.append(look.router.text)
        text = ", ".join(waited) or "its controller has not caught up"
        return Failed(
            f"not ready after {self._timeout:.0f} s: {text}",
            where=where,
            fix=f"{commands.manyhost('deploy', '--timeout', f'{2 * self._timeout:.0f}')} waits on; "
            f"{self._logs(slow[0].role, slow[0].group) if slow else status} shows how far it is",
        )

    def _logs(self, role: str, group: int) -> str:
        options = [
            *(("--prefill",) if role == "prefill" else ()),
            *(("--group", str(group)) if group else ()),
        ]
        return self._connection.commands.manyhost("logs", *options)

    def _say(
        self,
        event: str,
        host: Host | None = None,
        *,
        phase: str = "",
        text: str = "",
        fix: str = "",
        log: list[str] | None = None,
    ) -> None:
        self._report(
            Event(
                event=event,
                seconds=self._seconds(),
                role=host.role if host else "",
                group=host.group if host else -1,
                host=host.host if host else -1,
                pod=host.pod if host else "",
                node=host.node if host else "",
                phase=phase,
                text=text,
                fix=fix,
                log=log or [],
            )
        )


_SILENT = Problem("", "", "", None)  # seen, not yet worth a word
