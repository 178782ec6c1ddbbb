"""Choices as a table, for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from manyhost.plan.choices import Choice, Rejected

_HEAD = (
    "",
    "environment",
    "layout",
    "hosts",
    "GiB",
    "KV tokens",
    "seats",
    "tok/s",
    "TPOT ms",
    "TTFT s",
    "error",
    "start h",
    "$/h",
    "$/Mtok",
    "spot",
)
_LEFT = (1, 2)  # columns of text
NOTES = (
    "GiB: weights on the fullest GPU. seats: requests at once. $/Mtok: of output tokens at full load, then",
    "at the spot rate. error: of tok/s, in nine of ten cases; 2x: nothing like it was measured.",
)


def _cells(number: int, choice: Choice) -> tuple[str, ...]:
    spot = choice.usd_per_mtok_by_rate.get("spot")
    return (
        str(number),
        choice.environment,
        f"{choice.layout} {choice.interconnect}".rstrip(),
        str(choice.hosts),
        f"{choice.weights_gib:.1f}",
        f"{choice.kv_tokens:,}",
        f"{choice.seats:,}",
        f"{choice.tok_s:,.0f}",
        f"{choice.tpot_ms:.1f}",
        f"{choice.ttft_ms / 1e3:.1f}",
        "2x" if choice.basis == "uncalibrated" else f"±{choice.error:.0%}",
        f"{choice.start_hours:.1f}",
        _usd(choice.usd_per_hour),
        _usd(choice.usd_per_mtok),
        _usd(spot),
    )


def _usd(amount: float | None) -> str:
    return "-" if amount is None else f"{amount:,.2f}"


def lines(choices: list[Choice]) -> Iterator[str]:
    """Yield the table for a terminal."""
    rows = [_HEAD, *(_cells(number, choice) for number, choice in enumerate(choices, 1))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for row in rows:
        cells = (
            cell.ljust(width) if column in _LEFT else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def markdown(choices: list[Choice]) -> Iterator[str]:
    """Yield the table for a page."""
    yield f"| {' | '.join(_HEAD[1:])} |"
    yield f"|{'|'.join('---' if column in _LEFT else '---:' for column in range(1, len(_HEAD)))}|"
    for choice in choices:
        yield f"| {' | '.join(_cells(0, choice)[1:])} |"


def reasons(rejected: Iterable[Rejected]) -> Iterator[str]:
    """Yield why the others do not work: layouts of one environment with the same reason on one line."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for each in rejected:
        grouped.setdefault((each.environment, each.reason), []).append(each.layout)
    for (environment, reason), layouts in grouped.items():
        yield f"{environment} {', '.join(layouts)}: {reason}"
