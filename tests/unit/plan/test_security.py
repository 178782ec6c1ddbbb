"""What pods may do beyond the Pod Security baseline, and why."""

from __future__ import annotations

import pytest
from manyhost.catalog import Catalog, resolve
from manyhost.checks import pod_security
from manyhost.checks.objects import pod_templates
from manyhost.plan import make_plan
from manyhost.plan.security import Allowed, allowed, either
from manyhost.render import build

from tests.helpers.cli import RECIPE, ROOT

CATALOG = Catalog(ROOT)
A3MEGA, LOCAL = CATALOG.environment("a3mega"), CATALOG.environment("local")
TCPXO, NONE = CATALOG.interconnect("tcpxo"), CATALOG.interconnect("none")


def of(*assignments: str, recipe: str = RECIPE) -> Allowed:
    return make_plan(resolve(CATALOG, recipe, assignments=assignments), CATALOG).allowed


def test_a_fabric_without_needs_keeps_the_level_of_the_platform() -> None:
    local = Allowed(level="restricted", violations={}, exemptions=LOCAL.exemptions)
    assert allowed(LOCAL, NONE, on=(), mounts=(), exemptions={}) == local
    assert allowed(A3MEGA, NONE, on=(), mounts=(), exemptions={}) == Allowed(level="baseline", violations={})
    bare = of("network.interconnect=none", "ssd_host_path=")
    assert bare == Allowed(level="baseline", violations={}, exemptions=CATALOG.exemptions())


def test_a_place_that_is_no_kubernetes_has_pods_of_its_own() -> None:
    import msgspec

    rented = msgspec.structs.replace(A3MEGA, platform=CATALOG.environment("runpod-h200").platform)
    assert allowed(rented, NONE, on=(), mounts=(), exemptions={}) == Allowed(level="baseline", violations={})


def test_each_departure_has_its_reason() -> None:
    found = of()
    assert found.level == "privileged"
    assert found.violations["capability NET_ADMIN in tcpxo-daemon"] == (
        "the daemon steers flows on the GPU NICs"
    )
    assert "privileged container vllm" not in found.violations
    assert "hostNetwork" not in found.violations
    assert all(len(reason) >= 10 for reason in found.violations.values())


@pytest.mark.parametrize(
    ("assignment", "added"),
    [
        ("network.host_network=true", {"hostNetwork", "privileged container vllm"}),
        ("ssd_host_path=/mnt/ssd", {"hostPath volume ssd"}),
        (
            "host_mounts=[{name: a, host_path: /a, mount_path: /a}, "
            "{name: b, host_path: /b, mount_path: /b}]",
            {"hostPath volume host-a", "hostPath volume host-b"},
        ),
    ],
)
def test_a_setting_allows_what_it_asks_for_and_nothing_else(assignment: str, added: set[str]) -> None:
    bare = "ssd_host_path="
    assert set(of(bare, assignment).violations) - set(of(bare).violations) == added


@pytest.mark.parametrize(
    ("recipe", "assignments"),
    [
        *((name, ()) for name in CATALOG.recipes()),
        (RECIPE, ("network.interconnect=none",)),
        (RECIPE, ("network.host_network=true",)),
        (RECIPE, ("ssd_host_path=/mnt/ssd", "host_mounts=[{name: a, host_path: /a, mount_path: /x}]")),
    ],
)
def test_the_pods_do_exactly_that(recipe: str, assignments: tuple[str, ...]) -> None:
    """What nobody needs any more is no longer allowed."""
    rendered = build(recipe, assignments=assignments)
    found = {
        name
        for item in rendered.objects
        for pod in pod_templates(item)
        for name in pod_security.violations(pod)
    }
    assert found == set(rendered.plan.allowed.violations)


def test_a_reason_holds_for_all_for_a_place_or_for_a_fabric() -> None:
    """What all releases do without, then what one environment or interconnect does."""
    everywhere = {"user in vllm": "for every release", "cpu-limit in vllm": "a general reason"}
    found = allowed(LOCAL, CATALOG.interconnect("rdma"), on=(), mounts=(), exemptions=everywhere).exemptions
    assert found["user in vllm"] == "for every release"
    assert found["cpu-limit in vllm"] == LOCAL.exemptions["cpu-limit in vllm"]  # the nearer reason
    assert "added-capabilities in vllm" in found


def test_either_of_several() -> None:
    both = either(allowed(A3MEGA, fabric, on=(), mounts=(), exemptions={}) for fabric in (NONE, TCPXO))
    assert both == allowed(A3MEGA, TCPXO, on=(), mounts=(), exemptions={})
    assert either([Allowed(level="restricted", violations={}), Allowed(level="baseline", violations={})]) == (
        Allowed(level="baseline", violations={})
    )
