"""What the members of each group are started with, for platforms that are no Kubernetes.

The same as in the chart's pods: a test holds both equal. docs/reference/launcher.md says what each one means.
"""

from __future__ import annotations

from typing import Any

import msgspec

from manyhost.catalog.environment import RunPod
from manyhost.catalog.interconnect import Plugin
from manyhost.plan import Plan, Role
from manyhost.render import dynamo

_PORT, _MASTER_PORT, _RAY_PORT = 8000, 29501, 6379


def launch_json(plan: Plan) -> bytes:
    """Return the launch of a plan as stable, indented JSON."""
    recipe = plan.settings
    document: dict[str, Any] = {
        "image": str(plan.image),
        "command": ["bash", "launch.sh"],
        "roles": [
            {
                "name": role.name,
                "groups": role.groups,
                "hosts": role.hosts,
                "gpus_per_host": plan.gpus_per_host,
                "arguments": arguments(plan, role),
                "variables": variables(plan),
            }
            for role in plan.roles
        ],
        "recipe": plan.recipe,
        "model": recipe.model,
    }
    if isinstance(plan.environment.platform, RunPod):
        document["gpu_type_id"] = plan.environment.platform.gpu_type_id
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2) + b"\n"


def arguments(plan: Plan, role: Role) -> list[str]:
    """Return the engine's flags, the same for every member of a role's groups."""
    sizes = role.parallelism
    words = ["--tensor-parallel-size", str(sizes.tensor), "--pipeline-parallel-size", str(sizes.pipeline)]
    if sizes.data > 1:
        words += ["--data-parallel-size", str(sizes.data)]
    words += ["--served-model-name", plan.model.served_name]
    behind = plan.settings.routing == "dynamo"
    given = dynamo.kept(role.arguments) if behind else role.arguments
    for name in sorted(given):
        words += _flag(name, given[name])
    return words + dynamo.flags(plan, role) if behind else words


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]


def variables(plan: Plan) -> dict[str, str]:
    """Return the variables that all members have in common; the others are the platform's."""
    recipe, host = plan.settings, plan.environment.host
    found = {
        "GLOO_SOCKET_IFNAME": host.interface,
        "MANYHOST_DRAIN_SECONDS": str(recipe.drain_seconds),
        "MANYHOST_ENGINE": "\n".join(recipe.engine.command),
        "MANYHOST_EXECUTOR": recipe.engine.executor,
        "MANYHOST_GPUS_PER_HOST": str(plan.gpus_per_host),
        "MANYHOST_INTERFACE": host.interface,
        "MANYHOST_MASTER_PORT": str(_MASTER_PORT),
        "MANYHOST_MODEL": plan.weights.path or plan.model.hub_id,
        "MANYHOST_MODEL_PATH": plan.weights.path,
        "MANYHOST_PEER_WAIT_SECONDS": str(plan.startup_seconds),
        "MANYHOST_PORT": str(_PORT),
        "MANYHOST_PROFILE": "",
        "MANYHOST_RAY_PORT": str(_RAY_PORT),
        "MANYHOST_STAGED": plan.weights.staged,
        "MANYHOST_STALL_SECONDS": str(recipe.stall_seconds),
        "MANYHOST_START_ATTEMPTS": str(recipe.start_attempts),
        "MANYHOST_STARTUP_SECONDS": str(plan.startup_seconds),
        "VLLM_NO_USAGE_STATS": "1",
    }
    fabric = plan.interconnect
    if isinstance(fabric, Plugin):
        found |= {
            name: value.replace("{libraries}", fabric.libraries) for name, value in fabric.variables.items()
        }
        found["MANYHOST_PROFILE"] = fabric.profile.replace("{libraries}", fabric.libraries)
        if fabric.libraries:
            found["LD_LIBRARY_PATH"] = fabric.libraries
    if plan.weights.path:
        found["HF_HUB_OFFLINE"] = "1"
    if recipe.routing == "dynamo":
        found |= dynamo.variables(plan)
    found |= {f"MANYHOST_SET_{name}": value for name, value in recipe.network.nccl.items()}
    return found | recipe.variables
