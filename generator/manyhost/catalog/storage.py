"""What it costs to keep weights in a bucket (values/storage.yaml)."""

from manyhost.catalog.struct import Amount, Date, Struct


class Storage(Struct, frozen=True):
    """List prices of Cloud Storage's Standard class.

    Attributes:
        date: The day on which the list was read.
        source: Where it is.
        usd_per_gb_month: By region, for 2^30 bytes.
        usd_per_thousand_writes: Class A operations.
    """

    date: Date
    source: str
    usd_per_gb_month: dict[str, Amount]
    usd_per_thousand_writes: Amount
