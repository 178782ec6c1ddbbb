"""Writes docs/reference/gpu-slice.md from the raw results: python page.py [--check].

Every number in the page is computed here from results/slice/*.jsonl, one file a machine. With --check
nothing is written; exit status 1 says that the page differs from what would be.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from pages import (  # noqa: E402
    Machines,
    Record,
    command,
    failures,
    finish,
    hardware,
    machines_in,
    of_kind,
    span,
    started,
    table,
)  # fmt: skip

PAGE = HERE.parents[2] / "docs" / "reference" / "gpu-slice.md"
RESULTS = HERE.parent / "results" / "slice"
BASE = "published"

INTRODUCTION = """\
# GPU slices: one rank of the real group, and two stages with its KV cache

<!-- Written by benchmarks/gpu/slice/page.py from benchmarks/gpu/results/slice/; do not edit. -->

*A rank*: one GPU runs what one GPU of a recipe's group holds, with the recipe's own flags: the layers
of the stage that limits the KV cache, the whole hidden width, every width that tensor parallelism cuts
divided by it, and the seats and KV tokens of the group divided by its stages. Weights, kernels and step
times are a rank's own. All-reduce inside the host, the hop between stages, NCCL's buffers and the
logits of the other ranks' vocabulary (seats x vocabulary x 4 bytes) are absent: throughput is an upper
bound, and a token passes all stages, so the group's TPOT is the figure here times the stages.

*Two stages*: the 9-layer model of the [GPU comparison](gpu-comparison.md) on two hosts of one GPU each
over TCP, with the KV tokens of the real group instead of the rig's own surplus.

Weights are random; see `benchmarks/gpu/README.md`. All loads are closed: n requests in flight, the next
one starts when one is done, whole waves of n.
"""


def servers(machines: Machines, hosts: int) -> list[tuple[str, Record, list[Record]]]:
    """(machine, start, repetitions) of each server over this many hosts."""
    found = []
    for machine, records in machines.items():
        for start in of_kind(records, "start"):
            if start["hosts"] == hosts:
                same = [r for r in of_kind(records, "bench") if r["variant"] == start["variant"]]
                found.append((machine, start, same))
    return latest(found)


def latest(found: list[tuple[str, Record, list[Record]]]) -> list[tuple[str, Record, list[Record]]]:
    """Only the last start of a server that was started again on a machine: its readings are all there."""
    return list(
        {(machine, start["variant"]): (machine, start, same) for machine, start, same in found}.values()
    )


def memory(machines: Machines) -> str:
    """What the engine and the driver say of the rank's memory, beside the plan."""
    rows = []
    for machine, start, same in servers(machines, 1):
        rank, plan = start["ranks"][0], start["plan"]
        held = [record["engine"]["memory"][0] for record in same]
        rows.append(
            [
                start["variant"],
                machine,
                f"{plan['layers']} of stage {plan['stage'] + 1}, 1/{plan['tensor']}",
                f"{plan['weights_gib'] + plan['beyond_gib']:.2f}",
                *(gib(rank, name) for name in ("weights_gib", "peak_activation_gib", "non_torch_gib")),
                f"{gib(rank, 'graphs_gib')} ({gib(rank, 'graphs_estimated_gib')})",
                gib(rank, "kv_gib"),
                f"{rank['kv_tokens_that_fit']:,.0f}",
                start["memory"][0],
                str(max(held)) if held else "-",
            ]
        )
    head = ["variant", "machine", "layers, cut", "weights planned", "weights", "peak activation", "non-torch"]
    head += ["graphs (estimated)", "for KV", "KV tokens that fit", "MiB after start", "MiB at peak"]
    return (
        "## Memory of a rank (GiB)\n\n"
        "From vLLM's log, and `nvidia-smi` where it says MiB. *Planned* is manyhost's plan for the stage\n"
        "and the embedding or head that a server on its own has beside it. The V2 runner of\n"
        "0.26 estimates no graphs: they are outside its budget. Of 0.33 *non-torch* has the engine's\n"
        "workspaces in it, which 0.26 counts to the peak.\n\n" + table(head, rows)
    )


def gib(rank: Record, name: str) -> str:
    """A reading, or that there is none."""
    return f"{rank[name]:.2f}" if name in rank else "-"


def speed(machines: Machines) -> str:
    """Steps of a rank by requests in flight."""
    rows = []
    for machine, start, same in servers(machines, 1):
        for step, records in loads(same):
            stages = start["plan"]["pipeline"]
            rows.append(
                [
                    start["variant"],
                    machine,
                    f"{step['limit']} (group: {step['limit'] * stages})",
                    f"{step['prompts']} x {step['input']}/{step['output']}",
                    *figures(records, stages),
                ]
            )
    head = ["variant", "machine", "in flight", "prompts", "output tok/s", "median ITL ms", "mean TPOT ms"]
    head += ["group's TPOT ms", "P99 ITL ms", "preemptions", "KV used", "failed"]
    return "## Speed of a rank\n\n" + table(head, rows)


