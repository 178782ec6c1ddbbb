"""Schedules: what happens to some groups and when, made from a seed; and how a failing one gets smaller."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator

# Faults that a group must pass without being ended, each with the seconds that it lasts.
HARMLESS: dict[str, tuple[float, float]] = {
    "link_reset": (0, 0),  # one TCP reset
    "link_short": (1, 6),  # no packet between two launchers
    "link_medium": (8, 40),
    "link_delay": (1, 40),  # packets come late
    "slow_prefill": (130, 900),  # longer than the stall limit: only the KV cache's use moves
    "mute": (3, 90),  # the HTTP server is too busy to answer
    "one_503": (0, 3),  # a refusal, then busy
    "metrics_away": (10, 400),  # no series: unknown
    "disk_full": (30, 300),  # the folder of the status
    "disk_frozen": (3, 25),
    "stdout_blocked": (5, 300),  # nobody takes the log
    "freeze_short": (8, 28),  # SIGSTOP of a launcher
    "slow_disk": (60, 400),  # a load takes longer, and moves
    "stranger": (0, 0),  # lines from outside on the control port
    "other_group": (0, 0),  # a worker of another release, or of an older generation
    "old_worker": (0, 0),  # a worker of this group's last incarnation, still ending
    "lws_away": (20, 200),  # the LWS controller or the API server
    "burst": (20, 200),  # many requests
}
# Faults after which a group may be ended, started again or held for a while.
LOSSES: dict[str, tuple[float, float]] = {
    "engine_killed": (0, 0),
    "launcher_killed": (0, 0),
    "host_lost": (20, 500),  # comes back after so long
    "link_long": (310, 600),
    "freeze_long": (90, 300),
    "stall": (0, 0),  # the engine stops for ever
    "health_503": (0, 0),  # the engine's core died behind its server
    "answers_500": (0, 0),  # /health says 200, requests fail
    "evicted": (0, 0),  # SIGTERM of one pod
    "rolling": (0, 0),  # a new revision
    "load_crash": (0, 0),  # the next start fails once
    "load_hang": (0, 0),  # a start stops to move
    "first_500": (0, 0),  # the next start's first request fails
    "download_errors": (30, 900),  # the hub refuses for so long
    "download_hang": (0, 0),  # a download stops to move
    "port_busy": (3, 40),
    "late_host": (60, 2000),  # a pod waits for a host
    "slow_load": (4000, 9000),  # longer than any budget, and moves
}
# Causes that waiting does not cure: the group holds.
FOREVER: dict[str, tuple[float, float]] = {
    "weights_missing": (0, 0),
    "wrong_flag": (0, 0),
    "always_crashes": (0, 0),
    "port_taken": (0, 0),
    "poison": (20, 300),  # the engine dies so long after each answer
    "hub_away": (0, 0),
}
KINDS = {**HARMLESS, **LOSSES, **FOREVER}
# These are in force from the start, or meet a start; the others strike at any time.
AT_START = {
    "weights_missing", "wrong_flag", "always_crashes", "port_taken", "poison", "hub_away", "load_crash",
    "load_hang", "first_500", "download_errors", "download_hang", "port_busy", "late_host", "slow_load",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Fault:
    kind: str
    at: float
    group: int
    member: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Groups of some size from their start to their drain, and what goes wrong meanwhile.

    Attributes:
        bare: Groups whose platform starts a container again and does no more; the others have LWS.
    """

    seed: int
    sizes: tuple[int, ...]
    faults: tuple[Fault, ...]
    bare: tuple[int, ...] = ()


def make(seed: int) -> Schedule:
    """The schedule of a seed: two groups or three, three faults to six."""
    rng = random.Random(seed)
    sizes = tuple(rng.choice((1, 2, 2, 2, 3)) for _ in range(rng.choice((2, 2, 2, 3))))
    faults = []
    names = (tuple(HARMLESS), tuple(LOSSES), tuple(FOREVER))
    for _ in range(rng.choice((3, 3, 4, 6))):
        kind = rng.choice(names[rng.choices((0, 1, 2), (10, 10, 1))[0]])
        group = rng.randrange(len(sizes))
        low, high = KINDS[kind]
        at = 0.0 if kind in AT_START else round(rng.choice((rng.uniform(0, 60), rng.uniform(0, 1500))), 1)
        faults.append(
            Fault(kind, at, group, rng.randrange(sizes[group]), round(low + (high - low) * rng.random(), 1))
        )
    bare = tuple(i for i in range(len(sizes)) if rng.random() < 0.25)
    return Schedule(seed, sizes, tuple(sorted(faults, key=lambda fault: fault.at)), bare)


def smaller(schedule: Schedule) -> Iterator[Schedule]:
    """Schedules with a little less in them."""
    for i in range(len(schedule.faults)):
        faults = schedule.faults[:i] + schedule.faults[i + 1 :]
        yield dataclasses.replace(schedule, faults=faults)
    if len(schedule.sizes) > 1:
        last = len(schedule.sizes) - 1
        if all(fault.group != last for fault in schedule.faults):
            bare = tuple(i for i in schedule.bare if i != last)
            yield dataclasses.replace(schedule, sizes=schedule.sizes[:-1], bare=bare)
        elif all(fault.group == last for fault in schedule.faults):
            faults = tuple(dataclasses.replace(fault, group=0) for fault in schedule.faults)
            bare = (0,) if last in schedule.bare else ()
            yield dataclasses.replace(schedule, sizes=(schedule.sizes[last],), faults=faults, bare=bare)
    for i, fault in enumerate(schedule.faults):
        rounder = dataclasses.replace(
            fault, at=float(round(fault.at, -1)), seconds=float(round(fault.seconds))
        )
        if rounder != fault:
            faults = (*schedule.faults[:i], rounder, *schedule.faults[i + 1 :])
            yield dataclasses.replace(schedule, faults=faults)


def shrink(schedule: Schedule, fails: Callable[[Schedule], bool]) -> Schedule:
    """The smallest schedule that still fails, taking one thing away after the other."""
    while True:
        for candidate in smaller(schedule):
            if fails(candidate):
                schedule = candidate
                break
        else:
            return schedule
