"""Writes docs/reference/gpu-stage.md, expectation beside measurement: python stage_page.py [--check].

results/stage/predicted.jsonl has what was expected (predict.py), results/stage/20*.jsonl what was
measured, one file a machine. With --check nothing is written; exit status 1 says that the page differs
from what would be. What was expected only after it had been measured is refused.
"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from page import loads, servers, variants  # noqa: E402
from pages import Machines, Record, failures, finish, machines_in, of_kind, span, table  # noqa: E402
from predict import ALONE, ALONE_RECIPE, ALONE_VARIANT, BF16_BYTES, BUS_BYTES_PER_SECOND  # noqa: E402
from readings import is_of, load  # noqa: E402

PAGE = HERE.parents[2] / "docs" / "reference" / "gpu-stage.md"
RESULTS = HERE.parent / "results" / "stage"
NOT = "not measured"
HIDDEN = 7168  # of DeepSeek R1
MEMORY = {
    "weights_gib": "weights, GiB",
    "peak_activation_gib": "peak activation, GiB",
    "non_torch_gib": "CUDA, NCCL and all-reduce buffers, GiB",
    "graphs_estimated_gib": "CUDA graphs, as estimated within its share, GiB",
    "graphs_gib": "CUDA graphs, taken, GiB",
    "kv_gib": "left for the KV cache, GiB",
    "kv_tokens_that_fit": "KV tokens that fit",
    "import_seconds": "start: imports, model class, NCCL, s",
    "init_seconds": "start: engine init (compile, profile, capture), s",
}
SPEED = {
    "median_itl_ms": "median ITL, ms",
    "mean_tpot_ms": "mean TPOT, ms",
    "mean_ttft_ms": "mean TTFT, ms",
    "output_throughput": "output tok/s",
}
INTRODUCTION = """\
# GPU stages and hosts: several ranks of a group, expected and measured

<!-- Written by benchmarks/gpu/slice/stage_page.py from benchmarks/gpu/results/stage/; do not edit. -->

The [slice](gpu-slice.md) is one rank alone and has no all-reduce. Here as many ranks as there are GPUs
share a server, each as wide as in the group, so that messages have their real size:

- `half-stage`: four of the eight ranks of the last stage of the A3 Mega default (30 layers), on four H100;
- `stage`: that stage itself, on eight H100;
- `host`: all of DeepSeek R1 on eight H200, as `runpod-h200/single-host` has it (tensor parallel), with the
  context of 8,192 tokens and the FP8 KV cache of its first validation, and as data and expert parallel
  ranks. `a3ultra/deepseek-r1-671b` has the same flags.

`-custom` is vLLM's own all-reduce, `-nccl` is `--disable-custom-all-reduce`. An engine over several hosts
(`--nnodes`) has it off, whatever is asked for (vLLM 0.33.0, `vllm/config/parallel.py`): `-nccl` is the
default recipe's stage. Torch's symmetric memory, which vLLM tries between the two, needs NVLink multicast,
which these machines leave off. On hosts that have it, vLLM's own takes only messages below 256 KiB on
eight H100, 18 tokens (`vllm/distributed/device_communicators/all_reduce_utils.py`), so that `--nnodes`
changes nothing for larger batches there.

Everything expected was written down before it was run. *Plan* is manyhost's own: the memory of exactly these
ranks, and the group's speed, a stage's time per token being the group's divided by the stages; its start is
the budget, which is cautious. *Rank* is what one rank alone was measured to take, with all-reduce added:
one after the embedding and two a layer, each a fixed time, which each server's part names, and
2 (n - 1) / n of its bytes at {bus} GB/s. The bytes are a formula (tokens x 7,168 x 2), the rate was measured
(56 MiB between two H100); the fixed times were guesses for `half-stage` and are its readings for the rest.
A number of requests that the rank did not have is interpolated. Logits that are gathered are in neither.

Weights are random; see `benchmarks/gpu/README.md`. Loads are closed, one wave each: n requests in flight. An
error is what was expected less what was measured, of what was measured.
"""


def number(value: float | None) -> str:
    """A value with as many digits as it deserves, or that there is none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def error(expected: float | None, measured: list[float]) -> str:
    """By how much an expectation is off, of the mean of what was measured; a dash where one is missing."""
    if expected is None or not measured:
        return "-"
    mean = sum(measured) / len(measured)
    return f"{100 * (expected - mean) / mean:+.1f} %"


def shown(measured: list[float]) -> str:
    """All repetitions, or that there are none."""
    return " / ".join(map(number, measured)) or NOT


def of(variant: str, machines: Machines) -> list[tuple[str, Record, list[Record]]]:
    """(machine, start, repetitions) of a server."""
    return [found for found in servers(machines, 1) if found[1]["variant"] == variant]


def memory(expected: Record, machines: Machines) -> str:
    """Memory and start of a server, beside the plan."""
    starts = [start for _, start, _ in of(expected["variant"], machines)]
    ranks = [rank_and_start(start) for start in starts]
    rows = []
    for name, words in MEMORY.items():
        value = {**expected["memory"], **expected["start"]}.get(name)
        measured = [rank[name] for rank in ranks if name in rank]
        rows.append([words, number(value), shown(measured), error(value, measured)])
    used = [span([int(mib) for mib in start["memory"]]) for start in starts]
    rows.append(["nvidia-smi after start, MiB of each GPU", "-", " / ".join(used) or NOT, "-"])
    return table(["", "plan", "measured", "error"], rows)


def rank_and_start(start: Record) -> dict[str, float]:
    """What the engine says of a rank, and what of its start was before its own part."""
    rank: dict[str, float] = dict(start["ranks"][0])
    if "init_seconds" in rank:
        rank["import_seconds"] = start["seconds"]["health"] - rank["init_seconds"]
    return rank


