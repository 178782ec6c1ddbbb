"""What a report says of a run, and what a comparison says: results → blocks. Pure."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence

from manyhost.benchmark.result import ColdStart, Interval, Load, Measurement
from manyhost.benchmark.table import table
from manyhost.report import cost, plots
from manyhost.report.compare import METRICS, Comparison, Line, streams
from manyhost.report.document import Block, Code, Figure, Heading, Items, Paragraph, Table
from manyhost.report.findings import findings
from manyhost.report.interruptions import interruptions
from manyhost.report.runs import Point, Results
from manyhost.report.topology import topology

ONCE = "measured once: how much another measurement would differ is not known"
_PERCENTILES = ("p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "p99p9")
_LEAST_OF_PERCENTILE = {"p99": 100, "p99p9": 1000}  # requests, for one beyond it


def report(runs: Sequence[Results]) -> list[Block]:
    """Return a report of some runs."""
    if len(runs) == 1:
        return list(_run(runs[0], level=1, prefix=""))
    blocks: list[Block] = [Heading(1, f"{len(runs)} benchmark runs")]
    together = load_curve(runs)
    blocks += [Heading(2, "All runs"), together] if together else []
    for number, run in enumerate(runs):
        blocks += _run(run, level=2, prefix=f"run{number}-")
    return blocks


def comparison(found: Comparison) -> list[Block]:
    """Return a comparison: what differs, then what could not be compared, then how the deployments differ."""
    blocks: list[Block] = [Heading(1, f"Compared with {found.base}")]
    places = dict.fromkeys((line.run, line.base_point, line.point) for line in found.lines)
    for run, base_point, point in places:
        rows = [
            (
                METRICS[line.metric][0],
                number(line.base),
                number(line.mean),
                f"{line.share:+.1%}",
                span(line),
                line.verdict,
            )
            for line in found.lines
            if (line.run, line.base_point, line.point) == (run, base_point, point)
        ]
        blocks.append(Heading(2, f"{run}, point {point} (first run's point {base_point})"))
        blocks.append(Table(("", "first", "this", "difference", "95 % interval", "verdict"), rows))
    if found.lines:
        blocks.append(
            Paragraph(
                "Intervals are of the difference of the means (Welch's t-test), each line for itself: of "
                "twenty lines without any difference one shows one by chance. Where a verdict is "
                "“measured once”, set repetitions in benchmark.yaml and measure again."
            )
        )
    if found.left_out:
        blocks += [Heading(2, "Not compared"), Items(found.left_out)]
    if any(what == "model" for _, what, _, _ in found.deployments):
        blocks.append(
            Paragraph(
                "Models differ: a token of one is not a token of another, nor are their answers.", warns=True
            )
        )
    if found.deployments:
        blocks += [
            Heading(2, "What is another deployment"),
            Table(("run", "what", "first", "this"), found.deployments),
        ]
    return blocks


def number(value: float) -> str:
    """Return a number with the digits that a reader wants of it."""
    if not math.isfinite(value):
        return "∞"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 1 or not value else 4
    return f"{value:,.{digits}f}"


def spread(found: Interval | None) -> str:
    """Return a mean with its 95 % interval, or what there is of it."""
    if found is None:
        return "withheld"
    if found.low is None or found.high is None:
        return number(found.mean)
    return f"{number(found.mean)} ({number(found.low)} to {number(found.high)})"


def span(line: Line) -> str:
    """Return the 95 % interval of a difference; empty without one."""
    if line.low is None or line.high is None:
        return ""
    return f"{line.low:+.1%} to {f'{line.high:+.1%}' if math.isfinite(line.high) else '∞'}"


def _run(results: Results, *, level: int, prefix: str) -> Iterator[Block]:
    run, of = results.run, results.run.deployment
    yield Heading(level, f"{of.recipe}: {run.scenario}")
    gpus = f", {of.gpus} {of.gpu}" if of.gpus else ""
    yield Paragraph(
        f"{of.model} on {of.hosts} {of.machine_type}{gpus}; vLLM {of.engine} ({of.executor}), "
        f"image {of.image}; context {of.context:,} tokens; interconnect {of.interconnect}. "
        f"Measured from {run.started} to {run.updated}, manyhost {run.program}, run {run.id}."
    )
    if not run.complete:
        yield Paragraph("This run is not complete: the command that began it goes on with it.", warns=True)
    yield from _withheld(results)
    broken = interruptions(results.points)
    if broken:
        yield Paragraph("While the load ran:")
        yield Items([each.sentence for each in broken])
    passed = [point for point in results.points if point.passed]
    if not passed:
        yield Paragraph("No number of this run can be shown.", warns=True)
        return
    yield Heading(level + 1, "Throughput and latency")
    yield _numbers(results.points)
    yield Paragraph(
        "Means over the measurements of a point; in brackets their 95 % intervals (Student's t). "
        + (f"Points without an interval were {ONCE}. " if any(len(p.passed) == 1 for p in passed) else "")
        + "Good requests kept "
        + objectives(passed[0].passed[0])
        + "."
    )
    best = max(passed, key=lambda point: point.summary.metrics["output_token_rate"].mean)
    yield Heading(level + 1, "What limits it")
    yield Items([found.sentence for found in findings(results.points, of)])
    yield from _gpus(best)
    yield Heading(level + 1, "Cost")
    yield from _cost(results, best)
    yield from _cold_start(of.cold_start, level + 1)
    yield Heading(level + 1, "Pictures")
    curves = [each for each in (load_curve([results]), _cost_curve(results)) if each]
    for figure in (_topology(results), *curves, *_percentiles(passed), *_over_time(best)):
        yield _named(prefix, figure)
    yield Heading(level + 1, "How far this can be believed")
    yield from _belief(passed)
    last = best.passed[-1]
    yield Code(f"The last measurement at {streams(best.summary.load)}, as vLLM prints it", table(last))
    yield Code("What sent it", [shlex.join(words) for words in last.client.commands])


def _named(prefix: str, figure: Figure) -> Figure:
    return Figure(f"{prefix}{figure.name}", figure.caption, figure.svg)


def _withheld(results: Results) -> Iterator[Block]:
    rows = [
        (str(point.summary.point), streams(point.summary.load), reason.check, reason.message)
        for point in results.points
        for reason in point.summary.reasons
    ]
    if rows:
        yield Paragraph("Numbers of some measurements are withheld, and count nowhere below:", warns=True)
        yield Table(("point", "load", "check", "why"), rows)


def _numbers(points: Sequence[Point]) -> Table:
    head = ("load", "output tokens/s", "requests/s", "good", "TTFT median / P99, ms",
            "TPOT median / P99, ms", "whole answer, median, ms", "measured")  # fmt: skip
    rows = []
    for point in points:
        found, load = point.summary.metrics, point.summary.load
        name = f"{tokens(load)}, {streams(load)}"
        if point.summary.skipped:
            rows.append((name, "left out: throughput had stopped growing", *[""] * 6))
            continue
        if not found:
            rows.append((name, "withheld", *[""] * 5, f"0 of {point.summary.measured}"))
            continue
        rows.append(
            (
                name,
                spread(found["output_token_rate"]),
                spread(found["request_rate"]),
                f"{found['good_share'].mean:.0%}",
                *(
                    f"{spread(found.get(f'{time}_p50_ms'))} / {spread(found.get(f'{time}_p99_ms'))}"
                    for time in ("ttft", "tpot")
                ),
                spread(found.get("e2e_p50_ms")),
                f"{point.summary.passed} of {point.summary.measured}",
            )
        )
    return Table(head, rows)


def tokens(load: Load) -> str:
    """Return how long requests are, for people."""
    around = f" ± {load.spread:.0%}" if load.spread else ""
    return f"{load.input_tokens} + {load.output_tokens} tokens{around}"


def objectives(measured: Measurement) -> str:
    """Return what a good request keeps, for people."""
    slo = measured.slo
    whole = f", the whole answer {slo.e2e_ms} ms" if slo.e2e_ms else ""
    return f"TTFT {slo.ttft_ms} ms, TPOT {slo.tpot_ms} ms{whole}"


def load_curve(runs: Sequence[Results]) -> Figure | None:
    """Return throughput against TPOT, a line for each run; None with fewer than two points."""
    lines = []
    for run in runs[: plots.MOST]:
        points, spans, labels = [], [], []
        for point in run.points:
            rate, tpot = (point.summary.metrics.get(name) for name in ("output_token_rate", "tpot_p50_ms"))
            if rate and tpot:
                points.append((rate.mean, tpot.mean))
                spans.append(None if rate.low is None or rate.high is None else (rate.low, rate.high))
                labels.append(str(point.summary.load.concurrency or ""))
        name = run.folder if len(runs) > 1 else "each point with its requests in flight"
        if points:
            lines.append(plots.Series(name=name, points=points, spans=spans, labels=labels))
    if sum(len(line.points) for line in lines) < 2:
        return None
    caption = "Throughput against time per output token; lower and further right is better"
    return Figure(
        "load",
        caption,
        plots.chart(caption, "output tokens/s", "median TPOT, ms", lines, marks=True),
    )


def _gpus(best: Point) -> Iterator[Block]:
    seen = best.passed[-1].gpus
    if not seen:
        return
    rows = [
        (each.name.replace("_", " "), *(_figure(value, each.unit) for value in (each.mean, each.max)))
        for each in seen
    ]
    yield Paragraph(
        f"What Prometheus has seen of the GPUs at {streams(best.summary.load)}, the mean over them:"
    )
    yield Table(("", "mean", "most"), rows)


def _figure(value: float, unit: str) -> str:
    return f"{value:.0%}" if unit == "share" else f"{number(value)} {unit}"


def _topology(results: Results) -> Figure:
    of = results.run.deployment
    return Figure("topology", f"{of.hosts} {of.machine_type}, and how the model lies on them", topology(of))


def _cost_curve(results: Results) -> Figure | None:
    """Throughput against the cost of a token, at the recipe's own rate."""
    points, labels = [], []
    for point in results.points:
        own = [
            each
            for each in (cost.token_costs(results.run.cost, point.passed) if point.passed else [])
            if each.usd_per_hour and each.usd_per_hour == results.run.cost.usd_per_hour
        ]
        if own:
            points.append((point.summary.metrics["output_token_rate"].mean, own[0].output.mean))
            labels.append(str(point.summary.load.concurrency or ""))
    if len(points) < 2:
        return None
    caption = (
        "Throughput against the cost of a million output tokens; each carries the whole price of the hosts"
    )
    line = plots.Series(name="each point with its requests in flight", points=points, labels=labels)
    return Figure("cost", caption, plots.chart(caption, "output tokens/s", "USD", [line], marks=True))


