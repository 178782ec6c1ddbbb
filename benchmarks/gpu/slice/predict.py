"""What is expected of queue lines before they run: python predict.py QUEUE... >results/stage/predicted.jsonl

*plan*: manyhost's memory of exactly these ranks, and its speed of the whole group; a stage has the
group's tokens a second, and its time per token divided by the stages. *rank*: what one rank alone was
measured to take (results/slice), with all-reduce added by the formula below. *start*: the planner's
budget, which is cautious.
"""

from __future__ import annotations

import json
import math
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from manyhost.catalog import Catalog
from manyhost.catalog.model import Model
from manyhost.catalog.recipe import Parallelism
from manyhost.plan import Plan, Role, arguments, memory, memory_flags
from manyhost.plan.performance import Load, predict

GPU = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(GPU))
import readings  # noqa: E402

ALONE = GPU / "results" / "slice" / "2026-11-26-h100-a.jsonl"
ALONE_VARIANT = "a3mega-v1"
ALONE_RECIPE = "a3mega/deepseek-r1-671b"
# All-reduce of 56 MiB by NCCL between two H100 took 262 us, without NVLink multicast (2026-11-21): measured.
BUS_BYTES_PER_SECOND = 224e9
# Of a small one inside a CUDA graph, four H100 (results/stage, half-stage); 12 and 6 us were guessed before.
LATENCY_SECONDS = {"nccl": 28e-6, "custom": 7e-6}
# vLLM's own leaves larger messages to NCCL: vllm/distributed/device_communicators/custom_all_reduce.py.
CUSTOM_BYTES = 8 * 2**20
BF16_BYTES = 2
SAME = ("limit", "input", "output")  # waves of a load may differ in number
# Configuration of a model by the plan's names.
NAMES = {
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "vocabulary": "vocab_size",
    "dense_layers": "first_k_dense_replace",
    "kv_heads": "num_key_value_heads",
    "intermediate": "intermediate_size",
    "moe_intermediate": "moe_intermediate_size",
}


def all_reduce_seconds(tokens: int, hidden: int, ranks: int, kind: str) -> float:
    """One all-reduce of hidden states in bfloat16: a fixed time, and 2 (n - 1) / n of the bytes over the bus.

    Args:
        tokens: Of the step.
        hidden: Width of the hidden state.
        ranks: GPUs.
        kind: nccl or custom.
    """
    size = tokens * hidden * BF16_BYTES
    kind = kind if size < CUSTOM_BYTES else "nccl"
    return LATENCY_SECONDS[kind] + 2 * (ranks - 1) / ranks * size / BUS_BYTES_PER_SECOND


def cut(model: Model, config: dict[str, Any]) -> Model:
    """The model of a config.json, as the planner knows models."""
    known = set(model.architecture.__struct_fields__)
    sizes = {name: config[key] for name, key in NAMES.items() if name in known and key in config}
    return msgspec.structs.replace(model, architecture=msgspec.structs.replace(model.architecture, **sizes))


def memory_of(plan: Plan, role: Role, line: dict[str, Any]) -> dict[str, float]:
    """The planner's memory of one GPU of the line's server in GiB, and the KV tokens that fit."""
    sizes = Parallelism(pipeline=1, **line["parallel"])
    model = cut(plan.model, line["config"])
    served = {name: value for name, value in line["serverArgs"].items() if name != "num-gpu-blocks-override"}
    found = memory.fit(
        model,
        plan.engine,
        plan.environment.host,
        sizes,
        (model.architecture.layers,),
        context=plan.settings.context,
        utilization=plan.settings.utilization,
        kv_dtype=arguments.kv_dtype(role.arguments, plan.engine, "arguments"),
        flags=memory_flags.read(
            served, plan.settings.variables, plan.model, plan.engine, sizes, lambda name: name
        ),
    )
    assert found
    beside = found.overhead
    return {
        "weights_gib": found.weights_gib[0],
        "peak_activation_gib": beside.activation_gib,
        "non_torch_gib": round(beside.non_torch_gib + beside.communication_gib, 2),
        "graphs_estimated_gib": beside.graphs_gib,
        "kv_gib": found.kv_gib,
        "kv_tokens_that_fit": found.kv_tokens,
    }


