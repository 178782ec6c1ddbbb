"""Writes docs/reference/gpu-comparison.md from the raw results: python table.py [--check].

Every number in the page is computed here from results/*.jsonl, one file a machine. With --check
nothing is written; exit status 1 says that the page differs from what would be.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from pages import Record, finish, hardware, machines_in, of_kind, span, started, table

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "reference" / "gpu-comparison.md"
BASE = "published"

INTRODUCTION = """\
# GPU comparison: the published flags against ours

<!-- Written by benchmarks/gpu/table.py from benchmarks/gpu/results/; do not edit. -->

One server over two hosts of one GPU each, started by the chart's own `launch.sh` (executor `mp`),
pipeline parallel across the hosts as in the recipe. The model has the full width of DeepSeek R1,
9 of its 61 layers and random weights. The hosts are namespaces of one machine and reach each other
over TCP alone. How it is done and what it cannot show: `benchmarks/gpu/README.md`.

A *burst* sends all prompts at once; *n in flight* caps the client and leaves the server's seats as
they are. Every prompt has 1000 tokens and gets 256. Ratios are between medians; the reference is
the published flags with the same kind of load (for capped loads the burst of 1024).
"""


def workload(record: Record) -> str:
    """The kind of load in words."""
    step = record["step"]
    if step["limit"]:
        return f"{step['prompts']} prompts, {step['limit']} in flight"
    return f"burst of {step['prompts']}"


def grouped(machines: dict[str, list[Record]]) -> dict[tuple[str, str, str], list[Record]]:
    """Repetitions by (load, machine, variant), loads in order of size."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for machine, records in machines.items():
        for record in of_kind(records, "bench"):
            groups.setdefault((workload(record), machine, record["variant"]), []).append(record)
    order = {name: number for number, name in enumerate(sorted({key[0] for key in groups}))}
    capped = {key[0] for key in groups if "flight" in key[0]}
    return dict(sorted(groups.items(), key=lambda item: (item[0][0] in capped, order[item[0][0]])))


def median(records: list[Record], name: str) -> float:
    """The median over repetitions of one of the benchmark's numbers."""
    return statistics.median(record["result"][name] for record in records)


def reference(groups: dict[tuple[str, str, str], list[Record]], load_name: str) -> list[Record]:
    """The published flags' repetitions to compare a load with."""
    wanted = load_name if load_name.startswith("burst") else "burst of 1024"
    return next(v for (name, _, variant), v in groups.items() if (name, variant) == (wanted, BASE))


def throughput(machines: dict[str, list[Record]]) -> str:
    """The table of speeds and latencies."""
    groups = grouped(machines)
    rows = []
    for (load_name, machine, variant), records in groups.items():
        numbers = [record["result"] for record in records]
        base = median(reference(groups, load_name), "output_throughput")
        rows.append(
            [
                load_name,
                variant,
                machine,
                " / ".join(f"{number['output_throughput']:.0f}" for number in numbers),
                f"{median(records, 'output_throughput') / base:.2f}",
                span([number["mean_ttft_ms"] / 1000 for number in numbers], ".1f"),
                span([number["mean_tpot_ms"] for number in numbers], ".1f"),
                span([number["p99_tpot_ms"] for number in numbers], ".1f"),
                span([number["p99_itl_ms"] for number in numbers]),
                f"{sum(number['failed'] for number in numbers)}",
            ]
        )
    head = ["load", "variant", "machine", "output tok/s, each repetition", "ratio", "mean TTFT s"]
    head += ["mean TPOT ms", "P99 TPOT ms", "P99 ITL ms", "failed requests"]
    return "## Speed\n\n" + table(head, rows)


def goals(machines: dict[str, list[Record]]) -> str:
    """What the issue of this benchmark asks for, and what came out."""
    groups = grouped(machines)
    home = next(machine for (_, machine, variant) in groups if variant == BASE)
    best, paced, calm = (0.0, ""), (0.0, ""), (0.0, "")
    for (load_name, machine, variant), records in groups.items():
        if variant == BASE:
            continue
        ref = reference(groups, load_name)
        ratio = median(records, "output_throughput") / median(ref, "output_throughput")
        where = f"{variant}, {load_name}" + (f" (machine {machine})" if machine != home else "")
        if machine == home:
            best = max(best, (ratio, where))
        if median(records, "mean_tpot_ms") <= median(ref, "mean_tpot_ms"):
            paced = max(paced, (ratio, where))
        if ratio >= 2.2 and median(records, "p99_itl_ms") <= median(ref, "p99_itl_ms"):
            calm = max(calm, (ratio, where))
    starts = [(r["seconds"]["health"], r) for m in machines.values() for r in of_kind(m, "start")]
    kept = min((seconds, r["variant"]) for seconds, r in starts if r["kept_caches"])
    losses = [r for m in machines.values() for r in of_kind(m, "loss")]
    unready = max(r["unready"] for r in losses)
    spilled = sum(r["out_of_memory"] for m in machines.values() for r in of_kind(m, "end"))
    rows = [
        ["saturation, in one run with the published flags", "2.5", f"{best[0]:.2f} ({best[1]})"],
        ["at no worse mean TPOT", "1.8", f"{paced[0]:.2f} ({paced[1]})"],
        ["P99 ITL no worse, at", "2.2", f"{calm[0]:.2f} ({calm[1]})"],
        ["start with kept caches", "40 s", f"{kept[0]:.1f} s at best ({kept[1]})"],
        ["host loss to unready", "10 s", f"{unready:.1f} s at worst of {len(losses)}"],
        ["out of memory at full load", "0", f"{spilled}"],
    ]
    return "## Goals\n\n" + table(["goal", "asked", "measured"], rows)


