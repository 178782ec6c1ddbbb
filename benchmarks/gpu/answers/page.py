"""Writes docs/reference/gpu-answers.md from the raw results: python page.py [--check].

Every number in the page is computed here from results/answers/*.jsonl, one file a machine. With
--check nothing is written; exit status 1 says that the page differs from what would be.
"""

from __future__ import annotations

import re
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from pages import Machines, Record, finish, hardware, machines_in, of_kind, span, started, table  # noqa: E402

PAGE = HERE.parents[2] / "docs" / "reference" / "gpu-answers.md"

INTRODUCTION = """\
# GPU answers: right and wrong ones, counted

<!-- Written by benchmarks/gpu/answers/page.py from benchmarks/gpu/results/answers/; do not edit. -->

A DeepSeek-V3 type model whose weights are set by hand so that each prompt has one right answer,
which the model can only give by reading it out of its KV cache: first links that the prompt wrote
there, then what the answer itself wrote. It has the tensors of one of eight tensor parallel ranks
of DeepSeek R1 (hidden 7168, 16 heads, 256 experts of width 256, FP8 in blocks of 128 x 128, MLA),
6 layers, 3 on each of two hosts of one GPU, started by the chart's own `launch.sh` and joined by
TCP alone. `benchmarks/gpu/answers/` has the model, the questions and the client.

Prompts have 10 to 1900 tokens, in families of eight with the same beginning; answers have 9 to 129.
All are greedy. One client in fifty goes away while it waits. A *wrong* answer differs in any token
from the right one.
"""


def answers(machines: Machines) -> str:
    """The counts."""
    rows = []
    for machine, records in machines.items():
        for record in records:
            if record["kind"] == "right_answers":
                rows.append(counted(machine, record))
            elif record["kind"] == "failure":
                rows.append([record["variant"], machine, "**the engine ended**", *["-"] * 5])
    head = ["variant", "machine", "right", "wrong", "failed", "preemptions", "prefix cache hits"]
    head += ["least margin, nats"]
    return (
        "## Answers\n\n"
        "96, then 256, then 512 requests in flight. *Least margin*: by how much the right token was more\n"
        "probable than the next one, over eight answers asked one at a time.\n\n" + table(head, rows)
    )


def counted(machine: str, record: Record) -> list[str]:
    """A row: all rounds of one server together."""
    rounds = record["rounds"]
    total = {name: sum(one[name] for one in rounds) for name in ("right", "wrong", "failed")}
    engine = {name: sum(one["counters"][name] for one in rounds) for name in rounds[0]["counters"]}
    wrong = f"**{total['wrong']}**" if total["wrong"] else "0"
    hits = f"{engine['prefix_hits'] / engine['prefix_queries']:.0%}"
    row = [record["variant"], machine, f"{total['right']:,}", wrong, str(total["failed"])]
    return [*row, f"{engine['preemptions']:,.0f}", hits, f"{record['margin']:.1f}"]


def wrong(machines: Machines) -> str:
    """The cases that were wrong, and the engines that ended."""
    parts = ["## What was wrong\n"]
    for machine, records in machines.items():
        for record in of_kind(records, "log"):
            if "engine_core" in record:
                name, said = record["variant"], [line.strip() for line in record["engine_core"][-3:]]
                parts.append(
                    f"`{name}` (machine {machine}): after {record['answered']:,} answers, with the KV cache\n"
                    "full, the engine ended and with it every open request:\n\n"
                    "```\n" + "\n".join([*said, record["status"][-1]]) + "\n```\n"
                )
            else:
                full = max(record["status"], key=kv_usage)
                parts.append(
                    f"`{record['variant']}` (machine {machine}) had a full KV cache too, once, without\n"
                    f"clients that go away, and did not end:\n\n```\n{full}\n```\n"
                )
        for record in of_kind(records, "right_answers"):
            for one in record["rounds"]:
                parts += [case(machine, record, one["in_flight"], found) for found in one["cases"]]
    return "\n".join(parts)


def kv_usage(status: str) -> float:
    """The per cent in a line of the engine's own status."""
    return float(re.search(r"KV cache usage: ([\d.]+)%", status)[1])  # type: ignore[index]


