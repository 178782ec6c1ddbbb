"""manyhost runpod."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manyhost.catalog import Catalog
from manyhost.cli.options import here, output_option, pick, settings_options
from manyhost.cli.printer import Printer
from manyhost.commands import manyhost
from manyhost.errors import NotReady, WrongUsage
from manyhost.home import home
from manyhost.secret import secret

if TYPE_CHECKING:
    from manyhost.catalog.settings import Resolved
    from manyhost.plan import Plan
    from manyhost.runpod.api import Api
    from manyhost.runpod.models import Volume
    from manyhost.runpod.service import Service, State, Wanted

VERBS = ("plan", "stage", "up", "status", "logs", "ssh", "observe", "renew", "down", "sweep")
RESULT = {
    "offer": "of plan: product, hosts, gpus, usd_per_gpu_hour, usd_per_hour, availability, "
    "data_centers; or null",
    "requests": "of plan and up --dry-run: path and body of each request, in order",
    "staged": "of stage: where, complete, files, bytes, downloaded_files, downloaded_bytes, adopted_files, "
    "seconds, phases; null with --dry-run",
    "url": "of up and status: the API; empty as long as RunPod does not publish it",
    "pods": "of up and status: id, status, rank, address, usd_per_hour, of each",
    "until": "of up, status and renew: when the lease ends, seconds since the epoch; or null",
    "usd_per_hour": "of up and status: billed now for all pods, those that stage or send a load too",
    "volume": "of stage, up and status: id, size in GB, data_center, usd_per_month; or null",
    "billed_usd": "of down: what RunPod has counted so far; it counts late; null where it does not say",
    "command": "of ssh: the command",
    "files": "of observe: what was written",
    "found": "of sweep: kind, name, id, until, expired, of all that the owner has",
    "removed": "of sweep: those of it that were removed, or would be",
}
EVENTS = {"step": "something is done on the way", "log": "a line of a pod's log"}
KEY, API_KEY = "RUNPOD_API_KEY", "VLLM_API_KEY"
URL, S3_URL = "MANYHOST_RUNPOD_URL", "MANYHOST_RUNPOD_S3_URL"
# RunPod's own spend limit, until one asks for more (runpod/docs, pods/pricing.mdx).
_USD_PER_HOUR = 80.0


@click.command(name="runpod")
@click.argument("verb", type=click.Choice(VERBS))
@click.argument("recipe", default="runpod-h200", metavar="[RECIPE]")
@settings_options
@click.option(
    "--hours", default=2.0, show_default=True, type=click.FloatRange(0.1, 168), help="Length of the lease."
)
@click.option(
    "--max-usd-per-hour",
    default=_USD_PER_HOUR,
    show_default=True,
    type=click.FloatRange(0),
    help="Most to pay.",
)
@click.option("--data-center", default="", metavar="NAME", help="Where; the best stocked one by default.")
@click.option("--owner", default="", metavar="NAME", help="Whose things they are; you by default.")
@click.option("--rank", default=0, type=click.IntRange(0), help="Of the pod that logs and ssh are about.")
@click.option(
    "--to",
    "folder",
    default="build/observe",
    show_default=True,
    metavar="FOLDER",
    callback=here,
    help="With observe: where its files go.",
)
@click.option("--unleased", is_flag=True, help="Rent without a lease: nothing ends by itself.")
@click.option("--dry-run", is_flag=True, help="Show what would be asked for or removed only.")
@click.option("--volume", "with_volume", is_flag=True, help="With down: remove the network volume too.")
@click.option("--all", "everything", is_flag=True, help="With sweep: remove what is still leased too.")
@output_option
def command(
    verb: str,
    recipe: str,
    model: str,
    assignments: tuple[str, ...],
    hours: float,
    max_usd_per_hour: float,
    data_center: str,
    owner: str,
    rank: int,
    folder: str,
    unleased: bool,
    dry_run: bool,
    with_volume: bool,
    everything: bool,
    output: Printer,
) -> None:
    """Rent hosts at RunPod, serve on them, and give them back.

    plan says what it would cost. stage makes a network volume and puts the weights on it from this machine,
    through RunPod's S3 endpoint, with no pod; its key is in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    up makes the volume, puts what is missing of engine and weights on it with a CPU pod, rents the GPUs and
    waits for an answer. observe writes what a Prometheus and a Grafana of yours need to watch it. Pods end
    themselves when the lease is over; renew moves its end. down removes all but the volume, sweep what an
    owner has left. RUNPOD_API_KEY is your key; VLLM_API_KEY is the one that clients will need, and the secret
    manyhost_api in RunPod's console holds the same.

    Example: manyhost runpod plan runpod-h200/two-host-mp
    """
    from manyhost.runpod.service import Wanted

    api = account()
    if verb == "sweep":
        _sweep(api, owner or _user(), output, everything=everything, dry_run=dry_run)
        return
    resolved = pick(Catalog(), recipe, model, assignments)
    again = functools.partial(_again, resolved.name, owner)
    service, plan = opened(api, resolved, owner, output)
    wanted = Wanted(
        hours=hours,
        leased=not unleased,
        usd_per_hour=max_usd_per_hour,
        data_center=data_center,
        url=os.environ.get(URL, ""),
        hub=os.environ.get("HF_ENDPOINT", ""),
    )
    if verb == "plan" or (verb == "up" and dry_run):
        _plan(api, service, plan, wanted, output)
    elif verb == "stage":
        _stage(api, service, plan, wanted, again, output, dry_run=dry_run)
    elif verb == "up":
        _up(service, plan, wanted, again, output)
    elif verb == "status":
        _show(service.state(), output)
    elif verb == "observe":
        _observe(service, plan, again, Path(folder), output)
    elif verb == "renew":
        until = service.renew(hours)
        output.result(_result(until=until), [f"leased until {_at(until)}"])
    elif verb == "down":
        billed = service.down(with_volume=with_volume)
        kept = f"; the volume stays and costs: {again('down', '--volume')} removes it"
        lines = [
            f"nothing is left{'' if with_volume else kept}",
            "RunPod does not say what was billed" if billed is None else f"billed so far {billed:.2f} USD",
        ]
        output.result(_result(billed_usd=billed), lines)
    else:
        _pod(api, service, verb, rank, output)


def _plan(api: Api, service: Service, plan: Plan, wanted: Wanted, output: Printer) -> None:
    import msgspec

    from manyhost.runpod.launch import without_boot
    from manyhost.runpod.offer import offer, volume_usd_per_month

    found = offer(api, plan)
    requests = [
        {"path": f"/v2/{kind}", "body": msgspec.to_builtins(body)}
        for kind, body in service.requests(wanted, found)
    ]
    for request in requests:
        if "env" in request["body"]:
            request["body"]["env"] = without_boot(request["body"]["env"].items())
    size = requests[0]["body"]["size"]
    lease = wanted.hours * found.usd_per_hour
    lines = [
        f"hosts         {found.hosts} x {plan.gpus_per_host} {plan.environment.host.gpu}, {found.product}",
        f"price         {found.usd_per_hour:.2f} USD an hour ({found.usd_per_gpu_hour:.2f} a GPU); "
        f"at most {lease:.2f} for a lease of {wanted.hours:g} h",
        f"stock         {found.availability}: {', '.join(found.data_centers) or 'nowhere'}",
        f"volume        {size} GB, {volume_usd_per_month(size):.2f} USD a month",
    ]
    lines += [f"POST {one['path']} {msgspec.json.encode(one['body']).decode()}" for one in requests]
    output.result(_result(offer=found, requests=requests), lines)
    if found.usd_per_hour > wanted.usd_per_hour:
        output.warn(
            f"{found.usd_per_hour:.2f} USD an hour are more than {wanted.usd_per_hour:.2f}: up would refuse",
            fix="raise --max-usd-per-hour, and RunPod's own spend limit with it",
        )
    if found.availability == "NONE":
        output.warn(f"no {found.gpus} GPUs are free: up would refuse", fix="try again later")


def _stage(
    api: Api,
    service: Service,
    plan: Plan,
    wanted: Wanted,
    again: Callable[..., str],
    output: Printer,
    *,
    dry_run: bool,
) -> None:
    from dataclasses import asdict

    from manyhost.errors import Failed
    from manyhost.runpod import staging
    from manyhost.runpod.offer import offer, volume_usd_per_month
    from manyhost.runpod.s3 import S3, keys
    from manyhost.weights.estimate import estimate
    from manyhost.weights.hub import Hub
    from manyhost.weights.stage import stage
    from manyhost.weights.verify import verify
    from manyhost.weights.worker import summary

    key, there = keys(), service.volume()
    stocked = [] if there or wanted.data_center else offer(api, plan).data_centers
    place = staging.place(plan, there, wanted.data_center, stocked, again)
    size = staging.size(plan, there, again)
    s3 = S3(place, key, os.environ.get(S3_URL, ""))
    staging.look(s3, plan, there)
    hub = Hub()
    found, snapshot = verify(hub, plan.model)
    if found.failed:
        first = found.failed[0]
        raise Failed(first.text, where=f"{found.model}: {first.check}", fix=first.fix)
    guess = estimate(found.bytes, found.files, storage=None, region="")
    volume = f"volume {there.id}" if there else f"a new volume, {volume_usd_per_month(size):.2f} USD a month"
    minutes, rate = max(1, round(guess.seconds / 60)), found.bytes / guess.seconds / 1e6
    lines = [
        f"{found.model}@{found.revision[:12]}: {found.files} files, {found.bytes / 1e9:.3f} GB",
        f"to {volume} ({size} GB in {place})",
        f"about {minutes} min at {rate:.0f} MB/s, longer on a slower line",
    ]
    output.result(_result(volume=_volume(there)), lines)
    if dry_run:
        return
    try:
        made = service.make_volume(place)
        target = staging.folder(s3, plan, made)
        done = stage(
            hub,
            snapshot,
            target,
            workers=staging.STREAMS,
            expected_bytes=plan.model.weights_bytes,
            report=lambda text: output.event("step", text),
        )
    except BaseException:  # whatever it was, Ctrl-C too: somebody pays for the volume
        _warn_of_bill(service, again, "stage", output, leased=wanted.leased)
        raise
    did = "" if done.downloaded_files or done.adopted_files else "nothing to do: "
    output.result(
        _result(volume=_volume(made), staged=asdict(done)),
        [f"{did}{summary(done)}", f"rent and serve: {again('up')}"],
    )


def _up(service: Service, plan: Plan, wanted: Wanted, again: Callable[..., str], output: Printer) -> None:
    from manyhost.runpod.watch import answers

    key = secret(API_KEY)
    if not key:
        raise NotReady(
            "is not set: without a key anybody could use the model",
            where=API_KEY,
            fix=f"export {API_KEY}=..., and keep the same as the secret manyhost_api in RunPod's console",
        )
    try:
        state = service.up(wanted, lambda url: answers(url, key, plan.model.served_name))
    except BaseException:  # whatever it was, Ctrl-C too: somebody pays
        _warn_of_bill(service, again, "up", output, leased=wanted.leased)
        raise
    _show(state, output)


def _warn_of_bill(
    service: Service, again: Callable[..., str], verb: str, output: Printer, *, leased: bool
) -> None:
    from manyhost.runpod.offer import volume_usd_per_month

    hourly, volume = service.bill()
    end = "until the lease is over" if leased else "without an end"
    if hourly:
        output.warn(
            f"{hourly:.2f} USD an hour are billed now, {end}",
            fix=f"{again('down')} ends it, {again(verb)} goes on",
        )
    elif volume:
        output.warn(
            f"nothing is billed but the volume, {volume_usd_per_month(volume):.2f} USD a month",
            fix=f"{again(verb)} goes on with it, {again('down', '--volume')} removes it",
        )


def _volume(volume: Volume | None) -> dict[str, Any] | None:
    from manyhost.runpod.offer import volume_usd_per_month

    if volume is None:
        return None
    return {
        "id": volume.id,
        "size": volume.size,
        "data_center": volume.data_center,
        "usd_per_month": volume_usd_per_month(volume.size),
    }


def _show(state: State, output: Printer) -> None:
    from manyhost.runpod.watch import rank

    pods = [
        {
            "id": pod.id,
            "status": pod.status,
            "rank": rank(pod),
            "address": pod.cluster.ip if pod.cluster else "",
            "usd_per_hour": pod.cost,
        }
        for pod in state.pods
    ]
    volume = _volume(state.volume)
    lines = [f"{pod['rank']:>2}  {pod['status']:<12} {pod['id']}  {pod['address']}" for pod in pods]
    lines += [f" -  {pod.status:<12} {pod.id}  stages" for pod in state.staging]
    lines += [f" -  {pod.status:<12} {pod.id}  sends a load" for pod in state.loading]
    lines += [
        f"api           {state.url or 'not published'}",
        f"lease         {_at(state.until) if state.until else 'none'}",
        f"billed now    {state.usd_per_hour:.2f} USD an hour",
        f"volume        {volume['id']}, {volume['size']} GB" if volume else "volume        none",
    ]
    output.result(
        _result(url=state.url, pods=pods, until=state.until, usd_per_hour=state.usd_per_hour, volume=volume),
        lines,
    )


def _observe(service: Service, plan: Plan, again: Callable[..., str], folder: Path, output: Printer) -> None:
    from manyhost.output import write_files
    from manyhost.runpod.observe import files

    state = service.state()
    if not state.url:
        raise NotReady(
            "has no public address: nothing serves",
            where=service.name,
            fix=f"rent first, which costs: {again('up')}",
        )
    made = files(plan, Catalog().chart("observability").path.parent, state, again, folder)
    for place in dict.fromkeys(Path(name).parent for name in made):
        write_files(
            folder / place, {Path(name).name: made[name] for name in made if Path(name).parent == place}
        )
    output.result(
        _result(files=[str(folder / name) for name in made]),
        [
            f"watch     prometheus --config.file={folder / 'prometheus.yml'}",
            f"see       GF_PATHS_PROVISIONING={(folder / 'grafana').resolve()} and Grafana",
        ],
    )


def _pod(api: Api, service: Service, verb: str, number: int, output: Printer) -> None:
    from manyhost.runpod.api import Quiet
    from manyhost.runpod.watch import Log, rank

    pod = next((item for item in service.state().pods if rank(item) == number), None)
    if pod is None:
        raise NotReady(f"there is no pod of rank {number}", where=service.name)
    if verb == "ssh":
        if not pod.ssh or not pod.ssh.direct:
            raise NotReady(f"pod {pod.id} has no address for ssh yet", where="RunPod")
        output.result(_result(command=pod.ssh.direct.command), [pod.ssh.direct.command])
        return
    log = Log(api, pod.id, 1000)
    while True:
        try:
            for line in log.lines():
                output.event("log", line)
        except Quiet:
            continue
        return


def _sweep(api: Api, owner: str, output: Printer, *, everything: bool, dry_run: bool) -> None:
    from manyhost.runpod.service import sweep

    found, removed = sweep(api, owner, everything=everything, dry_run=dry_run, now=time.time())
    gone = {item.id for item in removed}
    word = "would be removed" if dry_run else "removed"
    lines = [
        f"{item.kind:<16} {item.name}  {word if item.id in gone else 'stays'}"
        f"{'' if item.until is None else f', leased until {_at(item.until)}'}"
        for item in found
    ]
    output.result(_result(found=found, removed=removed), lines or [f"{owner} has nothing"])


def account() -> Api:
    """Return RunPod's API with the key that the environment has; NotReady without one."""
    from manyhost.runpod.api import URL as RUNPOD
    from manyhost.runpod.api import Api

    key = secret(KEY)
    if not key:
        raise NotReady("is not set", where=KEY, fix=f"export {KEY}=...")
    return Api(key, os.environ.get(URL, RUNPOD))


