"""manyhost dashboard."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from manyhost.cli.options import output_option
from manyhost.cli.printer import Printer
from manyhost.cli.session import Wanted, open_release, place_options
from manyhost.errors import NotReady, RemoteError

if TYPE_CHECKING:
    from manyhost.cli.session import Opened
    from manyhost.cluster.figures import Figures, Reading

RESULT = {
    "release": "the release",
    "namespace": "its namespace",
    "seconds": "length of the window",
    "groups": "of each ready group its leader (pod), role, running, waiting, kv_usage, prompt_token_rate, "
    "output_token_rate, ttft_ms, tpot_ms, preemptions, finished; null is unknown or had no cause",
    "total": "the same of all groups that answer clients",
    "hosts": "hosts of the release",
    "usd_per_hour": "list price of these; null where nobody publishes it",
    "usd_per_million_output_tokens": "this price over the output tokens; null without tokens",
}
EVENTS = {"window": "what RESULT says, of one window", "problem": "the cluster or the engines do not answer"}
_HEAD = (
    "group",
    "running",
    "waiting",
    "KV",
    "prompt tok/s",
    "output tok/s",
    "TTFT",
    "TPOT",
    "preempted",
    "done",
)


@click.command(name="dashboard")
@place_options
@click.option("--once", is_flag=True, help="Show one window and end; otherwise until Ctrl-C.")
@click.option(
    "--every",
    type=click.FloatRange(min=1, max=3600),
    default=5,
    show_default=True,
    metavar="SECONDS",
    help="Length of a window.",
)
@output_option
def command(wanted: Wanted, once: bool, every: float, output: Printer) -> None:
    """Show what a release does now: requests, tokens a second, times, KV cache, cost.

    It reads the counters of each ready leader through a tunnel, twice; nothing is installed in the cluster.
    What was is for Grafana: docs/how-to/observability.md.

    Example: manyhost dashboard a3mega --once
    """
    from manyhost.cluster.scrape import scrape

    opened = open_release(wanted)
    before, _ = scrape(opened.connection, opened.place)
    if once:
        time.sleep(every)
        after, hosts = scrape(opened.connection, opened.place)
        document = _document(opened, before, after, hosts)
        output.result(document, _lines(document))
        return
    with _Screen(output) as screen:
        while True:
            time.sleep(every)
            try:
                after, hosts = scrape(opened.connection, opened.place)
            except (RemoteError, NotReady) as error:
                screen.problem(f"{error.message}; {error.fix}" if error.fix else error.message)
                continue
            screen.window(_document(opened, before, after, hosts))
            before = after


def _document(
    opened: Opened, before: Sequence[Reading], after: Sequence[Reading], hosts: int
) -> dict[str, Any]:
    from manyhost.cluster.figures import figures, usd_per_million
    from manyhost.plan.cost import cost

    groups, total = figures(before, after)
    usd = cost(opened.recipe, opened.environment, hosts).usd_per_hour
    return {
        "release": opened.place.release,
        "namespace": opened.place.namespace,
        "seconds": round(max(each.at for each in after) - max(each.at for each in before), 3),
        "groups": groups,
        "total": total,
        "hosts": hosts,
        "usd_per_hour": usd,
        "usd_per_million_output_tokens": usd_per_million(usd, total.output_token_rate),
    }


class _Screen:
    """Shows one window after another: in one place on a terminal, else below each other."""

    def __init__(self, output: Printer) -> None:
        self._output = output
        self._live: Any = None
        if sys.stdout and sys.stdout.isatty() and not output.as_json:
            from rich.live import Live

            self._live = Live(auto_refresh=False)

    def __enter__(self) -> _Screen:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def window(self, document: dict[str, Any]) -> None:
        """Show a window."""
        self._show("window", "\n".join(_lines(document)), document)

    def problem(self, text: str) -> None:
        """Say why there is nothing to show."""
        self._show("problem", f"waiting: {text}")

    def _show(self, kind: str, text: str, document: dict[str, Any] | None = None) -> None:
        if not self._live:
            self._output.event(kind, text, document)
            return
        from rich.text import Text

        self._live.update(Text(text, no_wrap=True), refresh=True)


def _lines(document: dict[str, Any]) -> Iterator[str]:
    price, usd = document["usd_per_hour"], document["usd_per_million_output_tokens"]
    cost = "price not public" if price is None else f"{price:.2f} USD/h"
    cost += f", {usd:.2f} USD per million output tokens" if usd is not None else ""
    count = document["hosts"]
    yield (
        f"release {document['release']} in namespace {document['namespace']}, "
        f"last {document['seconds']:.1f} s; {count} host{'s' * (count != 1)}: {cost}"
    )
    rows = [_HEAD, *map(_row, document["groups"])]
    if len(document["groups"]) > 1:
        rows.append(_row(document["total"]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))]
        yield f"  {'  '.join(cells)}"


def _row(found: Figures) -> tuple[str, ...]:
    usage = "-" if found.kv_usage is None else f"{found.kv_usage:.0%}"
    return (
        f"{found.role} {found.pod}".strip() or "together",
        _cell(found.running),
        _cell(found.waiting),
        usage,
        _cell(found.prompt_token_rate, 1),
        _cell(found.output_token_rate, 1),
        _cell(found.ttft_ms, 0, " ms"),
        _cell(found.tpot_ms, 1, " ms"),
        _cell(found.preemptions),
        _cell(found.finished),
    )


def _cell(number: float | None, digits: int = 0, unit: str = "") -> str:
    return "-" if number is None else f"{number:.{digits}f}{unit}"
