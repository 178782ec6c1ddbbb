"""From nothing to a service and back: what is rented, what is refused before, and what failures say."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from manyhost.errors import Failed, InvalidInput, ManyhostError, NotReady, RemoteError
from manyhost.runpod import names
from manyhost.runpod.api import Api, NotPlaced
from manyhost.runpod.models import Cluster, NewCluster, NewVolume
from manyhost.runpod.offer import offer
from manyhost.runpod.service import Service, Wanted, strays, sweep

from testbed import runpod_answers
from testbed.runpod import Fault
from tests.helpers.runpod import NOON, RECIPE, STEM, WANTED, Account, Clock, plan, service
from tests.unit.runpod.test_make import cluster

HOUR = 3600.0
HELD = 'manyhost phase=held member=worker rank=1 seconds=9.00 reason="2 GPUs are missing"'


@pytest.fixture
def ours(api: Api, clock: Clock, tmp_path: Path) -> Service:
    return service(api, clock, tmp_path / "journal")


def answered(_: str) -> str:
    return ""


def nothing_made(cloud: Account) -> bool:
    return not any(cloud.things.values()) and not any(call.startswith("POST") for call in cloud.calls)


def wanted(**changes: object) -> Wanted:
    return msgspec.structs.replace(WANTED, **changes)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------- before anything is made
def test_a_price_above_the_cap(ours: Service, cloud: Account) -> None:
    with pytest.raises(NotReady, match=r"16 GPUs cost 64\.00 USD an hour, more than 60\.00") as caught:
        ours.up(wanted(usd_per_hour=60.0), answered)
    assert caught.value.exit_code == 4
    assert nothing_made(cloud)


@pytest.mark.parametrize(
    ("capacity", "place", "words"),
    [(0, "", "no 16 GPUs are free"), (8, "MOON-1", "no 16 GPUs are free in MOON-1")],
)
def test_no_stock(ours: Service, cloud: Account, capacity: int, place: str, words: str) -> None:
    cloud.capacity = capacity
    with pytest.raises(NotReady, match=words) as caught:
        ours.up(wanted(data_center=place), answered)
    assert caught.value.exit_code == 4
    assert nothing_made(cloud)


def test_no_pod_that_could_stage(ours: Service, cloud: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(runpod_answers._CPU, "vcpu", {"min": 1, "max": 2})
    with pytest.raises(NotReady, match="no CPU pod is to be had in"):
        ours.up(WANTED, answered)
    assert nothing_made(cloud)


def test_an_engine_that_nobody_has_locked(api: Api, cloud: Account, clock: Clock, tmp_path: Path) -> None:
    made = plan(RECIPE, "engine.version=v0.20.2")
    with pytest.raises(InvalidInput, match="is not locked for RunPod"):
        service(api, clock, tmp_path / "journal", made=made).up(WANTED, answered)
    assert nothing_made(cloud)


def test_what_would_be_asked_for_is_known_without_stock(ours: Service, cloud: Account, api: Api) -> None:
    cloud.capacity = 0
    found = offer(api, plan())
    assert [kind for kind, _ in ours.requests(WANTED, found)] == ["network-volumes", "pods", "clusters"]
    assert nothing_made(cloud)


# ----------------------------------------------------------------------------------------------- up
def test_twice_is_once(ours: Service, cloud: Account, clock: Clock) -> None:
    begun = clock.time
    state = ours.up(WANTED, answered)
    assert [pod.status for pod in state.pods] == ["RUNNING", "RUNNING"]
    assert state.url == "http://127.0.0.1:48000"
    assert (state.usd_per_hour, cloud.rented()) == (64.0, [STEM])
    assert state.until
    assert state.until - begun >= 2 * HOUR
    clock.sleep(600)
    again = ours.up(WANTED, answered)
    assert (again.thing, again.until) == (state.thing, state.until)
    posts = [cloud.asked(f"POST /v2/{kind}") for kind in ("network-volumes", "pods", "clusters")]
    assert posts == [1, 1, 1]


def test_two_at_once_from_two_machines_rent_one(
    api: Api, cloud: Account, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither sees the other's cluster before it asks for its own: the later one is given back."""
    here, there = (service(api, clock, tmp_path / name) for name in ("here", "there"))
    here.up(msgspec.structs.replace(WANTED, hours=1), answered)
    here.down(with_volume=False)
    make = api.make_cluster

    def slow(body: NewCluster) -> Cluster:
        monkeypatch.setattr(api, "make_cluster", make)
        there.up(WANTED, answered)  # all of it, between a look and a request
        return make(body)

    monkeypatch.setattr(api, "make_cluster", slow)
    state = here.up(WANTED, answered)
    assert cloud.rented() == [STEM]
    assert state.thing == there.state().thing


