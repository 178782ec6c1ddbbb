"""Nothing at RunPod is made twice or forgotten, whatever is lost on the way."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from manyhost.errors import Failed, InvalidInput, NotReady, RemoteError
from manyhost.runpod.api import Api, NoAnswer, NotPlaced
from manyhost.runpod.journal import Journal
from manyhost.runpod.make import Maker
from manyhost.runpod.models import Cluster, Compute, Gpu, Mounts, NetworkMount, NewCluster, NewPod, NewVolume

from testbed.runpod import Fault, RunPod
from tests.helpers.shared import shared_dir


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cloud(clock: Clock) -> Iterator[RunPod]:
    shared = shared_dir()
    description = shared / "data/runpod-openapi-v2.json" if shared else None
    with RunPod(clock, description) as made:
        yield made


@pytest.fixture
def api(cloud: RunPod, clock: Clock) -> Api:
    return Api(cloud.key, cloud.url, sleep=clock.sleep, clock=clock)


def cluster(name: str = "mh-1") -> NewCluster:
    return NewCluster(
        name=name,
        type="APPLICATION",
        compute=Compute(gpu_type_id="NVIDIA H200", gpu_count_per_pod=8, pod_count=2),
        image="vllm/vllm-openai:v0.26.0",
        args="bash -c true",
        env={"A": "b"},
        ports=["22/tcp"],
        mounts=Mounts(network=[NetworkMount(volume_id="v", path="/workspace")]),
        start_ssh=True,
    )


def up(api: Api, clock: Clock, path: Path, name: str = "mh-1") -> Cluster:
    maker = Maker(Journal(path), sleep=clock.sleep, clock=clock, now=clock)
    return maker.once("clusters", name, lambda: api.make_cluster(cluster(name)), api.clusters)


def down(api: Api, clock: Clock, path: Path) -> None:
    journal = Journal(path)
    maker = Maker(journal, sleep=clock.sleep, clock=clock, now=clock)
    for kind, name in journal.open():
        maker.away(kind, name, lambda identity: api.remove("clusters", identity), api.clusters)


def test_every_request_is_as_described(api: Api) -> None:
    volume = api.make_volume(NewVolume(name="w", size=1000, data_center="US-KS-2"))
    assert (volume.size, api.volumes()) == (1000, [volume])
    pod = api.make_pod(
        NewPod(
            name="p",
            image="python:3.12",
            cloud="SECURE",
            gpu=Gpu(id="NVIDIA H200", count=8, min_cuda_version="13.0"),
        )
    )
    assert (pod.status, pod.cost) == ("PROVISIONING", 32.0)
    made = api.make_cluster(cluster())
    assert made.compute.pod_count == 2
    (gpu,) = api.gpus("CLUSTER")
    assert (gpu.price.secure, gpu.availability) == (4.0, "HIGH")


def test_twice_is_once(api: Api, cloud: RunPod, clock: Clock, tmp_path: Path) -> None:
    assert up(api, clock, tmp_path / "j").id == up(api, clock, tmp_path / "j").id
    assert cloud.calls.count("POST /v2/clusters") == 1
    down(api, clock, tmp_path / "j")
    assert cloud.alive() == []
    assert Journal(tmp_path / "j").open() == {}


@pytest.mark.parametrize("late", [0.0, 25.0])
def test_an_answer_that_was_lost(api: Api, cloud: RunPod, clock: Clock, tmp_path: Path, late: float) -> None:
    cloud.faults.append(Fault("POST /v2/clusters", lost=True, late=late))
    made = up(api, clock, tmp_path / "j")
    assert cloud.calls.count("POST /v2/clusters") == 1, "it is looked for and not asked for again"
    assert Journal(tmp_path / "j").open()["clusters", "mh-1"].identity == made.id


def test_an_answer_that_cannot_be_read(api: Api, cloud: RunPod, clock: Clock, tmp_path: Path) -> None:
    """RunPod has made it, and it is billed: it is looked for, and not noted as refused."""
    cloud.faults.append(Fault("POST /v2/clusters", garbled=True))
    made = up(api, clock, tmp_path / "j")
    assert cloud.calls.count("POST /v2/clusters") == 1
    assert Journal(tmp_path / "j").open()["clusters", "mh-1"].identity == made.id


@pytest.mark.parametrize("told", ["0", "²"])
def test_a_wait_that_is_none_is_a_short_one(api: Api, cloud: RunPod, told: str) -> None:
    cloud.faults.append(Fault("GET /v2/pods", 429, headers={"Retry-After": told}))
    assert api.pods() == []


@pytest.mark.parametrize("kind", ["a folder", "in a file"])
def test_a_journal_that_cannot_be(kind: str, api: Api, cloud: RunPod, clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "state" / "journal"
    if kind == "a folder":
        path.mkdir(parents=True)
    else:
        path.parent.touch()
    with pytest.raises(Failed, match=re.escape(str(path))) as told:
        up(api, clock, path)
    assert "cannot be" in told.value.message
    assert cloud.alive() == [], "what cannot be noted is not asked for"


def test_a_damaged_journal_is_put_aside_by_what_is_advised(
    api: Api, cloud: RunPod, clock: Clock, tmp_path: Path
) -> None:
    path = tmp_path / "j"
    up(api, clock, path)
    path.write_text("damaged\n" + path.read_text())
    with pytest.raises(Failed, match="line 1 cannot be read") as told:
        up(api, clock, path)
    assert told.value.fix.startswith("put the file aside")
    path.rename(tmp_path / "aside")
    up(api, clock, path)
    assert cloud.calls.count("POST /v2/clusters") == 1, "found by its name"


def test_what_appears_too_late_is_still_taken_away(
    api: Api, cloud: RunPod, clock: Clock, tmp_path: Path
) -> None:
    cloud.faults.append(Fault("POST /v2/clusters", lost=True, late=40.0))
    with pytest.raises(NoAnswer):
        up(api, clock, tmp_path / "j")
    down(api, clock, tmp_path / "j")
    clock.sleep(3600)
    assert cloud.alive() == []


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, NotPlaced, "no capacity, or a rule that is broken"),
        (401, NotReady, "the key is not accepted"),
        (402, NotReady, "the balance is too low"),
        (403, NotReady, "the key may not do that"),
        (422, InvalidInput, "a planted fault"),
    ],
)
def test_a_refusal_is_final_and_leaves_nothing_open(
    api: Api, cloud: RunPod, clock: Clock, tmp_path: Path, status: int, kind: type[Exception], words: str
) -> None:
    cloud.faults.append(Fault("POST /v2/clusters", status))
    with pytest.raises(kind, match=words):
        up(api, clock, tmp_path / "j")
    assert Journal(tmp_path / "j").open() == {}
    assert cloud.calls.count("POST /v2/clusters") == 1


def test_it_waits_as_long_as_it_is_told_to(api: Api, cloud: RunPod, clock: Clock, tmp_path: Path) -> None:
    cloud.faults += [Fault("POST", 429, headers={"Retry-After": "17"}), Fault("GET /v2/clusters", 503)]
    up(api, clock, tmp_path / "j")
    assert clock.time == 18.0
    cloud.faults += [Fault("DELETE", 500), Fault("DELETE", lost=True)]
    down(api, clock, tmp_path / "j")
    assert cloud.alive() == []


def test_somebody_elses_things_stay(api: Api, cloud: RunPod, clock: Clock, tmp_path: Path) -> None:
    api.make_cluster(cluster("theirs"))
    up(api, clock, tmp_path / "j")
    down(api, clock, tmp_path / "j")
    assert cloud.alive() == ["theirs"]


def test_the_key_is_in_no_error(cloud: RunPod, clock: Clock) -> None:
    api = Api("rpa_secret", cloud.url, sleep=clock.sleep, clock=clock)
    with pytest.raises(NotReady) as caught:
        api.clusters()
    assert "rpa_secret" not in f"{caught.value}{caught.value.__dict__}"
    nobody = Api("rpa_secret", "http://127.0.0.1:9", sleep=clock.sleep, clock=clock)
    with pytest.raises(RemoteError) as lost:
        nobody.clusters()
    assert "rpa_secret" not in str(lost.value)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("seed", range(40))
def test_killed_at_any_point_nothing_is_billed_after_down(
    api: Api, cloud: RunPod, clock: Clock, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before or after any request or write, with faults on the way; then run again, or down."""
    chance = random.Random(seed)
    for _ in range(chance.randrange(3)):
        lost = chance.random() < 0.5
        match = chance.choice(["GET /v2/clusters", "POST /v2/clusters", "DELETE /v2/clusters"])
        cloud.faults.append(
            Fault(match, 0 if lost else chance.choice([429, 500, 503]), lost=lost, late=chance.choice([0, 5]))
        )
    left = chance.randrange(12)

    def step() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    once, note = Api._once, Journal.note

    def killed_once(self: Api, *words: object) -> object:
        step()
        found = once(self, *words)  # type: ignore[arg-type]
        step()
        return found

    def killed_note(self: Journal, entry: object) -> None:
        step()
        note(self, entry)  # type: ignore[arg-type]
        step()

    monkeypatch.setattr(Api, "_once", killed_once)
    monkeypatch.setattr(Journal, "note", killed_note)
    path = tmp_path / "j"
    for _ in range(3):
        try:
            (up if chance.random() < 0.5 else down)(api, clock, path)
        except (Killed, RemoteError):
            continue
    left = -1
    cloud.faults.clear()
    down(api, clock, path)
    clock.sleep(7200)
    assert cloud.alive() == []
    assert sum(call == "POST /v2/clusters" for call in cloud.calls) <= 3