def _again(recipe: str, owner: str, verb: str, *words: str) -> str:
    """Return the command that does something about the same things."""
    return manyhost("runpod", verb, recipe, *(("--owner", owner) if owner else ()), *words)


def opened(api: Api, resolved: Resolved, owner: str, output: Printer) -> tuple[Service, Plan]:
    """Return what an owner has of a recipe at RunPod, and its plan.

    Args:
        api: RunPod.
        resolved: The recipe.
        owner: Whose it is; empty for the user's.
        output: Told each step.

    Raises:
        InvalidInput: The recipe is not for RunPod.
    """
    from manyhost.render import Renderer
    from manyhost.runpod import names
    from manyhost.runpod.journal import Journal
    from manyhost.runpod.launch import platform
    from manyhost.runpod.service import Service as Made

    catalog = Catalog()
    plan = Renderer(catalog).render(resolved).plan
    platform(plan)
    charts = catalog.chart("llm-multihost").path.parent
    journal = Journal(_state_folder() / "runpod.jsonl")
    stem = names.stem(owner or _user(), resolved.name)
    again = functools.partial(_again, resolved.name, owner)
    return Made(api, journal, plan, charts, stem, again, lambda text: output.event("step", text)), plan


def _state_folder() -> Path:
    """Return where a program keeps what must survive (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_STATE_HOME") or home() / ".local/state") / "manyhost"


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise WrongUsage("nobody knows who you are", where="--owner", fix="give --owner NAME") from None


def _result(**known: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "offer": None, "requests": [], "staged": None, "url": "", "pods": [], "until": None,
        "usd_per_hour": 0.0, "volume": None, "billed_usd": 0.0, "command": "", "files": [], "found": [],
        "removed": [],
    }  # fmt: skip
    return empty | known


def _at(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
