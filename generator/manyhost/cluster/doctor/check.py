"""What a check is, what it sees, and how checks are run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Literal

import msgspec

from manyhost.cluster import gke
from manyhost.cluster.connection import Connection, Forbidden, path_of
from manyhost.cluster.target import Target
from manyhost.cluster.threads import pool
from manyhost.errors import ManyhostError

Status = Literal["pass", "warn", "fail", "skip"]
_WORKERS = 6
UNSEEN = "could not look: "


class Result(msgspec.Struct, frozen=True):
    """What a check has found.

    Attributes:
        check: Name of the check.
        status: pass; warn: may not work or could not be looked at; fail: would not work; skip: does not
            apply, or what it builds on has failed.
        why: One sentence.
        fix: What to do about it, as manyhost.commands says; empty for a pass.
    """

    check: str
    status: Status
    why: str
    fix: str = ""


Finding = tuple[Status, str, str]


def passed(why: str) -> Finding:
    """All is well."""
    return "pass", why, ""


def warned(why: str, fix: str = "") -> Finding:
    """It may not work, or nobody could tell."""
    return "warn", why, fix


def failed(why: str, fix: str) -> Finding:
    """It would not work."""
    return "fail", why, fix


def skipped(why: str) -> Finding:
    """It does not apply."""
    return "skip", why, ""


class Sight:
    """What checks look at: the target, the cluster, and lists that several of them need, read once.

    Args:
        connection: The cluster.
        target: What would be deployed.

    Attributes:
        commands: Builds the commands of fixes.
    """

    def __init__(self, connection: Connection, target: Target) -> None:
        self.connection = connection
        self.target = target
        self.commands = connection.commands
        if not self.commands.recipe:  # nobody has said how the user names it
            self.commands = self.commands._replace(
                recipe=target.recipe, release=target.release, namespace=target.namespace
            )
        self._kept: dict[str, Any] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    @property
    def gke(self) -> tuple[str, ...]:
        """The cluster as gcloud's commands want it named."""
        return gke.named(self.target.plan.settings.site, self.connection.context)

    def once(self, key: str, read: Callable[[], Any]) -> Any:
        """Return what `read` returns, read at most once for a key."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._kept:
                self._kept[key] = read()
            return self._kept[key]

    def find(self, version: str, plural: str, name: str, namespace: str = "") -> dict[str, Any] | None:
        """Return one object, or None."""
        return self.connection.find(path_of(version, plural, namespace, name))

    def namespace(self, name: str) -> dict[str, Any] | None:
        """Return a namespace, or None."""
        found: dict[str, Any] | None = self.once(
            f"namespace {name}", lambda: self.find("v1", "namespaces", name)
        )
        return found

    def namespace_labels(self, name: str) -> dict[str, str]:
        """Return a namespace's labels; to who may not look at it, the one that all of them have."""
        try:
            found = self.namespace(name)
        except Forbidden as error:
            if error.status == 401:
                raise
            found = None
        labels = ((found or {}).get("metadata") or {}).get("labels") or {}
        return {"kubernetes.io/metadata.name": name, **labels}

    def list(self, version: str, plural: str, namespace: str = "", **options: Any) -> list[dict[str, Any]]:
        """Return a collection; Missing when the cluster has no such resource type."""
        path = path_of(version, plural, namespace)
        key = f"{path} {sorted(options.items())}"
        found: list[dict[str, Any]] = self.once(
            key, lambda: list(self.connection.pages(path, dict[str, Any], **options))
        )
        return found


Function = Callable[[Sight], Finding | list[Finding]]


class Check(msgspec.Struct, frozen=True):
    """A check.

    Attributes:
        name: What --skip and the reports call it.
        asks: The question it answers, for the reference page.
        run: The function.
        needs: Checks that must not have failed for this one to make sense.
        cheap: Whether deploy runs it too.
    """

    name: str
    asks: str
    run: Function
    needs: tuple[str, ...]
    cheap: bool


CHECKS: dict[str, Check] = {}


def check(
    name: str, asks: str, *, needs: tuple[str, ...] = ("api",), cheap: bool = False
) -> Callable[[Function], Function]:
    """Register a check; checks report in the order of registration."""

    def register(function: Function) -> Function:
        CHECKS[name] = Check(name, asks, function, needs, cheap)
        return function

    return register


def run(sight: Sight, checks: Iterable[Check]) -> list[Result]:
    """Run checks, those that do not build on one another at the same time.

    Args:
        sight: What they look at.
        checks: In an order in which a check stands behind all that it needs.

    Returns:
        The results in the order of the checks; a check may have several.
    """
    futures: dict[str, Future[list[Result]]] = {}
    with pool(_WORKERS) as threads:
        for item in checks:
            needed = {name: futures[name] for name in item.needs if name in futures}
            futures[item.name] = threads.submit(_run, item, sight, needed)
        return [result for future in futures.values() for result in future.result()]


def verdict(recipe: str, results: Iterable[Result]) -> str:
    """Say in one line whether the recipe would work."""
    made = [result for result in results if result.status != "skip"]
    count = len({result.check for result in made})
    checks = f"{count} check{'s' * (count != 1)}"
    wrong = list(dict.fromkeys(result.check for result in made if result.status == "fail"))
    if wrong:
        return f"{recipe} would not work: {len(wrong)} of {checks} failed ({', '.join(wrong)})"
    warnings = [result for result in made if result.status == "warn"]
    unseen = any(result.why.startswith(UNSEEN) for result in warnings)
    said = f"{len(warnings)} warning{'s' * (len(warnings) != 1)}"
    return f"{recipe} would work{', as far as could be seen' * unseen}: {checks}, {said}"


def _run(item: Check, sight: Sight, needed: dict[str, Future[list[Result]]]) -> list[Result]:
    for name, future in needed.items():
        if any(result.status == "fail" for result in future.result()):
            return [Result(item.name, "skip", f"{name} has failed")]
    try:
        found = item.run(sight)
    except Forbidden as error:
        look = failed if error.status == 401 else warned  # nobody's login ends in "all is well"
        found = look(f"{UNSEEN}{error.message}", error.fix)
    except ManyhostError as error:
        found = failed(error.message, error.fix or f"try again: {sight.commands.manyhost('doctor')}")
    findings = found if isinstance(found, list) else [found]
    return [Result(item.name, status, why, fix) for status, why, fix in findings]
