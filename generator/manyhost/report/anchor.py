"""A run as an anchor of the planner: the measured point that its predictions go by."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping

import msgspec

from manyhost.catalog.performance import Anchor
from manyhost.errors import InvalidInput
from manyhost.report.runs import Results

_NAME = 45  # characters of it before day and run
_TPOT, _RATE = "tpot_mean_ms", "output_token_rate"


def anchor(results: Results, models: Mapping[str, str], gpus: Collection[str]) -> Anchor:
    """Return the point of most throughput of a run.

    Args:
        results: The run.
        models: The catalog's name of each model, by what clients ask for.
        gpus: Those whose speed the planner knows.

    Raises:
        InvalidInput: The run has none that the planner can go by.
    """
    run, where = results.run, results.folder
    deployment = run.deployment
    if len(deployment.roles) > 1 or deployment.roles[0].groups > 1:
        raise InvalidInput(
            "several groups answered: the planner predicts one", where=where, fix="take a run of one group"
        )
    if not deployment.gpus:
        raise InvalidInput("it ran on CPUs, whose speed the planner does not predict", where=where)
    model = models.get(deployment.model)
    if model is None:
        raise InvalidInput(f"no model of the catalog is called {deployment.model}", where=where)
    if deployment.gpu not in gpus:
        raise InvalidInput(
            f"nobody has said how fast a {deployment.gpu} is",
            where=where,
            fix="add it to gpus in values/performance.yaml",
        )
    usable = [
        point.summary
        for point in results.points
        if point.summary.load.concurrency
        and not point.summary.load.prefix_count
        and {_TPOT, _RATE} <= point.summary.metrics.keys()
    ]
    if not usable:
        raise InvalidInput(
            "no point of it has throughput and mean TPOT at a fixed number of requests in flight, without "
            "shared prefixes",
            where=where,
            fix="take a run of the scenario ramp or published",
        )
    best = max(usable, key=lambda point: point.metrics[_RATE].mean)
    (role,) = deployment.roles
    day = run.started[:10]
    slug = re.sub(r"[^a-z0-9]+", "-", f"{deployment.recipe}-{deployment.engine}".lower()).strip("-")
    # Two runs of a day have a file each; a name has 63 characters at the most.
    name = f"{f'own-{slug}'[:_NAME].rstrip('-')}-{day}-{hashlib.sha256(run.id.encode()).hexdigest()[:6]}"
    found = Anchor(
        name=name,
        engine="vllm",
        version=deployment.engine,
        gpu=deployment.gpu,
        model=model,
        tensor=role.tensor,
        pipeline=role.pipeline,
        data=role.data,
        concurrency=best.load.concurrency,
        input_tokens=best.load.input_tokens,
        output_tokens=best.load.output_tokens,
        tpot_ms=round(best.metrics[_TPOT].mean, 3),
        tok_s=round(best.metrics[_RATE].mean),
        interconnect=deployment.interconnect if deployment.hosts > 1 else "",
        date=day,
        source=f"run {run.id}, {best.passed} of {best.measured} measurements",
    )
    try:
        return msgspec.convert(msgspec.to_builtins(found), Anchor)  # a file of values/ that is none ends plan
    except msgspec.ValidationError as error:
        raise InvalidInput(f"is no point that the planner takes: {error}", where=where) from None
