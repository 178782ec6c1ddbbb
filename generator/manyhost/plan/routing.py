"""What stands between clients and the groups."""

from __future__ import annotations

import msgspec

from manyhost.catalog import Recipe
from manyhost.catalog.dynamo import Dynamo
from manyhost.catalog.environment import RunPod
from manyhost.errors import InvalidInput, first
from manyhost.plan.facts import Facts
from manyhost.plan.roles import Role, apart


def check(recipe: Recipe, facts: Facts) -> None:
    """Refuse a Gateway of which not enough is said, and what the platform or the engine has not.

    What stands before the groups reads the engine's counters or speaks its protocol: of vLLM alone, here.

    Raises:
        InvalidInput: The name of the Gateway or of the endpoint picker is missing, the platform is no
            Kubernetes and has no Gateway or is one and needs no Dynamo, or no release of Dynamo serves with
            the engine.
    """
    if recipe.routing != "service" and facts.engine.name != "vllm":
        raise InvalidInput(
            f"{recipe.routing} stands before vLLM alone; the engine is {facts.engine}",
            where="routing and engine.name",
            fix="set routing to service",
        )
    if facts.dynamo:
        _check_dynamo(recipe, facts, facts.dynamo)
    elif isinstance(facts.environment.platform, RunPod):
        _check_alone(recipe, facts)
    elif recipe.routing == "inferencepool":
        _check_gateway(recipe)


def check_roles(found: tuple[Role, ...], facts: Facts) -> None:
    """Refuse several groups of several hosts where hosts know only the first host's address.

    Raises:
        InvalidInput: There are such groups on RunPod.
    """
    groups = sum(role.groups for role in found)
    if (
        isinstance(facts.environment.platform, RunPod)
        and groups > 1
        and max(role.hosts for role in found) > 1
    ):
        raise InvalidInput(
            f"{groups} groups of {max(role.hosts for role in found)} hosts cannot be started on RunPod: "
            "hosts of a cluster know the address of its first host only",
            where="parallelism",
            fix=f"let each group fit into one host of {facts.environment.host.gpus} GPUs, or have one group",
        )


def _check_dynamo(recipe: Recipe, facts: Facts, dynamo: Dynamo) -> None:
    if not isinstance(facts.environment.platform, RunPod):
        raise InvalidInput(
            f"in environment {facts.environment.name} the operator of Dynamo starts its own engines",
            where="routing",
            fix="set it to service, and render with --as dynamo what the operator takes",
        )
    pair = dynamo.pair(facts.engine.version)
    if not pair or not pair.sidecar:
        able = msgspec.structs.replace(
            dynamo,
            pairs=[one for one in dynamo.pairs if one.sidecar and one.vllm in facts.recipes],
        )
        near = able.nearest(facts.engine.version)
        raise InvalidInput(
            f"no release of Dynamo can stand before vLLM {facts.engine.version}",
            where="engine.version",
            fix=f"set it to {near.vllm}, which is that of Dynamo {near.dynamo}, or routing to service",
        )
    if recipe.engine.executor != "mp":
        raise InvalidInput(
            "nobody has run Dynamo before an engine over Ray", where="engine.executor", fix="set it to mp"
        )


def _check_alone(recipe: Recipe, facts: Facts) -> None:
    if recipe.routing == "inferencepool":
        raise InvalidInput(
            f"environment {facts.environment.name} is no Kubernetes: it has no Gateways",
            where="routing",
            fix="set it to service",
        )
    if recipe.groups > 1 or apart(recipe):
        raise InvalidInput(
            "several groups need something before them, and RunPod has nothing",
            where="routing",
            fix="set it to dynamo, or have one group (groups, roles.prefill.groups)",
        )


def _check_gateway(recipe: Recipe) -> None:
    missing = {
        "gateway.name": (recipe.gateway.name, "Gateway of the cluster"),
        "gateway.picker.name": (
            recipe.gateway.picker.name,
            "Service of the endpoint picker, in the namespace of the release",
        ),
    }
    errors = [
        InvalidInput(
            f"inferencepool needs {key}",
            where=f"routing and {key}",
            fix=f"set {key} to the name of a {what}, or routing to service",
        )
        for key, (name, what) in missing.items()
        if not name
    ]
    if errors:
        raise first(errors)
