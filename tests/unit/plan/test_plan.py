"""What a recipe resolves to, as a table over environments, engines and settings."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from manyhost.catalog import Catalog, resolve
from manyhost.errors import InvalidInput
from manyhost.plan import Plan, memory, startup, table
from manyhost.plan.arguments import derived
from manyhost.render import Renderer

from tests.helpers.cli import RECIPE, ROOT

CATALOG = Catalog(ROOT)
RENDERER = Renderer(CATALOG)
RESERVED = CATALOG.reserved_flags()


def plan(*assignments: str, recipe: str = RECIPE, **variables: str) -> Plan:
    return RENDERER.plan(resolve(CATALOG, recipe, variables=variables, assignments=assignments))


def refused(*assignments: str, recipe: str = RECIPE, **variables: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        plan(*assignments, recipe=recipe, **variables)
    return str(caught.value)


@pytest.mark.parametrize("recipe", CATALOG.recipes())
def test_every_recipe_has_a_plan_whose_ranks_fill_its_hosts(recipe: str) -> None:
    p = plan(recipe=recipe)
    for role in p.roles:
        sizes = role.parallelism
        assert role.ranks == sizes.tensor * sizes.pipeline * sizes.data
        assert role.ranks == role.hosts * max(p.gpus_per_host, 1)
        assert sum(role.pipeline_layers) == p.model.architecture.layers
    assert len(p.networks) == len(p.environment.host.nics)
    assert p.startup_seconds >= 600


def test_the_default_recipe_in_numbers() -> None:
    p = plan()
    (role,) = p.roles
    assert (role.hosts, p.gpus_per_host, role.groups, p.hosts) == (2, 8, 1, 2)
    assert (role.name, role.pipeline_layers) == ("serve", (31, 30))
    assert p.settings.engine.executor == "mp"
    assert role.memory is not None
    assert role.memory.usable_gib == pytest.approx(79.10 * 0.88, abs=0.01)
    whole = memory.stage_weights_bytes(
        p.model, p.engine, role.parallelism, first_layer=0, layers=61, is_last=True
    )
    assert sum(role.memory.weights_gib) == pytest.approx(whole / memory.GIB, abs=0.01)
    # The last stage has more weights and so decides, with its 30 layers.
    assert role.memory.kv_bytes_per_token == 1152 * 30
    assert role.memory.kv_tokens == role.memory.kv_tokens_by_stage[1] < role.memory.kv_tokens_by_stage[0]
    assert (role.arguments["max-num-seqs"], role.seats) == (384, 384)
    assert role.memory.concurrency == pytest.approx(role.memory.kv_tokens / 32768, abs=0.1)
    assert (p.cost.usd_per_hour, p.cost.region) == (185.88, "us-east4")


@pytest.mark.parametrize(
    ("assignments", "variables", "words"),
    [
        (("engine.version=v0.7.3",), {}, "vLLM v0.7.3 starts several hosts with ray, not with mp"),
        (("engine.executor=ray",), {}, "does not contain Ray"),
        (("engine.version=v0.26.0", "engine.executor=ray"), {}, "does not contain Ray"),
    ],
)
def test_executors_that_cannot_start(
    assignments: tuple[str, ...], variables: dict[str, str], words: str
) -> None:
    message = refused(*assignments, **variables)
    assert words in message
    assert message.startswith(("--set: engine.version: ", "--set: engine.executor: "))


@pytest.mark.parametrize(
    ("assignments", "variables", "image"),
    [
        ((), {}, "vllm/vllm-openai:v0.33.0"),
        (("engine.executor=ray", "engine.image=x/with-ray"), {}, "x/with-ray:v0.33.0"),
        (
            ("engine.executor=ray",),
            {"ARTIFACT_REGISTRY": "eu.pkg.dev/p/r"},
            "eu.pkg.dev/p/r/vllm-openai:v0.33.0",
        ),
        ((), {"ARTIFACT_REGISTRY": "eu.pkg.dev/p/r/", "VLLM_IMAGE": "vllm"}, "eu.pkg.dev/p/r/vllm:v0.33.0"),
        ((), {"ARTIFACT_REGISTRY": "eu.pkg.dev/p/r", "VLLM_IMAGE": "o/vllm"}, "o/vllm:v0.33.0"),
        (("engine.tag=mine",), {"VLLM_IMAGE": "o/vllm"}, "o/vllm:mine"),
        ((), {"VLLM_VERSION": "v0.26.0"}, "vllm/vllm-openai:v0.26.0"),
    ],
)
def test_images(assignments: tuple[str, ...], variables: dict[str, str], image: str) -> None:
    p = plan(*assignments, **variables)
    assert str(p.image) == image


@pytest.mark.parametrize(
    ("assignments", "variables", "source", "path"),
    [
        ((), {}, "hub", ""),
        ((), {"GCS_BUCKET": "b"}, "bucket", "/gcs/models/deepseek-ai/DeepSeek-R1"),
        (("weights.source=hub",), {"GCS_BUCKET": "b"}, "hub", ""),
        (("weights.path=/gcs/r1",), {"GCS_BUCKET": "b"}, "bucket", "/gcs/r1"),
        (("weights.source=folder", "weights.path=/gcs/r1"), {"GCS_BUCKET": "b"}, "folder", "/gcs/r1"),
    ],
)
def test_sources_of_the_weights(
    assignments: tuple[str, ...], variables: dict[str, str], source: str, path: str
) -> None:
    p = plan(*assignments, **variables)
    assert (p.weights.kind, p.weights.path) == (source, path)
    assert p.settings.site.gcs_bucket == variables.get("GCS_BUCKET", "")


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (("weights.source=bucket",), "is bucket, but no bucket is set\n  fix: set GCS_BUCKET"),
        (("weights.source=folder",), "weights.path: must be an absolute path"),
        (("weights.source=folder", "weights.path=r1"), "must be an absolute path"),
        (("weights.path=/x",), "has no effect when weights come from the hub"),
        (("network.interconnect=gib",), "environment a3mega has no interconnect 'gib'"),
        (("network.subnetworks=[a, b]",), "has 9 networks (default, vpc1"),
        (("network.subnetworks=[a, a, c, d, e, f, g, h, i]",), "a network is named twice"),
        (("context=200000",), "200000 tokens is more than the model's 163840"),
        (("parallelism.pipeline=1",), "does not fit: a GPU offers 69.6 GiB"),
        (("utilization=0.57",), "higher utilization"),
        (("arguments.kv-cache-dtype=int8",), "use one of: auto, fp8, fp8_e4m3"),
        (("arguments.max-num-seqs=0",), "must be a whole number from 1"),
        (("arguments.max-num-seqs=true",), "must be a whole number from 1"),
        (("environment=local",), "computes on GPUs, and a host has no GPUs"),
    ],
)
def test_what_cannot_work_says_why(assignments: tuple[str, ...], words: str) -> None:
    assert words in refused(*assignments)


def test_fp8_kv_is_refused_where_the_engine_cannot_serve_it() -> None:
    message = refused("arguments.kv-cache-dtype=fp8", recipe=f"{RECIPE}-published")
    assert "vLLM v0.7.3 cannot serve this model with it" in message


@pytest.mark.parametrize("flag", sorted({*RESERVED, *derived(CATALOG.engine("v0.33.0"))}))
@pytest.mark.parametrize("prefix", ["", "no-"])
def test_flags_that_manyhost_sets_itself(flag: str, prefix: str) -> None:
    message = refused(f"arguments.{prefix}{flag}=1")
    assert f"--set: arguments.{prefix}{flag}: is set by manyhost itself" in message


def test_other_networks_keep_their_order() -> None:
    names = [f"n{number}" for number in range(9)]
    assert plan(f"network.subnetworks=[{', '.join(names)}]").networks == tuple(names)


@pytest.mark.parametrize(
    ("variables", "region", "price"),
    [
        ({}, "us-east4", 92.94),
        ({"REGION": "europe-west1"}, "europe-west1", 102.19),
        ({"CLUSTER_REGION": "us-west4", "REGION": "europe-west1"}, "us-west4", 104.58),
        ({"REGION": "global"}, "us-east4", 92.94),
    ],
)
def test_price_by_region(variables: dict[str, str], region: str, price: float) -> None:
    p = plan("groups=3", **variables)
    assert p.cost.date == "2026-07-30"
    assert p.cost.region == region
    assert p.cost.usd_per_hour == pytest.approx(price * 2 * 3, abs=0.01)


def test_cold_start_phases_and_budget() -> None:
    model, engine = CATALOG.model("deepseek-r1-671b"), CATALOG.engine("v0.33.0")
    phases = dict(startup.cold_start(model, engine, "hub"))
    assert list(phases) == ["schedule", "image", "import", "weights", "compile"]
    assert phases["weights"] == math.ceil(688_586_727_753 / 0.38e9)
    by_source = [dict(startup.cold_start(model, engine, s))["weights"] for s in ("hub", "bucket", "folder")]
    assert by_source == sorted(by_source, reverse=True)
    budget = startup.budget_seconds(tuple(phases.items()))
    own = phases["import"] + phases["weights"] + phases["compile"]
    assert budget % 60 == 0
    assert 2 * own <= budget < 2 * own + 60
    assert startup.budget_seconds((("import", 1),)) == 600


def test_a_startup_budget_of_ones_own() -> None:
    assert plan("startup_seconds=900").startup_seconds == 900


def test_arguments_have_a_fixed_order_and_derived_ones_come_first() -> None:
    names = list(plan("arguments.seed=1", "arguments.block-size=64").main.arguments)
    assert names[:2] == ["max-model-len", "gpu-memory-utilization"]
    assert names[2:] == sorted(names[2:])
    assert "gpu-memory-utilization" not in plan(recipe="local/tiny-r1").main.arguments


def test_warnings() -> None:
    warnings = plan("parallelism.tensor=16", "parallelism.pipeline=1").warnings
    assert any("tensor 16 spans hosts" in text for text in warnings)
    assert plan().warnings == ()
    (seats,) = plan("arguments.max-num-seqs=512").warnings
    assert seats == (
        "max-num-seqs 512 is more than 744,960 KV tokens serve at 1,000 + 1,000 tokens a request: "
        "some would be computed twice; 384 fit"
    )
    assert plan("arguments.max-num-seqs=512", "traffic.output_tokens=200").warnings == ()
    (share,) = plan("utilization=0.95").warnings
    assert share.startswith(
        "utilization 0.95: about 2.4 GiB of each GPU are taken beside it under load; 0.92 "
    )
    (own,) = plan("arguments.kv-cache-memory-bytes=30G").warnings
    assert own.startswith("utilization 0.951: ")
    assert plan("arguments.max-num-seqs=4").warnings == ()


PREFILL = "roles.prefill.groups=1"
APART = "local/tiny-r1-disaggregated"
OVER_TCP = ("network.interconnect=none", "parallelism.tensor=16", "parallelism.pipeline=1")


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        ((PREFILL,), "NIXL has no TCPXO transport"),
        ((PREFILL, "network.interconnect=none"), "one pipeline stage only"),
        (
            (PREFILL, *OVER_TCP, "engine.version=v0.7.3", "engine.executor=ray"),
            "nobody has seen NIXL in its image",
        ),
        (
            (PREFILL, *OVER_TCP, "engine.executor=ray", "engine.image=example.com/with-ray"),
            "need the executor mp",
        ),
        ((PREFILL, *OVER_TCP, "arguments.kv-transfer-config={}"), "it is set for prefill and decode"),
        (
            (PREFILL, *OVER_TCP, 'arguments={"kv-transfer-config.kv_connector": "Other"}'),
            "it is set for prefill and decode",
        ),
        ((PREFILL, *OVER_TCP, "arguments.kv-offloading-size=4"), "in the place of NIXL"),
        ((PREFILL, *OVER_TCP, "arguments.ssl-certfile=/x"), "plain HTTP"),
        (("roles.prefill.groups=-1",), "roles.prefill.groups: expected a whole number of at least 0"),
        (("roles=true",), "roles: expected a mapping"),
    ],
)
def test_prefill_and_decode_apart_are_refused_with_the_reason(
    assignments: tuple[str, ...], words: str
) -> None:
    assert words in refused(*assignments)


def test_a_connector_of_ones_own_stays_ones_own_without_prefill_groups() -> None:
    assert "kv-transfer-config" in plan("arguments.kv-transfer-config={}").main.arguments


def test_prefill_and_decode_apart_in_numbers() -> None:
    """Both kinds of groups are whole engines; the KV cache moves in whole blocks, once for each rank."""
    p = plan(PREFILL, *OVER_TCP, "groups=2", "traffic.input_tokens=1000")
    found = [(role.name, role.groups, role.hosts) for role in p.roles]
    assert (found, p.hosts) == ([("prefill", 1, 2), ("decode", 2, 2)], 6)
    assert p.cost.usd_per_hour == pytest.approx(6 * 92.94)
    assert [role.memory for role in p.roles] == [plan(*OVER_TCP).main.memory] * 2
    assert p.handover is not None
    assert p.handover.tokens == 1008  # blocks of 16
    assert p.handover.bytes == 1008 * 61 * 1152 * 16
    assert p.handover.seconds == pytest.approx(p.handover.bytes / 2 / 0.59e9, abs=0.001)
    rows = dict(table.rows(p))
    assert rows["hosts"].startswith("1 prefill + 2 decode groups of 2 ")
    assert rows["handover"].startswith("1,133.3 MB of KV cache a request of 1,000 prompt tokens, ")
    late = plan(PREFILL, *OVER_TCP, "traffic.input_tokens=30000")
    assert any("more than the 10000 ms to the first token" in text for text in late.warnings)
    # 11 blocks: what the engine itself counted for 176 tokens
    own = plan("traffic.input_tokens=170", recipe=APART)
    assert own.handover is not None
    assert (own.handover.bytes, own.handover.seconds) == (811_008, 0.0)
    assert plan().handover is None
    assert "use one of: auto" in refused("arguments.kv-cache-dtype=fp8", recipe=APART)


def test_plan_json_is_stable_and_whole() -> None:
    document: dict[str, Any] = json.loads(table.to_json(plan()))
    assert table.to_json(plan()) == table.to_json(plan())
    named = {key: document[key] for key in ("environment", "interconnect", "model", "engine")}
    assert named == {
        "environment": "a3mega",
        "interconnect": "tcpxo",
        "model": "deepseek-r1-671b",
        "engine": "v0.33.0",
    }
    assert document["provenance"]["context"] == f"recipes/{RECIPE}/recipe.yaml"
    fits = plan().main.memory
    assert fits is not None
    assert document["roles"][0]["memory"]["kv_tokens"] == fits.kv_tokens
    assert document["settings"]["context"] == 32768
    assert "resolved" not in document


@pytest.mark.parametrize("recipe", CATALOG.recipes())
def test_the_table_says_what_someone_pays_for(recipe: str) -> None:
    p = plan(recipe=recipe)
    labels = dict(table.rows(p))
    assert {"recipe", "hosts", "parallelism", "engine", "weights", "cold start", "price"} <= set(labels)
    assert all("\n" not in text for text in labels.values())
    assert ("memory" in labels) == (p.gpus_per_host > 0)


@pytest.mark.parametrize(
    ("recipe", "assignments", "interconnect"),
    [
        ("a3ultra/deepseek-r1-671b", (), "none"),
        ("a3ultra/deepseek-r1-671b", ("parallelism.pipeline=2",), "gib"),
        ("a3ultra/deepseek-r1-671b", ("network.interconnect=gib",), "gib"),
        ("a3ultra/deepseek-r1-671b-two-hosts", (), "gib"),
        (RECIPE, (), "tcpxo"),
    ],
)
def test_within_one_host_there_is_nothing_to_connect(
    recipe: str, assignments: tuple[str, ...], interconnect: str
) -> None:
    assert plan(*assignments, recipe=recipe).interconnect.name == interconnect


def test_an_engine_for_cpus_is_no_engine_for_gpus() -> None:
    assert "computes on CPUs, and a host has 8 GPUs" in refused("engine.version=v0.32.0-cpu")


def test_capacity_that_is_not_on_demand_is_a_matter_of_the_node_pool() -> None:
    assert any("node_selector" in warning for warning in plan("capacity.mode=spot").warnings)


def test_several_hosts_that_leave_their_fabric_unused_are_warned_of() -> None:
    (found,) = set(plan("network.interconnect=none").warnings) - set(plan().warnings)
    assert found == (
        "network.interconnect none: the 2 hosts of a group talk over TCP, about 4 GB/s for an all-reduce, "
        "and leave tcpxo unused"
    )
    one_host = plan("network.interconnect=none", recipe="a3ultra/deepseek-r1-671b")
    assert not [text for text in one_host.warnings if "talk over TCP" in text]
    assert not [text for text in plan(recipe="kubernetes/deepseek-r1-671b").warnings if "TCP," in text]


def test_a_recipe_may_name_the_release_of_its_interconnect() -> None:
    def images(*assignments: str, recipe: str = RECIPE) -> tuple[str, str]:
        values = RENDERER.render(resolve(CATALOG, recipe, assignments=assignments)).values
        settings = values["gpuPlatformSettings"]
        return settings["ncclPluginImage"].split(":")[1], settings["rxdmImage"].split(":")[1]

    assert images() == ("v1.0.15", "v1.0.21")
    assert images("network.release=v1.0.12") == ("v1.0.12", "v1.0.18")
    assert images(recipe="a3mega/deepseek-r1-671b-published") == ("v1.0.8-1", "v1.0.14")
    assert "tcpxo has no release 'v1.0.13'" in refused("network.release=v1.0.13")
    assert "v1.0.12" in refused("network.release=v1.0.13")
    message = "pods over none bring no images of a release"
    assert message in refused("network.release=v1.0.12", "network.interconnect=none")


def test_what_a_group_costs_that_is_made_anew() -> None:
    kept = dict(table.rows(plan()))["group made anew"]
    assert kept == "~615s and 31.75 USD: the weights are still there"
    lost = dict(table.rows(plan("ssd_host_path=")))["group made anew"]
    assert lost == "~2083s and 107.55 USD: the weights are downloaded again"
    bucket = plan(GCS_BUCKET="b-1").recreation
    assert not bucket.downloads
    assert dict(table.rows(plan(recipe="a4/deepseek-r1-671b")))["group made anew"].endswith("again")
    two = plan("groups=2").recreation  # one of them is made anew
    assert two == plan().recreation


def test_hosts_are_held_for_the_start_budget_of_all_attempts_and_half_an_hour() -> None:
    found = plan("startup_seconds=900", "start_attempts=2")
    assert found.held_minutes == 2 * 15 + 30
    said = dict(table.rows(found))["held at most"]
    assert said == "60 min without an answer (at most 185.88 USD), then the hosts are freed"
    assert "held at most" not in dict(table.rows(plan(recipe="local/tiny-r1")))


def test_the_end_of_the_capacity_is_told_and_checked() -> None:
    flex = plan("capacity.mode=flex-start", "capacity.ends=2026-12-01T08:00Z")
    assert dict(table.rows(flex))["capacity"] == "flex-start: until 2026-12-01T08:00Z, 7 days at most"
    assert plan("capacity.mode=spot").capacity == "may be taken away at any time"
    assert plan("capacity.mode=calendar").capacity.endswith("capacity.ends does not say until when")
    assert "capacity" not in dict(table.rows(plan()))
    for text in ("tomorrow", "2026-12-01T08:00"):
        assert f"--set: capacity.ends: '{text}' is no time with its zone" in refused(f"capacity.ends={text}")
