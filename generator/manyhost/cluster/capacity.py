"""Until when the hosts of a release are had, and what would outlive them: pure decisions on nodes."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence

import msgspec

from manyhost.catalog.capacity import CapacityFacts, Mode
from manyhost.catalog.recipe import Capacity
from manyhost.cluster.lease import Lease
from manyhost.cluster.nodes import Node
from manyhost.cluster.phases import stamp, timestamp
from manyhost.commands import Commands
from manyhost.errors import InvalidInput, NotReady
from manyhost.plan import capacity as planned

_DAY = 86400
_NEVER = float("inf")


class Ends(msgspec.Struct, frozen=True):
    """Until when hosts are had.

    Attributes:
        mode: capacity.mode of the recipe.
        at: Their end; empty when nothing is known to end them.
        why: What says so.
        any_time: Whether they may be taken away before.
    """

    mode: str
    at: str
    why: str
    any_time: bool


def ends(
    capacity: Capacity,
    facts: CapacityFacts,
    nodes: Sequence[Node],
    *,
    used: Collection[str] = (),
    hosts: int = 0,
    since: float,
) -> Ends:
    """Return until when hosts are had.

    Args:
        capacity: What the recipe says.
        facts: What is known of its mode.
        nodes: The nodes that the recipe selects.
        used: Names of those that the release is on: the first of them that ends counts.
        hosts: How many a release needs that is on none yet: it may get those that end last.
        since: Since when hosts are had whose nodes are not there, or may not be seen.
    """
    mode = facts.modes[capacity.mode]
    found = []
    date = planned.ends(capacity)
    if date is not None:
        found.append((date, "capacity.ends"))
    own = [node for node in nodes if not used or node.name in used]
    known = sorted(_end(node, facts) for node in own)
    if known and (used or len(known) >= hosts):
        first = known[0] if used or not hosts else known[-hosts]
        found += [first] if first[0] < _NEVER else []
    elif mode.longest_days:
        most = f"{capacity.mode} gives hosts for {mode.longest_days} days at most"
        found.append((since + mode.longest_days * _DAY, most))
    at, why = min(found, default=(0.0, ""))
    any_time = mode.any_time or any(one.any_time for node in own for one in _modes(node, facts))
    return Ends(capacity.mode, stamp(at), why, any_time)


def _end(node: Node, facts: CapacityFacts) -> tuple[float, str]:
    """When a node ends, or never; GKE says it for machines with a longest duration, else its age does."""
    with contextlib.suppress(ValueError):  # not written by GKE
        if at := timestamp(node.annotations.get(facts.end_annotation, "")):
            return at, f"node {node.name} ends then"
    days = [mode.longest_days for mode in _modes(node, facts) if mode.longest_days]
    if days:
        return timestamp(node.created) + min(days) * _DAY, f"node {node.name} is then {min(days)} days old"
    return _NEVER, ""


def _modes(node: Node, facts: CapacityFacts) -> list[Mode]:
    """How a node is had, by its labels."""
    known = facts.modes.values()
    return [mode for mode in known if mode.node_label and node.labels.get(mode.node_label) == "true"]


def refuse(
    found: Ends, *, lease: Lease | None, seconds: int, starts: bool, now: float, commands: Commands
) -> None:
    """Refuse what would outlive the hosts, or end before it is of any use.

    Args:
        found: Until when the hosts are had.
        lease: The lease that is asked for.
        seconds: The cold start.
        starts: Whether groups will be started.
        now: The API server's clock.
        commands: Builds the commands of fixes.

    Raises:
        InvalidInput: The lease ends after the hosts, or before the engine answers.
        NotReady: The hosts end before the engine answers.
    """
    minutes = max(1, round(seconds / 60))
    if starts and lease and timestamp(lease.until) < now + seconds:
        raise InvalidInput(
            f"the lease would end at {lease.until}, before the engine answers: a cold start takes about "
            f"{minutes} min",
            where="--for",
            fix="ask for more, or leave --for out",
        )
    if not found.at:
        return
    end = timestamp(found.at)
    if starts and end < now + seconds:
        raise NotReady(
            f"the hosts go at {found.at} ({found.why}), before the engine answers: a cold start takes about "
            f"{minutes} min",
            where="capacity",
            fix="use hosts that stay longer, or correct capacity.ends",
        )
    if lease and timestamp(lease.until) > end:
        raise InvalidInput(
            f"the lease would end at {lease.until}, after the hosts, which go at {found.at} ({found.why})",
            where="--for",
            fix=f"ask for less: {commands.manyhost('deploy', '--for', _span(end - now))}",
        )


def _span(seconds: float) -> str:
    """The longest duration in whole minutes, as --for takes it."""
    minutes = max(1, int(seconds // 60) - 1)
    hours, rest = divmod(minutes, 60)
    return f"{hours}h{rest}m" if hours and rest else f"{hours}h" if hours else f"{rest}m"


def describe(found: Ends) -> str:
    """Return until when hosts are had as a sentence; empty where nothing ends them."""
    parts = [f"go at {found.at} ({found.why})"] if found.at else []
    parts += ["may be taken away at any time"] if found.any_time else []
    return f"the hosts {' and '.join(parts)}" if parts else ""
