"""What the hosts cost by the hour, from the environment's price list."""

from __future__ import annotations

import msgspec

from manyhost.catalog import Environment, Recipe
from manyhost.catalog.environment import Price

# A reservation is billed as its machines are; what else has no rate in the list has no known price.
_RATE_OF_MODE = {"reservation": "on-demand"}


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """List price of all hosts of a release.

    Attributes:
        usd_per_hour: At the recipe's capacity mode; None where nobody publishes it.
        usd_per_hour_by_rate: At every rate of the list, commitments included.
        region: The region that it is for; empty without a list.
        date: The day on which the list was read; empty without a list, or when the recipe says the price.
        source: Where the list is; empty without one.
        verified: Whether it is the seller's own.
    """

    usd_per_hour: float | None
    usd_per_hour_by_rate: dict[str, float]
    region: str
    date: str
    source: str
    verified: bool

    @property
    def origin(self) -> str:
        """Where the price is from, for people."""
        return f"list of {self.date}, {self.source}" if self.date else f"as {self.source} says"


def region(recipe: Recipe, price: Price) -> str:
    """Return the region whose price counts: the cluster's, else Cloud Build's if it has one."""
    build = "" if recipe.site.region == "global" else recipe.site.region
    return recipe.site.cluster_region or build or price.default_region


def cost(recipe: Recipe, environment: Environment, hosts: int) -> Cost:
    """Return what a number of hosts costs."""
    price, told = environment.price, recipe.capacity.usd_per_host_hour
    if told is not None:
        usd = round(told * hosts, 2)
        place = region(recipe, price) if price else recipe.site.cluster_region
        return Cost(
            usd_per_hour=usd,
            usd_per_hour_by_rate={recipe.capacity.mode: usd},
            region=place or environment.name,
            date="",
            source="capacity.usd_per_host_hour",
            verified=True,
        )
    if price is None:
        return Cost(usd_per_hour=None, usd_per_hour_by_rate={}, region="", date="", source="", verified=True)
    place = region(recipe, price)
    known = price.usd_per_host_hour.get(place, {})
    rates: dict[str, float] = {rate: round(usd * hosts, 2) for rate, usd in known.items()}
    mode = recipe.capacity.mode
    return Cost(
        usd_per_hour=rates.get(_RATE_OF_MODE.get(mode, mode)),
        usd_per_hour_by_rate=rates,
        region=place,
        date=price.date,
        source=price.source,
        verified=price.verified,
    )
