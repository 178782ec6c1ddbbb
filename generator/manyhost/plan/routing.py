"""What stands between clients and the groups."""

from __future__ import annotations

from manyhost.catalog import Environment, Recipe
from manyhost.catalog.environment import RunPod
from manyhost.errors import InvalidInput, first


def check(recipe: Recipe, environment: Environment) -> None:
    """Refuse a Gateway of which not enough is said, or where there is none.

    Raises:
        InvalidInput: Its name or that of the endpoint picker is missing, or the platform is no Kubernetes.
    """
    if recipe.routing == "service":
        return
    if isinstance(environment.platform, RunPod):
        raise InvalidInput(
            f"environment {environment.name} is no Kubernetes: it has no Gateways",
            where="routing",
            fix="set it to service",
        )
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
