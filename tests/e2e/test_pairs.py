"""Faults drawn at random: doctor names both of a pair and nothing else, status the one that stops a group.

MANYHOST_PAIRS pairs from MANYHOST_SEED on (`make pairs` has more of them); a failure prints the seed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from testbed import Cluster, faults
from tests.e2e.pairs import Cause, draw, draw_one
from tests.e2e.place import Place, run
from tests.e2e.test_doctor import findings
from tests.helpers.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
SEED, COUNT = int(os.environ.get("MANYHOST_SEED", "1")), int(os.environ.get("MANYHOST_PAIRS", "6"))


@pytest.fixture
def healed(place: Place) -> Iterator[Cluster]:
    """The test cluster, whose faults are healed afterwards."""
    if place.own is None:
        pytest.skip("plants faults: needs the test cluster")
    yield place.own
    faults.heal(place.own)


@pytest.mark.parametrize("seed", range(SEED, SEED + COUNT))
def test_both_faults_of_a_pair_are_named_and_nothing_else(seed: int, healed: Cluster) -> None:
    pair = draw(random.Random(seed))
    for cause in pair:
        cause.plant(healed)
    found = findings()
    told = {cause.told: _told(cause, found) for cause in pair}
    alarms = {check: items for check, items in found.items() if check not in {cause.check for cause in pair}}
    print(f"pair {seed}: {told}, {len(alarms)} false alarms")
    assert (set(told.values()), alarms) == ({"found"}, {}), (told, found)


def _told(cause: Cause, found: dict[str, list[tuple[str, str, str]]]) -> str:
    """Whether a cause is found, found without what one needs to know of it (vague), or missed."""
    if cause.check not in found:
        return "missed"
    said = [why for _, why, _ in found[cause.check]]
    return "found" if any(all(word in why for word in cause.words) for why in said) else "vague"


@pytest.fixture
def release(place: Place) -> Iterator[tuple[str, ...]]:
    """A release whose group is ready."""
    if place.own is None:
        pytest.skip("plants faults: needs the test cluster")
    here = ("--namespace", "default")
    run("deploy", "a3mega", *here, "--timeout", "60").ok()
    yield here
    run("teardown", "a3mega", *here, "--yes", "--timeout", "60").ok()


@pytest.mark.parametrize("seed", range(SEED, SEED + COUNT))
def test_what_stops_a_group_that_is_made_anew_is_named(
    seed: int, release: tuple[str, ...], place: Place, healed: Cluster
) -> None:
    """One at a time: of two, pods meet one before the other."""
    cause = draw_one(random.Random(seed))
    group = ("pods", "-n", "default", "-l", "leaderworkerset.sigs.k8s.io/name=deepseek-r1-671b")

    def status() -> dict[str, Any]:
        found: dict[str, Any] = run("status", "a3mega", *release, "--output", "json").output.result
        return found

    def problems() -> set[tuple[str, str]]:
        found = status()
        told = [*found["problems"], *(host["problem"] for host in found["hosts"])]
        return {(item["kind"], item["message"]) for item in told if item}

    until("the group is ready", lambda: status()["ready_groups"] == 1, 60)
    cause.plant(healed)
    place.kube("delete", *group, "--wait=false")
    kind, words = cause.stops
    told: set[tuple[str, str]] = set()

    def is_told() -> bool:
        told.update(problems())
        return any(kind == k and words in text for k, text in told)

    try:
        until("it is told", is_told, 30)
    finally:
        print(f"status {seed}: {cause.told}: {told}")
    assert {k for k, _ in problems()} == {kind}
