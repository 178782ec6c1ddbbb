"""Writes docs/reference/gpu-disaggregated.md from the raw results: python page.py [--check].

Every number in the page is computed here from ../results/disaggregated/*.jsonl, one file a machine. With
--check nothing is written; exit status 1 says that the page differs from what would be.
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

PAGE = HERE.parents[2] / "docs" / "reference" / "gpu-disaggregated.md"
RESULTS = HERE.parent / "results" / "disaggregated"
BASE = "one-tensor-2"

INTRODUCTION = """\
# Prefill and decode apart on two GPUs

<!-- Written by benchmarks/gpu/disaggregated/page.py from ../results/disaggregated/; do not edit. -->

One prefill and one decode engine with a GPU each, started by the chart's `launch.sh`, with the chart's
router before them and its `--kv-transfer-config`, against one engine on both GPUs. The model is a rank of
DeepSeek R1 at tensor 8: every sharded width divided by eight, the latent KV cache whole, as on each GPU
of a real group, and 20 of the 61 layers. So the KV bytes for each unit of computation are the real ones;
weights are random. `benchmarks/gpu/README.md` says how to run it.

- *apart-tcp*: two hosts (namespaces of one machine) and what the chart renders for `interconnect: none`:
  the KV cache goes through host memory and TCP.
- *apart-nvlink*: both engines on one host, the KV cache from GPU to GPU; the chart does not render this.
- *one-tensor-2*: one engine, tensor parallel over NVLink, with vLLM's own all-reduce; *-nccl* without it.

The two GPUs are of a machine of four; on the others ran the two stages of machine d of the
[slices](gpu-slice.md). All have `OMP_NUM_THREADS=1`. vLLM sets that for the workers of an engine of several
GPUs, not for an engine of one: without it the copies through host memory took 31 CPU cores in each of the
two engines, and the prefill engine read 1,600 to 2,000 tokens a second (its log, one start on another
machine of four H100).
"""


def starts(machines: Machines) -> list[tuple[str, Record, list[Record]]]:
    """(machine, start, all readings of that server), the last start of each server."""
    found = {}
    for machine, records in machines.items():
        for start in of_kind(records, "start"):
            same = [record for record in records if record.get("variant") == start["variant"]]
            found[machine, start["variant"]] = (machine, start, same)
    return list(found.values())


def grouped(records: list[Record]) -> list[tuple[Record, list[Record]]]:
    """Repetitions by load, in the order of the run."""
    groups: dict[str, tuple[Record, list[Record]]] = {}
    for record in records:
        groups.setdefault(str(record["step"]), (record["step"], []))[1].append(record)
    return list(groups.values())


def shape(step: Record) -> tuple[str, ...]:
    """A load in words: prompts, tokens, in flight."""
    return f"{step['prompts']} x {step['input']}/{step['output']}", str(step["limit"])


def speed(machines: Machines) -> str:
    """Throughput and latencies of each set-up under the same loads."""
    found = starts(machines)
    base = {
        (machine, str(step)): mean([r["result"]["output_throughput"] for r in same])
        for machine, start, records in found
        if start["variant"] == BASE
        for step, same in grouped(of_kind(records, "bench"))
    }
    rows = []
    for machine, start, records in found:
        for step, same in grouped(of_kind(records, "bench")):
            numbers = [record["result"] for record in same]
            rates = [number["output_throughput"] for number in numbers]
            known = base.get((machine, str(step)))
            name = start["variant"] + (", decode engine alone" if "port" in step else "")
            rows.append(
                [
                    name,
                    machine,
                    *shape(step),
                    " / ".join(f"{rate:.0f}" for rate in rates),
                    f"{mean(rates) / known:.2f}" if known else "-",
                    *(span([n[key] for n in numbers], form) for key, form in LATENCIES.items()),
                    span([record["engine"]["preemptions"] for record in same]),
                    str(sum(number["failed"] for number in numbers)),
                ]
            )
    head = ["set-up", "machine", "prompts", "in flight", "output tok/s", f"to {BASE}", "mean TTFT ms"]
    head += ["P99 TTFT ms", "mean TPOT ms", "P99 TPOT ms", "P99 ITL ms", "preemptions", "failed"]
    words = (
        "The load is closed: n requests in flight, the next one starts when one is done. *Decode engine\n"
        "alone* gets half the load past the router and reads its prompts itself, as one of two engines that\n"
        "do everything would. *prompts* has the tokens of each and of its answer.\n"
    )
    return f"## Speed\n\n{words}\n" + table(head, rows)


LATENCIES = {
    "mean_ttft_ms": ".0f",
    "p99_ttft_ms": ".0f",
    "mean_tpot_ms": ".1f",
    "p99_tpot_ms": ".1f",
    "p99_itl_ms": ".0f",
}


def mean(values: list[float]) -> float:
    """The mean."""
    return sum(values) / len(values)


def transferred(machines: Machines) -> str:
    """KV bytes by vLLM's own count against the formula."""
    rows = []
    for machine, start, records in starts(machines):
        for record in of_kind(records, "bytes"):
            for one in [*record["single"], record["at_once"]]:
                count = one.get("requests", 1)
                row = [start["variant"], machine, str(count), str(one["tokens"]), f"{one['formula']:,}"]
                difference = one["bytes"] - one["formula"]
                row += [f"{one['bytes']:,.0f}", f"{difference:,.0f}", f"{one['transfers']:.0f}"]
                rows.append([*row, f"{1e3 * one['transfer_seconds'] / max(1, one['transfers']):.1f}"])
    head = [
        "set-up",
        "machine",
        "requests",
        "prompt tokens",
        "bytes by formula",
        "bytes counted",
        "difference",
    ]
    head += ["transfers", "ms a transfer"]
    words = (
        "Formula: tokens in whole blocks of 16 x (512 + 64) values of a latent KV cache x 2 bytes x 20\n"
        "layers. Counted: `vllm:nixl_bytes_transferred` of the decode engine.\n"
    )
    answers = [
        f"Greedy answers through both engines that are those of the prefill engine alone: "
        f"{record['same']} of {record['asked']} ({record['variant']}, machine {machine}).\n"
        for machine, _, records in starts(machines)
        for record in of_kind(records, "same")
    ]
    return f"## KV cache that moves\n\n{words}\n{table(head, rows)}\n" + "\n".join(answers)


