"""What RunPod bills: each thing by the second, in stretches of one price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from testbed.runpod_answers import time
from testbed.runpod_server import Query

# kind: what identifies a record, the name of the count, the amounts; all is billed to the first of these
_BILLS = {
    "clusters": ("clusterId", "uniqueClusterCount", ("gpuAmount", "diskAmount", "networkingAmount")),
    "pods": ("podId", "uniquePodCount", ("gpuAmount", "cpuAmount", "diskAmount")),
    "network-volumes": (
        "networkVolumeId", "uniqueNetworkVolumeCount", ("standardAmount", "highPerformanceAmount"),
    ),
}  # fmt: skip


@dataclass
class _Stretch:
    """Seconds of one price, USD an hour."""

    start: float
    usd: float
    end: float = float("inf")

    def cost(self, until: float) -> float:
        return max(0.0, min(self.end, until) - self.start) / 3600 * self.usd


class Ledger:
    """What everything costs; an identity begins with the first two letters of its kind."""

    def __init__(self) -> None:
        self._things: dict[str, list[_Stretch]] = {}

    def begin(self, identity: str, now: float, usd: float) -> None:
        """Bill a thing at USD an hour from now on."""
        self.end(identity, now)
        self._things.setdefault(identity, []).append(_Stretch(now, usd))

    def end(self, identity: str, now: float) -> None:
        """Do not bill a thing any more; what is not billed by itself, or has ended before, stays so."""
        if stretches := self._things.get(identity):
            stretches[-1].end = min(stretches[-1].end, now)

    def usd(self, identity: str, until: float) -> float:
        """Return what a thing has cost until then."""
        return sum(one.cost(until) for one in self._things[identity])

    def bill(self, kind: str, query: Query, until: float) -> dict[str, Any]:
        """Return the bill of one kind: one bucket for each thing, of all filters only the identity's."""
        by, count, amounts = _BILLS[kind]
        found = {
            identity: stretches
            for identity, stretches in self._things.items()
            if identity.startswith(kind[:2])
            and stretches[0].start <= until
            and query.get(by) in {None, identity}
        }
        rows = [
            {
                by: identity,
                "startTime": time(one[0].start),
                "endTime": time(min(one[-1].end, until)),
                **_split(amounts, self.usd(identity, until)),
            }
            for identity, one in found.items()
        ]
        totals = _split(amounts, sum(row["totalAmount"] for row in rows))
        first = min((one[0].start for one in found.values()), default=until)
        asked = {"startTime": time(first), "endTime": time(until), "bucketSize": "day", by: query.get(by)}
        return {
            "records": rows,
            "metadata": {"query": asked, "recordCount": len(rows), count: len(rows), "totals": totals},
        }


def _split(amounts: tuple[str, ...], usd: float) -> dict[str, Any]:
    return {"totalAmount": usd, **dict.fromkeys(amounts, 0.0), amounts[0]: usd}
