"""Measuring from RunPod: each measurement is a CPU pod beside the service, as it is a Job on GKE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from manyhost.benchmark.bench import Measured
from manyhost.benchmark.evidence import PROGRESS, complete, unpack
from manyhost.benchmark.rented import deployed
from manyhost.benchmark.tools import lock
from manyhost.errors import Failed
from manyhost.runpod import launch
from manyhost.runpod.api import Api
from manyhost.runpod.service import Service

INSTALLED = {"locust"}  # load generators that a pod installs; ours comes with it
_AROUND_SECONDS = 1800  # to start the pod, for questions, warm-up and calibration, beside the load itself


class Pod:
    """The data center of what serves at RunPod.

    Args:
        service: What serves.
        api: RunPod.
        url: Where it serves.
        inside: RunPod's API, as pods reach it; empty for RunPod's own.
    """

    place: Literal["pod"] = "pod"

    def __init__(self, service: Service, api: Api, url: str, inside: str) -> None:
        self._service, self._api, self._inside = service, api, inside
        self.url = url
        self.metrics = [f"{url}/metrics"]

    @staticmethod
    def program(tool: str) -> str:
        """Return where a pod has the program of a load generator that it has installed."""
        return f"{launch.TOOLS}/bin/{tool}"

    def measure(self, spec: dict[str, Any], report: Callable[[str], None]) -> Measured:
        """Run one pod and remove it, and see what has become of the hosts that serve meanwhile.

        Raises:
            NotReady: Nothing serves, or there is nothing to send it from.
            Failed: It ends without evidence.
            RemoteError: It takes too long, or RunPod does not answer.
        """

        def last(line: str) -> bool:
            if line.startswith(PROGRESS):
                report(line.removeprefix(PROGRESS).rstrip())
            return complete(line)

        members = self._service.state().pods
        seconds = spec["limit_seconds"] + _AROUND_SECONDS
        tool = lock(spec["tool"]).read_bytes() if spec["tool"] in INSTALLED else b""
        lines, pod = self._service.load(msgspec.json.encode(spec), tool, seconds, self._inside, last)
        evidence = unpack(lines)
        if evidence is None:
            raise Failed("the client ended without a result", where=f"pod {pod}")
        return Measured(evidence=evidence, deployed=deployed(self._api, members), node=pod)
