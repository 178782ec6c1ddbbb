"""The loop: points of a scenario, each measured as often as it needs, each result kept at once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from manyhost import __version__
from manyhost.benchmark import store
from manyhost.benchmark.evidence import Evidence
from manyhost.benchmark.gate import Deployed
from manyhost.benchmark.measurement import enough, measurement, saturated, summary, timestamp
from manyhost.benchmark.points import Point
from manyhost.benchmark.result import (
    ColdStart,
    ColdStep,
    CostInputs,
    Deployment,
    Figure,
    Load,
    Measurement,
    PointSummary,
    Role,
    Run,
)
from manyhost.benchmark.runners import Runner
from manyhost.benchmark.spec import expected, spec
from manyhost.catalog.scenario import Questions, Scenario
from manyhost.cluster.timeline import Timeline
from manyhost.plan import Plan


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a place gives back.

    Attributes:
        evidence: Of the client.
        deployed: What the pods of the release really are.
        node: Where the client ran.
    """

    evidence: Evidence
    deployed: tuple[Deployed, ...]
    node: str


class Place(Protocol):
    """Where a client runs."""

    @property
    def place(self) -> Literal["job", "pod", "here"]:
        """A pod in the cluster, a CPU pod beside the service on RunPod, or this machine."""
        ...

    @property
    def url(self) -> str:
        """Of the service, as the client reaches it."""
        ...

    @property
    def metrics(self) -> list[str]:
        """Of each of its engines."""
        ...

    def measure(self, spec: dict[str, Any], report: Callable[[str], None]) -> Measured:
        """Run one client and return what it has seen."""
        ...


class Listener(Protocol):
    """Who is told what happens."""

    def step(self, text: str) -> None:
        """Take a line about a measurement that runs."""
        ...

    def measured(self, found: Measurement) -> None:
        """Take a measurement that is done and kept."""
        ...


def run_id(recipe: str, scenario: str, points: Sequence[Point]) -> str:
    """Return the name of a run's folder: another one whenever a number could be another."""
    keys = hashlib.sha256("".join(point.key for point in points).encode()).hexdigest()
    return f"{recipe.replace('/', '__')}-{scenario}-{keys[:12]}"


def bench(
    plan: Plan,
    scenario: Scenario,
    points: Sequence[Point],
    questions: Questions,
    place: Place,
    *,
    sender: Callable[[Load], Runner],
    deployment: Deployment,
    folder: Path,
    listener: Listener,
    keep: Callable[[Run], None],
    gpus: Callable[[float, float], Sequence[Figure]],
) -> Run:
    """Measure what is not measured yet; a run that was cut off goes on with the measurement that it was at.

    Args:
        plan: Of the service.
        scenario: The load.
        points: Of the scenario.
        questions: To ask before each measurement.
        place: Where the client runs.
        sender: The load generator, for a load.
        deployment: What is measured.
        folder: Of the run.
        listener: Is told what happens.
        keep: Takes the run whenever the folder has more of it.
        gpus: Says what was seen of them between two moments, seconds since the epoch.

    Raises:
        Failed: A client ends without evidence, or a result cannot be kept.
        InvalidInput: The folder has results of another version.
    """
    kept = store.measurements(folder)
    begun = min((each.started for each in kept), default=timestamp(time.time()))
    summaries: list[PointSummary] = []

    def now(complete: bool) -> Run:
        return Run(
            id=folder.name,
            scenario=scenario.name,
            program=__version__,
            started=begun,
            updated=timestamp(time.time()),
            complete=complete,
            deployment=deployment,
            cost=cost_inputs(plan),
            points=list(summaries),
        )

    def written(complete: bool) -> Run:
        run = now(complete)
        store.save_run(folder, run)
        keep(run)
        return run

    if not kept:  # a place that cannot be written is found out before a measurement is paid for
        store.save_run(folder, now(complete=False))
    for point in points:
        own = [each for each in kept if each.point == point.number]
        counted = [each for each in summaries if not each.skipped and each.metrics]
        if scenario.until_saturated and not own and len(counted) > 1 and saturated(*counted[-2:]):
            summaries.append(summary(point, own, skipped=True))
            listener.step(f"point {point.number} is left out: throughput has stopped growing")
            continue
        runner = sender(point.load)
        while not enough(point, own):
            told = spec(point, plan, questions, runner, url=place.url, metrics=place.metrics)
            answer = place.measure(told, listener.step)
            found = measurement(
                point,
                max((each.repetition for each in own), default=-1) + 1,
                answer.evidence,
                expected(point, plan, questions, answer.deployed),
                tool=runner.tool,
                place=place.place,
                node=answer.node,
                gpus=_seen(answer.evidence, gpus),
            )
            store.save(folder, found, deployment)
            own.append(found)
            listener.measured(found)
            if not found.passed:
                break  # the next call tries again: whoever reads the reasons mends them first
            written(complete=False)
        summaries.append(summary(point, own))
    by_number = {point.number: point for point in points}
    done = all(each.skipped or enough(by_number[each.point], _of(folder, each.point)) for each in summaries)
    return written(complete=done)


