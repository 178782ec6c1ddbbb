"""What the pods request of their hosts: enough to stay, and no more than a host has."""

from __future__ import annotations

import pytest
from manyhost.catalog import Catalog, resolve
from manyhost.cluster.doctor.hosts import requests_of
from manyhost.cluster.quantity import parse
from manyhost.render import Renderer

from testbed import gpu_hosts
from testbed.shapes import SHAPES
from tests.helpers.cli import RECIPE, ROOT
from tests.helpers.helm import pod

CATALOG = Catalog(ROOT)
RENDERER = Renderer(CATALOG)
GIB = 2**30


def resources(*assignments: str, recipe: str = RECIPE) -> tuple[dict[str, str], dict[str, str]]:
    found = RENDERER.plan(resolve(CATALOG, recipe, assignments=assignments)).resources
    return found.requests, found.limits


@pytest.mark.parametrize("recipe", CATALOG.recipes())
def test_no_pod_is_best_effort_and_each_fits_on_its_host(recipe: str) -> None:
    rendered = RENDERER.render(resolve(CATALOG, recipe))
    host = rendered.plan.environment.host
    for item in (item for item in rendered.objects if item["kind"] == "LeaderWorkerSet"):
        for role in ("leader", "worker"):
            spec = pod([item], role)["spec"]
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                assert {"cpu", "memory"} <= set(container["resources"]["requests"]), container["name"]
            needed = requests_of(spec)
            shape = SHAPES.get(rendered.plan.environment.name)
            if shape is None:
                assert needed["memory"] <= host.memory_gib * GIB / 4
                continue
            assert needed["memory"] > host.shm_gib * GIB  # what it writes there counts as its memory
            assert (
                parse(pod([item], role)["spec"]["containers"][0]["resources"]["limits"]["memory"])
                > (needed["memory"])
            )
            assert needed["memory"] <= host.memory_gib * GIB * 0.85
            allocatable = gpu_hosts.node("n", shape)["status"]["allocatable"]
            for name in ("cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"):
                assert needed.get(name, 0) <= parse(allocatable[name]), name


def test_a_download_into_the_pod_requests_its_storage() -> None:
    recipe = "a3ultra/deepseek-r1-671b"
    requests, limits = resources(recipe=recipe)
    assert requests == {"cpu": "100", "memory": "900Gi", "ephemeral-storage": "898Gi"}
    assert limits == {"cpu": "224", "memory": "2800Gi"}  # all processors of the host: nothing is throttled
    for elsewhere in ("site.gcs_bucket=b-1", "ssd_host_path=/mnt/disks/ssd"):
        assert "ephemeral-storage" not in resources(elsewhere, recipe=recipe)[0]


def test_what_the_engine_keeps_in_main_memory_comes_on_top() -> None:
    assert resources("arguments.cpu-offload-gb=10.5")[0]["memory"] == "684Gi"
    assert resources("arguments.cpu-offload-gb=100")[1]["memory"] == "1400Gi"


def test_a_small_host_is_asked_for_little() -> None:
    assert resources(recipe="local/tiny-r1") == ({"cpu": "100m", "memory": "512Mi"}, {})


def test_a_chart_value_replaces_a_request() -> None:
    resolved = resolve(CATALOG, RECIPE, assignments=["chart.host.resources.requests.cpu=48"])
    assert RENDERER.render(resolved).values["host"]["resources"]["requests"]["cpu"] == 48