def loads(records: list[Record]) -> list[tuple[Record, list[Record]]]:
    """Repetitions by load, in the order of the run."""
    groups: dict[str, tuple[Record, list[Record]]] = {}
    for record in records:
        groups.setdefault(str(record["step"]), (record["step"], []))[1].append(record)
    return list(groups.values())


def figures(records: list[Record], stages: int) -> list[str]:
    """Throughput, latencies and what the engine counted over the repetitions of one load."""
    numbers, engine = [r["result"] for r in records], [r["engine"] for r in records]
    token = [number["mean_tpot_ms"] for number in numbers]
    return [
        " / ".join(f"{number['output_throughput']:.0f}" for number in numbers),
        span([number["median_itl_ms"] for number in numbers], ".1f"),
        span(token, ".1f"),
        span([value * stages for value in token], ".1f"),
        span([number["p99_itl_ms"] for number in numbers]),
        span([one["preemptions"] for one in engine]),
        span([100 * one["kv_usage"] for one in engine]) + " %",
        str(sum(number["failed"] for number in numbers)),
    ]


def two_stages(machines: Machines) -> str:
    """The recipe against the published flags with the real machine's KV tokens."""
    rows = []
    found = servers(machines, 2)
    published = [(m, rate) for m, s, r in found if s["variant"] == BASE for rate in rates(r)]
    for machine, start, same in found:
        own = [rate for m, rate in published if m == machine]
        base = own or [rate for _, rate in published]
        for step, records in loads(same):
            mean = sum(rates(records)) / len(records)
            ratio = f"{mean / (sum(base) / len(base)):.2f}" if base else "-"
            ratio += " (other machines')" if base and not own else ""
            shape = f"{step['prompts']} x {step['input']}/{step['output']}"
            kv = f"{start['ranks'][0]['kv_tokens']:,.0f}"
            flight = str(step["limit"] or "all")
            row = [start["variant"], machine, start["executor"], kv, flight, shape, ratio]
            shown = figures(records, 1)
            rows.append([*row, *shown[:3], *shown[4:]])
    if not rows:
        return ""
    head = ["variant", "machine", "executor", "KV tokens", "in flight", "prompts", "ratio to published"]
    head += [
        "output tok/s",
        "median ITL ms",
        "mean TPOT ms",
        "P99 ITL ms",
        "preemptions",
        "KV used",
        "failed",
    ]
    return "## Two stages with the real group's KV tokens\n\n" + table(head, rows)


def rates(records: list[Record]) -> list[float]:
    """Output tokens a second of each repetition."""
    return [record["result"]["output_throughput"] for record in records]


def starts(machines: Machines) -> str:
    """Seconds to serve, and the engine's parts of them."""
    rows = []
    for hosts in (1, 2):
        for machine, start, _ in servers(machines, hosts):
            names = ("compile_seconds", "profile_seconds", "capture_seconds", "init_seconds")
            own = [span([r[name] for r in start["ranks"] if name in r] or [0]) for name in names]
            seconds = start["seconds"]
            kept = "kept" if start["kept_caches"] else "cold"
            row = [start["variant"], machine, kept, f"{seconds['health']:.1f}", f"{seconds['serving']:.1f}"]
            rows.append([*row, *own])
    head = ["variant", "machine", "compile cache", "/health 200", "first token", "compile", "profile"]
    head += ["graph capture", "engine init"]
    return "## Start (seconds)\n\n" + table(head, rows)


def variants(machines: Machines) -> str:
    """What was run, on what."""
    rows, lines = [], []
    for machine, records in machines.items():
        rows += [started(machine, start) for start in of_kind(records, "start")]
        lines.append(hardware(machine, records, "vllm", "torch", "nccl") + "\n")
    shown = table(["variant", "machine", "engine flags", "variables"], rows)
    return "\n".join(["## What was run\n", shown, *lines, command(machines)])


def page(machines: Machines) -> str:
    """The whole page."""
    parts = (memory, speed, two_stages, starts, failures, variants)
    written = [part(machines) for part in parts]
    return "\n".join([INTRODUCTION, *filter(None, written)])


def main() -> None:
    """Writes or checks the page."""
    finish(PAGE, page(machines_in(RESULTS)), "slice/page.py")


if __name__ == "__main__":
    main()