def speed(expected: Record, machines: Machines) -> str:
    """Every load of a server, beside what was expected of it."""
    rows = []
    for load_ in expected["loads"]:
        measured = results(expected["variant"], load_["step"], machines)
        plan, rank = load_["plan"], load_.get("rank", {})
        for name, words in SPEED.items():
            seen = [result[name] for result in measured]
            if name not in plan and name not in rank and not seen:
                continue
            both = (plan.get(name), rank.get(name))
            errors = [error(value, seen) for value in both]
            rows.append([flight(load_["step"]), words, *map(number, both), shown(seen), *errors])
    return table(["load", "", "plan", "rank", "measured", "error of plan", "error of rank"], rows)


def flight(step: Record) -> str:
    """A load in words."""
    return f"{step['prompts']} x {step['input']}/{step['output']}, {step['limit']} in flight"


def results(variant: str, step: Record, machines: Machines) -> list[dict[str, Any]]:
    """The benchmark's numbers of all repetitions of a load."""
    found = [record for _, _, same in of(variant, machines) for record in same]
    return [one["result"] for each, records in loads(found) if each == step for one in records]


def own_all_reduce(predicted: list[Record], machines: Machines) -> str:
    """What vLLM's own all-reduce gives, where a server was run with it and without."""
    by_name, rows = {each["variant"]: each for each in predicted}, []
    for name, with_it in by_name.items():
        without = name.removesuffix("custom") + "nccl"
        if not name.endswith("-custom") or without not in by_name:
            continue
        for load_ in with_it["loads"]:
            step = load_["step"]
            rates = [
                [result["output_throughput"] for result in results(variant, step, machines)]
                for variant in (name, without)
            ]
            other = next(each for each in by_name[without]["loads"] if each["step"] == step)
            guess = [each.get("rank", {}).get("output_throughput") for each in (load_, other)]
            gain = f"{100 * (guess[0] / guess[1] - 1):+.1f} %" if all(guess) else "-"
            means = [sum(values) / len(values) for values in rates if values]
            seen = f"{100 * (means[0] / means[1] - 1):+.1f} %" if len(means) == len(rates) else NOT
            rows.append([name.removesuffix("-custom"), flight(step), *map(shown, rates), gain, seen])
    head = ["server", "load", "tok/s with it", "tok/s without", "more with it, expected", "measured"]
    return "## vLLM's own all-reduce\n\n" + table(head, rows)


def late(predicted: list[Record], machines: Machines) -> list[str]:
    """Servers that were measured before anything was expected of them."""
    made = {each["variant"]: datetime.fromisoformat(each["made"]).timestamp() for each in predicted}
    starts = [start for records in machines.values() for start in of_kind(records, "start")]
    return [one["variant"] for one in starts if one["at"] < made.get(one["variant"], float("inf"))]


def one_all_reduce(machines: Machines) -> str:
    """What one of the all-reduces of a step took: the step less that of a rank alone, by their number."""
    alone = {
        one["step"]["limit"]: one["result"]["median_itl_ms"]
        for one in load(ALONE)
        if is_of(one, "bench", ALONE_VARIANT)
    }
    rows = []
    for records in machines.values():
        for start in of_kind(records, "start"):
            ranks, plan = start["parallel"]["tensor"], start["plan"]
            if plan["recipe"] != ALONE_RECIPE or ranks == 1:
                continue
            same = [one for one in records if is_of(one, "bench", start["variant"])]
            for limit in sorted({one["step"]["limit"] for one in same} & alone.keys()):
                steps = [one["result"]["median_itl_ms"] for one in same if one["step"]["limit"] == limit]
                count = 1 + 2 * plan["layers"]
                took = span([(step - alone[limit]) * 1e3 / count for step in steps], ".1f")
                moved = 2 * (ranks - 1) / ranks * limit * HIDDEN * BF16_BYTES / BUS_BYTES_PER_SECOND * 1e6
                rows.append([start["variant"], str(limit), took, f"{moved:.1f}"])
    if not rows:
        return ""
    head = ["server", "in flight", "one all-reduce, us", "of that its bytes by the formula, us"]
    return (
        "## One all-reduce\n\nThe median ITL less that of a rank alone with as many requests, by the number\n"
        "of all-reduces in a step. `-nccl` runs with what TCPXO's profile sets inside a host.\n\n"
        + table(head, rows)
    )


def page(predicted: list[Record], machines: Machines) -> str:
    """The whole page."""
    text = INTRODUCTION.format(bus=f"{predicted[0]['assumed']['bus_gbytes_per_second']:g}")
    parts = [text, own_all_reduce(predicted, machines), one_all_reduce(machines)]
    for each in predicted:
        kind = "nccl" if each["variant"].endswith("-nccl") else "custom"
        fixed = f"fixed time of an all-reduce: {each['assumed']['latency_us'][kind]:g} us"
        title = f"## {each['variant']}\n\nExpected on {each['made'][:10]}; {fixed}.\n"
        parts += [title, memory(each, machines), speed(each, machines)]
    if machines:
        parts += [failures(machines), variants(machines)]
    return "\n".join(filter(None, parts))


def main() -> None:
    """Writes or checks the page."""
    predicted = load(RESULTS / "predicted.jsonl")
    machines = machines_in(RESULTS, "20*.jsonl")
    if names := late(predicted, machines):
        sys.exit(f"{', '.join(names)}: measured before anything was expected (predicted.jsonl)")
    finish(PAGE, page(predicted, machines), "slice/stage_page.py")


if __name__ == "__main__":
    main()
