"""From nothing to a service that answers, and back to nothing; each step may be taken again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from manyhost.errors import ManyhostError, NotReady, first
from manyhost.plan import Plan
from manyhost.runpod import launch, names, watch
from manyhost.runpod.api import Api
from manyhost.runpod.journal import Journal, Kind
from manyhost.runpod.make import Maker, Named
from manyhost.runpod.models import Cluster, Cpu, NewCluster, NewPod, NewVolume, Pod, Sent, Volume
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
        pods: Those that serve.
        staging: Those that stage.
        loading: Those that send a load.
        thing: Kind and RunPod's name of what is leased; None when nothing serves.
        until: End of the lease, seconds since the epoch; None without one.
        url: Of the API; empty as long as RunPod does not publish it.
        usd_per_hour: Billed now for all pods.
        volume: Its network volume, if there is one.
    """

    name: str
    pods: list[Pod]
    staging: list[Pod]
    loading: list[Pod]
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
        again: Returns a command of this program about it, of a verb and more words.
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
        again: Callable[..., str],
        tell: Callable[[str], None],
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._api, self._journal, self._plan = api, journal, plan
        self._maker = Maker(journal, sleep=sleep, clock=clock, now=now)
        self._sleep, self._clock, self._now = sleep, clock, now
        self._charts, self.name, self._again, self._tell = charts, name, again, tell
        self._prices: dict[tuple[Kind, str], float] = {}  # USD an hour

    def requests(self, wanted: Wanted, found: Offer) -> list[tuple[Kind, Sent]]:
        """Return what `up` would ask for, in its order; what only RunPod can name is in capitals.

        Raises:
            NotReady: There is nothing to stage with.
            InvalidInput: The plan cannot be started.
        """
        volume, staging, serving = self._bodies(wanted, found, self.volume())
        kind: Kind = "clusters" if isinstance(serving, NewCluster) else "pods"
        return [("network-volumes", volume), ("pods", staging), (kind, serving)]

    def up(self, wanted: Wanted, ask: Callable[[str], str]) -> State:
        """Make what is missing, weights first, and wait until it answers.

        Args:
            wanted: What is asked for.
            ask: Asks a URL for an answer, and returns what is missing, or nothing.

        Raises:
            NotReady: It costs too much, is not to be had, or something else runs.
            ManyhostError: A step failed; what was made before it lives until its lease ends or `down`.
        """
        found, now = offer(self._api, self._plan), self.state()
        place = self._check(wanted, found, now)
        volume = self.make_volume(place)
        if not now.thing:
            self._stage(wanted, self._terms(wanted, volume.id, volume.data_center))
        terms = self._terms(wanted, volume.id, volume.data_center)
        self._make(launch.serving(self._plan, terms, self._charts), found.usd_per_hour)
        url = watch.serving(
            lambda: self._serving(self._clusters(), self._api.pods()),
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

    def volume(self) -> Volume | None:
        """Return its network volume, if there is one."""
        return next((item for item in self._api.volumes() if item.name == self.name), None)

    def make_volume(self, place: str) -> Volume:
        """Make its network volume in a data center if there is none, and return it."""
        volume = self._maker.once(
            "network-volumes",
            self.name,
            lambda: self._api.make_volume(launch.volume(self._plan, self.name, place)),
            self._api.volumes,
        )
        self._tell(f"volume {volume.id}: {volume.size} GB in {volume.data_center}")
        return volume

    def bill(self) -> tuple[float, int]:
        """Return what `up` leaves behind where it ends early, as the journal has it: nobody is asked.

        Returns:
            What is billed now at most, USD an hour, and the size of the volume, GB; 0 without one.
        """
        there = self._journal.open()
        hourly = sum(usd for thing, usd in self._prices.items() if thing in there)
        kept = ("network-volumes", self.name) in there
        return hourly, launch.volume(self._plan, self.name, "").size if kept else 0

    def state(self) -> State:
        """Return what there is, whatever setting has made it."""
        clusters, pods = self._clusters(), self._api.pods()
        serving = self._serving(clusters, pods)
        staging, loading = (
            [pod for pod in pods if not pod.cluster and _stem(pod) == f"{self.name}-{what}"]
            for what in ("stage", "load")
        )
        leased: list[tuple[Kind, Cluster | Pod]] = [
            *(("clusters", item) for item in clusters),
            *(("pods", pod) for pod in serving if not pod.cluster),
        ]
        return State(
            name=self.name,
            pods=serving,
            staging=staging,
            loading=loading,
            thing=(leased[0][0], leased[0][1].id) if leased else None,
            until=names.parts(leased[0][1].name)[1] if leased else None,
            url=watch.address(serving),
            usd_per_hour=round(sum(pod.cost for pod in [*serving, *staging, *loading]), 2),
            volume=self.volume(),
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

    def load(
        self, spec: bytes, tool: bytes, seconds: float, url: str, last: Callable[[str], bool]
    ) -> tuple[list[str], str]:
        """Let a CPU pod beside what serves send a load, and return what it says and RunPod's name of it.

        Args:
            spec: Of the load, JSON.
            tool: Distributions of the load generator, with hashes; empty for our own.
            seconds: That it may take; its lease ends with them.
            url: RunPod's API, as pods reach it; empty for RunPod's own.
            last: Told each line as it comes; says whether it is the last one.

        Raises:
            NotReady: Nothing serves, or there is nothing to send it from.
            Failed: It ends without a result.
            RemoteError: It takes too long.
        """
        now = self.state()
        if not now.url or not now.volume:
            raise NotReady(
                "nothing serves", where=self.name, fix=f"rent first, which costs: {self._again('up')}"
            )
        place, stem = now.volume.data_center, f"{self.name}-load"
        cpu, usd = stager(self._api, place)
        end = self._now() + seconds
        terms = launch.Terms(
            name=stem if now.until is None else names.leased(stem, end),
            until=0.0 if now.until is None else end,
            volume=now.volume.id,
            data_center=place,
            url=url,
        )
        self._away("pods", stem)  # of a call that was cut off
        self._tell(f"sending the load from a CPU pod, {usd:.2f} USD an hour")
        body = launch.load_pod(self._plan, terms, self._charts, cpu, spec, tool)
        with self._for_a_while(stem, lambda: body, usd) as pod:
            said = watch.measured(self._api, pod.id, seconds, last, sleep=self._sleep, clock=self._clock)
            return said, pod.id

    def down(self, *, with_volume: bool) -> float | None:
        """Remove what serves and what stages, and the volume too if told so, and see that none is left.

        Returns:
            What was billed for what served, USD, as far as RunPod has counted it; None if it does not say.

        Raises:
            RemoteError: Something is still there, or nobody knows.
        """
        thing = self.state().thing
        self._away("pods", f"{self.name}-stage")
        self._away("pods", f"{self.name}-load")
        self._away("pods", self.name)
        self._away("clusters", self.name)
        if with_volume:
            self._away("network-volumes", self.name)
        try:
            return self._api.billed(*thing) if thing else 0.0
        except ManyhostError:  # all is gone, and that is what was asked for
            return None

    def _check(self, wanted: Wanted, found: Offer, now: State) -> str:
        """Return the data center, when nothing that can be known before stands against `up`.

        Raises:
            NotReady: It costs more than it may, there is none, or something else runs.
            InvalidInput: The plan cannot be started.
        """
        if found.usd_per_hour > wanted.usd_per_hour:
            raise NotReady(
                f"{found.gpus} GPUs cost {found.usd_per_hour:.2f} USD an hour, more than "
                f"{wanted.usd_per_hour:.2f}",
                where="RunPod",
                fix="raise --max-usd-per-hour, and RunPod's own spend limit with it",
            )
        place = self._place(wanted, found, now.volume)
        if now.thing:
            self._same(now.pods, launch.serving(self._plan, self._terms(wanted, "", place), self._charts).env)
            return place
        if found.availability == "NONE":
            raise NotReady(
                f"no {found.gpus} GPUs are free ({found.product})", where="RunPod", fix="try again later"
            )
        if not place:
            raise NotReady(
                "RunPod does not say where there are some", where="RunPod", fix="give --data-center"
            )
        if found.data_centers and place not in found.data_centers:
            raise NotReady(
                f"no {found.gpus} GPUs are free in {place}; some are in {', '.join(found.data_centers)}",
                where="RunPod",
                fix="try again later, or with another --data-center",
            )
        _, staging, _ = self._bodies(wanted, found, now.volume)
        self._same(now.staging, staging.env)
        return place

    def _bodies(
        self, wanted: Wanted, found: Offer, volume: Volume | None
    ) -> tuple[NewVolume, NewPod, NewPod | NewCluster]:
        place = self._place(wanted, found, volume)
        terms = self._terms(wanted, "VOLUME", place or "DATA_CENTER")
        cpu, _ = stager(self._api, place)
        return (
            launch.volume(self._plan, self.name, terms.data_center),
            self._staging(wanted, terms, cpu),
            launch.serving(self._plan, terms, self._charts),
        )

    def _same(self, pods: list[Pod], env: Mapping[str, str]) -> None:
        """See that pods run what is wanted.

        Raises:
            NotReady: They run something else.
        """
        boot = "MANYHOST_BOOT"
        if {pod.env[boot] for pod in pods if boot in pod.env} - {env[boot]}:
            raise NotReady(
                f"{self.name} runs something else: another recipe, setting or version of manyhost",
                where="RunPod",
                fix=f"end it first: {self._again('down')}",
            )

    def _stage(self, wanted: Wanted, terms: launch.Terms) -> None:
        cpu, usd = stager(self._api, terms.data_center)
        stem = f"{self.name}-stage"
        seconds = self._stage_seconds()
        self._tell(f"staging on a CPU pod, {usd:.2f} USD an hour")
        with self._for_a_while(stem, lambda: self._staging(wanted, terms, cpu), usd) as pod:
            watch.staged(self._api, pod.id, seconds, self._tell, sleep=self._sleep, clock=self._clock)

    @contextmanager
    def _for_a_while(self, stem: str, body: Callable[[], NewPod], usd_per_hour: float) -> Iterator[Pod]:
        """Rent a pod, and remove it whatever happens."""
        self._prices["pods", stem] = usd_per_hour
        wrong: list[ManyhostError] = []
        try:
            yield self._maker.once("pods", stem, lambda: self._api.make_pod(body()), self._single_pods)
        except ManyhostError as error:
            wrong.append(error)
        finally:
            try:
                self._away("pods", stem)
            except ManyhostError as error:
                wrong.append(error)
        if wrong:
            raise first(wrong)

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

    def _make(self, body: NewPod | NewCluster, usd_per_hour: float) -> None:
        if isinstance(body, NewCluster):
            self._prices["clusters", self.name] = usd_per_hour
            self._maker.once("clusters", self.name, lambda: self._api.make_cluster(body), self._api.clusters)
        else:
            self._prices["pods", self.name] = usd_per_hour
            self._maker.once("pods", self.name, lambda: self._api.make_pod(body), self._single_pods)
        self._earliest("clusters" if isinstance(body, NewCluster) else "pods", self.name)
        self._same(
            self._serving(self._clusters(), self._api.pods()), body.env
        )  # somebody may have been faster
        self._tell(f"rented: {body.name}")

    def _earliest(self, kind: Literal["clusters", "pods"], stem: str) -> None:
        """Give back all but the earliest: two who asked at once, from two machines, have rented both.

        Whoever is later sees the other one, and both agree on which is the later.
        """
        items: Sequence[Cluster | Pod] = self._clusters() if kind == "clusters" else self._single_pods()
        there = sorted(
            (item for item in items if _stem(item) == stem), key=lambda item: (item.created_at, item.id)
        )
        for later in there[1:]:
            self._api.remove(kind, later.id)
            self._tell(f"{later.name} was rented twice, at the same time: the later one is given back")

    def _away(self, kind: Kind, stem: str) -> None:
        listed: dict[Kind, Callable[[], Sequence[Named]]] = {
            "pods": self._single_pods,
            "clusters": self._api.clusters,
            "network-volumes": self._api.volumes,
        }
        self._maker.away(kind, stem, lambda identity: self._api.remove(kind, identity), listed[kind])

    def _clusters(self) -> list[Cluster]:
        return [item for item in self._api.clusters() if _stem(item) == self.name]

    def _serving(self, clusters: list[Cluster], pods: list[Pod]) -> list[Pod]:
        """Return the members of a cluster, or the pod that serves alone, by rank."""
        ours = {item.id for item in clusters}
        found = [pod for pod in pods if (pod.cluster.id in ours if pod.cluster else _stem(pod) == self.name)]
        return sorted(found, key=watch.rank)

    def _single_pods(self) -> list[Pod]:
        return [pod for pod in self._api.pods() if not pod.cluster]

    def _place(self, wanted: Wanted, found: Offer, volume: Volume | None) -> str:
        """Return the data center; empty when nobody says one."""
        if volume and wanted.data_center not in {"", volume.data_center}:
            raise NotReady(
                f"the volume {volume.id} is in {volume.data_center}, and pods must be there",
                where="--data-center",
                fix=f"leave it out, or remove the volume first: {self._again('down', '--volume')}",
            )
        return wanted.data_center or (volume.data_center if volume else next(iter(found.data_centers), ""))

    def _terms(self, wanted: Wanted, volume: str, place: str) -> launch.Terms:
        end = self._now() + wanted.hours * 3600
        return launch.Terms(
            name=names.leased(self.name, end) if wanted.leased else self.name,
            until=end if wanted.leased else 0.0,
            volume=volume,
            data_center=place,
            url=wanted.url,
        )


def _stem(item: Named) -> str:
    return names.parts(item.name)[0]


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
        raise first(wrong)
    return there, doomed