def _seen(evidence: Evidence, gpus: Callable[[float, float], Sequence[Figure]]) -> Sequence[Figure]:
    end = evidence.load_finished
    return gpus(end - evidence.seconds, end) if evidence.seconds else ()


def _of(folder: Path, point: int) -> list[Measurement]:
    return [each for each in store.measurements(folder) if each.point == point]


def describe(
    plan: Plan,
    values: dict[str, Any],
    *,
    release: str = "",
    namespace: str = "",
    url: str = "",
    timelines: Sequence[Timeline] = (),
) -> Deployment:
    """Return what is measured.

    Args:
        plan: Of the service.
        values: Its Helm values; empty where there are none.
        release: Its release.
        namespace: Of the release.
        url: Where it is, when it is no release.
        timelines: How its groups have started.
    """
    host, gpus = plan.environment.host, plan.gpus_per_host
    roles = [
        Role(
            name=role.name,
            groups=role.groups,
            hosts=role.hosts,
            tensor=role.parallelism.tensor,
            pipeline=role.parallelism.pipeline,
            data=role.parallelism.data,
            arguments=role.arguments,
        )
        for role in plan.roles
    ]
    text = msgspec.json.encode(values or roles, order="sorted")
    return Deployment(
        recipe=plan.recipe,
        environment=plan.environment.name,
        model=plan.model.served_name,
        engine=plan.engine.version,
        image=str(plan.image),
        executor=plan.settings.engine.executor,
        roles=roles,
        hosts=plan.hosts,
        gpus=plan.hosts * gpus,
        gpu=host.gpu,
        machine_type=host.machine_type,
        interconnect=plan.interconnect.name,
        context=plan.settings.context,
        values_sha256=hashlib.sha256(text).hexdigest(),
        release=release,
        namespace=namespace,
        url=url,
        cold_start=cold_start(timelines),
    )


def cold_start(timelines: Sequence[Timeline]) -> ColdStart | None:
    """Return the start of the first group that clients talk to and that has answered; None without one."""
    found = next((one for one in timelines if one.answered and one.role != "prefill"), None)
    if found is None:
        return None
    return ColdStart(
        seconds=found.seconds,
        planned=found.planned,
        usd=found.usd,
        steps=[
            ColdStep(name=step.name, seconds=step.seconds, planned=step.planned)
            for step in found.members[0].steps
        ],
    )


def cost_inputs(plan: Plan) -> CostInputs:
    """Return what the hosts cost."""
    cost = plan.cost
    return CostInputs(
        usd_per_hour=cost.usd_per_hour,
        usd_per_hour_by_rate=cost.usd_per_hour_by_rate,
        mode=plan.settings.capacity.mode,
        region=cost.region,
        date=cost.date,
        source=cost.source,
        verified=cost.verified,
        cold_start_seconds=sum(seconds for _, seconds in plan.cold_start),
    )