def _percentiles(passed: Sequence[Point]) -> Iterator[Figure]:
    """Yield the distributions, as far as there are requests beyond a percentile."""
    shown = passed if len(passed) <= plots.MOST else passed[-plots.MOST :]
    for name, label in (("ttft", "TTFT"), ("tpot", "TPOT")):
        lines = []
        for point in shown:
            found = point.passed[-1].metrics
            times = getattr(found.latencies, f"{name}_ms") if found else None
            if times is None:
                continue
            values = [
                (float(place), value)
                for place, key in enumerate(_PERCENTILES)
                if (value := getattr(times, key)) is not None
                and times.count >= _LEAST_OF_PERCENTILE.get(key, 0)
            ]
            if values:
                lines.append(plots.Series(name=streams(point.summary.load), points=values))
        if lines:
            caption = f"{label} by percentile, of the last measurement of each point"
            names = [key.upper().replace("P99P9", "P99.9") for key in _PERCENTILES]
            yield Figure(
                name, caption, plots.chart(caption, "percentile", f"{label}, ms", lines, names=names)
            )


def _over_time(point: Point) -> Iterator[Figure]:
    series, load = point.passed[-1].server.series, streams(point.summary.load)
    if len(series.seconds) < 3:
        return
    at = series.seconds
    rates = [
        (after, max(0.0, (more - less) / (after - before)))
        for before, after, less, more in zip(
            at, at[1:], series.generation_tokens, series.generation_tokens[1:], strict=False
        )
        if after > before
    ]
    charts = {
        "tokens": ("Output tokens a second", "tokens/s", {"counted by the engine": rates}),
        "queue": (
            "Requests",
            "requests",
            {name: list(zip(at, getattr(series, name), strict=True)) for name in ("running", "waiting")},
        ),
        "kv": (
            "KV cache in use",
            "%",
            {"fullest engine": [(t, 100 * used) for t, used in zip(at, series.kv_usage, strict=True)]},
        ),
    }
    for name, (what, unit, lines) in charts.items():
        caption = f"{what} over time, {load}"
        found = [plots.Series(name=label, points=points) for label, points in lines.items()]
        yield Figure(name, caption, plots.chart(caption, "seconds", unit, found))
    if len(point.pace) > 2:
        caption = f"Time per output token over time, {load}"
        line = plots.Series(name="median of the requests that ended then", points=point.pace)
        yield Figure("pace", caption, plots.chart(caption, "seconds", "TPOT, ms", [line]))