@pytest.mark.parametrize("settings", [("context=64000",), ("parallelism.pipeline=1",)])
def test_another_setting_while_something_runs(
    api: Api, cloud: Account, clock: Clock, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    """The second one takes one host in place of two: a pod and no cluster."""
    service(api, clock, tmp_path / "journal").up(WANTED, answered)
    before = cloud.alive()
    other = service(api, clock, tmp_path / "journal", made=plan(RECIPE, *settings))
    with pytest.raises(NotReady, match="runs something else: another recipe, setting or version"):
        other.up(WANTED, answered)
    assert cloud.alive() == before
    assert len([call for call in cloud.calls if call.startswith("POST")]) == 3


def test_another_setting_while_something_is_staged(
    api: Api, cloud: Account, clock: Clock, tmp_path: Path
) -> None:
    """Its client is gone, and what it stages is not what is wanted."""

    class Gone(BaseException):
        pass

    def gone(text: str) -> None:
        if text.startswith("manyhost: staging"):
            raise Gone

    one = service(api, clock, tmp_path / "journal", tell=gone)
    one._maker.away = lambda *_: None  # type: ignore[method-assign]  it has no time for that
    with pytest.raises(Gone):
        one.up(WANTED, answered)
    assert cloud.rented() == [f"{STEM}-stage"]
    with pytest.raises(NotReady, match="runs something else"):
        service(api, clock, tmp_path / "journal").up(wanted(hub="http://mirror"), answered)
    assert cloud.asked("POST /v2/clusters") == 0
    service(api, clock, tmp_path / "journal").up(WANTED, answered)
    assert cloud.rented() == [STEM]
    assert cloud.asked("POST /v2/pods") == 1, "the same is taken up"


def test_an_interrupted_request_is_not_made_again(
    api: Api, cloud: Account, clock: Clock, tmp_path: Path
) -> None:
    """The client ends while the cluster is asked for, which appears later; other things have its name."""

    class Gone(BaseException):
        pass

    real = api._once

    def once(method: str, path: str, body: bytes | None = None) -> object:
        if (method, path) == ("POST", "/v2/clusters"):
            cloud.faults.append(Fault("POST /v2/clusters", lost=True, late=25))
            with pytest.raises(RemoteError):
                real(method, path, body)
            raise Gone
        return real(method, path, body)

    api._once = once  # type: ignore[assignment,method-assign]
    with pytest.raises(Gone):
        service(api, clock, tmp_path / "journal").up(WANTED, answered)
    api._once = real  # type: ignore[method-assign]
    service(api, clock, tmp_path / "journal").up(WANTED, answered)
    assert (cloud.rented(), cloud.asked("POST /v2/clusters")) == ([STEM], 1)


def test_a_volume_elsewhere(ours: Service, cloud: Account, api: Api) -> None:
    api.make_volume(NewVolume(name=STEM, size=1000, data_center="EU-RO-1"))
    with pytest.raises(NotReady, match=r"is in EU-RO-1, and pods must be there") as caught:
        ours.up(wanted(data_center="US-KS-2"), answered)
    assert caught.value.where == "--data-center"
    assert cloud.rented() == []
    state = ours.up(WANTED, answered)
    assert {pod.data_center_id for pod in state.pods} == {"EU-RO-1"}


def test_staging_that_fails(ours: Service, cloud: Account) -> None:
    cloud.staging = ["manyhost: staging w", "manyhost: failed: staging ended with exit 3"]
    with pytest.raises(Failed, match="staging: staging ended with exit 3"):
        ours.up(WANTED, answered)
    assert (cloud.alive(), cloud.volumes()) == ([], [STEM])
    assert cloud.asked("POST /v2/clusters") == 0
    cloud.staging = ["manyhost: staged"]
    assert ours.up(WANTED, answered).url


def test_staging_that_takes_too_long(ours: Service, cloud: Account) -> None:
    cloud.staging = []
    ours._stage_seconds = lambda: 600.0  # type: ignore[method-assign]
    with pytest.raises(RemoteError, match="weights are not on the volume after 10 min"):
        ours.up(WANTED, answered)
    assert cloud.alive() == []


@pytest.mark.parametrize("status", ["EXITED", "ERROR"])
def test_a_member_that_ends(ours: Service, cloud: Account, status: str) -> None:
    def ask(_: str) -> str:
        last = [identity for identity, pod in cloud.things["pods"].items() if "cluster" in pod][-1]
        cloud.statuses[last] = status
        return "/health answers 503"

    with pytest.raises(Failed, match=rf"RunPod: a member, pod po\d+, is {status}$") as caught:
        ours.up(WANTED, ask)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (HELD, "rank 1 holds: 2 GPUs are missing"),
        (f"{HELD} since=3", "rank 1 holds: 2 GPUs are missing"),
        ("manyhost: failed: RunPod has no secret manyhost_api", "rank 1: RunPod has no secret manyhost_api"),
    ],
)
def test_what_a_member_cannot_cure(ours: Service, cloud: Account, line: str, says: str) -> None:
    cloud.serving = {0: ["manyhost: unpacking the engine"], 1: [line]}
    with pytest.raises(Failed) as caught:
        ours.up(WANTED, lambda _: "/health answers 503")
    assert str(caught.value) == says


