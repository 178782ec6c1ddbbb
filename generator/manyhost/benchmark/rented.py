"""Measuring hosts at RunPod from this machine: whether all of them run is asked when a client is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from manyhost.benchmark.bench import Measured
from manyhost.benchmark.gate import Deployed
from manyhost.benchmark.here import Here
from manyhost.errors import ManyhostError
from manyhost.runpod.api import Api
from manyhost.runpod.models import Pod
from manyhost.runpod.watch import address, rank

_RUNS = "RUNNING"


class Rented(Here):
    """Pods of RunPod that answer at a URL.

    Args:
        client: Folder of the client's scripts.
        url: Of the service.
        api: RunPod.

    Raises:
        ManyhostError: RunPod cannot be asked.
    """

    def __init__(self, client: Path, url: str, api: Api) -> None:
        super().__init__(client, url)
        self._api = api
        self._members = group(api.pods(), self.url)

    def measure(self, spec: dict[str, Any], report: Callable[[str], None]) -> Measured:
        """Run the client once, and see what has become of the hosts meanwhile.

        Raises:
            Failed: It ends without evidence.
        """
        found = super().measure(spec, report)
        return msgspec.structs.replace(found, deployed=deployed(self._api, self._members))


def group(pods: list[Pod], url: str) -> list[Pod]:
    """Return the members of the group whose API is at a URL; none when it is nobody's."""
    leader = next((pod for pod in pods if address([pod]) == url), None)
    if leader is None or leader.cluster is None:
        return [leader] if leader else []
    return [pod for pod in pods if pod.cluster and pod.cluster.id == leader.cluster.id]


def deployed(api: Api, members: list[Pod]) -> tuple[Deployed, ...]:
    """Return what is not as planned now of each member; what RunPod does not say is not as planned either."""
    try:
        there = {pod.id: pod.status for pod in api.pods()} if members else {}
        lost = "gone"
    except ManyhostError as error:
        there, lost = {}, f"unknown ({error.message})"
    return tuple(
        Deployed(pod=pod.id, differences=_differences(rank(pod), there.get(pod.id, lost))) for pod in members
    )


def _differences(number: int, status: str) -> tuple[str, ...]:
    return () if status == _RUNS else (f"host {number}: is {status}, planned {_RUNS}",)