def _cost(results: Results, best: Point) -> Iterator[Block]:
    inputs = results.run.cost
    costs = cost.token_costs(inputs, best.passed)
    if not costs:
        yield Paragraph("Nobody publishes a price of these hosts, so there is no cost of a token.")
        return
    if not any(each.usd_per_hour for each in costs):
        yield Paragraph(f"These hosts cost nothing ({inputs.source}), and so do their tokens.")
        return
    rows = [
        (
            each.rate + (" (the recipe's)" if each.usd_per_hour == inputs.usd_per_hour else ""),
            number(each.usd_per_hour),
            spread(each.output),
            spread(each.input),
            spread(each.total),
        )
        for each in costs
    ]
    head = ("rate", "USD per hour", "per million output tokens", "per million input tokens",
            "per million of both")  # fmt: skip
    yield Table(head, rows)
    seller = "" if inputs.verified else " It is not the seller's own list."
    read = f"read on {inputs.date} from {inputs.source}" if inputs.date else f"as {inputs.source} says"
    yield Paragraph(
        f"At {streams(best.summary.load)}, the point of most throughput. Output and input tokens each carry "
        "the whole price of the hosts; the last column divides it evenly. The load is taken to go on all the "
        "time: at half of it, each token costs twice as much. Intervals are those of the throughput alone. "
        f"Prices for {inputs.region}, {read}.{seller}"
    )
    items = []
    measured = results.run.deployment.cold_start
    seconds = measured.seconds if measured else inputs.cold_start_seconds
    if seconds:
        more = ", ".join(
            f"{cost.with_cold_start(seconds, hours) - 1:.1%} over {hours} h" for hours in cost.SERVING_HOURS
        )
        what = "The cold start took" if measured else "A cold start is planned to take"
        items.append(
            f"{what} {seconds / 60:.0f} minutes, which are paid too: a token costs more by {more} of serving."
        )
    items += [
        f"{each.rate} is cheaper than {cost.ON_DEMAND} when the hosts are used more than {each.share:.0%} "
        "of all hours."
        for each in cost.break_even(inputs)
    ]
    if items:
        yield Items(items)


