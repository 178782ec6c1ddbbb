"""Every flag that changes the memory of a GPU is planned, or refused with the reason."""

from __future__ import annotations

from itertools import pairwise

import pytest
from manyhost.catalog import Catalog, resolve
from manyhost.errors import InvalidInput
from manyhost.plan import make_plan, memory_flags
from manyhost.plan.memory import GIB, Memory

from tests.helpers.cli import RECIPE, ROOT

CATALOG = Catalog(ROOT)
H200 = "a3ultra/deepseek-r1-671b"
MTP = 'arguments.speculative-config={"method": "mtp", "num_speculative_tokens": 1}'


def fits(*assignments: str, recipe: str = RECIPE) -> Memory:
    found = make_plan(resolve(CATALOG, recipe, assignments=assignments), CATALOG).main.memory
    assert found is not None
    return found


def refused(*assignments: str, recipe: str = RECIPE) -> str:
    with pytest.raises(InvalidInput) as caught:
        fits(*assignments, recipe=recipe)
    return str(caught.value)


def test_larger_steps_leave_fewer_tokens() -> None:
    sizes = ("2048", "4096", "8192", "16384", "32k")
    tokens = [fits(f"arguments.max-num-batched-tokens={size}").kv_tokens for size in sizes]
    assert all(more > fewer for more, fewer in pairwise(tokens))
    own = fits("arguments.max-num-batched-tokens=null")
    assert own == fits("arguments.max-num-batched-tokens=8192")  # the engine's own


@pytest.mark.parametrize("value", ["1e9", "many", "-5", True, [], {}, None, "9" * 500, 1.5e300])
def test_values_of_another_type_are_left_to_the_check_of_flags(value: object) -> None:
    numbers = (
        "max-num-batched-tokens", "block-size", "kv-cache-memory-bytes", "num-gpu-blocks-override",
        "decode-context-parallel-size", "prefill-context-parallel-size",
    )  # fmt: skip
    found = make_plan(resolve(CATALOG, RECIPE), CATALOG)
    read = memory_flags.read(
        dict.fromkeys(numbers, value), {}, found.model, found.engine, found.main.parallelism, str
    )
    assert read == memory_flags.MemoryFlags()


def test_the_oldest_engine_takes_whole_prompts_in_a_step() -> None:
    published = "a3mega/deepseek-r1-671b-published"
    short, usual, chunks = (
        fits(f"context={context}", recipe=published).overhead.activation_gib
        for context in (8192, 32768, 65536)
    )
    assert short < usual
    assert chunks < short


def test_the_v1_runner_of_0_26_keeps_room_for_its_graphs_and_v2_takes_them_beside_its_share() -> None:
    older = "engine.version=v0.26.0"
    v1 = fits(older, 'variables.VLLM_USE_V2_MODEL_RUNNER="0"')
    v2 = fits(older, 'variables.VLLM_USE_V2_MODEL_RUNNER="1"')
    assert v1.overhead.graphs_gib > 0.9
    assert v2.overhead.graphs_gib == 0
    assert v2.kv_tokens > v1.kv_tokens
    assert (v1.utilization_ceiling, v2.utilization_ceiling) == (0.92, 0.88)
    assert fits(older) == v1


def test_from_0_33_on_v2_keeps_room_for_graphs_by_seats() -> None:
    default = fits()
    assert default == fits('variables.VLLM_USE_V2_MODEL_RUNNER="1"')  # it takes V2 by itself
    assert default.utilization_ceiling == 0.92
    fewer, most, more, own = (
        fits(f"arguments.max-num-seqs={seats}").overhead.graphs_gib for seats in (192, 512, 1024, "null")
    )
    assert fewer < default.overhead.graphs_gib < most
    assert most == more == own  # no graph is captured for more than 512 requests; the engine's own are 1,024


@pytest.mark.parametrize(
    "assignment",
    [
        "arguments.enforce-eager=true",
        'arguments.compilation-config={"cudagraph_mode": "NONE"}',
        """arguments.compilation-config='{"cudagraph_mode": "none"}'""",
        'arguments={"compilation-config.cudagraph_mode": "NONE"}',
    ],
)
def test_without_graphs_they_take_nothing(assignment: str) -> None:
    assert fits(assignment).overhead.graphs_gib == 0
    assert fits('arguments.compilation-config={"cudagraph_mode": "FULL_DECODE_ONLY"}') == fits()


