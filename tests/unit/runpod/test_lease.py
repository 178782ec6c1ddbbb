"""The lease as the program that runs in a pod: whatever happens to its client, it is not billed for ever."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from manyhost.runpod import launch, names
from manyhost.runpod.api import Api
from manyhost.runpod.models import Gpu, NewPod

from testbed.runpod import Fault
from testbed.runpod_server import Answer
from tests.helpers.runpod import STEM, Account
from tests.helpers.waiting import until
from tests.unit.runpod.test_make import cluster

BOOT = Path(launch.__file__).parent / "boot"
KEY = "a lease of this test"
OVER = names.leased(STEM, 1577836800.0)  # 2020


class Running:
    """A pod's lease, and what it has said."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log

    @property
    def said(self) -> str:
        return self._log.read_text()


@pytest.fixture
def cloud() -> Iterator[Account]:
    with Account(time.time) as made:
        made.keys[KEY] = r"(GET|DELETE) /v2/(pods|clusters)/\w+$"
        yield made


@pytest.fixture
def api(cloud: Account) -> Api:
    return Api(cloud.key, cloud.url)


@contextmanager
def running(
    cloud: Account, pod: str, seconds: float, *command: str, folder: Path, **env: str
) -> Iterator[Running]:
    """Run what a pod runs, with a lease of some seconds in its environment."""
    log = folder / "log"
    known = {
        "MANYHOST_LEASE_KEY": KEY, "MANYHOST_LEASE_SECONDS": "0.05", "MANYHOST_RUNPOD_URL": cloud.url,
        "MANYHOST_UNTIL": str(time.time() + seconds), "PATH": os.environ["PATH"], "HOME": str(folder),
        **cloud.environment(pod), **env,
    }  # fmt: skip
    with log.open("wb") as out, subprocess.Popen(
        command or [sys.executable, "-S", str(BOOT / "lease.py")],
        env=known, stdout=out, stderr=out, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield Running(process, log)
        finally:
            os.killpg(process.pid, 9)


def pod(api: Api, name: str = STEM) -> str:
    body = NewPod(name=name, image="i", cloud="SECURE", gpu=Gpu(id="NVIDIA H200", count=8))
    return api.make_pod(body).id


def members(cloud: Account, api: Api, name: str = STEM) -> tuple[str, list[str]]:
    made = api.make_cluster(cluster(name)).id
    return made, [one["id"] for one in cloud._members(made)]


def ends(cloud: Account) -> None:
    until("the lease is over", lambda: not cloud.alive(), 20)


def asked(cloud: Account, times: int) -> Callable[[], bool]:
    before = len(cloud.calls)
    return lambda: len(cloud.calls) >= before + times


def test_a_pod_alone(cloud: Account, api: Api, tmp_path: Path) -> None:
    with running(cloud, pod(api), 0.6, folder=tmp_path) as lease:
        until("it asks", asked(cloud, 4), 20)
        assert cloud.alive() == [STEM]
        assert "manyhost: lease held until 20" in lease.said
        ends(cloud)
        assert "manyhost: the lease is over" in lease.said
        assert KEY not in lease.said


def test_a_member_of_a_cluster_ends_the_cluster(cloud: Account, api: Api, tmp_path: Path) -> None:
    _, (_, second) = members(cloud, api, OVER)
    with running(cloud, second, 3600, folder=tmp_path):
        ends(cloud)


def test_a_new_name_is_a_new_lease(cloud: Account, api: Api, tmp_path: Path) -> None:
    made, (first, _) = members(cloud, api)
    api.rename("clusters", made, names.leased(STEM, time.time() + 3600))
    with running(cloud, first, -60, folder=tmp_path):
        until("it asks", asked(cloud, 8), 20)
        assert len(cloud.alive()) == 1
        api.rename("clusters", made, OVER)
        ends(cloud)


@pytest.mark.parametrize("fault", [("(GET|DELETE) /v2/pods/", 503), ("GET /v2/pods/", 0, True)], ids=str)
def test_runpod_away_at_the_end(cloud: Account, api: Api, tmp_path: Path, fault: tuple[Any, ...]) -> None:
    one = pod(api)
    cloud.faults += [Fault(*fault) for _ in range(12)]
    with running(cloud, one, 0.3, folder=tmp_path) as lease:
        ends(cloud)
        assert "RunPod cannot be asked" in lease.said
        assert not cloud.faults


def test_one_read_that_fails_does_not_end_what_was_renewed(cloud: Account, api: Api, tmp_path: Path) -> None:
    """What is in the environment, or was read last, is older than the name."""
    one = pod(api, names.leased(STEM, time.time() + 3600))
    cloud.faults += [Fault("GET /v2/pods/", 503) for _ in range(3)]
    with running(cloud, one, -60, folder=tmp_path):
        until("it asks", asked(cloud, 6), 20)
        assert len(cloud.alive()) == 1


def test_a_pod_that_cannot_be_read_is_ended_all_the_same(cloud: Account, api: Api, tmp_path: Path) -> None:
    one = pod(api)
    cloud.keys[KEY] = "DELETE "
    with running(cloud, one, -1, folder=tmp_path, RUNPOD_API_KEY=KEY):
        ends(cloud)


@pytest.mark.parametrize("key", ["", "rpa_revoked", "{{ RUNPOD_SECRET_manyhost_lease }}"])
def test_a_key_that_may_not(cloud: Account, api: Api, tmp_path: Path, key: str) -> None:
    """RunPod's own key of the pod may end the pod."""
    with running(cloud, pod(api), 0.3, folder=tmp_path, MANYHOST_LEASE_KEY=key):
        ends(cloud)


def test_a_cluster_whose_name_cannot_be_read(cloud: Account, api: Api, tmp_path: Path) -> None:
    _, (first, _) = members(cloud, api)
    cloud.keys[KEY] = r"(GET /v2/pods|DELETE /v2/clusters)/\w+$"
    with running(cloud, first, 0.2, folder=tmp_path):
        ends(cloud)


def test_answers_that_make_no_sense(
    cloud: Account, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, strange = pod(api), [[], "", {"cluster": "c"}, {"name": None}, {"name": "x-until-99999999T9999Z"}]
    real = cloud.do

    def do(method: str, *rest: Any) -> Answer:
        return Answer(200, strange.pop()) if method == "GET" and strange else real(method, *rest)

    monkeypatch.setattr(cloud, "do", do)
    monkeypatch.setattr(cloud, "_description", None)
    with running(cloud, one, 0.3, folder=tmp_path):
        ends(cloud)
    assert not strange


@pytest.mark.parametrize("missing", ["MANYHOST_LEASE_KEY", "VLLM_API_KEY"])
def test_a_pod_without_a_secret_says_so_and_ends(
    cloud: Account, api: Api, tmp_path: Path, missing: str
) -> None:
    for path in BOOT.glob("*.*"):  # without bytecode
        shutil.copy(path, tmp_path)
    (tmp_path / "settings.env").touch()
    env = {"VLLM_API_KEY": "k", missing: "{{ RUNPOD_SECRET_manyhost_it }}"}
    command = ("bash", str(tmp_path / "boot.sh"), "serve")
    with running(cloud, pod(api), 1.0, *command, folder=tmp_path, **env) as started:
        until(
            "it says so", lambda: "manyhost: failed: RunPod has no secret manyhost_it\n" in started.said, 20
        )
        ends(cloud)
