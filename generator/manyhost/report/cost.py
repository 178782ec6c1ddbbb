"""What a token costs, from the price of the hosts and the throughput that they were measured at: pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from manyhost.benchmark.intervals import interval
from manyhost.benchmark.result import CostInputs, Interval, Measurement

ON_DEMAND = "on-demand"
COMMITTED = "commit-"
SERVING_HOURS = (1, 8, 24)  # after a cold start


class TokenCost(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of a million tokens at one rate of the price list, under the measured load.

    Hosts make prompt tokens and answer tokens at once, and nobody can say which part of their price is whose.
    So each of the first two carries all of it, and the third divides it evenly.

    Attributes:
        rate: on-demand, spot, commit-1y, ...
        usd_per_hour: Of all hosts.
        output: USD per million output tokens.
        input: USD per million input tokens.
        total: USD per million tokens of both kinds.
    """

    rate: str
    usd_per_hour: float
    output: Interval
    input: Interval
    total: Interval


class BreakEven(msgspec.Struct, frozen=True, kw_only=True):
    """When a commitment, paid whether the hosts are used or not, is cheaper than paying by the hour.

    Attributes:
        rate: The commitment.
        share: Of all hours, from which on it is cheaper.
    """

    rate: str
    share: float


def token_costs(inputs: CostInputs, measured: Sequence[Measurement]) -> list[TokenCost]:
    """Return the cost at every rate; none where nobody publishes a price, or no number was let through."""
    found = [each.metrics for each in measured if each.metrics]
    if not found:
        return []
    output = interval([each.output_token_rate for each in found])
    prompt = interval([each.input_tokens / each.seconds for each in found])
    total = interval([each.total_token_rate for each in found])
    return [
        TokenCost(
            rate=rate,
            usd_per_hour=usd,
            output=per_million(usd, output),
            input=per_million(usd, prompt),
            total=per_million(usd, total),
        )
        for rate, usd in inputs.usd_per_hour_by_rate.items()
    ]


def per_million(usd_per_hour: float, rate: Interval) -> Interval:
    """Return USD per million tokens at a rate of tokens a second.

    The ends of the interval change places. Where that of the rate reaches down to nothing, the upper end is
    infinite.
    """

    def cost(tokens_per_second: float) -> float:
        if not usd_per_hour:
            return 0.0
        return usd_per_hour / 3600 / tokens_per_second * 1e6 if tokens_per_second > 0 else float("inf")

    if rate.low is None or rate.high is None:
        return Interval(mean=cost(rate.mean), low=None, high=None)
    return Interval(mean=cost(rate.mean), low=cost(rate.high), high=cost(rate.low))


def break_even(inputs: CostInputs) -> list[BreakEven]:
    """Return for each commitment of the list the share of hours from which on it is the cheaper one."""
    by_rate = inputs.usd_per_hour_by_rate
    by_the_hour = by_rate.get(ON_DEMAND, 0.0)
    return [
        BreakEven(rate=rate, share=usd / by_the_hour)
        for rate, usd in by_rate.items()
        if rate.startswith(COMMITTED) and by_the_hour
    ]


def with_cold_start(seconds: float, hours: float) -> float:
    """Return by which factor a token costs more when hosts serve for some hours after a cold start."""
    return 1 + seconds / 3600 / hours