def starts(machines: dict[str, list[Record]]) -> str:
    """Seconds to serve, memory, and what vLLM's log says of them."""
    rows = []
    for machine, records in machines.items():
        for record in of_kind(records, "start"):
            graphs = [fact.split("took ")[1] for fact in record["log"] if "capturing" in fact]
            cache = next(fact for fact in record["log"] if "KV cache size" in fact)
            used = [r["memory"] for r in of_kind(records, "bench") if same(r, record)]
            peak = [max(int(pair[gpu]) for pair in used) for gpu in (0, 1)] if used else []
            seconds = record["seconds"]
            rows.append(
                [
                    record["variant"],
                    machine,
                    "kept" if record["kept_caches"] else "cold",
                    f"{seconds['health']:.1f}",
                    f"{seconds['serving']:.1f}",
                    " / ".join(graphs),
                    cache.split(": ")[1].removesuffix(" tokens"),
                    " / ".join(map(str, peak)),
                ]
            )
    head = ["variant", "machine", "compile cache", "/health 200 s", "first token s"]
    head += ["CUDA graphs (stages)", "KV tokens", "GPU MiB after load (stages)"]
    return "## Start and memory\n\nIn the order of the starts on each machine.\n\n" + table(head, rows)


def same(one: Record, other: Record) -> bool:
    """Whether two readings are of one server."""
    return bool(one["variant"] == other["variant"])


def losses(machines: dict[str, list[Record]]) -> str:
    """What happens after the second host is gone."""
    rows = []
    for machine, records in machines.items():
        for record in of_kind(records, "loss"):
            names = ("unready", "health_not_200", "streams_closed", "leader_ended", "worker_ended")
            times = ["-" if record[name] is None else f"{record[name]:.1f}" for name in names]
            how = {"kill": "all its processes killed", "cut": "only its link cut"}[record["how"]]
            rows.append([how, machine, record["variant"], str(record["streams"]), *times])
    head = ["the second host", "machine", "variant", "streams", "readiness probe fails"]
    head += ["/health not 200", "all streams closed", "leader's launcher ended"]
    head += ["worker's launcher ended"]
    return "## Loss of a host under load (seconds)\n\n" + table(head, rows)


def answers(machines: dict[str, list[Record]]) -> str:
    """Whether the servers' greedy answers agree."""
    ref = of_kind(next(iter(machines.values())), "answers")[0]["answers"]
    rows = []
    for machine, records in machines.items():
        for record in of_kind(records, "answers"):
            pairs = list(zip(ref, record["answers"], strict=True))
            whole = sum(one == other for one, other in pairs)
            rows.append([record["variant"], machine, f"{whole} of {len(pairs)}"])
    text = "## Same answers\n\nGreedy continuations of 8 fixed prompts by 16 tokens, against the "
    text += "published flags'. Random\nweights have near ties, at which a difference in rounding is "
    text += "enough for another token; a fault is not\nexcluded by that.\n\n"
    return text + table(["variant", "machine", "answers equal"], rows)


def variants(machines: dict[str, list[Record]]) -> str:
    """Flags and variables of each variant, the machines, the common command."""
    rows = []
    for machine, records in machines.items():
        rows += [started(machine, record) for record in of_kind(records, "start")]
    text = "## What was run\n\n" + table(["variant", "machine", "engine flags", "variables"], rows)
    for machine, records in machines.items():
        links = sorted({link for r in of_kind(records, "end") for link in r["links"]})
        cpus = f", {of_kind(records, 'machine')[0]['cpus']} CPUs"
        text += f"\n{hardware(machine, records, 'vllm', 'torch', 'nccl', 'python', more=cpus)}"
        text += f" NCCL: {', '.join(links)}.\n"
    first = of_kind(next(iter(machines.values())), "bench")[0]["command"]
    text += f"\nOne repetition (seeds count up from 1001):\n\n```\n{first}\n```\n"
    facts = of_kind(next(iter(machines.values())), "machine")[0]
    common = facts["rig_environment"] | facts.get("between_hosts", {})
    pairs = "\n".join(f"{name}={value}" for name, value in sorted(common.items()))
    return text + f"\nVariables of the machine, in every variant:\n\n```\n{pairs}\n```\n"


def page() -> str:
    """The whole page."""
    machines = machines_in(HERE / "results")
    parts = (goals, throughput, starts, losses, answers, variants)
    return "\n".join([INTRODUCTION, *(part(machines) for part in parts)])


def main() -> None:
    """Writes or checks the page."""
    finish(PAGE, page(), "table.py")


if __name__ == "__main__":
    main()
