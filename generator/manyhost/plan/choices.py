"""All ways to serve a model: every environment with every layout of its hosts, planned, timed and priced."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from manyhost.catalog import Catalog, Interconnect, Model, Resolved
from manyhost.catalog.interconnect import Sockets
from manyhost.catalog.merge import merge
from manyhost.catalog.model import GqaDense
from manyhost.catalog.paths import nested
from manyhost.catalog.recipe import Traffic
from manyhost.errors import InvalidInput
from manyhost.plan import arguments, memory
from manyhost.plan.performance import Load, Prediction, predict, prompt_seconds
from manyhost.plan.plan import Plan, make_plan
from manyhost.plan.roles import Role

_MOST_SEATS = 1024  # of one data parallel rank: vllm/engine/arg_utils.py, default on large GPUs
_SEATS_STEP = 16
_HIDDEN_BYTES = 2  # bfloat16
_STAGE_MESSAGES = 2  # hidden states and residual go to the next stage
_LAYER_MESSAGES = 2  # all-reduce after attention and after the feed-forward network
_FACTS = re.compile(r"\bvalues/[a-z]+/")
# To whom no layout helps.
_ELSEWHERE = "another --env"
_OTHER_SIZES = "a shorter --context, a longer --ttft or --tpot, or more --hosts"
_DEFAULTS = {"groups": 1, "roles.prefill.groups": 0}

Resolve = Callable[[str, dict[str, Any]], Resolved]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants to serve.

    Attributes:
        model: Name of the model.
        context: Longest request in tokens.
        traffic: A typical request.
        concurrency: Requests in flight; 0 for as many as have a seat.
        ttft_ms: Longest mean time to the first token; 0 for any.
        tpot_ms: Longest mean time per output token; 0 for any.
        hosts: Most hosts of a group.
    """

    model: str
    context: int
    traffic: Traffic
    concurrency: int = 0
    ttft_ms: int = 0
    tpot_ms: int = 0
    hosts: int = 4


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One way that works.

    Attributes:
        environment: Where.
        layout: Of its GPUs, for people.
        hosts: Of all its groups.
        executor: What starts the ranks.
        interconnect: Between the hosts; empty within one.
        weights_gib: On the fullest GPU.
        kv_tokens: That fit into the KV cache of a group.
        seats: Requests that it works on at once.
        tok_s: Output tokens a second.
        ttft_ms: Time to the first token, mean.
        tpot_ms: Time per output token, mean.
        basis: anchored, fitted or uncalibrated.
        error: Relative error of tok_s that nine of ten stay below; 1 means: may be off by 2x.
        error_tpot: The same of tpot_ms.
        anchor: The measured point behind it; empty without one.
        start_hours: Until a cold start answers.
        usd_per_hour: List price of all hosts; None where nobody publishes one.
        usd_per_mtok: Of a million output tokens at full load.
        usd_per_mtok_by_rate: The same at every rate of the list.
        recipe: The recipe that it starts from.
        changes: What it sets in it, by dotted key.
    """

    environment: str
    layout: str
    hosts: int
    executor: str
    interconnect: str
    weights_gib: float
    kv_tokens: int
    seats: int
    tok_s: float
    ttft_ms: float
    tpot_ms: float
    basis: str
    error: float
    error_tpot: float
    anchor: str
    start_hours: float
    usd_per_hour: float | None
    usd_per_mtok: float | None
    usd_per_mtok_by_rate: dict[str, float]
    recipe: str
    changes: dict[str, Any]


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """One way that does not work, and why.

    Attributes:
        environment: Where.
        layout: Of its GPUs, for people; "all" when none works there.
        reason: Why.
        fix: What may help; empty where nobody knows.
    """

    environment: str
    layout: str
    reason: str
    fix: str = ""


class _Layout(msgspec.Struct, frozen=True, kw_only=True):
    tensor: int
    pipeline: int = 1
    data: int = 1
    apart: bool = False

    @property
    def text(self) -> str:
        sizes = (("TP", self.tensor), ("PP", self.pipeline), ("DP", self.data))
        text = " ".join(f"{name}{size}" for name, size in sizes if size > 1) or "TP1"
        return f"{text} prefill + {text} decode" if self.apart else text

    def changes(self, model: Model) -> dict[str, Any]:
        found: dict[str, Any] = {
            "parallelism.tensor": self.tensor,
            "parallelism.pipeline": self.pipeline,
            "parallelism.data": self.data,
            "roles.prefill.groups": int(self.apart),
            "groups": 1,
        }
        if not isinstance(model.architecture, GqaDense):
            found["arguments.enable-expert-parallel"] = True if self.data > 1 else None
        return found


# What is set by the arguments of the command, or tried in turn.
OWN = {
    "model": "MODEL",
    "context": "--context",
    "traffic.input_tokens": "--traffic",
    "traffic.output_tokens": "--traffic",
    "objectives.ttft_ms": "--ttft",
    "objectives.tpot_ms": "--tpot",
    "arguments.max-num-seqs": "--concurrency",
    "groups": "",
    "parallelism": "",
    "parallelism.tensor": "",
    "parallelism.pipeline": "",
    "parallelism.data": "",
    "roles.prefill.groups": "",
}
SORTS: dict[str, Callable[[Choice], float]] = {
    "usd-per-mtok": lambda choice: _or_last(choice.usd_per_mtok),
    "usd-per-hour": lambda choice: _or_last(choice.usd_per_hour),
    "tok-s": lambda choice: -choice.tok_s,
    "tpot": lambda choice: choice.tpot_ms,
    "ttft": lambda choice: choice.ttft_ms,
}


def _or_last(usd: float | None) -> float:
    return float("inf") if usd is None else usd


def choices(
    catalog: Catalog, resolve: Resolve, wanted: Wanted, environments: list[str], sort: str = "usd-per-mtok"
) -> tuple[list[Choice], list[Rejected]]:
    """Return what works, the best first, and what does not.

    Args:
        catalog: All that is known.
        resolve: Returns a recipe with the site's settings and some of its own, by dotted key.
        wanted: What is to be served.
        environments: Where it may run.
        sort: One of SORTS; what has no price stands last, by tokens a second of a host.
    """
    found, rejected = list[Choice](), list[Rejected]()
    for environment in environments:
        for each in _of(catalog, resolve, wanted, environment):
            if isinstance(each, Choice):
                found.append(each)
            else:
                rejected.append(each)
    found.sort(key=lambda choice: (SORTS[sort](choice), -choice.tok_s / choice.hosts, choice.environment))
    return found, rejected


def fix(rejected: list[Rejected]) -> str:
    """Return what may help where nothing works."""
    fixes = {each.fix for each in rejected if each.fix}
    # No size helps where something else is refused.
    return "; or ".join(sorted(fixes - {_OTHER_SIZES} or fixes))


def _of(catalog: Catalog, resolve: Resolve, wanted: Wanted, name: str) -> Iterator[Choice | Rejected]:
    environment, model = catalog.environment(name), catalog.model(wanted.model)
    host = environment.host
    if not host.gpus:
        yield Rejected(environment=name, layout="all", reason="its hosts have no GPUs", fix=_ELSEWHERE)
        return
    if host.gpu not in catalog.performance().gpus:
        reason = f"values/performance.yaml does not say how fast a {host.gpu} is"
        yield Rejected(environment=name, layout="all", reason=reason, fix=_ELSEWHERE)
        return
    recipe = _base(catalog, name, wanted.model)
    resolve(recipe, {})  # what is wrong with the settings is wrong with every layout
    for layout in _layouts(host.gpus, wanted.hosts):
        try:
            yield _choice(catalog, resolve, wanted, recipe, layout, model)
        except InvalidInput as error:
            if _FACTS.search(error.where):  # a damaged file is wrong with no layout
                raise
            own = not error.where or any(key in error.where for key in OWN)
            text = _OTHER_SIZES if own else error.fix and f"{error.where.rpartition(': ')[2]}: {error.fix}"
            yield Rejected(environment=name, layout=layout.text, reason=error.message, fix=text)


def _base(catalog: Catalog, environment: str, model: str) -> str:
    """Return the environment's recipe for a model, or else its default recipe, which then gets the model."""
    try:
        return catalog.recipe_name(environment, model)
    except InvalidInput:
        return catalog.recipe_name(environment)