def case(machine: str, record: Record, in_flight: int, found: Record) -> str:
    """One wrong answer."""
    right, got = found["answer"], found.get("got", [])
    at = next((i for i, (a, b) in enumerate(zip(right, got, strict=False)) if a != b), len(got))
    return (
        f"`{record['variant']}` (machine {machine}), {in_flight} in flight: {found['name']}, a prompt of "
        f"{len(found['prompt'])}\n"
        f"tokens. Token {at + 1} of {len(right)} is {got[at] if at < len(got) else 'missing'} instead of "
        f"{right[at]}; `answers/prompts.py` makes the case again, the raw\nfile has it whole.\n"
    )


def control(machines: Machines) -> str:
    """What swapped KV blocks do."""
    rows = []
    for machine, records in machines.items():
        for record in of_kind(records, "right_answers"):
            if one := record.get("control"):
                swaps = f"{one['swaps']} x 2 stages"
                rows.append([record["variant"], machine, swaps, str(one["right"]), str(one["wrong"])])
    head = ["variant", "machine", "swaps of two blocks of one layer", "right", "wrong"]
    return (
        "## Control\n\nThe same questions while two blocks of one layer's KV cache change places now and\n"
        "then: there must be wrong answers. One swap may have met no block that was read again: a row with\n"
        "one is none of a control (the questions were over before the second).\n\n" + table(head, rows)
    )


def speed(machines: Machines) -> str:
    """The bench with the KV cache of the real machine."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for machine, records in machines.items():
        for record in of_kind(records, "bench"):
            groups.setdefault((record["variant"], machine), []).append(record)
    published = {m: r for (variant, m), r in groups.items() if variant == "planned-published"}
    rows = []
    for (variant, machine), records in groups.items():
        numbers = [record["result"] for record in records]
        rates = [number["output_throughput"] for number in numbers]
        base = statistics.median(r["result"]["output_throughput"] for r in published[machine])
        rows.append(
            [
                variant,
                machine,
                " / ".join(f"{rate:.0f}" for rate in rates),
                f"{statistics.median(rates) / base:.2f}",
                span([number["mean_ttft_ms"] / 1000 for number in numbers], ".1f"),
                span([number["mean_tpot_ms"] for number in numbers], ".1f"),
                span([number["p99_itl_ms"] for number in numbers]),
                str(sum(number["failed"] for number in numbers)),
            ]
        )
    head = ["variant", "machine", "output tok/s, each repetition", "ratio", "mean TTFT s", "mean TPOT ms"]
    head += ["P99 ITL ms", "failed"]
    return (
        "## Speed with the KV cache of the real machine\n\n"
        "The 9-layer model of the [GPU comparison](gpu-comparison.md), 320 prompts of 1000 tokens at once,\n"
        "1000 tokens each, in 535,488 KV tokens: what was planned for sixteen 80 GB GPUs before their\n"
        "memory was measured ([about 770,000](memory.md) now; the rig alone would have many times as\n"
        "many). A single number: one repetition, no spread.\n\n" + table(head, rows)
    )


def variants(machines: Machines) -> str:
    """What was run, on what."""
    rows, commands, machine_lines = [], [], []
    for machine, records in machines.items():
        rows += [started(machine, start) for start in of_kind(records, "start")]
        commands += [(record["command"]) for record in records if "command" in record]
        links = sorted({link for record in of_kind(records, "end") for link in record["links"]})
        machine_lines.append(
            f"{hardware(machine, records, 'vllm', 'torch', 'nccl')} NCCL: {', '.join(links)}.\n"
        )
    shown = "\n".join(dict.fromkeys(commands))
    return "\n".join(
        [
            "## What was run\n",
            table(["variant", "machine", "engine flags", "variables"], rows),
            *machine_lines,
            f"```\n{shown}\n```",
            "",
            "Not run: Ray beside mp, prefill and decode apart, tensor parallelism inside a host.",
            "",
        ]
    )


def page() -> str:
    """The whole page."""
    machines = machines_in(HERE.parent / "results" / "answers")
    parts = (answers, wrong, control, speed, variants)
    return "\n".join([INTRODUCTION, *(part(machines) for part in parts)])


def main() -> None:
    """Writes or checks the page."""
    finish(PAGE, page(), "answers/page.py")


if __name__ == "__main__":
    main()
