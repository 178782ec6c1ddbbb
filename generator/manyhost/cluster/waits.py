"""What a release waits for, until when, and what that has cost: pure functions on what was looked at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from manyhost.cluster.lease import Lease, Object, held_minutes, started
from manyhost.cluster.phases import Host, newest, stamp, timestamp
from manyhost.plan.cost import Cost


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """A group that does not answer and holds hosts.

    Attributes:
        role: prefill or decode, where these are apart.
        group: Which group.
        what: starts, held (it has given up), or "waits for hosts".
        since: Since when it has its first host; empty when it has none.
        until: Its deadline; empty when it has none.
        then: What happens at the deadline, or why there is none.
        hosts: Hosts that it holds.
        usd: List price of these hosts so far; None where nobody publishes one.
    """

    role: str
    group: int
    what: str
    since: str
    until: str
    then: str
    hosts: int
    usd: float | None


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What the hosts of a release cost, by the price list.

    Attributes:
        hosts: Hosts that its pods have.
        usd_per_hour: Of all of them; None where nobody publishes a price.
        since: Since when the release has hosts.
        usd_so_far: Since then, for the hosts that it has now.
        usd_until_end: Until the lease ends; None without a lease.
        mode: How the hosts are had (capacity.mode).
        region: The region whose price it is.
        date: The day on which the list was read.
        source: Where the list is.
    """

    hosts: int
    usd_per_hour: float | None
    since: str
    usd_so_far: float | None
    usd_until_end: float | None
    mode: str
    region: str
    date: str
    source: str


def waits(hosts: Iterable[Host], sets: Sequence[Object], price: float | None, now: float) -> tuple[Wait, ...]:
    """Return every group that does not answer, with its deadline and its cost so far.

    Args:
        hosts: All hosts of the release.
        sets: Its LeaderWorkerSets, the one that clients talk to first.
        price: USD an hour for one host.
        now: The API server's clock.
    """
    groups: dict[tuple[str, int], list[Host]] = {}
    for host in hosts:
        groups.setdefault(host.place, []).append(host)
    freed, why = _freed(sets, [host for members in groups.values() for host in members])
    return tuple(
        _wait(place, members, freed, why, price, now)
        for place, members in groups.items()
        if any(host.phase != "ready" for host in members)
    )


def _freed(sets: Sequence[Object], hosts: Iterable[Host]) -> tuple[float, str]:
    """When the janitor will free the hosts unless something happens, or 0.0 and why it will not."""
    minutes = held_minutes(sets)
    if minutes is None:
        return 0.0, "no janitor looks after it"
    if int((sets[0].get("status") or {}).get("readyReplicas") or 0):
        return 0.0, "other groups answer"
    times = [*map(newest, sets), *(timestamp(host.changed) for host in hosts)]
    return max(times) + minutes * 60, ""


def _wait(
    place: tuple[str, int], members: list[Host], freed: float, why: str, price: float | None, now: float
) -> Wait:
    held = [host for host in members if host.placed]
    if any(host.problem and host.problem.kind == "held" for host in members):
        what = "held"
    elif len(held) < len(members):
        what = "waits for hosts"
    else:
        what = "starts"
    ends = [
        (timestamp(host.due), "the group is made anew") for host in members if host.due and what != "held"
    ]
    ends += [(freed, "the janitor frees the hosts")] if freed else []
    until, then = min(ends, default=(0.0, why))
    seconds = sum(max(0.0, now - timestamp(host.placed)) for host in held)
    return Wait(
        role=place[0],
        group=place[1],
        what=what,
        since=min((host.placed for host in held), default=""),
        until=stamp(until),
        then=then,
        hosts=len(held),
        usd=None if price is None else round(price * seconds / 3600, 2),
    )


def spent(
    hosts: Iterable[Host], sets: Sequence[Object], lease: Lease | None, cost: Cost, mode: str, now: float
) -> Spent:
    """Return what a release costs.

    Args:
        hosts: All hosts of the release.
        sets: Its LeaderWorkerSets.
        lease: Until when they are kept.
        cost: Of one host.
        mode: capacity.mode.
        now: The API server's clock.
    """
    count = sum(bool(host.node) for host in hosts)
    per_hour = None if cost.usd_per_hour is None else round(cost.usd_per_hour * count, 2)
    since = started(sets)
    hours = max(0.0, now - since) / 3600
    return Spent(
        hosts=count,
        usd_per_hour=per_hour,
        since=stamp(since),
        usd_so_far=None if per_hour is None else round(per_hour * hours, 2),
        usd_until_end=lease.usd(per_hour, now) if lease else None,
        mode=mode,
        region=cost.region,
        date=cost.date,
        source=cost.source,
    )
