"""Random recipes over everything in the catalog: each renders whole, or is refused in the user's own words.

`make property` draws 10,000 of them, and holds 500 renders against Helm 3 and Helm 4; `make test` a few.
"""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manyhost.catalog import Catalog, resolve
from manyhost.catalog.environment import RunPod
from manyhost.catalog.settings import known_keys
from manyhost.errors import InvalidInput
from manyhost.render import Rendered, Renderer
from manyhost.render.helm import Binary
from manyhost.render.values import quote

from tests.helpers.cli import ROOT
from tests.helpers.helm import Object, helm_binaries

RENDERER = Renderer(Catalog(ROOT))
CATALOG = RENDERER.catalog
EXAMPLES = int(os.environ.get("MANYHOST_RECIPES", "150"))
HELM_EXAMPLES = int(os.environ.get("MANYHOST_HELM_RECIPES", "5"))

# Values of the chart by their own names: right ones, and some that cannot be.
CHART_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "chart.networkPolicy.enabled": st.booleans(),
    "chart.podDisruptionBudget.enabled": st.booleans(),
    "chart.podDisruptionBudget.minAvailable": st.sampled_from([1, 2, "50%", "x%"]),
    "chart.autoscaling.enabled": st.booleans(),
    "chart.autoscaling.maxReplicas": st.sampled_from([1, 3, 0, -1]),
    "chart.queue": st.sampled_from(["gpu", "", "Not A Queue"]),
    "chart.vllm.service.type": st.sampled_from(["ClusterIP", "LoadBalancer", "Loadbalancer"]),
    "chart.vllm.service.annotations.networking.gke.io/load-balancer-type": st.just("Internal"),
    "chart.vllm.service.ports.http": st.sampled_from([8000, 8080, 5600, 70000]),
    "chart.imagePullSecrets": st.sampled_from([["registry"], [], ["A B"]]),
    "chart.priorityClassName": st.sampled_from(["high", "", "-x"]),
    "chart.volumes.extra": st.sampled_from(
        [
            [
                {
                    "name": "w",
                    "mountPath": "/weights",
                    "volume": {"persistentVolumeClaim": {"claimName": "r1"}},
                }
            ],
            [{"name": "w", "mountPath": "/dev/shm", "volume": {"emptyDir": {}}}],
            [{"name": "w"}],
        ]
    ),
    "chart.vllm.envFrom": st.sampled_from(
        [[{"name": "A", "secret": "s", "key": "k"}], [{"configMap": "c"}], [{"name": "A"}]]
    ),
    "chart.host.resources.requests.cpu": st.sampled_from(["96", "1500m"]),
    "chart.podLabels.team": st.just("serving"),
    "chart.podLabels.role": st.just("mine"),
    "chart.model.tp_size": st.just(4),
    "chart.nosuch": st.just(1),
    "chart.security.privileged": st.booleans(),
    "chart.extraObjects": st.sampled_from(
        [
            [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine"}, "data": {"a": "b"}}],
            [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine"}}],
            [{"kind": "ConfigMap"}],
        ]
    ),
}


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Draw a recipe, another place and model for it, and settings; many of them cannot work."""
    recipe = draw(st.sampled_from(CATALOG.recipes()))
    options: dict[str, st.SearchStrategy[Any]] = {
        "environment": st.sampled_from(CATALOG.names("environments")),
        "model": st.sampled_from(CATALOG.names("models")),
        "parallelism.tensor": st.sampled_from([1, 2, 4, 8, 16, 32, 3]),
        "parallelism.pipeline": st.sampled_from([1, 1, 2, 3, 4, 100]),
        "parallelism.data": st.sampled_from([1, 1, 2, 8]),
        "engine.name": st.sampled_from(["vllm", "sglang"]),
        "engine.version": st.sampled_from(sorted({engine.version for engine in CATALOG.engines()})),
        "engine.executor": st.sampled_from(["mp", "ray"]),
        "engine.image": st.sampled_from(["", "example.com/own"]),
        "network.interconnect": st.sampled_from([*CATALOG.names("interconnects"), ""]),
        "network.host_network": st.booleans(),
        "context": st.sampled_from([2048, 32768, 131072, 1_000_000]),
        "groups": st.integers(1, 5),
        "roles.prefill.groups": st.integers(0, 3),
        "roles.prefill.tensor": st.sampled_from([0, 1, 8]),
        "roles.decode.tensor": st.sampled_from([0, 2, 8]),
        "roles.decode.arguments.max-num-seqs": st.sampled_from([64, 128]),
        "arguments.max-num-seqs": st.sampled_from([1, 256, 1024]),
        "arguments.enable-expert-parallel": st.booleans(),
        "arguments.kv-cache-dtype": st.sampled_from(["auto", "fp8", "fp9"]),
        "utilization": st.sampled_from([0.0, 0.5, 0.9, 1.0]),
        "capacity.mode": st.sampled_from(["on-demand", "spot", "flex-start", "calendar", "reservation"]),
        "weights.source": st.sampled_from(["auto", "hub", "bucket", "folder"]),
        "weights.path": st.sampled_from(["", "/weights"]),
        "site.gcs_bucket": st.sampled_from(["", "weights"]),
        "ssd_host_path": st.sampled_from(["", "/mnt/ssd"]),
    } | CHART_VALUES
    keys = draw(st.lists(st.sampled_from(sorted(options)), max_size=7, unique=True))
    return recipe, [f"{key}={quote(draw(options[key]))}" for key in keys]


def _render(case: tuple[str, list[str]], renderer: Renderer = RENDERER) -> Rendered | InvalidInput:
    recipe, assignments = case
    try:
        return renderer.render(resolve(CATALOG, recipe, assignments=assignments))
    except InvalidInput as refusal:
        return refusal


def _is_whole(rendered: Rendered) -> None:
    """What was not refused is what the plan says, in every group of every role."""
    plan = rendered.plan
    if isinstance(plan.environment.platform, RunPod):
        assert set(rendered.files()) == {"launch.json", "plan.json", "topology.svg"}
        return
    found = {o["metadata"]["name"]: o["spec"] for o in rendered.objects if o["kind"] == "LeaderWorkerSet"}
    assert len(found) == len(plan.roles)
    for role in plan.roles:
        spec = found[rendered.release + ("-prefill" if role.name == "prefill" else "")]
        if "replicas" in spec:
            assert spec["replicas"] == role.groups
        template = spec["leaderWorkerTemplate"]
        assert template["size"] == role.hosts
        for member in ("leaderTemplate", "workerTemplate"):
            _runs(template[member], role.arguments, plan.gpus_per_host)
    assert yaml.load(rendered.values_text, Loader=yaml.CSafeLoader) == rendered.values


def _runs(template: Object, arguments: dict[str, Any], gpus: int) -> None:
    (engine,) = (c for c in template["spec"]["containers"] if c["name"] == "vllm")
    assert engine["resources"].get("limits", {}).get("nvidia.com/gpu", 0) == gpus
    for name, value in arguments.items():
        if isinstance(value, bool):
            assert f"--{name if value else f'no-{name}'}" in engine["args"]
        elif isinstance(value, int):
            assert engine["args"][engine["args"].index(f"--{name}") + 1] == str(value)


def _names_the_users_key(refusal: InvalidInput, case: tuple[str, list[str]]) -> None:
    """One line says what is wrong with which key that a user can write, perhaps a second what to do."""
    recipe, assignments = case
    text = str(refusal)
    assert len(text.splitlines()) <= 2, text
    assert refusal.message, text
    given = [assignment.partition("=")[0] for assignment in assignments]
    known = [*known_keys(), *given, f"recipe {recipe}"]
    assert any(re.search(rf"(^|[\s:(]){re.escape(key)}($|[\s:.,\[)])", refusal.where) for key in known), text


@given(cases())
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.timeout(max(120, EXAMPLES))
def test_a_random_recipe_renders_whole_or_is_refused_in_its_users_words(case: tuple[str, list[str]]) -> None:
    outcome = _render(case)
    if isinstance(outcome, InvalidInput):
        _names_the_users_key(outcome, case)
    else:
        _is_whole(outcome)


@pytest.mark.parametrize("engine", ["helm3", "helm4"])
def test_both_helm_programs_make_the_same_of_it(engine: str) -> None:
    binaries = helm_binaries()
    if engine not in binaries:
        pytest.skip(f"{engine} is not here: make tools")
    other = Renderer(CATALOG, Binary(RENDERER.chart.path, str(binaries[engine])))
    seen = 0

    @given(cases())
    @settings(max_examples=HELM_EXAMPLES * 5, suppress_health_check=list(HealthCheck), database=None)
    def compare(case: tuple[str, list[str]]) -> None:
        nonlocal seen
        outcome = _render(case)
        if isinstance(outcome, InvalidInput) or seen >= HELM_EXAMPLES:
            return
        seen += 1
        again = _render(case, other)
        assert not isinstance(again, InvalidInput), str(again)
        key = lambda o: (o["kind"], o["metadata"]["name"])  # noqa: E731
        assert sorted(outcome.objects, key=key) == sorted(again.objects, key=key)

    compare()
