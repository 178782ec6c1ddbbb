"""An account at RunPod whose pods are records that say what a test lets them say, and whose time is free."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from manyhost.catalog import Catalog, resolve
from manyhost.plan import Plan
from manyhost.render import Renderer
from manyhost.runpod import names
from manyhost.runpod.api import Api, NoAnswer
from manyhost.runpod.journal import Journal
from manyhost.runpod.models import Line
from manyhost.runpod.service import Service, Wanted

from testbed import runpod_answers
from testbed.runpod import RunPod
from testbed.runpod_server import Query
from tests.helpers.cli import ROOT
from tests.helpers.shared import shared_dir

NOON = 1795694400.0  # 2026-11-26T12:00:00Z
RECIPE = "runpod-h200/two-host-mp"
STEM = names.stem("ann", RECIPE)
WANTED = Wanted(hours=2, leased=True, usd_per_hour=80, data_center="")


class Clock:
    """Time that passes when somebody sleeps; it lets threads run meanwhile."""

    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        time.sleep(0.0005)


class Account(RunPod):
    """The stand-in, and what its pods say.

    Args:
        clock: Its time.

    Attributes:
        staging: Lines of every staging pod.
        serving: Lines of every serving pod, by rank.
        statuses: Of pods by RunPod's name, in place of what they would be.
        api_port: Public port of the API of every pod; 0 for the stand-in's own number.
    """

    def __init__(self, clock: Clock) -> None:
        shared = shared_dir()
        super().__init__(clock, shared / "data/runpod-openapi-v2.json" if shared else None)
        self.limits.clear()
        self.staging = ["manyhost: staging w", "manyhost: staged"]
        self.serving: dict[int, list[str]] = {}
        self.statuses: dict[str, str] = {}
        self.api_port = 0

    def asked(self, call: str) -> int:
        """Return how often something was asked."""
        return self.calls.count(call)

    def rented(self) -> list[str]:
        """Return the stems of all that is billed by the hour."""
        return [names.parts(name)[0] for name in self.alive()]

    def volumes(self) -> list[str]:
        """Return the names of the network volumes."""
        return [thing["name"] for thing in self.things["network-volumes"].values()]

    def _status(self, identity: str) -> str:
        return self.statuses.get(identity) or super()._status(identity)

    def _see(self, kind: str, thing: dict[str, Any]) -> dict[str, Any]:
        found = super()._see(kind, thing)
        for port in (found.get("runtime") or {}).get("ports", []) if self.api_port else []:
            if port["private"] == 8000:
                port["public"] = self.api_port
        return found

    def _log(self, identity: str, query: Query) -> Iterator[str]:
        pod = self.things["pods"].get(identity, {"cpu": {}})
        lines = self.staging if "cpu" in pod else self.serving.get(pod.get("cluster", {}).get("rank", 0), [])
        for number, line in enumerate(lines, 1):
            yield runpod_answers.log_event("2026-11-26T12:00:00Z", number, line)


class Near(Api):
    """The API without a network between: what is asked, the stand-in answers in the same call."""

    def __init__(self, cloud: RunPod, clock: Clock) -> None:
        super().__init__(cloud.key, cloud.url, sleep=clock.sleep, clock=clock)
        self._cloud, self._own_key = cloud, cloud.key

    def _once(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any, bytes]:
        answer = self._cloud.answer(method, path, msgspec.json.decode(body) if body else None, self._own_key)
        if answer is None:
            raise NoAnswer("no answer: lost", where=f"RunPod {method} {path}")
        data = b"" if answer.data is None else msgspec.json.encode(answer.data)
        return answer.status, answer.headers, data

    def logs(self, pod: str, tail: int, after: str = "") -> Iterator[Any]:
        for event in self._cloud._log(pod, {"tail": str(tail)}):  # type: ignore[attr-defined]
            identity, _, data = event.partition("\ndata: ")
            line = msgspec.json.decode(data, type=Line)
            yield msgspec.structs.replace(line, id=identity.removeprefix("id: "))


@cache
def plan(recipe: str = RECIPE, *assignments: str) -> Plan:
    """Return the plan of a recipe."""
    catalog = Catalog(ROOT)
    return Renderer(catalog).plan(resolve(catalog, recipe, assignments=list(assignments)))


def service(
    api: Api, clock: Clock, journal: Path, *, made: Plan | None = None, name: str = STEM,
    tell: Callable[[str], None] = lambda _: None,
) -> Service:  # fmt: skip
    """Return ann's service, which takes the account's time."""
    return Service(
        api, Journal(journal), made or plan(), ROOT / "charts", name,
        lambda *words: f"`manyhost runpod {' '.join(words)}`", tell,
        sleep=clock.sleep, clock=clock, now=clock,
    )  # fmt: skip
