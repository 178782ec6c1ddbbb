"""What staging takes and costs, before it begins."""

from __future__ import annotations

import math

import msgspec

from manyhost.catalog.storage import Storage
from manyhost.plan.startup import READ_RATES

_GB = 1024**3


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What staging a model would take.

    Attributes:
        bytes: To be stored.
        files: To be stored.
        seconds: At the rate of downloads from the hub that others have seen (plan/startup.py).
        usd_once: Operations.
        usd_per_month: Storage; None where no price is known for the place.
        source: Where the prices are from; empty for a folder, which costs what its disk costs.
    """

    bytes: int
    files: int
    seconds: int
    usd_once: float
    usd_per_month: float | None
    source: str


def estimate(size: int, files: int, *, storage: Storage | None, region: str) -> Estimate:
    """Return what it takes to stage a model.

    Args:
        size: Bytes of all files.
        files: How many.
        storage: Prices of the bucket; None for a folder.
        region: Where the bucket is; empty if nobody says.
    """
    seconds = math.ceil(size / READ_RATES["hub"])
    if storage is None:
        return Estimate(bytes=size, files=files, seconds=seconds, usd_once=0, usd_per_month=None, source="")
    price = storage.usd_per_gb_month.get(region)
    # Each file is written once; the mark, the manifest and some lists come on top.
    writes = (files + 20) * storage.usd_per_thousand_writes / 1000
    return Estimate(
        bytes=size,
        files=files,
        seconds=seconds,
        usd_once=round(writes, 4),
        usd_per_month=None if price is None else round(size / _GB * price, 2),
        source=f"{storage.source}, {storage.date}",
    )