def planned(catalog: Catalog, plan: Plan, role: Role, step: dict[str, int]) -> dict[str, Any]:
    """The planner's speed of the stage at so many requests in flight."""
    sizes, host = role.parallelism, plan.environment.host
    in_flight = (step["limit"] or step["prompts"]) * sizes.pipeline
    seats = role.arguments["max-num-seqs"] * sizes.data
    dtype = arguments.kv_dtype(role.arguments, plan.engine, "arguments")
    load = Load(
        tensor=sizes.tensor,
        pipeline=sizes.pipeline,
        data=sizes.data,
        gpus_per_host=host.gpus,
        running=min(in_flight, seats),
        input_tokens=step["input"],
        output_tokens=step["output"],
        kv_bytes=memory.kv_bytes_per_token_layer(plan.model, plan.engine, dtype, sizes.tensor),
    )
    found = predict(
        catalog.performance(),
        catalog.anchors(),
        plan.model,
        engine=plan.engine.name,
        gpu=host.gpu,
        interconnect="",
        load=load,
        in_flight=in_flight,
    )
    assert found
    speed = {"mean_tpot_ms": found.tpot_ms / sizes.pipeline, "output_throughput": found.tok_s}
    # A prompt passes all stages, and nothing says how long it is in one.
    first = {"mean_ttft_ms": found.ttft_ms} if sizes.pipeline == 1 else {}
    rounded = {name: round(value, 1) for name, value in {**speed, **first}.items()}
    return rounded | {"basis": found.basis, "error": found.error_tok_s}


def beside_others(plan: Plan, role: Role, line: dict[str, Any], step: dict[str, int]) -> dict[str, float]:
    """What one rank alone was measured to take, and all-reduce by the formula; empty where nothing was.

    The step of a number of requests that the rank did not have is between its neighbours, in the logarithm.
    """
    ranks, hidden = line["parallel"]["tensor"], line["config"]["hidden_size"]
    records = [one for one in readings.load(ALONE) if readings.is_of(one, "bench", ALONE_VARIANT)]
    here, batch = step["limit"], role.arguments["max-num-batched-tokens"]
    kind = "nccl" if line["serverArgs"].get("disable-custom-all-reduce") else "custom"
    # After the embedding, and in each layer after attention and after the feed-forward network.
    count = 1 + 2 * line["config"]["num_hidden_layers"]
    decode = count * all_reduce_seconds(here, hidden, ranks, kind) * 1e3
    steps = {one["step"]["limit"]: one["result"]["median_itl_ms"] for one in records}
    found = {"all_reduce_ms": decode, "median_itl_ms": between(steps, here) + decode}
    same = [one["result"] for one in records if all(one["step"][k] == step[k] for k in SAME)]
    if same:
        # While a request has its answer made, the prompts of the others are read.
        prompts = here * step["input"] / step["output"] / batch
        more = decode + prompts * count * all_reduce_seconds(batch, hidden, ranks, kind) * 1e3
        alone = same[0]["mean_tpot_ms"]
        found["mean_tpot_ms"] = alone + more
        found["output_throughput"] = same[0]["output_throughput"] * alone / (alone + more)
    return {name: round(value, 2) for name, value in found.items()}


def between(known: dict[int, float], at: int) -> float:
    """A value between its neighbours, linear in the logarithm of the number."""
    if at in known:
        return known[at]
    low, high = max(n for n in known if n < at), min(n for n in known if n > at)
    share = math.log(at / low) / math.log(high / low)
    return known[low] + share * (known[high] - known[low])


def predicted(plan: Plan, role: Role, line: dict[str, Any]) -> dict[str, Any]:
    """All that is expected of a line's server: `memory`, `start`, and `loads` in the order of its steps."""
    catalog, phases, seen = Catalog(), dict(plan.cold_start), list[dict[str, Any]]()
    several = role.parallelism.pipeline > 1 and line["parallel"]["tensor"] > 1
    for step in line["steps"]:
        shape = {name: value for name, value in step.items() if name != "repetitions"}
        load = {"step": shape, "plan": planned(catalog, plan, role, shape)}
        load |= {"rank": beside_others(plan, role, line, shape)} if several else {}
        seen += [load] if load not in seen else []
    start = {"import_seconds": phases["import"], "init_seconds": phases["compile"]}
    return {"memory": memory_of(plan, role, line), "start": start, "loads": seen}


def main() -> None:
    """Prints the predictions that derive.py put into the lines of the queues, with when and what of."""
    latency = {kind: round(seconds * 1e6, 1) for kind, seconds in LATENCY_SECONDS.items()}
    assumed = {"latency_us": latency, "bus_gbytes_per_second": BUS_BYTES_PER_SECOND / 1e9}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for path in sys.argv[1:]:
        for line in readings.load(Path(path)):
            if "predicted" in line:
                made = {"variant": line["variant"], "made": now, "assumed": assumed}
                print(json.dumps(made | line["predicted"]))


if __name__ == "__main__":
    main()
