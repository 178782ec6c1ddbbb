"""What a platform without Kubernetes starts is what the chart's pods start."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from manyhost.catalog import Catalog, resolve
from manyhost.catalog.environment import Kubernetes
from manyhost.errors import InvalidInput
from manyhost.plan import Plan
from manyhost.render import Renderer, build, launch

from tests.helpers.cli import RECIPE, ROOT
from tests.helpers.helm import expand, variables

CATALOG = Catalog(ROOT)
RECIPES = [
    name
    for name in CATALOG.recipes()
    if isinstance(CATALOG.environment(name.split("/")[0]).platform, Kubernetes)
    and "chart" not in CATALOG.recipe_document(name)  # which other platforms refuse
    and "name" not in CATALOG.recipe_document(name)["engine"]  # so are other engines than vLLM
]
# What the chart alone sets: caches and the home lie on the SSD that it mounts, the key in a Secret.
OF_THE_CHART = {"HF_HOME", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE"}
OF_SOME_PODS = {"MANYHOST_CONTROL_KEY_FILE", "USER", "HOME"}
# Prefill and decode apart need its router and Service: other platforms refuse them.
OF_THE_HANDOVER = {"VLLM_NIXL_SIDE_CHANNEL_PORT", "UCX_NET_DEVICES", "UCX_TLS"}


def engines(objects: list[Any]) -> dict[str, Any]:
    """Return the leader's engine of each role."""
    found = {}
    for item in objects:
        if item["kind"] == "LeaderWorkerSet":
            role = item["metadata"]["labels"].get("manyhost.dev/role", "serve")
            spec = item["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"]
            (found[role],) = (c for c in spec["containers"] if c["name"] == "vllm")
    return found


SETTINGS = [
    (),
    ("network.nccl.NCCL_DEBUG=INFO", "variables.A=$(B) $$", "arguments.chat-template=--x $(y)"),
    ("startup_seconds=900", "drain_seconds=7", "stall_seconds=9", "start_attempts=2"),
    ("arguments.hf-overrides={a: 1000000, b: [x]}", "arguments.enable-prefix-caching=false"),
    ("variables.LD_LIBRARY_PATH=/mine",),
]


@pytest.mark.parametrize(
    ("recipe", "assignments"),
    [
        *((recipe, assignments) for recipe in RECIPES for assignments in SETTINGS),
        (RECIPE, ("site.gcs_bucket=weights",)),
        (RECIPE, ("network.interconnect=none",)),
    ],
)
def test_arguments_and_variables_are_those_of_the_chart(recipe: str, assignments: tuple[str, ...]) -> None:
    rendered = build(recipe, assignments=assignments)
    plan = rendered.plan
    pods = engines(rendered.objects)
    assert list(pods) == [role.name for role in plan.roles[::-1]]
    for role in plan.roles:
        words = [expand(word) for word in pods[role.name]["args"]]
        of_the_chart = OF_THE_CHART | OF_SOME_PODS
        own = launch.variables(plan)
        if plan.handover:
            at = words.index("--kv-transfer-config")
            del words[at : at + 2]
            of_the_chart |= OF_THE_HANDOVER
        assert launch.arguments(plan, role) == words
        found = variables(pods[role.name])
        assert {name: value for name, value in found.items() if name not in of_the_chart} == own
        assert of_the_chart - set(found) <= OF_SOME_PODS


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_command_and_the_image_too(recipe: str) -> None:
    rendered = build(recipe)
    document = json.loads(launch.launch_json(rendered.plan))
    for engine in engines(rendered.objects).values():
        assert engine["image"] == document["image"]
        assert engine["command"] == ["bash", "/opt/manyhost/launch.sh"]
    assert document["command"] == ["bash", "launch.sh"]
    assert [role["hosts"] for role in document["roles"]] == [role.hosts for role in rendered.plan.roles]


class Elsewhere(Renderer):
    """As if the environment of a recipe were RunPod's."""

    def plan(self, resolved: Any) -> Plan:
        plan = super().plan(resolved)
        rented = msgspec.structs.replace(
            plan.environment, platform=CATALOG.environment("runpod-h200").platform
        )
        return msgspec.structs.replace(plan, environment=rented)


def test_a_platform_without_kubernetes_gets_no_manifests() -> None:
    files = Elsewhere(CATALOG).render(resolve(CATALOG, RECIPE)).files()
    assert sorted(files) == ["launch.json", "plan.json", "topology.svg"]
    assert json.loads(files["launch.json"])["roles"][0]["gpus_per_host"] == 8


def test_it_refuses_what_only_the_chart_reads() -> None:
    with pytest.raises(InvalidInput, match="is no Kubernetes") as caught:
        Elsewhere(CATALOG).render(resolve(CATALOG, RECIPE, assignments=["chart.networkPolicy.enabled=true"]))
    assert caught.value.where == "--set: chart"