def test_a_member_that_never_starts(ours: Service, cloud: Account, clock: Clock) -> None:
    cloud.faults.append(Fault("POST /v2/clusters", stuck=1))
    begun = clock.time
    with pytest.raises(RemoteError, match=r"no answer after 85 min: 1 of 2 pods run"):
        ours.up(WANTED, answered)
    assert clock.time - begun == pytest.approx(plan().startup_seconds, rel=0.05)
    ours.down(with_volume=False)
    assert cloud.alive() == []


def test_no_capacity_after_all(ours: Service, cloud: Account) -> None:
    cloud.faults.append(Fault("POST /v2/clusters", 400))
    with pytest.raises(NotPlaced, match="no capacity, or a rule that is broken"):
        ours.up(WANTED, answered)
    assert (cloud.alive(), cloud.volumes()) == ([], [STEM])


def test_without_a_lease(ours: Service, cloud: Account) -> None:
    state = ours.up(wanted(leased=False), answered)
    assert (state.until, cloud.alive()) == (None, [STEM])
    envs = [pod["env"] for pod in cloud.things["pods"].values()]
    assert not [env for env in envs if {"MANYHOST_UNTIL", "MANYHOST_LEASE_KEY"} & set(env)]
    with pytest.raises(NotReady, match="is not leased"):
        ours.renew(1)


# ------------------------------------------------------------------------------- status, renew, down
def test_renew_counts_from_now(ours: Service, cloud: Account, clock: Clock) -> None:
    with pytest.raises(NotReady, match="is not leased"):
        ours.renew(1)
    ours.up(WANTED, answered)
    clock.sleep(HOUR)
    until = ours.renew(3)
    assert 0 <= until - (clock.time + 3 * HOUR) < 60
    assert ours.state().until == until
    assert [names.parts(name) for name in cloud.alive()] == [(STEM, until)]


