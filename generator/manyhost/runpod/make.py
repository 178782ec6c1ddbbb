"""Makes things at RunPod so that none is made twice and none is forgotten, whatever gets lost on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from manyhost.errors import ManyhostError, RemoteError
from manyhost.runpod import names
from manyhost.runpod.api import NoAnswer
from manyhost.runpod.journal import Entry, Journal, Kind

_LOOK_SECONDS = 30.0  # a request whose answer was lost is carried out by then, or never
_EVERY_SECONDS = 2.0


class Named(Protocol):
    """A thing at RunPod."""

    @property
    def id(self) -> str:
        """RunPod's name of it."""

    @property
    def name(self) -> str:
        """Ours."""


T = TypeVar("T", bound=Named)


class Maker:
    """Makes and removes things, each step in the journal before it is taken.

    Args:
        journal: Where.
        sleep: How to wait, seconds.
        clock: Seconds of a clock that only goes on.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._journal, self._sleep, self._clock, self._now = journal, sleep, clock, now

    def once(self, kind: Kind, name: str, ask: Callable[[], T], listed: Callable[[], Sequence[T]]) -> T:
        """Return the thing of a name, made if it is not there.

        Args:
            kind: Of the thing.
            name: Its stem (names.py), which nothing else has.
            ask: Asks RunPod for it, once.
            listed: What there is of this kind.

        Raises:
            NoAnswer: Nobody knows whether it is there; it stays open in the journal.
            ManyhostError: It was refused, and is not there.
        """
        # Asked for before, and nobody saw what came of it: it may still come.
        there = self._appears(name, listed) if self._unsure(kind, name) else _named(name, listed())
        if there is None:
            self._note("ask", kind, name)
            try:
                there = ask()
            except NoAnswer:
                there = self._appears(name, listed)
                if there is None:
                    raise
            except ManyhostError:
                self._note("none", kind, name)
                raise
        self._note("made", kind, name, there.id)
        return there

    def away(
        self, kind: Kind, name: str, remove: Callable[[str], None], listed: Callable[[], Sequence[Named]]
    ) -> None:
        """Remove all things of a stem, and see that none is left.

        Raises:
            RemoteError: It is still there, or nobody knows.
        """
        unsure = self._unsure(kind, name)
        end = self._clock() + _LOOK_SECONDS
        while (found := [item for item in listed() if names.parts(item.name)[0] == name]) or (
            unsure and self._clock() < end
        ):
            for item in found:
                self._note("remove", kind, name, item.id)
                remove(item.id)
            if found and self._clock() > end:
                raise RemoteError("is still there after its removal", where=f"RunPod {kind} {name}")
            self._sleep(_EVERY_SECONDS)
        self._note("gone", kind, name)

    def _unsure(self, kind: Kind, name: str) -> bool:
        known = self._journal.open().get((kind, name))
        return known is not None and known.what == "ask"

    def _appears(self, name: str, listed: Callable[[], Sequence[T]]) -> T | None:
        end = self._clock() + _LOOK_SECONDS
        while True:
            there = _named(name, listed())
            if there is not None or self._clock() > end:
                return there
            self._sleep(_EVERY_SECONDS)

    def _note(self, what: str, kind: Kind, name: str, identity: str = "") -> None:
        self._journal.note(
            Entry(what=what, kind=kind, name=name, identity=identity, time=self._now())  # type: ignore[arg-type]
        )


def _named(name: str, items: Sequence[T]) -> T | None:
    return next((item for item in items if names.parts(item.name)[0] == name), None)
