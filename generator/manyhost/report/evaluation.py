"""An evaluation of several runs: set-up, results, bottlenecks, findings. Results → blocks, pure.

Every sentence follows from numbers that the gate has let through, or says why there are none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from manyhost.benchmark.result import Interval, Load
from manyhost.report import cost
from manyhost.report.compare import METRICS, Line, streams
from manyhost.report.document import Block, Heading, Items, Paragraph, Table
from manyhost.report.findings import findings
from manyhost.report.interruptions import interruptions
from manyhost.report.questions import Answer, Open, client, layout
from manyhost.report.runs import Point, Results
from manyhost.report.sections import load_curve, number, objectives, span, spread, tokens

_METRICS = ("output_token_rate", "output_token_rate_per_gpu", "goodput", "ttft_p50_ms", "tpot_p50_ms",
            "usd_per_million_output")  # fmt: skip
_HEAD = ("run", "load", "output tokens/s", "a GPU", "TTFT median / P99, ms", "TPOT median / P99, ms",
         "good", "USD per million output tokens", "input", "both", "measured")  # fmt: skip


def evaluation(runs: Sequence[Results], told: Sequence[Answer], still: Sequence[Open]) -> list[Block]:
    """Return the document.

    Args:
        runs: What was measured.
        told: What they say to each question.
        still: What they do not.
    """
    models = dict.fromkeys(run.run.deployment.model for run in runs)
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    return [
        Heading(1, f"Evaluation of {' and '.join(models)}, from {count}"),
        Paragraph(
            "Made by manyhost from the files of the runs alone. A number stands here when its measurement "
            "has passed the gate, a sentence when there are numbers for it. The report of each run has "
            "more."
        ),
        Heading(2, "Set-up"),
        *_setup(runs),
        Heading(2, "Results"),
        *_results(runs),
        Heading(2, "Bottlenecks"),
        *_bottlenecks(runs),
        Heading(2, "Findings"),
        *_findings(runs, told),
        *_open(still),
    ]


def name(place: int) -> str:
    """Return what a run is called in the document: A, B, ..., Z, A2, ..."""
    again, letter = divmod(place, 26)
    return f"{chr(ord('A') + letter)}{again + 1 if again else ''}"


def _setup(runs: Sequence[Results]) -> Iterator[Block]:
    columns = [dict(_about(run)) for run in runs]
    rows = [(what, *(column[what] for column in columns)) for what in columns[0]]
    yield Table(("", *map(name, range(len(runs)))), rows)


def _about(run: Results) -> Iterator[tuple[str, str]]:
    of, inputs = run.run.deployment, run.run.cost
    price = (
        "not published" if inputs.usd_per_hour is None else f"{number(inputs.usd_per_hour)}, {inputs.mode}"
    )
    engines = dict.fromkeys(
        each.server.server.version for point in run.points for each in point.measured if each.server.server
    )
    cold = of.cold_start
    yield "run", run.folder
    yield "recipe", of.recipe
    yield "scenario", run.run.scenario
    yield "model", of.model
    yield "hosts", f"{of.hosts} x {of.machine_type}"
    yield "GPUs", f"{of.gpus} x {of.gpu}" if of.gpus else "none"
    yield "layout", layout(of)
    yield "executor", of.executor
    yield "interconnect", of.interconnect
    yield "context, tokens", f"{of.context:,}"
    yield "engine", f"vLLM {of.engine}" + (f", says {' and '.join(engines)}" if engines else "")
    yield "image", of.image
    yield "client", client(run)
    yield "manyhost", run.run.program
    yield (
        "measured",
        f"{run.run.started} to {run.run.updated}" + ("" if run.run.complete else ", not complete"),
    )
    yield "USD an hour", price
    yield "price from", f"{inputs.source}{inputs.date and f', {inputs.date}'}"
    yield (
        "cold start",
        f"{cold.seconds:,.0f} s measured" if cold else f"{inputs.cold_start_seconds:,} s planned",
    )


def _results(runs: Sequence[Results]) -> Iterator[Block]:
    for scenario in dict.fromkeys(run.run.scenario for run in runs):
        own = [(place, run) for place, run in enumerate(runs) if run.run.scenario == scenario]
        yield Heading(3, scenario)
        loads: dict[Load, list[tuple[str, ...]]] = {}
        for place, run in own:
            for point in run.points:
                loads.setdefault(point.summary.load, []).append((name(place), *_row(run, point)))
        yield Table(_HEAD, [row for rows in loads.values() for row in rows])
        passed = [point for _, run in own for point in run.points if point.passed]
        kept = dict.fromkeys(objectives(each) for point in passed for each in point.passed)
        if passed:
            yield Paragraph(
                "Means over the measurements of a point; in brackets their 95 % intervals (Student's t), "
                "none of what was measured once. Good requests kept " + "; or ".join(kept) + ". Output and "
                "input tokens each carry the whole price of the hosts under this load, the last column of "
                "cost divides it evenly."
            )
        withheld = [
            f"{name(place)}, point {point.summary.point}, {streams(point.summary.load)}: {reason.message}."
            for place, run in own
            for point in run.points
            for reason in point.summary.reasons
        ]
        if withheld:
            yield Paragraph("Numbers of some measurements are withheld:", warns=True)
            yield Items(withheld)
    curve = load_curve(runs)
    if curve:
        yield curve


def _row(run: Results, point: Point) -> tuple[str, ...]:
    found, load = point.summary.metrics, point.summary.load
    sent = f"{tokens(load)}, {streams(load)}"
    if not point.passed:
        why = "left out: throughput had stopped growing" if point.summary.skipped else "withheld"
        return sent, why, *[""] * 7, "" if point.summary.skipped else f"0 of {point.summary.measured}"
    gpus, rate = run.run.deployment.gpus, found["output_token_rate"]
    own = [
        each
        for each in cost.token_costs(run.run.cost, point.passed)
        if each.usd_per_hour == run.run.cost.usd_per_hour
    ]
    costs = (
        (spread(own[0].output), spread(own[0].input), spread(own[0].total)) if own else ("no price", "", "")
    )
    return (
        sent,
        spread(rate),
        spread(_each(rate, gpus)) if gpus else "–",
        *(
            f"{spread(found.get(f'{time}_p50_ms'))} / {spread(found.get(f'{time}_p99_ms'))}"
            for time in ("ttft", "tpot")
        ),
        f"{found['good_share'].mean:.0%}",
        *costs,
        f"{point.summary.passed} of {point.summary.measured}",
    )


def _each(rate: Interval, gpus: int) -> Interval:
    ends = [None if end is None else end / gpus for end in (rate.low, rate.high)]
    return Interval(mean=rate.mean / gpus, low=ends[0], high=ends[1])


def _bottlenecks(runs: Sequence[Results]) -> Iterator[Block]:
    told = []
    for place, run in enumerate(runs):
        limits = findings(run.points, run.run.deployment)
        loads = {point.summary.point: streams(point.summary.load) for point in run.points}
        told += [f"{name(place)}, at {loads[each.point]}: {each.sentence}" for each in limits]
        told += [f"{name(place)}. {each.sentence}" for each in interruptions(run.points)]
        if not limits:
            told.append(
                f"{name(place)}: no number has passed the gate, so nothing is said of what limits it."
            )
    yield Paragraph("At the load of most throughput of each run, from what the engines counted meanwhile:")
    yield Items(told)


def _findings(runs: Sequence[Results], told: Sequence[Answer]) -> Iterator[Block]:
    if not told:
        yield Paragraph("There is no finding: nothing could be held against anything.")
    for title in dict.fromkeys(each.question for each in told):
        yield Heading(3, title)
        for each in told:
            if each.question != title:
                continue
            lines = [line for line in each.lines if line.metric in _METRICS]
            at = _most(runs[each.base], lines)
            yield Paragraph(
                f"{name(each.run)} ({each.what} {each.choices[1]}) held against {name(each.base)} "
                f"({each.what} {each.choices[0]}), at {tokens(at.summary.load)}, {streams(at.summary.load)}"
                + (f", where {name(each.base)} makes most tokens a second" if _count(lines) > 1 else "")
                + ":"
            )
            here = [line for line in lines if line.base_point == at.summary.point]
            yield Items(
                [_sentence(line, [one for one in lines if one.metric == line.metric]) for line in here]
            )
            yield Paragraph(_sum(here, name(each.run)))
            if each.others:
                what = "; ".join(f"{what} ({first}, {second})" for what, first, second in each.others)
                yield Paragraph(
                    f"They differ in more than that: {what}. How much of a difference is due to which, these "
                    "runs do not tell.",
                    warns=True,
                )


def _open(still: Sequence[Open]) -> Iterator[Block]:
    if still:
        yield Heading(2, "What these runs do not tell")
        yield Items([f"{each.question}: {each.reason}." for each in still])


def _most(base: Results, lines: Sequence[Line]) -> Point:
    """Return the point of the first run with most throughput, of those that both have measured."""
    shared = {line.base_point for line in lines}
    points = [point for point in base.points if point.summary.point in shared]
    return max(points, key=lambda point: point.summary.metrics["output_token_rate"].mean)


def _count(lines: Sequence[Line]) -> int:
    return len({line.base_point for line in lines})


def _sum(lines: Sequence[Line], run: str) -> str:
    """Return in what a run is better and worse at a point, of what is more than chance."""
    by_verdict: dict[str, list[str]] = {"better": [], "worse": []}
    for line in lines:
        by_verdict.setdefault(line.verdict, []).append(METRICS[line.metric][0].partition(",")[0])
    shown = [
        f"{verdict} in {', '.join(by_verdict[verdict])}"
        for verdict in ("better", "worse")
        if by_verdict[verdict]
    ]
    if shown:
        return f"There {run} is {', and '.join(shown)}."
    return f"Nothing shows there that {run} is better or worse."


def _sentence(line: Line, lines: Sequence[Line]) -> str:
    """Return what one metric does at a point, and what over all loads."""
    label = METRICS[line.metric][0]
    between = f" (95 % interval {span(line)})" if span(line) else ""
    verdict = {
        "measured once": "measured once, so whether another measurement would differ is not known",
        "within the clients' error": "no more than the clients' own error",
    }.get(line.verdict, line.verdict)
    text = f"{label}: {number(line.mean)} against {number(line.base)}, {line.share:+.1%}{between}: {verdict}."
    if len(lines) > 1:
        counts = Counter(each.verdict for each in lines)
        shares = [each.share for each in lines]
        text += (
            f" Over {len(lines)} loads from {min(shares):+.1%} to {max(shares):+.1%}: "
            + ", ".join(f"{verdict} at {count}" for verdict, count in counts.items())
            + "."
        )
    return text
