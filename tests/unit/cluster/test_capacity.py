"""Until when hosts are had, and what would outlive them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from manyhost.catalog import Catalog
from manyhost.catalog.recipe import Capacity
from manyhost.cluster.capacity import Ends, describe, ends, refuse
from manyhost.cluster.lease import Lease, duration
from manyhost.cluster.nodes import Node
from manyhost.cluster.phases import stamp
from manyhost.commands import Commands
from manyhost.errors import InvalidInput, NotReady

from tests.helpers.cli import ROOT

HERE = Commands(namespace="n", recipe="local")
FACTS = Catalog(ROOT).capacity()
NOW = 1767225600.0  # 2026-01-01T00:00:00Z
HOUR, DAY = 3600.0, 86400.0
FLEX = {"cloud.google.com/gke-flex-start": "true"}


def node(name: str, *, age: float = 0.0, labels: dict[str, str] | None = None, end: str = "") -> Node:
    """A node that is some days old."""
    notes = {FACTS.end_annotation: end} if end else {}
    made = stamp(NOW - age * DAY)
    metadata = {"name": name, "labels": labels or {}, "annotations": notes, "creationTimestamp": made}
    return msgspec.convert({"metadata": metadata, "spec": {}}, Node)


def found(*nodes: Node, mode: Any = "on-demand", date: str = "", **more: Any) -> Ends:
    return ends(Capacity(mode=mode, ends=date), FACTS, nodes, since=NOW, **more)


def test_every_mode_of_a_recipe_is_known() -> None:
    modes = next(field for field in msgspec.structs.fields(Capacity) if field.name == "mode").type
    assert set(FACTS.modes) == set(modes.__origin__.__args__)


def test_hosts_on_demand_have_no_end() -> None:
    assert found(node("a"), hosts=1) == Ends("on-demand", "", "", False)
    assert describe(found(node("a"))) == ""


def test_a_node_says_its_end_itself() -> None:
    end = stamp(NOW + DAY)
    known = found(node("a", end=end), node("b"), used={"a", "b"})
    assert (known.at, known.why) == (end, "node a ends then")
    assert found(node("a", end="soon"), used={"a"}).at == ""  # not written by GKE


def test_nodes_of_flex_start_are_seven_days_old_at_most() -> None:
    known = found(node("a", age=6, labels=FLEX), node("b", age=1, labels=FLEX), used={"a", "b"})
    assert (known.at, known.why) == (stamp(NOW + DAY), "node a is then 7 days old")
    assert found(node("a", age=6, labels=FLEX), node("b", age=1, labels=FLEX), used={"b"}).at == stamp(
        NOW + 6 * DAY
    )


def test_a_release_that_is_not_there_yet_may_get_the_nodes_that_end_last() -> None:
    nodes = [node(str(age), age=age, labels=FLEX) for age in (1, 6, 3)]
    assert found(*nodes, hosts=2).at == stamp(NOW + 4 * DAY)
    assert found(*nodes, hosts=2).why == "node 3 is then 7 days old"
    # Too few: the others will be made.
    assert found(*nodes, mode="flex-start", hosts=4).at == stamp(NOW + 7 * DAY)
    assert found(mode="flex-start", hosts=2).why == "flex-start gives hosts for 7 days at most"


def test_the_earliest_end_counts() -> None:
    known = found(node("a", age=6, labels=FLEX), used={"a"}, date="2026-01-01T08:00Z", mode="calendar")
    assert (known.at, known.why) == ("2026-01-01T08:00:00Z", "capacity.ends")
    assert found(date="2026-01-01T10:00+02:00").at == "2026-01-01T08:00:00Z"


def test_spot_may_go_at_any_time() -> None:
    assert describe(found(mode="spot")) == "the hosts may be taken away at any time"
    known = found(node("a", labels={"cloud.google.com/gke-spot": "true"}), used={"a"})
    assert (known.any_time, known.at) == (True, "")
    assert not found(node("a", labels={"cloud.google.com/gke-spot": "true"}), node("b"), used={"b"}).any_time


END = Ends("calendar", stamp(NOW + 4 * HOUR), "capacity.ends", False)
NEVER = Ends("on-demand", "", "", False)


def lease(hours: float) -> Lease:
    return Lease(stamp(NOW + hours * HOUR), "ada")


def test_a_lease_that_outlives_the_hosts_is_refused_with_one_that_does_not() -> None:
    with pytest.raises(InvalidInput, match="after the hosts, which go at 2026-01-01T04:00:00Z") as error:
        refuse(END, lease=lease(5), seconds=600, starts=True, now=NOW, commands=HERE)
    assert error.value.where == "--for"
    fits = lease(duration(error.value.fix.rpartition("--for ")[2].rstrip("`")) / HOUR)
    refuse(END, lease=fits, seconds=600, starts=True, now=NOW, commands=HERE)
    with pytest.raises(InvalidInput):
        refuse(END, lease=lease(5), seconds=600, starts=False, now=NOW, commands=HERE)


def test_a_cold_start_that_would_not_end_before_the_hosts_go_is_refused() -> None:
    with pytest.raises(
        NotReady, match="before the engine answers: a cold start takes about 300 min"
    ) as error:
        refuse(END, lease=None, seconds=5 * 3600, starts=True, now=NOW, commands=HERE)
    assert error.value.fix == "use hosts that stay longer, or correct capacity.ends"
    refuse(END, lease=None, seconds=5 * 3600, starts=False, now=NOW, commands=HERE)  # what serves may go on


def test_a_lease_that_pays_for_a_start_only_is_refused() -> None:
    with pytest.raises(InvalidInput, match="before the engine answers"):
        refuse(NEVER, lease=lease(0.5), seconds=3600, starts=True, now=NOW, commands=HERE)
    refuse(NEVER, lease=lease(0.5), seconds=3600, starts=False, now=NOW, commands=HERE)


@pytest.mark.parametrize("hours", [1, 3, 4])
def test_what_fits_is_not_refused(hours: float) -> None:
    refuse(END, lease=lease(hours), seconds=1800, starts=True, now=NOW, commands=HERE)
    refuse(NEVER, lease=lease(hours), seconds=1800, starts=True, now=NOW, commands=HERE)
    refuse(END, lease=None, seconds=1800, starts=True, now=NOW, commands=HERE)