def _layouts(gpus: int, hosts: int) -> Iterator[_Layout]:
    """Yield the layouts of groups of up to so many hosts."""
    yield _Layout(tensor=gpus)
    yield _Layout(tensor=1, data=gpus)
    yield _Layout(tensor=gpus // 2, data=2)
    for count in range(2, hosts + 1):
        yield _Layout(tensor=gpus, pipeline=count)
        if count & (count - 1) == 0:  # heads and experts are powers of two
            yield _Layout(tensor=gpus * count)
            yield _Layout(tensor=1, data=gpus * count)
            yield _Layout(tensor=gpus, data=count)
    if hosts > 1:
        yield _Layout(tensor=gpus, apart=True)


def _choice(
    catalog: Catalog, resolve: Resolve, wanted: Wanted, recipe: str, layout: _Layout, model: Model
) -> Choice:
    """Return a layout, planned and timed.

    Raises:
        InvalidInput: It does not work, or does not reach what is wanted.
    """
    changes = layout.changes(model) | {
        "model": wanted.model,
        "context": wanted.context,
        "traffic.input_tokens": wanted.traffic.input_tokens,
        "traffic.output_tokens": wanted.traffic.output_tokens,
    }
    if wanted.ttft_ms:
        changes["objectives.ttft_ms"] = wanted.ttft_ms
    if wanted.tpot_ms:
        changes["objectives.tpot_ms"] = wanted.tpot_ms
    plan = make_plan(resolve(recipe, changes), catalog)
    if plan.main.memory is None:
        raise InvalidInput(
            f"nobody has measured the memory and the speed of {plan.engine}",
            where="engine",
            fix="plan with vLLM: leave engine.name out",
        )
    _check_link(plan, layout)
    most = _seats(plan.main, wanted)
    changes["arguments.max-num-seqs"] = most
    plan = make_plan(resolve(recipe, changes), catalog)  # seats take memory
    seats, found = _reached(catalog, plan, wanted, min(most, _seats(plan.main, wanted)))
    if seats != most:
        changes["arguments.max-num-seqs"] = seats
        plan = make_plan(resolve(recipe, changes), catalog)
    rates = {rate: _per_mtok(usd, found.tok_s) for rate, usd in plan.cost.usd_per_hour_by_rate.items()}
    usd = plan.cost.usd_per_hour
    fits = plan.main.memory
    assert fits  # hosts with GPUs  # noqa: S101
    return Choice(
        environment=plan.environment.name,
        layout=layout.text,
        hosts=plan.hosts,
        executor=plan.settings.engine.executor,
        interconnect=plan.interconnect.name if plan.hosts > 1 else "",
        weights_gib=max(fits.weights_gib),
        kv_tokens=fits.kv_tokens * layout.data,
        seats=seats * layout.data,
        tok_s=round(found.tok_s, 1),
        ttft_ms=round(found.ttft_ms, 1),
        tpot_ms=round(found.tpot_ms, 2),
        basis=found.basis,
        error=found.error_tok_s,
        error_tpot=found.error_tpot,
        anchor=found.anchor,
        start_hours=round(sum(seconds for _, seconds in plan.cold_start) / 3600, 2),
        usd_per_hour=usd,
        usd_per_mtok=None if usd is None else _per_mtok(usd, found.tok_s),
        usd_per_mtok_by_rate=rates,
        recipe=recipe,
        changes=changes,
    )


def _per_mtok(usd_per_hour: float, tok_s: float) -> float:
    return round(usd_per_hour / tok_s / 3600 * 1e6, 2)


def _check_link(plan: Plan, layout: _Layout) -> None:
    if layout.tensor > plan.environment.host.gpus and isinstance(plan.interconnect, Sockets):
        raise InvalidInput(f"every layer would wait for TCP between hosts ({plan.interconnect.name})")


def _seats(role: Role, wanted: Wanted) -> int:
    """Return the requests that one data parallel rank may work on: what its KV cache serves."""
    most = min(_MOST_SEATS, role.seats)
    if wanted.concurrency:
        most = min(most, -(-wanted.concurrency // role.parallelism.data))
    return most


def _reached(catalog: Catalog, plan: Plan, wanted: Wanted, most: int) -> tuple[int, Prediction]:
    """Return the most seats with which the wanted times are reached, and the prediction.

    Raises:
        InvalidInput: They are not reached with one seat either.
    """
    steps = range((most - 1) // _SEATS_STEP * _SEATS_STEP, 0, -_SEATS_STEP)
    for seats in (most, *steps, 8, 4, 2, 1):
        if seats > most:
            continue
        found = _predicted(catalog, plan, wanted, seats)
        slow = wanted.tpot_ms and found.tpot_ms > wanted.tpot_ms
        late = wanted.ttft_ms and found.ttft_ms > wanted.ttft_ms
        if not slow and not late:
            return seats, found
    times = f"{found.tpot_ms:.0f} ms a token and {found.ttft_ms / 1e3:.1f} s to the first"
    raise InvalidInput(f"{times} at one request at a time" if not wanted.concurrency else f"{times} at best")


def _predicted(catalog: Catalog, plan: Plan, wanted: Wanted, seats: int) -> Prediction:
    role, host = plan.main, plan.environment.host
    sizes, facts = role.parallelism, catalog.performance()
    running = min(seats * sizes.data, wanted.concurrency or seats * sizes.data)
    dtype = arguments.kv_dtype(role.arguments, plan.engine, "arguments")
    load = Load(
        tensor=sizes.tensor,
        pipeline=sizes.pipeline,
        data=sizes.data,
        gpus_per_host=host.gpus,
        running=running,
        input_tokens=wanted.traffic.input_tokens,
        output_tokens=wanted.traffic.output_tokens,
        kv_bytes=memory.kv_bytes_per_token_layer(plan.model, plan.engine, dtype, sizes.tensor),
        decodes_only=role.name == "decode",
        link_seconds=_link_seconds(plan, running),
    )
    found = predict(
        facts,
        catalog.anchors(),
        plan.model,
        engine=plan.engine.name,
        gpu=host.gpu,
        interconnect=plan.interconnect.name if role.hosts > 1 else "",
        load=load,
        in_flight=wanted.concurrency or running,
    )
    assert found  # the GPU is known  # noqa: S101
    if not plan.handover:
        return found
    # The prefill group reads one prompt after the other, and the KV cache is handed on.
    prompt = prompt_seconds(plan.model, facts.gpus[host.gpu], plan.roles[0].ranks, load.input_tokens)
    fed = load.output_tokens / (prompt * facts.coefficients.prefill)
    return msgspec.structs.replace(
        found,
        tok_s=min(found.tok_s, fed),
        ttft_ms=found.ttft_ms + plan.handover.seconds * 1e3,
        basis="uncalibrated",
        error_tpot=1.0,
        error_tok_s=1.0,
        anchor="",
    )


def _link_seconds(plan: Plan, running: int) -> float:
    """Return what messages between hosts take of the time of one token, by their size alone."""
    role, layers = plan.main, plan.model.architecture.layers
    sizes, one = role.parallelism, plan.model.architecture.hidden * _HIDDEN_BYTES
    if role.hosts == 1:
        return 0.0
    size = running / sizes.pipeline * one
    if sizes.pipeline > 1:
        hops = sizes.pipeline - 1
        return hops * _seconds(plan.interconnect, size * _STAGE_MESSAGES)
    return _LAYER_MESSAGES * layers * _seconds(plan.interconnect, size)


def _seconds(interconnect: Interconnect, size: float) -> float:
    """Return how long a message takes, at the bandwidth measured with the largest one that is no larger."""
    points = interconnect.bandwidth.points
    if not points:
        return 0.0
    near = max((point for point in points if point.bytes <= size), key=lambda p: p.bytes, default=points[0])
    return size / (near.gbytes_per_second * 1e9)


def assignments(changes: dict[str, Any]) -> tuple[str, ...]:
    """Return what is set by dotted key as --set takes it."""
    return tuple(f"{key}={json.dumps(value)}" for key, value in changes.items())


def document(choice: Choice, base: dict[str, Any], given: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the recipe of a choice: the one that it starts from, with what was set, and its changes."""
    model, hosts = choice.changes["model"], "host" if choice.hosts == 1 else "hosts"
    text = f"{model} on {choice.hosts} {choice.environment} {hosts}, {choice.layout}, as planned"
    made = base
    for each in (*given, {"description": text}):
        made = merge(made, each)
    for key, value in choice.changes.items():
        if value != _DEFAULTS.get(key, ()):
            made = merge(made, nested(key.split("."), value))
    return made