def test_status_counts_a_pod_that_stages(ours: Service, cloud: Account, clock: Clock) -> None:
    """What a client left behind that ended while it staged."""
    seen = []

    def tell(text: str) -> None:
        if text.startswith("manyhost: staging"):
            seen.append(ours.state())

    ours._tell = tell
    ours.up(WANTED, answered)
    assert [(state.thing, state.usd_per_hour) for state in seen] == [(None, 0.16)]


def test_down_keeps_the_volume_unless_told(ours: Service, cloud: Account, clock: Clock) -> None:
    assert ours.down(with_volume=True) == 0.0, "there is nothing"
    ours.up(WANTED, answered)
    clock.sleep(HOUR)
    assert ours.down(with_volume=False) == pytest.approx(64.0, rel=0.1)
    assert (cloud.alive(), cloud.volumes()) == ([], [STEM])
    assert ours.down(with_volume=False) == 0.0
    ours.up(WANTED, answered)
    ours.down(with_volume=True)
    assert (cloud.alive(), cloud.volumes()) == ([], [])
    ours.down(with_volume=True)


def test_down_ends_what_another_setting_has_made(
    api: Api, cloud: Account, clock: Clock, tmp_path: Path
) -> None:
    one_host = service(api, clock, tmp_path / "a", made=plan(RECIPE, "parallelism.pipeline=1"))
    assert len(one_host.up(WANTED, answered).pods) == 1
    two = service(api, clock, tmp_path / "b")
    assert [pod.cost for pod in two.state().pods] == [32.0]
    two.down(with_volume=False)
    assert cloud.alive() == []


def test_down_says_what_is_gone_though_nobody_may_see_the_bill(ours: Service, cloud: Account) -> None:
    ours.up(WANTED, answered)
    cloud.faults.append(Fault("GET /v2/billing", 403))
    assert ours.down(with_volume=False) is None
    assert cloud.alive() == []


# -------------------------------------------------------------------------------------------- sweep
def test_sweep_takes_what_is_over_and_only_its_owners(api: Api, cloud: Account, clock: Clock) -> None:
    mine, theirs = STEM, names.stem("ann-b", RECIPE)
    for name in (
        names.leased(mine, NOON - 60), names.leased(theirs, NOON - 60), "somebody-until-20200101T0000Z",
        names.leased(f"{names.stem('ann', 'other')}", NOON + HOUR),
    ):  # fmt: skip
        api.make_cluster(cluster(name))
    api.make_volume(NewVolume(name=mine, size=100, data_center="US-KS-2"))
    before = cloud.alive()
    found, doomed = sweep(api, "ann", everything=True, dry_run=True, now=clock.time)
    assert (len(found), len(doomed), cloud.alive()) == (3, 2, before)
    found, doomed = sweep(api, "ann", everything=False, dry_run=False, now=clock.time)
    assert [item.name for item in doomed] == [before[0]]
    assert cloud.alive() == before[1:]
    sweep(api, "ann", everything=True, dry_run=False, now=clock.time)
    assert cloud.alive() == before[1:3]
    assert cloud.volumes() == [mine], "a volume is what staging has cost"
    assert [item.kind for item in strays(api, "ann", clock.time)] == ["network-volumes"]


def test_sweep_goes_on_after_what_it_cannot_remove(api: Api, cloud: Account, clock: Clock) -> None:
    for release in ("a", "b", "c"):
        api.make_cluster(cluster(names.leased(names.stem("ann", release), NOON - 60)))
    cloud.faults += [Fault("DELETE", 403), Fault("DELETE", 409)]
    with pytest.raises(ManyhostError) as caught:
        sweep(api, "ann", everything=False, dry_run=False, now=clock.time)
    assert len(caught.value.more) == 1
    assert len(cloud.alive()) == 2
