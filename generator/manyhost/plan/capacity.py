"""Until when the hosts are had: what the recipe says of it."""

from __future__ import annotations

from datetime import datetime

from manyhost.catalog.capacity import Mode
from manyhost.catalog.recipe import Capacity
from manyhost.errors import InvalidInput


def check(capacity: Capacity) -> None:
    """Check that the end of the capacity is a time.

    Raises:
        InvalidInput: It is none, or says no time zone.
    """
    if not capacity.ends:
        return
    try:
        zone = datetime.fromisoformat(capacity.ends).tzinfo
    except ValueError:
        zone = None
    if zone is None:
        raise InvalidInput(
            f"{capacity.ends[:80]!r} is no time with its zone",
            where="capacity.ends",
            fix='write it as in "2026-12-01T08:00Z"',
        )


def ends(capacity: Capacity) -> float | None:
    """Return the end that the recipe names, seconds since the epoch; None without one."""
    return datetime.fromisoformat(capacity.ends).timestamp() if capacity.ends else None


def describe(capacity: Capacity, mode: Mode) -> str:
    """Return until when hosts are had, for the plan's table; empty where nothing ends them."""
    parts = [f"until {capacity.ends}"] if capacity.ends else []
    if mode.longest_days:
        parts.append(f"{mode.longest_days} days at most")
    if mode.any_time:
        parts.append("may be taken away at any time")
    if mode.ends_at_a_date and not capacity.ends:
        parts.append("capacity.ends does not say until when")
    return ", ".join(parts)
