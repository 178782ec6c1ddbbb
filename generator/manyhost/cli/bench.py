"""manyhost bench."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manyhost.cli.options import here_or_bucket, output_option, pick
from manyhost.cli.printer import Printer
from manyhost.cli.session import Wanted, open_target, place_options
from manyhost.commands import manyhost
from manyhost.errors import Failed, InvalidInput, NotReady, RemoteError, WrongUsage
from manyhost.secret import secret

if TYPE_CHECKING:
    from manyhost.benchmark.here import Here
    from manyhost.benchmark.pod import Pod
    from manyhost.benchmark.points import Point
    from manyhost.benchmark.result import Figure, Load, Measurement, Run
    from manyhost.benchmark.runners import Runner
    from manyhost.catalog.scenario import Scenario
    from manyhost.catalog.settings import Resolved
    from manyhost.cluster.connection import Connection
    from manyhost.cluster.target import Target
    from manyhost.cluster.timeline import Timeline
    from manyhost.plan import Plan

RESULT = {
    "points": "what is or would be measured: scenario, number, key, load, estimate_seconds",
    "runs": "of each scenario its folder and what run.json says; empty with --dry-run",
}
EVENTS = {
    "step": "something is done on the way",
    "measurement": "one is kept: point, repetition, passed, reasons, metrics",
}


_INSTALLED = {"locust", "aiperf"}


@click.command(name="bench")
@place_options
@click.option(
    "--scenario",
    default="",
    metavar="NAME",
    help="One of values/scenarios; the recipe's own list by default.",
)
@click.option("--dry-run", is_flag=True, help="Show the points only; no cluster is needed.")
@click.option(
    "--url",
    default="",
    metavar="URL",
    help="Measure the service there, with this machine as the client.",
)
@click.option(
    "--runner",
    type=click.Choice(["manyhost", "vllm", "locust", "aiperf"]),
    default="manyhost",
    show_default=True,
    help="What sends the load; vllm is `vllm bench serve`, locust needs RunPod or --url, aiperf --url.",
)
@click.option(
    "--owner", default="", metavar="NAME", help="On RunPod: whose pods to measure; yours by default."
)
@click.option(
    "--prometheus",
    default="",
    metavar="URL",
    help="Ask the Prometheus there what the GPUs did meanwhile (DCGM's series).",
)
@click.option(
    "--to",
    "folder",
    default="build/runs",
    show_default=True,
    metavar="PLACE",
    callback=here_or_bucket,
    help="Where the results go, a folder or gs://BUCKET/FOLDER; what is there already is not measured again.",
)
@output_option
def command(
    wanted: Wanted,
    scenario: str,
    dry_run: bool,
    url: str,
    runner: str,
    owner: str,
    prometheus: str,
    folder: str,
    output: Printer,
) -> None:
    """Measure a release under load, and keep only numbers that can be believed.

    Before each measurement the client is held against a server with known times; its own error stands beside
    the result. Run it again to go on where it was cut off. The client is a Job in the cluster, on RunPod a
    CPU pod in the data center of the service, with --url this machine.

    Example: manyhost bench a3mega --scenario published
    """
    from manyhost.benchmark.points import check_capacity, check_engine, points, warnings
    from manyhost.catalog import Catalog
    from manyhost.catalog.environment import RunPod
    from manyhost.render import Renderer

    catalog = Catalog()
    resolved = pick(catalog, wanted.recipe, wanted.model, wanted.assignments)
    plan = Renderer(catalog).plan(resolved)
    check_engine(plan)
    from_pod = isinstance(plan.environment.platform, RunPod) and not url
    if runner in _INSTALLED and not (url or from_pod):
        raise WrongUsage(
            f"the Job runs in the engine's image, which has no {runner}",
            where=f"--runner {runner}",
            fix="add --url URL",
        )
    names = [scenario] if scenario else catalog.scenarios(plan.recipe)
    work: list[tuple[Scenario, tuple[Point, ...]]] = []
    for name in names:
        found = catalog.scenario(name, plan.recipe)
        work.append((found, points(plan, found, tool=runner)))
    everything = tuple(point for _, some in work for point in some)
    check_capacity(plan, everything, time.time())
    for _, some in work:
        for text in warnings(plan, some):
            output.warn(text, where=f"scenario {some[0].scenario}")
    told = [
        {name: getattr(point, name) for name in ("scenario", "number", "key", "load", "estimate_seconds")}
        for point in everything
    ]
    if dry_run:
        output.result({"points": told, "runs": []}, [line for some in work for line in _planned(*some)])
        return
    if url:
        secret("VLLM_API_KEY")  # the client would say of each request what is wrong with it
    asked = _checked(prometheus, "--prometheus") if prometheus else ""
    beside = None
    if from_pod:
        beside, plan = _at_runpod(resolved, owner, runner, output)
    runs = _measure(
        wanted,
        plan,
        catalog,
        work,
        url=url,
        beside=beside,
        runner=runner,
        prometheus=asked,
        to=folder,
        output=output,
    )
    output.result(
        {"points": told, "runs": [{"folder": path, "run": run} for path, run in runs]},
        [line for path, run in runs for line in _lines(path, run)],
    )
    withheld = [reason.message for _, run in runs for point in run.points for reason in point.reasons]
    if any(not run.complete for _, run in runs):
        raise Failed(
            f"numbers are withheld: {withheld[0] if withheld else 'not everything was measured'}",
            where=f"recipe {wanted.recipe}",
            fix="mend what the reasons say, then the same command measures what is missing",
        )


def _measure(
    wanted: Wanted,
    plan: Plan,
    catalog: Any,
    work: list[tuple[Scenario, tuple[Point, ...]]],
    *,
    url: str,
    beside: Pod | None,
    runner: str,
    prometheus: str,
    to: str,
    output: Printer,
) -> list[tuple[str, Run]]:
    """Measure every scenario, from here, from a pod or from a Job, and return where the results are."""
    from manyhost.benchmark.archive import Archive, is_bucket
    from manyhost.benchmark.bench import Place, bench, describe, run_id
    from manyhost.benchmark.here import program
    from manyhost.benchmark.prometheus import figures
    from manyhost.weights.store import open_store

    place: Place
    archive = None
    if is_bucket(to):
        site = plan.settings.site
        archive = Archive(open_store(site.project_id, site.cluster_region), to)
        archive.runs()  # a bucket that is not there, or not ours, shows before anything is measured
    folder = Path("build/runs") if archive else Path(to)
    client = catalog.root / "charts/llm-benchmark/client"
    if url:
        place, starts = _here(plan, client, _checked(url, "--url")), program() if runner == "vllm" else ()
        deployment = describe(plan, {}, url=url)
    elif beside:
        place, starts = beside, ()
        deployment = describe(plan, {}, url=beside.url)
    else:
        from manyhost.benchmark.job import Job

        connection, target = open_target(wanted)
        place = Job(connection, target, catalog.chart("llm-benchmark"), runner)
        starts = tuple(plan.settings.engine.command)
        deployment = describe(
            plan,
            target.values,
            release=target.release,
            namespace=target.namespace,
            timelines=_started(connection, target),
        )
    sender = _sender(plan, runner, beside, starts)

    def gpus(begin: float, end: float) -> list[Figure]:
        if not prometheus:
            return []
        try:
            return figures(prometheus, deployment.namespace, deployment.release, begin, end)
        except RemoteError as error:  # what was measured counts without it
            output.warn(error.message, where=error.where)
            return []

    found = []
    for scenario, some in work:
        path = folder / run_id(plan.recipe, scenario.name, some)
        kept = f"{archive.where}/{path.name}" if archive else str(path)
        output.event("step", f"scenario {scenario.name}: {len(some)} points, results in {kept}")
        if archive:
            archive.fetch(path.name, path)

        def keep(run: Run, path: Path = path) -> None:
            if archive:
                archive.keep(path, run)

        run = bench(
            plan,
            scenario,
            some,
            catalog.questions(),
            place,
            sender=sender,
            deployment=deployment,
            folder=path,
            listener=_Listener(output),
            keep=keep,
            gpus=gpus,
        )
        found.append((kept, run))
    return found


def _here(plan: Plan, client: Path, url: str) -> Here:
    """Return this machine as the client; with a key of RunPod it sees what becomes of hosts there too."""
    from manyhost.benchmark.here import Here
    from manyhost.catalog.environment import RunPod
    from manyhost.runpod.api import KEY

    if not isinstance(plan.environment.platform, RunPod) or not secret(KEY):
        return Here(client, url)
    from manyhost.benchmark.rented import Rented
    from manyhost.cli.runpod import account

    return Rented(client, url, account())


def _sender(plan: Plan, runner: str, beside: Pod | None, starts: tuple[str, ...]) -> Callable[[Load], Runner]:
    """Return what makes the load generator of a load."""
    from manyhost.benchmark.runners import aiperf, locust, manyhost, vllm_bench_serve
    from manyhost.benchmark.tools import installed

    tool = None
    if runner in _INSTALLED:
        tool = Path(beside.program(runner)) if beside else installed(runner)

    def sender(load: Load) -> Runner:
        vocabulary = plan.model.architecture.vocabulary
        if runner == "vllm":
            # With the weights, or on the hub where the engine gets them too.
            return vllm_bench_serve(starts, load, plan.weights.path or plan.model.hub_id)
        if tool is None:
            return manyhost(load, vocabulary)
        if runner == "aiperf":
            return aiperf(str(tool.with_name("python")), load, vocabulary)
        return locust(str(tool), load, vocabulary)

    return sender


def _at_runpod(resolved: Resolved, owner: str, runner: str, output: Printer) -> tuple[Pod, Plan]:
    """Return the place beside what serves at RunPod, and the plan with the price that is paid there.

    Raises:
        WrongUsage: A CPU pod has no such load generator.
        NotReady: Nothing serves.
    """
    import msgspec

    from manyhost.benchmark.pod import INSTALLED, Pod
    from manyhost.cli.runpod import URL, account, opened
    from manyhost.plan.cost import Cost

    if runner not in {"manyhost", *INSTALLED}:
        raise WrongUsage(
            f"a CPU pod of RunPod has no {runner}",
            where=f"--runner {runner}",
            fix="add --url URL, or leave it out",
        )
    api = account()
    service, plan = opened(api, resolved, owner, output)
    state = service.state()
    if not state.url or not state.volume:
        up = manyhost("runpod", "up", resolved.name, *(("--owner", owner) if owner else ()))
        raise NotReady("nothing serves", where=service.name, fix=f"rent first, which costs: {up}")
    if plan.settings.capacity.usd_per_host_hour is None:
        usd = round(sum(pod.cost for pod in state.pods), 2)
        paid = Cost(
            usd_per_hour=usd,
            usd_per_hour_by_rate={plan.settings.capacity.mode: usd},
            region=state.volume.data_center,
            date=time.strftime("%Y-%m-%d", time.gmtime()),
            source="RunPod, of these pods",
            verified=True,
        )
        plan = msgspec.structs.replace(plan, cost=paid)
    return Pod(service, api, state.url, os.environ.get(URL, "")), plan


def _started(connection: Connection, target: Target) -> tuple[Timeline, ...]:
    """How the groups have started; none when nobody may look, since a measurement does without."""
    from manyhost.cluster.starts import starts

    try:
        return starts(connection, target.place, target.plan)
    except RemoteError:
        return ()


class _Listener:
    """Prints what happens."""

    def __init__(self, output: Printer) -> None:
        self._output = output

    def step(self, text: str) -> None:
        """Print a line."""
        self._output.event("step", text)

    def measured(self, found: Measurement) -> None:
        """Print the table of a measurement, or why its numbers are withheld."""
        from manyhost.benchmark.table import table

        load = found.load
        streams = (
            f"{load.rate:g} requests/s" if load.rate else f"{load.concurrency or load.requests} in flight"
        )
        head = f"{found.scenario}, point {found.point} ({streams}), measurement {found.repetition}"
        data = {
            name: getattr(found, name)
            for name in ("scenario", "point", "repetition", "passed", "reasons", "metrics", "client_error")
        }
        self._output.event("measurement", "\n".join([head, *table(found)]), data)


def _planned(scenario: Scenario, some: tuple[Point, ...]) -> list[str]:
    lines = [f"{scenario.name}: {scenario.description}"]
    for point in some:
        load = point.load
        streams = (
            f"{load.rate:g} requests/s" if load.rate else f"{load.concurrency or load.requests} in flight"
        )
        times = "once" if point.most == 1 else f"{point.least} to {point.most} times"
        length = f"again and again for {point.seconds} s" if point.seconds else times
        lines.append(
            f"  {point.number}  {load.requests} requests, {streams}, "
            f"{load.input_tokens} + {load.output_tokens} tokens, {length}; "
            f"~{point.estimate_seconds:.0f} s each when they just keep the objectives"
        )
    return lines


def _lines(path: str, run: Run) -> list[str]:
    lines = [f"{run.scenario}: {path}"]
    for point in run.points:
        rate = point.metrics.get("output_token_rate")
        if point.skipped:
            lines.append(f"  {point.point}  left out: throughput had stopped growing")
        elif rate is None:
            lines.append(
                f"  {point.point}  withheld: {point.reasons[0].message if point.reasons else 'no numbers'}"
            )
        else:
            half = f" +- {rate.high - rate.mean:.1f}" if rate.high is not None else ""
            ttft, tpot = (point.metrics.get(f"{name}_p50_ms") for name in ("ttft", "tpot"))
            times = f"TTFT {ttft.mean:.0f} ms" if ttft else ""
            times += f", TPOT {tpot.mean:.1f} ms" if tpot else ""
            lines.append(
                f"  {point.point}  {rate.mean:.1f}{half} output tokens/s, median {times}, "
                f"{point.metrics['good_share'].mean:.0%} good "
                f"({point.passed} of {point.measured} measurements)"
            )
    return lines


def _checked(url: str, option: str) -> str:
    """Return an address that requests can go to, and that results may name.

    Raises:
        InvalidInput: It is none, or has a password in it.
    """
    from urllib.parse import urlsplit

    if not url.startswith(("http://", "https://")):
        raise InvalidInput("must begin with http:// or https://", where=f"{option} {url[:100]}")
    try:
        address = urlsplit(url)
        fine = bool(address.hostname) and address.port != 0 and url.isprintable() and " " not in url
    except ValueError:
        fine = False
    if not fine:
        raise InvalidInput("is no address of a server", where=f"{option} {url[:100]}")
    if "@" in address.netloc:
        raise InvalidInput(
            "has a user or a password in it, which would stand in the results",
            where=option,
            fix="leave it out: the key of an engine is in VLLM_API_KEY",
        )
    return url
