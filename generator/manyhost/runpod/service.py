"""From nothing to a service that answers, and back to nothing; each step may be taken again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from manyhost.commands import manyhost
from manyhost.errors import ManyhostError, NotReady
from manyhost.plan import Plan
from manyhost.runpod import launch, names, watch
from manyhost.runpod.api import Api
from manyhost.runpod.journal import Journal, Kind
from manyhost.runpod.make import Maker
from manyhost.runpod.models import Cluster, Cpu, NewCluster, NewPod, Pod, Sent, Volume
from manyhost.runpod.offer import Offer, offer, stager

_STAGE_BYTES_PER_SECOND = (
    50e6  # cautious: a standard volume takes 200 to 400 MB/s (runpod/docs, network-volumes.mdx)
)
_STAGE_EXTRA_SECONDS = 3600  # to install the engine


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for.

    Attributes:
        hours: Length of the lease.
        leased: Whether the pods end themselves.
        usd_per_hour: Most that the hosts may cost.
        data_center: Where; empty for the best stocked one, or where the volume is.
        url: RunPod's API as pods reach it; empty for RunPod's own.
        hub: Address of a mirror of the model hub; empty for the hub itself.
    """

    hours: float
    leased: bool
    usd_per_hour: float
    data_center: str
    url: str = ""
    hub: str = ""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a release has at RunPod.

    Attributes:
        name: Its stem.
        pods: Its pods.
        thing: Kind and RunPod's name of what is leased; None when nothing serves.
        until: End of the lease, seconds since the epoch; None without one.
        url: Of the API; empty as long as RunPod does not publish it.
        usd_per_hour: Billed now for the pods.
        volume: Its network volume, if there is one.
    """

    name: str
    pods: list[Pod]
    thing: tuple[Kind, str] | None
    until: float | None
    url: str
    usd_per_hour: float
    volume: Volume | None


class Service:
    """One release of one owner.

    Args:
        api: RunPod.
        journal: Of what is made.
        plan: Of the recipe.
        charts: Folder of the charts.
        name: Its stem (names.stem).
        tell: Told each step.
        sleep: How to wait, seconds.
        clock: Seconds of a clock that only goes on.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        api: Api,
        journal: Journal,
        plan: Plan,
        charts: Path,
        name: str,
        tell: Callable[[str], None],
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._api, self._plan = api, plan
        self._maker = Maker(journal, sleep=sleep, clock=clock, now=now)
        self._sleep, self._clock, self._now = sleep, clock, now
        self._charts, self.name, self._tell = charts, name, tell
        self._clustered = launch.hosts(plan) > 1

    def requests(self, wanted: Wanted, found: Offer) -> list[tuple[str, Sent]]:
        """Return what `up` would ask for, in its order, with RunPod's names left open."""
        place = self._place(wanted, found, None)
        terms = self._terms(wanted, "VOLUME", place, self._now())
        cpu, _ = stager(self._api, place)
        kind = "clusters" if self._clustered else "pods"
        return [
            ("network-volumes", launch.volume(self._plan, self.name, place)),
            ("pods", self._staging(wanted, terms, cpu)),
            (kind, launch.serving(self._plan, terms, self._charts)),
        ]

    def up(self, wanted: Wanted, ask: Callable[[str], str]) -> State:
        """Make what is missing, weights first, and wait until it answers.

        Args:
            wanted: What is asked for.
            ask: Asks a URL for an answer, and returns what is missing, or nothing.

        Raises:
            NotReady: It costs too much, or is not to be had.
            ManyhostError: A step failed; what was made before it lives until its lease ends or `down`.
        """
        found = self.check(wanted)
        old = self._volume()
        place = self._place(wanted, found, old)
        volume = self._maker.once(
            "network-volumes",
            self.name,
            lambda: self._api.make_volume(launch.volume(self._plan, self.name, place)),
            self._api.volumes,
        )
        self._tell(f"volume {volume.id}: {volume.size} GB in {volume.data_center}")
        terms = self._terms(wanted, volume.id, volume.data_center, self._now())
        if not self._serves():
            self._stage(wanted, terms)
            terms = self._terms(wanted, volume.id, volume.data_center, self._now())
        self._make(launch.serving(self._plan, terms, self._charts))
        url = watch.serving(
            self._members,
            self._api,
            launch.hosts(self._plan),
            ask,
            self._plan.startup_seconds,
            self._tell,
            sleep=self._sleep,
            clock=self._clock,
        )
        self._tell(f"answers at {url}")
        return self.state()

    def check(self, wanted: Wanted) -> Offer:
        """Return what is on offer.

        Raises:
            NotReady: It costs more than it may, or there is none.
        """
        found = offer(self._api, self._plan)
        if found.usd_per_hour > wanted.usd_per_hour:
            raise NotReady(
                f"{found.gpus} GPUs cost {found.usd_per_hour:.2f} USD an hour, more than "
                f"{wanted.usd_per_hour:.2f}",
                where="RunPod",
                fix="raise --max-usd-per-hour, and RunPod's own spend limit with it",
            )
        if found.availability == "NONE" and not self._serves():
            raise NotReady(
                f"no {found.gpus} GPUs are free ({found.product})", where="RunPod", fix="try again later"
            )
        return found

    def state(self) -> State:
        """Return what there is."""
        pods, thing, until = self._members(), None, None
        listed: list[tuple[Kind, Cluster | Pod]] = [
            *(("clusters", item) for item in self._api.clusters()),
            *(("pods", item) for item in self._api.pods() if not item.cluster),
        ]
        for kind, item in listed:
            stem, end = names.parts(item.name)
            if stem == self.name:
                thing, until = (kind, item.id), end
        return State(
            name=self.name,
            pods=pods,
            thing=thing,
            until=until,
            url=watch.address(pods),
            usd_per_hour=round(sum(pod.cost for pod in pods), 2),
            volume=self._volume(),
        )

    def renew(self, hours: float) -> float:
        """Let it live some hours from now, and return the end, seconds since the epoch.

        Raises:
            NotReady: Nothing is there, or it has no lease.
        """
        now = self.state()
        if not now.thing or now.until is None:
            raise NotReady(f"{self.name} is not leased", where="RunPod")
        kind, identity = now.thing
        name = names.leased(self.name, self._now() + hours * 3600)
        self._api.rename(kind, identity, name)
        return names.parts(name)[1] or 0.0

    def down(self, *, with_volume: bool) -> float:
        """Remove what serves and what stages, and the volume too if told so, and see that none is left.

        Returns:
            What was billed for what served, USD, as far as RunPod has counted it.

        Raises:
            RemoteError: Something is still there, or nobody knows.
        """
        thing = self.state().thing
        for kind, stem, remove, listed in (
            ("pods", f"{self.name}-stage", "pods", self._single_pods),
            ("pods", self.name, "pods", self._single_pods),
            ("clusters", self.name, "clusters", self._api.clusters),
            ("network-volumes", self.name, "network-volumes", self._api.volumes),
        ):
            if kind == "network-volumes" and not with_volume:
                continue
            self._maker.away(kind, stem, lambda one, of=remove: self._api.remove(of, one), listed)  # type: ignore[arg-type,misc]
        return self._api.billed(*thing) if thing else 0.0

    def _stage(self, wanted: Wanted, terms: launch.Terms) -> None:
        cpu, usd = stager(self._api, terms.data_center)
        stem = f"{self.name}-stage"
        seconds = self._stage_seconds()
        self._tell(f"staging on a CPU pod, {usd:.2f} USD an hour")
        pod = self._maker.once(
            "pods", stem, lambda: self._api.make_pod(self._staging(wanted, terms, cpu)), self._single_pods
        )
        try:
            watch.staged(self._api, pod.id, seconds, self._tell, sleep=self._sleep, clock=self._clock)
        finally:
            self._maker.away("pods", stem, lambda one: self._api.remove("pods", one), self._single_pods)

    def _staging(self, wanted: Wanted, terms: launch.Terms, cpu: Cpu) -> NewPod:
        end = self._now() + self._stage_seconds()
        stem = f"{self.name}-stage"
        mine = msgspec.structs.replace(
            terms,
            name=names.leased(stem, end) if wanted.leased else stem,
            until=end if wanted.leased else 0.0,
        )
        return launch.stage_pod(self._plan, mine, self._charts, cpu, wanted.hub)

    def _stage_seconds(self) -> float:
        return self._plan.model.weights_bytes / _STAGE_BYTES_PER_SECOND + _STAGE_EXTRA_SECONDS

    def _make(self, body: NewPod | NewCluster) -> None:
        if isinstance(body, NewCluster):
            self._maker.once("clusters", self.name, lambda: self._api.make_cluster(body), self._api.clusters)
        else:
            self._maker.once("pods", self.name, lambda: self._api.make_pod(body), self._single_pods)
        running = next((pod.env.get("MANYHOST_BOOT") for pod in self._members()), None)
        if running not in {None, body.env["MANYHOST_BOOT"]}:
            raise NotReady(
                f"{self.name} runs something else: another recipe, setting or version of manyhost",
                where="RunPod",
                fix=f"end it first: {manyhost('runpod', 'down', self._plan.recipe)}",
            )
        self._tell(f"rented: {body.name}")

    def _members(self) -> list[Pod]:
        if not self._clustered:
            return [pod for pod in self._single_pods() if names.parts(pod.name)[0] == self.name]
        found = [item for item in self._api.clusters() if names.parts(item.name)[0] == self.name]
        return sorted((pod for item in found for pod in self._api.members(item.id)), key=watch.rank)

    def _single_pods(self) -> list[Pod]:
        return [pod for pod in self._api.pods() if not pod.cluster]

    def _serves(self) -> bool:
        return self.state().thing is not None

    def _volume(self) -> Volume | None:
        return next((item for item in self._api.volumes() if item.name == self.name), None)

    def _place(self, wanted: Wanted, found: Offer, volume: Volume | None) -> str:
        if volume and wanted.data_center not in {"", volume.data_center}:
            raise NotReady(
                f"the volume {volume.id} is in {volume.data_center}, and pods must be there",
                where="--data-center",
                fix="leave it out, or remove the volume first: "
                f"{manyhost('runpod', 'down', self._plan.recipe, '--volume')}",
            )
        place = wanted.data_center or (volume.data_center if volume else next(iter(found.data_centers), ""))
        if not place:
            raise NotReady(
                "RunPod does not say where there are some", where="RunPod", fix="give --data-center"
            )
        return place

    def _terms(self, wanted: Wanted, volume: str, place: str, now: float) -> launch.Terms:
        end = now + wanted.hours * 3600
        return launch.Terms(
            name=names.leased(self.name, end) if wanted.leased else self.name,
            until=end if wanted.leased else 0.0,
            volume=volume,
            data_center=place,
            url=wanted.url,
        )