def test_a_prediction_layer_takes_weights_and_kv_cache_of_the_last_stage() -> None:
    plain, mtp = fits(), fits(MTP)
    assert mtp.weights_gib[0] == plain.weights_gib[0]
    assert mtp.weights_gib[1] - plain.weights_gib[1] == pytest.approx(1.98, abs=0.02)
    assert mtp.kv_bytes_per_token == 1152 * 31
    assert mtp.kv_tokens < plain.kv_tokens
    assert mtp.kv_tokens_by_stage[0] == plain.kv_tokens_by_stage[0]
    ngram = fits('arguments.speculative-config={"method": "ngram", "num_speculative_tokens": 3}')
    assert ngram == plain
    dotted = fits('arguments={"speculative-config.method": "mtp", "max-num-batched-tokens": 4096}')
    assert dotted.kv_tokens == mtp.kv_tokens
    old = "a3mega/deepseek-r1-671b-published"
    assert fits("arguments.num-speculative-tokens=1", recipe=old).kv_tokens < fits(recipe=old).kv_tokens


def test_layers_go_to_the_stages_that_a_partition_names() -> None:
    moved = fits('variables.VLLM_PP_LAYER_PARTITION="32,29"')
    assert moved.weights_gib == pytest.approx((39.9, 39.7), abs=0.15)
    plain = fits().kv_tokens_by_stage
    assert moved.kv_tokens_by_stage[0] < plain[0]
    assert moved.kv_tokens_by_stage[1] > plain[1]
    assert moved.kv_tokens == moved.kv_tokens_by_stage[0]


@pytest.mark.parametrize(
    ("partition", "words"),
    [
        ("31,31", "31,31 are 62 layers in 2 stages; the model has 61 in 2"),
        ("61", "61 layers in 1 stages"),
        ("60,1,0", "is no list such as 31,30"),
        ("a,b", "is no list such as 31,30"),
    ],
)
def test_a_partition_that_the_engine_would_refuse(partition: str, words: str) -> None:
    message = refused(f'variables.VLLM_PP_LAYER_PARTITION="{partition}"')
    assert words in message
    assert "variables.VLLM_PP_LAYER_PARTITION" in message


def test_ranks_share_the_kv_cache_with_context_parallelism() -> None:
    alone, shared = fits(recipe=H200), fits("arguments.decode-context-parallel-size=8", recipe=H200)
    assert alone.kv_tokens < shared.kv_tokens <= 8 * alone.kv_tokens  # less the larger graphs
    assert "8 of tensor 8 hold the same" in refused("arguments.decode-context-parallel-size=3", recipe=H200)
    qwen = refused("arguments.decode-context-parallel-size=4", recipe="a3ultra/qwen3-235b-a22b")
    assert "4 ranks cannot share a KV cache: 2 of tensor 8 hold the same" in qwen


def test_logged_kv_caches_with_and_without_context_parallelism() -> None:
    """vllm-project/recipes, Kimi-K2-Think.md: R1's KV geometry at TP8, 46.80 GiB."""
    pool = f"arguments.kv-cache-memory-bytes={int(46.80 * GIB)}"
    one = fits(pool, recipe=H200)
    assert one.kv_tokens == pytest.approx(715_072, rel=1e-3)
    eight = fits(pool, "arguments.decode-context-parallel-size=8", recipe=H200)
    assert eight.kv_tokens == pytest.approx(5_721_088, rel=1e-3)


def test_a_kv_cache_of_ones_own_size() -> None:
    found = fits("arguments.kv-cache-memory-bytes=20G")
    assert (found.kv_gib, found.kv_bytes_per_token) == (20, 1152 * 31)
    assert found.kv_tokens == 20 * GIB // (1152 * 31 * 16) * 16
    message = refused("arguments.kv-cache-memory-bytes=40G")
    assert "40.0 GiB do not fit beside 4" in message
    assert "arguments.kv-cache-memory-bytes" in message


