"""`up` and `down` end anywhere, answers get lost: what is billed then, `down`, `sweep` or the lease ends."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from manyhost.errors import ManyhostError
from manyhost.runpod import launch, names
from manyhost.runpod.journal import Entry, Journal
from manyhost.runpod.service import Service, sweep

from testbed.runpod import Fault
from tests.helpers.runpod import RECIPE, WANTED, Account, Clock, Near, service

POINTS = 96  # requests and writes of a whole `up`, each before and after
KILLED, LOST, AT_ONCE = 200, 100, 20


@cache
def packed(files: tuple[tuple[str, bytes], ...], pack: Callable[..., str] = launch.archive) -> str:
    return pack(dict(files))


class Killed(BaseException):
    """The process ends here: nothing that it still would do is done."""


class Fate:
    """Ends a process at one of its steps."""

    def __init__(self) -> None:
        self.left = -1

    def step(self) -> None:
        """Go on, or end here; who has ended stays so."""
        if self.left == 0:
            raise Killed
        self.left -= self.left > 0


class Mortal(Near):
    """The API of a process that ends before or after a request."""

    def __init__(self, cloud: Account, clock: Clock, fate: Fate) -> None:
        super().__init__(cloud, clock)
        self._fate = fate

    def _once(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any, bytes]:
        self._fate.step()
        found = super()._once(method, path, body)
        self._fate.step()
        return found


class Client:
    """A person with a folder, who starts the program again and again.

    Args:
        cloud: The account.
        clock: Its time.
        seed: Another one, another release.
        folder: Of the journal.
    """

    def __init__(self, cloud: Account, clock: Clock, seed: int, folder: Path) -> None:
        self.cloud, self.clock, self.chance, self.fate = cloud, clock, random.Random(seed), Fate()
        self.name = names.stem("ann", f"{RECIPE}-{seed}")
        self.journal = folder / str(seed)

    def program(self) -> Service:
        api = Mortal(self.cloud, self.clock, self.fate)
        return service(api, self.clock, self.journal, name=self.name)

    def lives(self, run: Callable[[Service], object], points: int) -> None:
        """Run something until it ends, at the latest after so many steps."""
        self.fate.left = points
        try:
            run(self.program())
        except (Killed, ManyhostError):
            pass
        finally:
            self.fate.left = -1

    def up_or_down(self) -> Callable[[Service], object]:
        if self.chance.random() < 0.7:
            return lambda made: made.up(WANTED, lambda _: "")
        return lambda made: made.down(with_volume=self.chance.random() < 0.3)

    def ends(self) -> None:
        """Nothing is billed any more after one of the three ways to end it."""
        self.cloud.faults.clear()
        how = self.chance.choice(["down", "sweep", "lease"])
        if how == "down":
            self.program().down(with_volume=True)
        self.clock.sleep(9 * 3600)  # what was late is there, and every lease is over
        if how == "sweep":
            sweep(Near(self.cloud, self.clock), "ann", everything=False, dry_run=False, now=self.clock.time)
        if how == "lease":
            self.leases_end()
        assert self.cloud.rented() == [], (how, self.journal.read_text())
        if how == "down":
            assert self.name not in self.cloud.volumes()
        usd = self.bill()
        self.clock.sleep(24 * 3600)
        assert self.bill() == usd

    def leases_end(self) -> None:
        """What lease.py does in each pod: it has a lease, in the name or from the start, and that is over."""
        for kind in ("clusters", "pods"):
            for thing in list(self.cloud.things[kind].values()):
                if "cluster" not in thing:
                    until = names.parts(thing["name"])[1]
                    assert until, "nothing would end it"
                    assert until < self.clock.time
                    self.cloud._remove(kind, thing["id"])

    def bill(self) -> float:
        """What pods and clusters have cost so far."""
        ledger = self.cloud._ledger._things
        return sum(self.cloud.billed(identity) for identity in ledger if not identity.startswith("ne"))


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def cloud(clock: Clock) -> Iterator[Account]:
    """One for all: who leaves something there makes the next one fail too."""
    with Account(clock) as made:
        yield made


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends is the process, not the machine: the disk need not be waited for. All pack the same files."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(launch, "archive", lambda files: packed(tuple(sorted(files.items()))))


@pytest.fixture
def client(
    cloud: Account, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], Client]:
    note, fates = Journal.note, dict[Path, Fate]()

    def mortal_note(self: Journal, entry: Entry) -> None:
        fates[self.path].step()
        note(self, entry)
        fates[self.path].step()

    monkeypatch.setattr(Journal, "note", mortal_note)

    def make(seed: int) -> Client:
        made = Client(cloud, clock, seed, tmp_path)
        fates[made.journal] = made.fate
        made.journal.touch()
        return made

    return make


@pytest.mark.parametrize("first", range(0, KILLED, AT_ONCE))
def test_killed_at_any_point(client: Callable[[int], Client], cloud: Account, first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        one = client(seed)
        made = cloud.asked("POST /v2/clusters")
        if one.chance.random() < 0.5:
            kind = one.chance.choice(["pods", "clusters"])
            cloud.faults.append(Fault(f"POST /v2/{kind}", lost=True, late=one.chance.choice([5.0, 25.0])))
        one.lives(lambda made: made.up(WANTED, lambda _: ""), one.chance.randrange(1, POINTS))
        assert len(cloud.rented()) <= 1, "only staging or serving"
        if one.chance.random() < 0.7:
            one.lives(one.up_or_down(), one.chance.choice([-1, one.chance.randrange(1, POINTS)]))
        assert len([name for name in cloud.rented() if name == one.name]) <= 1
        assert cloud.asked("POST /v2/clusters") - made <= 2
        one.ends()


@pytest.mark.parametrize("first", range(1000, 1000 + LOST, AT_ONCE))
def test_answers_that_are_lost(client: Callable[[int], Client], cloud: Account, first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        one = client(seed)
        for _ in range(one.chance.randrange(1, 4)):
            method = one.chance.choice(["POST", "POST", "GET", "DELETE"])
            kind = one.chance.choice(["network-volumes", "pods", "clusters"])
            late = one.chance.choice([0.0, 5.0, 25.0]) if method == "POST" else 0.0
            cloud.faults.append(Fault(f"{method} /v2/{kind}", lost=True, late=late))
        one.lives(lambda made: made.up(WANTED, lambda _: ""), -1)
        assert cloud.rented().count(one.name) == 1, "it is taken up when it appears"
        points = one.chance.choice([-1, one.chance.randrange(1, POINTS)])
        one.lives(one.up_or_down(), points)
        assert cloud.rented().count(one.name) <= 1
        one.ends()


def test_points_are_all_of_them(client: Callable[[int], Client]) -> None:
    one = client(5000)
    one.fate.left = 1000
    one.program().up(WANTED, lambda _: "")
    steps, one.fate.left = 1000 - one.fate.left, -1
    assert 0.8 * POINTS < steps <= 1.2 * POINTS
    one.ends()
