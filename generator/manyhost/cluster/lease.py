"""What annotations of a release's LeaderWorkerSets say: how long its hosts are kept, why they were freed.

Pure functions on API objects. The janitor in the cluster goes by the same annotations
(charts/llm-multihost/launcher/janitor/janitor.py).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from manyhost.cluster.phases import stamp, timestamp
from manyhost.errors import InvalidInput

Object = dict[str, Any]

LEASE_UNTIL = "manyhost.dev/lease-until"
LEASE_BY = "manyhost.dev/lease-by"
HELD_MINUTES = "manyhost.dev/held-minutes"
RELEASED = "manyhost.dev/released"
STARTED = "manyhost.dev/started"  # when groups that had been released were started again
REVISION = "manyhost.dev/revision"  # Helm's, which every upgrade changes

_UNITS = {"d": 86400, "h": 3600, "m": 60}
_DURATION = re.compile(r"(?:(?P<d>\d{1,4})d)?(?:(?P<h>\d{1,5})h)?(?:(?P<m>\d{1,6})m)?")


class Lease(msgspec.Struct, frozen=True):
    """Until when the hosts are kept.

    Attributes:
        until: Its end, as the API writes times.
        by: Who set it.
    """

    until: str
    by: str

    def ended(self, now: float) -> bool:
        """Whether it is over."""
        return timestamp(self.until) <= now

    def usd(self, per_hour: float | None, now: float) -> float | None:
        """What hosts cost from now until its end; None where nobody publishes a price."""
        if per_hour is None:
            return None
        return round(per_hour * max(0.0, timestamp(self.until) - now) / 3600, 2)


class Released(msgspec.Struct, frozen=True):
    """Groups that the janitor has taken to 0.

    Attributes:
        at: When.
        why: Why, as a sentence.
        groups: How many there were.
    """

    at: str
    why: str
    groups: int


class _Note(msgspec.Struct):
    at: str = ""
    why: str = ""
    groups: int = 0


def notes_of(item: Object) -> dict[str, str]:
    """Return the annotations of an object."""
    return item["metadata"].get("annotations") or {}


def unnumbered(item: Object) -> Object:
    """Return an object without Helm's revision, by which two renderings of the same do not differ."""
    notes = notes_of(item)
    if REVISION not in notes:
        return item
    rest = {key: value for key, value in notes.items() if key != REVISION}
    return {**item, "metadata": {**item["metadata"], "annotations": rest}}


def is_released(item: Object) -> bool:
    """Whether a LeaderWorkerSet has no groups because the janitor has taken them away."""
    return RELEASED in notes_of(item) and not int(item["spec"].get("replicas", 1))


def released(sets: Iterable[Object]) -> Released | None:
    """Return when and why the groups of a release were taken away; None when they were not."""
    notes = [_note(notes_of(item)[RELEASED]) for item in sets if is_released(item)]
    if not notes:
        return None
    return Released(notes[0].at, notes[0].why, sum(note.groups for note in notes))


def _note(text: str) -> _Note:
    try:
        return msgspec.json.decode(text, type=_Note)
    except (msgspec.DecodeError, ValueError):
        return _Note(why=text)  # somebody's own words


def lease(sets: Iterable[Object]) -> Lease | None:
    """Return the lease of a release; None when it has none."""
    for item in sets:
        notes = notes_of(item)
        with contextlib.suppress(ValueError):  # no time, and so no lease
            if timestamp(notes.get(LEASE_UNTIL, "")):
                return Lease(notes[LEASE_UNTIL], notes.get(LEASE_BY, ""))
    return None


def held_minutes(sets: Iterable[Object]) -> int | None:
    """Return how long the hosts may be held while nothing answers; None where no janitor looks."""
    texts = [notes_of(item).get(HELD_MINUTES, "") for item in sets]
    return next((int(text) for text in texts if text.isdigit()), None)


def started(sets: Iterable[Object]) -> float:
    """Return since when a release has its hosts: when it was made, or started again."""
    times = [[item["metadata"].get("creationTimestamp"), notes_of(item).get(STARTED)] for item in sets]
    return max((timestamp(text or "") for pair in times for text in pair), default=0.0)


def kept(item: Object, groups: int, new: Lease | None, now: float) -> Object:
    """Return the JSON merge patch that starts a set which was released, and sets a lease.

    Args:
        item: The LeaderWorkerSet.
        groups: Its groups, when it has none now.
        new: The lease from now on; None leaves one that runs as it is, and takes away one that has ended.
        now: The API server's clock.
    """
    notes, changed = notes_of(item), dict[str, str | None]()
    patch: Object = {}
    if RELEASED in notes:
        changed |= {RELEASED: None, STARTED: stamp(now)}
        patch["spec"] = {"replicas": int(item["spec"].get("replicas", 1)) or groups}
    if new:
        changed |= {LEASE_UNTIL: new.until, LEASE_BY: new.by}
    elif (old := lease([item])) and old.ended(now):
        changed |= {LEASE_UNTIL: None, LEASE_BY: None}
    return {**patch, "metadata": {"annotations": changed}} if changed else {}


def duration(text: str) -> int:
    """Return the seconds of a duration such as 4h, 90m, 2d or 1h30m.

    Raises:
        InvalidInput: It is none.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    seconds = sum(int(match[unit] or 0) * size for unit, size in _UNITS.items()) if match else 0
    if not 0 < seconds <= 366 * _UNITS["d"]:
        raise InvalidInput(
            f"{text[:80]!r} is no duration of up to a year", where="--for", fix="write 4h, 90m or 1d12h"
        )
    return seconds
