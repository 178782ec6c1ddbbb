"""What hosts cost by the hour: by capacity mode, and where no price is known."""

from __future__ import annotations

import msgspec
import pytest
from manyhost.catalog import Catalog, Environment, Recipe, resolve
from manyhost.errors import InvalidInput
from manyhost.plan import Plan, make_plan, table
from manyhost.plan.cost import Cost, cost

from tests.helpers.cli import RECIPE, ROOT

CATALOG = Catalog(ROOT)
A3MEGA = CATALOG.environment("a3mega")


def plan(*assignments: str) -> Plan:
    return make_plan(resolve(CATALOG, RECIPE, assignments=assignments), CATALOG)


def recipe(*assignments: str) -> Recipe:
    return resolve(CATALOG, RECIPE, assignments=assignments).recipe


@pytest.mark.parametrize(
    ("recipe_name", "setting", "usd", "words"),
    [
        (RECIPE, "40.5", 81.0, "81.00 USD/h, as capacity.usd_per_host_hour says"),
        (RECIPE, "0", 0.0, "free: your own machine"),
        ("runpod-h200/two-host-mp", "35.92", 71.84, "71.84 USD/h, as capacity.usd_per_host_hour says"),
        ("runpod-h200/two-host-mp", "null", None, "not listed: RunPod says it to who asks"),
    ],
)
def test_who_pays_another_price_says_so(
    recipe_name: str, setting: str, usd: float | None, words: str
) -> None:
    found = make_plan(
        resolve(CATALOG, recipe_name, assignments=[f"capacity.usd_per_host_hour={setting}"]), CATALOG
    )
    assert found.cost.usd_per_hour == usd
    assert dict(table.rows(found))["price"].startswith(words)


@pytest.mark.parametrize(
    ("mode", "usd", "words"),
    [
        ("on-demand", 185.88, "185.88 USD/h on demand in us-east4 (list of 2026-07-30; spot 46.56, "),
        ("spot", 46.56, "46.56 USD/h spot in us-east4 (list of 2026-07-30; on-demand 185.88, "),
        # Reserved machines are billed whether they are used or not, at what they are.
        ("reservation", 185.88, "185.88 USD/h reservation in us-east4 (list of 2026-07-30; spot 46.56, "),
        ("calendar", None, "nobody publishes one for calendar a3-megagpu-8g: ask for a quote"),
        ("flex-start", None, "nobody publishes one for flex-start a3-megagpu-8g: ask for a quote"),
    ],
)
def test_capacity_decides_the_price(mode: str, usd: float | None, words: str) -> None:
    found = plan(f"capacity.mode={mode}")
    assert found.cost.usd_per_hour == usd
    assert dict(table.rows(found))["price"].startswith(words)
    by_rate = {"on-demand": 185.88, "spot": 46.56, "commit-1y": 127.88, "commit-3y": 80.98}
    assert found.cost.usd_per_hour_by_rate == by_rate


def test_an_environment_without_a_price_list() -> None:
    without = msgspec.structs.replace(A3MEGA, price=None)
    for mode in ("on-demand", "spot", "reservation"):
        assert cost(recipe(f"capacity.mode={mode}"), without, 2) == Cost(
            usd_per_hour=None, usd_per_hour_by_rate={}, region="", date="", source="", verified=True
        )
    shown = msgspec.structs.replace(plan(), cost=cost(recipe(), without, 2))
    assert dict(table.rows(shown))["price"].startswith("nobody publishes one for on-demand a3-megagpu-8g")


def test_what_costs_nothing_is_free_and_not_unknown() -> None:
    local = resolve(CATALOG, "local/tiny-r1").recipe
    assert cost(local, CATALOG.environment("local"), 2).usd_per_hour == 0


@pytest.mark.parametrize(
    ("environment", "hosts", "usd"), [(A3MEGA, 0, 0.0), (A3MEGA, 1, 92.94), (A3MEGA, 7, 650.58)]
)
def test_all_hosts_count(environment: Environment, hosts: int, usd: float) -> None:
    assert cost(recipe(), environment, hosts).usd_per_hour == usd


@pytest.mark.parametrize(
    ("assignments", "warned"),
    [
        ((), False),
        (("site.cluster_region=us-west4",), False),
        (("site.region=global",), False),
        (("site.cluster_region=mars-north1",), True),
        (("site.region=mars-north1",), True),
    ],
)
def test_a_region_without_a_price_is_said(assignments: tuple[str, ...], warned: bool) -> None:
    warnings = plan(*assignments).warnings
    assert any("no price is known for mars-north1" in text for text in warnings) is warned


@pytest.mark.parametrize("region", ["mars-north1", "us-central1"])
def test_another_regions_price_is_never_shown(region: str) -> None:
    found = plan(f"site.cluster_region={region}")
    assert (found.cost.usd_per_hour, found.cost.region) == (None, region)
    (warning,) = (text for text in found.warnings if "price" in text)
    assert ("no region that we know" in warning) is (region == "mars-north1")
    assert "USD" not in dict(table.rows(found))["price"]


@pytest.mark.parametrize(
    ("variable", "value", "message", "fix"),
    [
        ("CLUSTER_REGION", "us-east4-a", "'us-east4-a' is a zone", "write us-east4"),
        ("CLUSTER_REGION", "US-EAST4", "'US-EAST4' is not written like a region", "write us-east4"),
        ("CLUSTER_REGION", "US-East4-B", "'US-East4-B' is a zone", "write us-east4"),
        ("REGION", "us-east4-a", "'us-east4-a' is a zone", "write us-east4"),
        ("CLUSTER_REGION", "us_east4", "is not written like a region", "did you mean us-east4?"),
        ("CLUSTER_REGION", "global", "is not written like a region", "write one such as us-east4"),
        ("CLUSTER_REGION", "<CLUSTER_REGION>", "'<CLUSTER_REGION>' is a placeholder", "unset CLUSTER_REGION"),
        ("CLUSTER_NAME", "<your-cluster>", "'<your-cluster>' is a placeholder", "unset CLUSTER_NAME"),
    ],
)
def test_a_region_is_written_as_one(variable: str, value: str, message: str, fix: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make_plan(resolve(CATALOG, RECIPE, variables={variable: value}), CATALOG)
    assert message in caught.value.message
    assert caught.value.where.startswith(f"environment variable {variable}: site.")
    assert fix in caught.value.fix


def test_a_cluster_that_is_not_googles_has_regions_of_its_own() -> None:
    make_plan(resolve(CATALOG, "kubernetes/qwen3-8b", variables={"CLUSTER_REGION": "Rack-7"}), CATALOG)