def under_load(machines: Machines) -> str:
    """What was handed over in each repetition, and how fast."""
    rows = []
    for machine, start, records in starts(machines):
        for step, same in grouped(of_kind(records, "handover")):
            if "port" in step:
                continue
            per = [r["transfer_seconds"] / max(1, r["transfers"]) for r in same]
            rate = [r["bytes"] / r["transfer_seconds"] / 1e9 if r["transfer_seconds"] else 0.0 for r in same]
            rows.append(
                [
                    start["variant"],
                    machine,
                    *shape(step),
                    span([r["transfers"] for r in same]),
                    span([r["bytes"] / 1e9 for r in same], ".2f"),
                    span([r["bytes"] / max(1, r["transfers"]) / 1e6 for r in same], ".1f"),
                    span([1e3 * value for value in per], ".1f"),
                    span(rate, ".2f"),
                    span([r["failed_transfers"] for r in same]),
                    " / ".join(f"{r['routed_done']:.0f}+{r['routed_failed']:.0f}" for r in same),
                ]
            )
    head = [
        "set-up",
        "machine",
        "prompts",
        "in flight",
        "transfers",
        "GB",
        "MB each",
        "ms each",
        "GB/s of one",
    ]
    head += ["failed", "prompts read by prefill + by decode"]
    return "## Handover under load\n\n" + table(head, rows)


def lost(machines: Machines) -> str:
    """What clients saw when the prefill engine was killed."""
    parts = []
    for machine, start, records in starts(machines):
        for record in of_kind(records, "loss"):
            rows = []
            for name, words in WHEN.items():
                ends = sorted(record["outcomes"][name].items())
                how = ", ".join(f"{count} {ENDS.get(end, end)}" for end, count in ends)
                ttft = record["ttft"][name]
                shown = f"{ttft['median']:.2f} / {ttft['max']:.2f}" if ttft else "-"
                rows.append([words, how or "-", shown])
            seconds = [str(tokens) for tokens in record["tokens_by_second"]]
            before = -record["first_second"]
            counters, pause = record["counters"], record["longest_pause"]
            health = ", ".join(f"{count} x {code}" for code, count in record["decode_health"].items())
            parts += [
                f"{start['variant']}, machine {machine}: SIGKILL of all processes of the prefill engine,",
                f"{record['streams']} streams of {record['input']}/{record['output']}.\n",
                table(["request", "ends", "TTFT s, median / highest"], rows),
                f"Output tokens in each second, from {before} s before the loss:",
                " ".join([*seconds[:before], "**|**", *seconds[before:]]) + ".\n",
                "Longest pause between two tokens of a stream in decode, s: median "
                f"{pause.get('median', 0):.2f}, highest {pause.get('max', 0):.2f}. Prompts that the decode",
                f"engine read itself: {counters['routed_failed']:.0f}; failed transfers, whose prompts it",
                f"read too: {counters['failed_transfers']:.0f}. Its /health, each half second: {health}.\n",
                "```",
                *(line for line in record["router"] if "left alone" in line),
                "```\n",
            ]
    return "## Loss of the prefill engine\n\n" + "\n".join(parts) if parts else ""


ENDS = {"open": "open at the end of the watch"}
WHEN = {
    "before": "ended before the loss",
    "in_decode": "in decode at the loss",
    "in_prefill": "waiting for its first token at the loss",
    "after": "began after the loss",
}


def begun(machines: Machines) -> str:
    """Seconds to serve, and memory."""
    rows = []
    for machine, start, _ in starts(machines):
        seconds = start["seconds"]
        kept = "kept" if start["kept_caches"] else "cold"
        row = [start["variant"], machine, kept, f"{seconds['health']:.1f}", f"{seconds['serving']:.1f}"]
        rows.append([*row, " / ".join(start["memory"])])
    head = ["set-up", "machine", "compile cache", "/health 200, s", "first token, s", "GPU memory, MiB"]
    return "## Start\n\nThe slower engine of a pair.\n\n" + table(head, rows)


def what_ran(machines: Machines) -> str:
    """Flags, variables, machines, a command."""
    rows = []
    for machine, start, records in starts(machines):
        told = of_kind(records, "apart")
        extra = "; ".join(
            f"{role}: `{config}`" for record in told for role, config in record["handover"].items()
        )
        extra += "".join(
            f"; `{name}={value}`" for record in told for name, value in record["environment"].items()
        )
        rows.append([*started(machine, start), extra or "-"])
    lines = [
        hardware(machine, records, "vllm", "torch", "nccl", "nixl") + "\n"
        for machine, records in machines.items()
    ]
    shown = table(["set-up", "machine", "engine flags", "variables", "handover"], rows)
    return "\n".join(["## What was run\n", shown, *lines, command(machines)])


def page(machines: Machines) -> str:
    """The whole page."""
    parts = (speed, transferred, under_load, lost, begun, failures, what_ran)
    return "\n".join([INTRODUCTION, *filter(None, (part(machines) for part in parts))])


def main() -> None:
    """Writes or checks the page."""
    finish(PAGE, page(machines_in(RESULTS)), "disaggregated/page.py")


if __name__ == "__main__":
    main()
