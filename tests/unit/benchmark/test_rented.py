"""Hosts at RunPod that are lost while they are measured."""

from __future__ import annotations

from pathlib import Path

from manyhost.benchmark.rented import deployed, group
from manyhost.runpod.watch import address

from testbed.runpod_server import Fault
from tests.helpers.runpod import WANTED, Account, Clock, Near, service


def test_a_lost_host_is_a_reason_and_one_of_somebody_else_is_none(tmp_path: Path) -> None:
    clock = Clock()
    with Account(clock) as cloud:
        api = Near(cloud, clock)
        up = service(api, clock, tmp_path / "ours").up(WANTED, lambda _: "")
        service(api, clock, tmp_path / "others", name="mh-bob-x").up(WANTED, lambda _: "")
        assert up.url == address(up.pods)
        members = group(api.pods(), up.url)
        assert [pod.id for pod in members] == [pod.id for pod in up.pods]
        assert not group(api.pods(), "http://192.0.2.1:8000")
        assert [found.differences for found in deployed(api, members)] == [(), ()]

        cloud.statuses[up.pods[1].id] = "EXITED"
        own, lost = deployed(api, members)
        assert own.differences == ()
        assert (lost.pod, lost.differences) == (up.pods[1].id, ("host 1: is EXITED, planned RUNNING",))

        cloud.things["pods"].pop(up.pods[1].id)
        assert deployed(api, members)[1].differences == ("host 1: is gone, planned RUNNING",)
        cloud.faults.append(Fault("GET /v2/pods", 403))
        assert all("unknown" in found.differences[0] for found in deployed(api, members))
