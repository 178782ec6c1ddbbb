"""The plan of memory beside what engines have logged: values/memory-points.yaml, docs/reference/memory.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from manyhost.catalog import Catalog, yaml_reader
from manyhost.catalog.environment import Host
from manyhost.catalog.recipe import Parallelism
from manyhost.catalog.struct import Struct
from manyhost.plan import memory, memory_flags, sizing

ROOT = Path(__file__).resolve().parent.parent
FILE = "values/memory-points.yaml"
WITHIN = 3.0  # percent of the KV tokens
_SAME = 0.5  # the same, of what a reason stands for
_HEAD = """# Memory of a GPU

What `manyhost render` plans for each GPU, and what it was held against. `make generate` writes this page
from `values/memory-points.yaml`.

An engine takes its share (`utilization`) of a GPU's memory. Out of it go, in this order: the weights of the
rank, CUDA itself, the buffers of NCCL, the activations of the largest step, and an estimate of the CUDA
graphs, which the V2 model runner of v0.26.0 alone does not make. The rest is the KV cache. Each pipeline
stage has its own, and the one that holds the fewest tokens decides. The coefficients are in
`values/engines/vllm/`, one set for each version: v0.26.0 and v0.33.0 were measured, the others have those of
the nearest. Not measured: NCCL's buffers for eight GPUs (1 GiB is assumed), FlashInfer and DeepGEMM,
Blackwell, models other than DeepSeek R1.

## Beside its share

Graphs of the V2 runner of v0.26.0, graphs beyond V1's estimate, split buffers of the attention kernels and
what the allocator keeps come on top. On one H100 that held a rank of tensor 8 x pipeline 2 (16 heads),
`nvidia-smi` showed at its highest, of 81,559 MiB:

| engine | runner | seats | step, tokens | utilization | at its highest, MiB | beside its share, GiB |
|---|---|---|---|---|---|---|
| v0.26.0 | V1 | 512 | 4,096 | 0.85 | 71,281 | 2.4 |
| v0.26.0 | V2 | 512 | 4,096 | 0.85 | 74,519 | 5.5 |
| v0.26.0 | V2 | 512 | 8,192 | 0.92 | 80,719 | 6.1 |
| v0.33.0 | V2 | 192 | 4,096 | 0.85 | 71,380 | 2.4 |

The last one ran with half of the KV blocks, which are added. The plan warns when less than that and a
twentieth of the GPU is left: above 0.92 on that GPU, and above 0.88 with V2 of v0.26.0.

## Seats

A request stays in the KV cache with its prompt and, on average, half of its answer; requests that began
together are all at their longest together. Half of a group's KV cache (364,800 tokens) and half of its seats,
the rank above, V2 runner, 550 prompts of 1000 tokens, 1000 tokens each:

| seats of the group | output tok/s | mean TPOT of one stage, ms | preemptions |
|---|---|---|---|
| 256 | 4278 / 4418 | 25.6 | 0 |
| 384 | 6126 | 27.9 | 19 |
| 512 | 5362 | 36.0 | 168 |

384 and 512 ran once each, and 384 with steps of 8,192 tokens in place of 4,096. A second machine, with steps
of 4,096 throughout ([slices](gpu-slice.md)), has 384 at the top too, with either runner: 5704 and 5744
tokens/s, against 5416 and 5304 at 320, 5419 and 5467 at 448, 5218 and 5322 at 512. A token passes both
stages, so the group's TPOT is about twice the figure; links between GPUs are not in these numbers.

`manyhost render` says how many seats the KV cache serves at the recipe's own traffic: KV tokens / (prompt +
half of the answer), and no more than 20/19 of KV tokens / (prompt + answer).

## Flags

Planned: `max-num-batched-tokens`, `max-num-seqs`, `block-size`, `kv-cache-dtype`, `kv-cache-memory-bytes`,
`num-gpu-blocks-override`, `enforce-eager` and a `compilation-config` without graphs, `cpu-offload-gb`,
`decode-context-parallel-size`, `enable-expert-parallel` with redundant experts of `eplb-config`,
`speculative-config` with the model's own prediction layer (MTP) or none, `VLLM_PP_LAYER_PARTITION` and
`VLLM_USE_V2_MODEL_RUNNER`.

Refused, since nobody can say what they take: draft models, `enable-lora`, `quantization` that is not the
files' own, `quantization-config`, `dtype` float32, `prefill-context-parallel-size`, `hf-overrides` that make
another model, `all2all-backend` other than the default with expert parallelism.