def test_a_number_of_blocks_of_ones_own() -> None:
    assert fits("arguments.num-gpu-blocks-override=20000").kv_tokens == 320_000
    assert fits("arguments.num-gpu-blocks-override=5000", "arguments.block-size=64").kv_tokens == 320_000
    message = refused("arguments.num-gpu-blocks-override=60000")
    assert "60,000 blocks are 960,000 KV tokens; 756,912 fit" in message
    assert "arguments.num-gpu-blocks-override" in message


@pytest.mark.parametrize(
    ("assignments", "block"),
    [((), 16), (("arguments.kv-cache-dtype=fp8",), 64), (("arguments.block-size=128",), 128)],
)
def test_the_kv_cache_is_of_whole_blocks(assignments: tuple[str, ...], block: int) -> None:
    tokens = fits(*assignments).kv_tokens
    assert tokens % block == 0
    assert tokens % (2 * block) or block < 128


def test_weights_in_main_memory_leave_room() -> None:
    plain, offloaded = fits(), fits("arguments.cpu-offload-gb=4")
    assert offloaded.weights_gib == pytest.approx([gib - 4 for gib in plain.weights_gib], abs=0.01)
    assert offloaded.kv_gib == pytest.approx(plain.kv_gib + 4, abs=0.02)


def test_weights_with_experts_that_stay_whole() -> None:
    """Data parallel attention on H200: 95.8 GiB a GPU, of experts a whole number each."""
    apart = ("parallelism.tensor=1", "parallelism.data=8", "arguments.enable-expert-parallel=true")
    apart += ("context=32768",)
    found = fits(*apart, recipe=H200)
    assert found.weights_gib == pytest.approx((95.8,), abs=0.3)
    more = fits(*apart, 'arguments.eplb-config={"num_redundant_experts": 8}', recipe=H200)
    assert more.weights_gib[0] - found.weights_gib[0] == pytest.approx(58 * 44.04e6 / GIB, rel=0.01)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("arguments.enable-lora=true", "adapters take memory"),
        ("arguments.quantization=awq", "in the format of its files only"),
        ('arguments.quantization-config={"a": 1}', "in the format of its files only"),
        ("arguments.dtype=float32", "in the format of its files only"),
        ("arguments.prefill-context-parallel-size=2", "it multiplies the GPUs of a group"),
        ('arguments.hf-overrides={"num_hidden_layers": 4}', "num_hidden_layers makes another model"),
        ('arguments.speculative-config={"method": "eagle", "model": "x/y"}', "memory of a draft model"),
    ],
)
def test_what_nobody_can_plan_is_refused(assignment: str, words: str) -> None:
    message = refused(assignment)
    assert words in message
    assert f"--set: {assignment.partition('=')[0]}: " in message


def test_buffers_of_other_expert_back_ends_are_refused() -> None:
    apart = ("parallelism.tensor=1", "parallelism.data=8", "arguments.enable-expert-parallel=true")
    message = refused(*apart, "arguments.all2all-backend=deepep_low_latency", recipe=H200)
    assert "its buffers on each GPU are not known" in message
    assert "has no layer that predicts" in refused(MTP, recipe="kubernetes/qwen3-8b")


@pytest.mark.parametrize(
    "assignment",
    [
        "arguments.quantization=fp8",
        "arguments.dtype=bfloat16",
        'arguments.hf-overrides={"rope_theta": 1e6}',
        "arguments.load-format=dummy",
    ],
)
def test_what_changes_nothing_is_let_through(assignment: str) -> None:
    assert fits(assignment) == fits()


def test_a_flag_of_a_role_is_refused_by_its_own_name() -> None:
    apart = (
        "roles.prefill.groups=1", "network.interconnect=none",
        "parallelism.pipeline=1", "parallelism.tensor=16",
        "roles.decode.arguments.num-gpu-blocks-override=900000",
    )  # fmt: skip
    assert "--set: roles.decode.arguments.num-gpu-blocks-override: 900,000 blocks" in refused(*apart)
    found = make_plan(resolve(CATALOG, RECIPE, assignments=apart[:-1]), CATALOG)
    seats = {role.name: role.seats for role in found.roles}
    assert seats["prefill"] > seats["decode"]  # prompts alone stay there
