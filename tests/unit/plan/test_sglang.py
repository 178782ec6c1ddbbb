"""SGLang in plans: what is said of it, what is not, and what is refused."""

from __future__ import annotations

import pytest
from manyhost.catalog import Catalog, resolve
from manyhost.errors import InvalidInput
from manyhost.plan import Plan, make_plan, table
from manyhost.plan.sizing import pipeline_layers
from manyhost.render import build

from tests.helpers.cli import ROOT

CATALOG = Catalog(ROOT)
MEGA, ULTRA = "a3mega/deepseek-r1-671b-sglang", "a3ultra/deepseek-r1-671b-sglang"


def plan(recipe: str, *assignments: str) -> Plan:
    return make_plan(resolve(CATALOG, recipe, assignments=assignments), CATALOG)


def refused(*assignments: str, recipe: str = MEGA, **variables: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        build(recipe, assignments=assignments, variables=variables)
    return str(caught.value)


@pytest.mark.parametrize(("recipe", "context"), [(MEGA, 32768), (ULTRA, 131072)])
def test_flags_are_those_of_sglang(recipe: str, context: int) -> None:
    arguments = plan(recipe).main.arguments
    assert arguments == {
        "context-length": context,
        "reasoning-parser": "deepseek-r1",
    }
    assert plan(recipe, "utilization=0.85").main.arguments["mem-fraction-static"] == 0.85
    assert plan(recipe).settings.engine.command == ["sglang"]


@pytest.mark.parametrize("recipe", [MEGA, ULTRA])
def test_weights_are_planned_and_nothing_else_is_promised(recipe: str) -> None:
    found = plan(recipe)
    assert found.main.memory is None
    assert found.main.seats == 0
    assert found.main.weights is not None
    # A sixteenth of 688.6 GB, and what every GPU has: 1.3 GB of norms, gates and the latent projections.
    assert max(found.main.weights.gib) == pytest.approx(688.6e9 / 16 / 2**30, abs=1)
    rows = dict(table.rows(found))
    assert rows["memory"].startswith("uncalibrated: per GPU 40.3 of ")
    assert "seats" not in rows
    assert any("nobody has started SGLang v0.5.20" in text for text in found.warnings)
    assert any("tensor 16 spans hosts" in text for text in plan(MEGA).warnings)


def test_weights_that_do_not_fit_are_refused() -> None:
    assert "parallelism: does not fit: a GPU offers 39.5 GiB, and 40.3 are weights" in refused(
        "utilization=0.5"
    )
    assert "does not fit" in refused("parallelism.tensor=8")


def test_stages_are_split_as_sglang_does() -> None:
    assert pipeline_layers(61, 2, "sglang") == (30, 31)
    assert pipeline_layers(61, 4, "sglang") == (15, 15, 15, 16)
    two = ("parallelism.tensor=8", "parallelism.pipeline=2")
    assert plan(MEGA, *two).main.pipeline_layers == (30, 31)
    moved = plan(MEGA, *two, 'variables.SGLANG_PP_LAYER_PARTITION="31,30"')
    assert moved.main.pipeline_layers == (31, 30)


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (("engine.executor=ray",), "engine.executor"),
        (("routing=inferencepool",), "routing: inferencepool stands before vLLM alone"),
        (("parallelism.data=2", "parallelism.tensor=4"), "parallelism.data: data parallel ranks of SGLang"),
        (("arguments.quantization=fp8",), "arguments.quantization: the plan knows weights in the format of"),
        (("arguments.enable-dp-attention=true",), "arguments.enable-dp-attention: it puts copies of"),
        (("arguments.speculative-algorithm=EAGLE",), "it loads a draft model"),
        (("arguments.tp-size=8",), "arguments.tp-size: is set by manyhost itself"),
        (("arguments.dist-init-addr=a:1",), "arguments.dist-init-addr: is set by manyhost itself"),
        (("arguments.enable-metrics=true",), "arguments.enable-metrics: is set by manyhost itself"),
        (("arguments.context-length=8",), "remove it and set context"),
        (("arguments.mem-fraction-static=0.8",), "remove it and set utilization"),
        (("arguments.api-key=abc",), "a key must not stand in a manifest"),
        (("arguments.disaggregation-mode=decode",), "prefill and decode apart are vLLM's here"),
        (("arguments.max-num-seqs=8",), "--max-num-seqs is no flag of SGLang v0.5.20"),
        (("arguments.max-running-requests=0",), "arguments.max-running-requests: must be a whole number"),
        (("arguments.max-total-tokens=32K",), "32768, 32k or 32Ki"),
        (("arguments.kv-cache-dtype=nvfp4",), "SGLang v0.5.20 cannot serve this model with it"),
        (("arguments.disable-radix-cache=false",), "cannot be switched off"),
        (("variables.VLLM_API_KEY=abc",), "SGLang does not read VLLM_API_KEY"),
        (("chart.vllm.envFrom=[{name: VLLM_API_KEY, secret: s}]",), "SGLang does not read VLLM_API_KEY"),
        (("chart.autoscaling.enabled=true",), "is a counter of vLLM"),
        (("engine.tag=v0.26.0",), "engine.tag: v0.26.0 is not SGLang v0.5.20"),
        (("engine.version=v0.26.0",), "engine.version: unknown engine.version 'v0.26.0'"),
    ],
)
def test_what_is_refused_says_where(assignments: tuple[str, ...], words: str) -> None:
    assert words in refused(*assignments)


def test_prefill_and_decode_apart_are_refused_where_a_network_would_carry_them() -> None:
    message = refused("roles.prefill.groups=1", "network.interconnect=none", recipe=ULTRA)
    assert "roles.prefill.groups: SGLang v0.5.20 cannot hand KV caches over" in message


def test_other_places_have_vllm_alone() -> None:
    message = refused("engine.name=sglang", "engine.version=v0.5.20", recipe="runpod-h200/two-host-mp")
    assert "engine.name: the engine's environment at RunPod is vLLM's" in message


@pytest.mark.parametrize("variable", ["VLLM_IMAGE", "VLLM_VERSION"])
def test_variables_of_vllm_are_not_taken_for_sglang(variable: str) -> None:
    assert f"environment variable {variable}: it is of vLLM" in refused(**{variable: "v0.26.0"})


def test_a_registry_of_ones_own() -> None:
    found = plan(MEGA, "site.artifact_registry=us-docker.pkg.dev/p/r")
    assert str(found.image) == "us-docker.pkg.dev/p/r/sglang:v0.5.20"