class Stray(msgspec.Struct, frozen=True, kw_only=True):
    """Something of manyhost's at RunPod.

    Attributes:
        kind: pods, clusters or network-volumes.
        name: Its whole name.
        id: RunPod's name.
        until: End of its lease; None without one.
        expired: Whether that is over.
    """

    kind: Kind
    name: str
    id: str
    until: float | None
    expired: bool


def strays(api: Api, owner: str, now: float) -> list[Stray]:
    """Return all that an owner has, by name, whatever any journal says."""
    listed: list[tuple[Kind, list[Pod] | list[Cluster] | list[Volume]]] = [
        ("clusters", api.clusters()),
        ("pods", [pod for pod in api.pods() if not pod.cluster]),
        ("network-volumes", api.volumes()),
    ]
    found = []
    for kind, items in listed:
        for item in items:
            if names.ours(item.name, owner):
                until = names.parts(item.name)[1]
                over = until is not None and until < now
                found.append(Stray(kind=kind, name=item.name, id=item.id, until=until, expired=over))
    return found


def sweep(
    api: Api, owner: str, *, everything: bool, dry_run: bool, now: float
) -> tuple[list[Stray], list[Stray]]:
    """Remove an owner's pods and clusters whose lease is over, or all of them; volumes stay.

    Returns:
        What there was, and what of it was removed, or would be.

    Raises:
        ManyhostError: Something could not be removed; the rest was.
    """
    there = strays(api, owner, now)
    doomed = [item for item in there if item.kind != "network-volumes" and (item.expired or everything)]
    wrong: list[ManyhostError] = []
    for item in doomed if not dry_run else []:
        try:
            api.remove(item.kind, item.id)
        except ManyhostError as error:
            wrong.append(error)
    if wrong:
        raise wrong[0]
    return there, doomed