def _cold_start(found: ColdStart | None, level: int) -> Iterator[Block]:
    """How the group was started, when somebody could look."""
    if found is None:
        return
    yield Heading(level, "Cold start")
    price = "" if found.usd is None else f", {found.usd:,.2f} USD by the price list"
    yield Paragraph(f"Measured {found.seconds:,.0f} s, planned {found.planned:,.0f} s{price}. Of the leader:")
    rows = [
        (step.name, number(step.seconds), "–" if step.planned is None else number(step.planned))
        for step in found.steps
    ]
    yield Table(("step", "took, s", "planned, s"), rows)


def _belief(passed: Sequence[Point]) -> Iterator[Block]:
    last = passed[-1].passed[-1]
    truth = last.truth
    answers = (
        f"{truth.right} of {truth.asked} fixed questions were answered right"
        if truth.trained
        else f"the model is untrained: {truth.right} of {truth.asked} answers were the same twice"
    )
    yield Paragraph(
        f"Every measurement above has passed the gate: {answers} in the last one; client and engine count "
        "the same tokens; the server is what the recipe says. Percentiles beyond which less than one request "
        "lies are not drawn. The client's own error, the largest of mean, median and P99, against a server "
        "with known times:"
    )
    rows = [
        (
            streams(point.summary.load),
            *(
                number(point.summary.client_error_ms[name]) if name in point.summary.client_error_ms else "–"
                for name in ("ttft", "tpot", "itl")
            ),
            f"{max(each.client.cpu for each in point.passed):.0%}",
        )
        for point in passed
    ]
    yield Table(("load", "TTFT, ms", "TPOT, ms", "ITL, ms", "busiest process"), rows)