## What was measured

GiB of weights on a GPU of the stage that decides, and KV tokens. Goal: within 3 %. "Rank" is one GPU that
holds what one of sixteen holds; "9 layers of full width" have 128 attention heads a GPU in place of 16. Where
another version ran, its logged weights count. The coefficients come from these rows, but for those of a
"second rank": these were measured afterwards, on another machine, so they say what the formula foresees:
within 0.2 % where the compile cache was kept, 1.5 to 2.1 % too many tokens at a first start, 4.3 % with
steps of 8,192. So size for the second start: the first one, with an empty compile cache, has that much less.
A row with a reason is not promised; `make bench-plan` fails when it is off by anything else.

| What | Weights, logged / planned | KV tokens, logged | planned | off | Source |
|---|---|---|---|---|---|
"""


class Point(Struct, frozen=True):
    """What an engine logged of one GPU; the file says what each key is."""

    name: str
    source: str
    engine: str
    model: str
    changed: dict[str, int]
    gpu_gib: float
    utilization: float
    context: int
    arguments: dict[str, Any]
    variables: dict[str, str]
    weights_gib: float
    ran: str = ""
    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    stage: int | None = None
    kv_tokens: int = 0
    kv_gib: float = 0.0
    percent_off: float = 0.0
    because: str = ""


class Compared(msgspec.Struct, frozen=True):
    """KV tokens of a point, logged and planned, and the weights of its stage in GiB."""

    logged: int
    planned: int
    weights_gib: float

    @property
    def off(self) -> float:
        """By how much the plan is off, in percent."""
        return 100 * (self.planned / self.logged - 1)


def problem(point: Point, found: Compared) -> str:
    """Return what is wrong with the plan of a point, or with its reason; empty where nothing is."""
    off = f"{found.off:+.1f} %"
    if not point.because:
        return "" if abs(found.off) <= WITHIN else off
    if abs(found.off) <= WITHIN:
        return f"{off} needs no reason any more"
    return (
        ""
        if abs(found.off - point.percent_off) <= _SAME
        else f"{off}, its reason is for {point.percent_off:+.1f} %"
    )


def points() -> list[Point]:
    """Return all points."""
    document = yaml_reader.read_mapping(ROOT / FILE, FILE)
    return yaml_reader.convert(document, dict[str, list[Point]], FILE)["points"]


def compare(point: Point, catalog: Catalog) -> Compared:
    """Plan the memory of a point, on one GPU for each rank."""
    known = catalog.model(point.model)
    model = msgspec.structs.replace(
        known, architecture=msgspec.structs.replace(known.architecture, **point.changed)
    )
    engine = catalog.engine(point.engine)
    sizes = Parallelism(tensor=point.tensor, pipeline=point.pipeline, data=point.data)
    layers = sizing.pipeline_layers(model.architecture.layers, point.pipeline)
    fits = memory.fit(
        model,
        engine,
        _host(point, catalog),
        sizes,
        layers,
        context=point.context,
        utilization=point.utilization,
        kv_dtype="auto",
        flags=memory_flags.read(point.arguments, point.variables, model, engine, sizes, str),
    )
    if fits is None:
        raise SystemExit(f"{point.name}: {point.engine} does not run on GPUs")
    by_stage = fits.kv_tokens_by_stage
    stage = by_stage.index(min(by_stage)) if point.stage is None else point.stage
    entry = memory.kv_bytes_per_token_layer(model, engine, "auto", point.tensor) * layers[stage]
    heavier = point.weights_gib - fits.weights_gib[stage] if point.ran else 0.0
    return Compared(
        logged=point.kv_tokens or int(point.kv_gib * memory.GIB / entry),
        planned=by_stage[stage] - int(heavier * memory.GIB / entry),
        weights_gib=fits.weights_gib[stage],
    )


def _host(point: Point, catalog: Catalog) -> Host:
    host = catalog.environment("a3mega").host
    return msgspec.structs.replace(host, gpu_memory_gib=point.gpu_gib)


def page() -> str:
    """Return docs/reference/memory.md."""
    catalog = Catalog(ROOT)
    rows = []
    for point in points():
        found = compare(point, catalog)
        off = f"{found.off:+.1f} %" + (f": {point.because}" if point.because else "")
        rows.append(
            f"| {point.name} | {point.weights_gib:.2f} / {found.weights_gib:.2f} | {found.logged:,} | "
            f"{found.planned:,} | {off} | {point.source} |"
        )
    return _HEAD + "\n".join(rows) + "\n"
