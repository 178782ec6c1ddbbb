"""The launcher's decisions under a fixed set of schedules; `make simulate` goes through 100,000."""

from __future__ import annotations

import pytest

from tests.simulation import schedule as schedules
from tests.simulation.bugs import BUGS
from tests.simulation.code import Bug, current, load
from tests.simulation.schedule import FOREVER, HARMLESS, KINDS, LOSSES, Fault, Schedule, make, shrink
from tests.simulation.world import Violation, simulate

# Schedules that once failed, made as small as they go.
REGRESSIONS = {
    "an ended step is still seen for a moment, and was counted on each look": Schedule(
        1, (1,), (Fault("download_errors", 0.0, 0, 0, 100.0),)
    ),
    "without metrics an idle engine could prove nothing in a break between the launchers": Schedule(
        3139, (2,), (Fault("metrics_away", 920.0, 0, 0, 399.0), Fault("link_long", 1070.0, 0, 0, 354.0))
    ),
    "a prefill that gives no token proved nothing in a break between the launchers": Schedule(
        4204, (2,), (Fault("slow_prefill", 1240.0, 0, 0, 569.0), Fault("link_long", 1280.0, 0, 0, 436.0))
    ),
    "a worker that is told to stop while its start ends, unseen by its leader": Schedule(
        1403, (2, 2), (Fault("freeze_long", 30.0, 1, 1, 264.0),)
    ),
    "a pod without a host is made anew": Schedule(
        2, (1,), (Fault("late_host", 0.0, 0, 0, 1034.0), Fault("rolling", 40.0, 0, 0, 0.0))
    ),
    # These were asked for what no launcher can know.
    "what the metrics hid is known once they are back": Schedule(
        60221, (2,), (Fault("metrics_away", 830.0, 0, 0, 397.0), Fault("answers_500", 1000.0, 0, 0, 0.0))
    ),
    "a step just before the metrics went away is proof in a break between the launchers": Schedule(
        33522,
        (2, 2),
        (Fault("link_long", 570.0, 0, 0, 528.0), Fault("metrics_away", 670.0, 0, 0, 46.0)),
        (0,),
    ),
    "a leader that was stopped sees its engine's end when it goes on": Schedule(
        48378,
        (2, 2, 1),
        (
            Fault("late_host", 0.0, 1, 0, 1337.0),
            Fault("freeze_short", 1080.0, 2, 0, 15.0),
            Fault("engine_killed", 1086.2, 2, 0, 0.0),
        ),
        (2,),
    ),
    "a worker that is stopped cannot tell its engine's end": Schedule(
        29589, (2,), (Fault("freeze_long", 1350.0, 0, 1, 200.0), Fault("engine_killed", 1350.0, 0, 1, 0.0))
    ),
    "a silence of five minutes that two faults make": Schedule(
        12771, (2,), (Fault("freeze_short", 40.0, 0, 0, 22.0), Fault("link_long", 60.0, 0, 1, 449.0))
    ),
    "a silence of five minutes in which the group began to serve": Schedule(
        57300,
        (2, 2),
        (
            Fault("load_crash", 0.0, 1, 1, 0.0),
            Fault("late_host", 0.0, 0, 1, 353.0),
            Fault("slow_disk", 60.0, 1, 1, 203.0),
            Fault("link_long", 80.0, 1, 1, 433.0),
        ),
    ),
    "a stall that was cured before its leader was stopped for a while": Schedule(
        63230,
        (2, 1),
        (
            Fault("stall", 240.0, 1, 0, 0.0),
            Fault("freeze_short", 450.0, 1, 0, 27.0),
            Fault("answers_500", 930.0, 0, 1, 0.0),
        ),
    ),
    "an engine on a host that is lost already": Schedule(
        84175, (2,), (Fault("host_lost", 232.6, 0, 1, 311.4), Fault("engine_killed", 237.3, 0, 1, 0.0))
    ),
    "a host that is lost as its group begins to serve": Schedule(
        85232,
        (3, 2),
        (
            Fault("download_hang", 0.0, 0, 1, 0.0),
            Fault("link_long", 60.0, 1, 0, 502.0),
            Fault("freeze_long", 1077.9, 0, 2, 246.4),
            Fault("host_lost", 1299.3, 0, 1, 442.9),
        ),
        (0,),
    ),
    "an engine that was killed before it could name its wrong flag": Schedule(
        40420, (3, 2), (Fault("wrong_flag", 0.0, 0, 1, 0.0), Fault("engine_killed", 40.0, 0, 2, 0.0))
    ),
}


def test_there_are_enough_kinds_of_faults() -> None:
    assert len(KINDS) == len(HARMLESS) + len(LOSSES) + len(FOREVER) >= 25
    met = {fault.kind for seed in range(400) for fault in make(seed).faults}
    assert met == set(KINDS)


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_invariants_hold(first: int) -> None:
    for seed in range(first, first + 100):
        simulate(make(seed), current())


@pytest.mark.parametrize("name", REGRESSIONS)
def test_what_once_failed_holds(name: str) -> None:
    simulate(REGRESSIONS[name], current())


def test_a_seed_is_a_world() -> None:
    told: list[list[str]] = [[], []]
    for lines in told:
        simulate(make(11), current(), lines.append)
    assert told[0] == told[1]
    assert len(told[0]) > 20


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: Bug) -> None:
    """By some invariant, within the schedules that `make simulate` would run in some seconds."""
    code = load(bug)
    for seed in (bug.seed, *range(1000)):
        try:
            simulate(make(seed), code)
        except (Violation, RecursionError, UnicodeError, AttributeError):  # a crash is seen too
            return
    pytest.fail("no schedule shows it")


def test_a_failing_schedule_gets_smaller() -> None:
    code = load(next(bug for bug in BUGS if bug.name == "one refusal of /health ends"))

    def fails(schedule: Schedule) -> bool:
        try:
            simulate(schedule, code)
        except Violation:
            return True
        return False

    seed = next(seed for seed in range(300) if fails(make(seed)))
    small = shrink(make(seed), fails)
    assert [fault.kind for fault in small.faults] == ["one_503"]
    assert len(small.sizes) == 1
    assert not any(map(fails, schedules.smaller(small)))
