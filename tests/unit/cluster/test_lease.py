"""Leases and releases, as annotations of the LeaderWorkerSets tell of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from manyhost.cluster import lease
from manyhost.cluster.lease import Lease
from manyhost.cluster.phases import stamp
from manyhost.errors import InvalidInput

from tests.unit.scripts.test_janitor import janitor

NOW = 1767225600.0  # 2026-01-01T00:00:00Z
HOUR = 3600


def group(replicas: int | None = 1, **notes: str) -> Any:
    annotations = {f"manyhost.dev/{key.replace('_', '-')}": value for key, value in notes.items()}
    spec = {} if replicas is None else {"replicas": replicas}
    return {
        "metadata": {"name": "r", "creationTimestamp": stamp(NOW - HOUR), "annotations": annotations},
        "spec": spec,
    }


RELEASED = {"released": json.dumps({"at": "2025-12-31T23:00:00Z", "why": "w", "groups": 2, "revision": "3"})}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("4h", 4 * HOUR), ("90m", 5400), ("1d", 86400), ("1d2h3m", 93780), (" 4H ", 4 * HOUR)],
)
def test_durations(text: str, seconds: int) -> None:
    assert lease.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "4", "h", "0h", "-1h", "4 hours", "4h30", "1e3h", "9999d", "4h2d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidInput, match="is no duration") as error:
        lease.duration(text)
    assert error.value.where == "--for"


def test_groups_that_were_released_are_told_with_their_reason() -> None:
    found = lease.released([group(0, **RELEASED), group(0, **RELEASED)])
    assert found == lease.Released("2025-12-31T23:00:00Z", "w", 4)
    assert lease.released([group(0)]) is None  # by somebody's hand
    assert lease.released([group(1, **RELEASED)]) is None  # and started again
    assert lease.released([group(0, released="by Ada")]) == lease.Released("", "by Ada", 0)


def test_a_lease_and_its_price() -> None:
    found = lease.lease([group(), group(lease_until=stamp(NOW + HOUR), lease_by="ada")])
    assert found == Lease(stamp(NOW + HOUR), "ada")
    assert found.usd(100, NOW) == 100
    assert found.usd(100, NOW + 2 * HOUR) == 0
    assert found.usd(None, NOW) is None
    assert (found.ended(NOW), found.ended(NOW + HOUR)) == (False, True)
    assert lease.lease([group()]) is None
    assert lease.lease([group(lease_until="tomorrow")]) is None
    assert lease.kept(group(lease_until="tomorrow"), 1, None, NOW) == {}


def test_since_when_the_hosts_are_held() -> None:
    assert lease.started([group()]) == NOW - HOUR
    assert lease.started([group(started=stamp(NOW - 60))]) == NOW - 60
    assert lease.started([]) == 0


NEW = Lease(stamp(NOW + HOUR), "ada")
OVER = {"lease_until": stamp(NOW), "lease_by": "bob"}
RUNS = {"lease_until": stamp(NOW + 1), "lease_by": "bob"}


@pytest.mark.parametrize(
    ("item", "new", "replicas", "changed"),
    [
        (group(), None, None, {}),
        (group(**RUNS), None, None, {}),
        (group(**OVER), None, None, {"lease-until": None, "lease-by": None}),
        (group(), NEW, None, {"lease-until": NEW.until, "lease-by": "ada"}),
        (group(**RUNS), NEW, None, {"lease-until": NEW.until, "lease-by": "ada"}),
        (group(0, **RELEASED), None, 3, {"released": None, "started": stamp(NOW)}),
        (
            group(0, **RELEASED, **OVER), None, 3,
            {"released": None, "started": stamp(NOW), "lease-until": None, "lease-by": None},
        ),
        (
            group(1, **RELEASED), NEW, 1,
            {"released": None, "started": stamp(NOW), "lease-until": NEW.until, "lease-by": "ada"},
        ),
    ],
)  # fmt: skip
def test_what_a_deployment_changes(item: Any, new: Lease | None, replicas: int | None, changed: Any) -> None:
    patch = lease.kept(item, 3, new, NOW)
    assert patch.get("spec", {}).get("replicas") == replicas
    notes = patch.get("metadata", {}).get("annotations", {})
    assert {key.removeprefix("manyhost.dev/"): value for key, value in notes.items()} == changed


def test_the_janitor_and_the_command_line_use_the_same_words() -> None:
    for name in ("LEASE_UNTIL", "LEASE_BY", "HELD_MINUTES", "RELEASED", "STARTED", "REVISION"):
        assert getattr(lease, name) == getattr(janitor, name)
    assert stamp(NOW) == janitor.stamp(NOW)
