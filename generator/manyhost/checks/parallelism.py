"""The GPUs of a group are the ranks of the engine, and all of its pods run the same thing."""

from __future__ import annotations

from collections.abc import Iterator

from manyhost.checks.engine_flags import arguments, launched
from manyhost.checks.finding import Finding
from manyhost.checks.objects import ENGINE_CONTAINER, GPU, Container, Context, Group, place, whole

_SIZES = {
    "tensor": ("--tensor-parallel-size", "-tp"),
    "pipeline": ("--pipeline-parallel-size", "-pp"),
    "data": ("--data-parallel-size", "-dp"),
}

# Fields in which the containers of leader and worker may not differ: a rank with another image,
# other flags or other NCCL settings hangs at the first collective, without a message.
_EQUAL = ("image", "command", "args", "resources")


def check(context: Context) -> Iterator[Finding]:
    """Yield findings about ranks, GPUs and differences inside each group."""
    for group in context.groups:
        yield from _check_ranks(group)
        yield from _check_equal(group)
    for pod in context.pods:
        for container in pod.containers:
            yield from _check_gpus(container, grouped=id(pod) in context.in_groups)


def _check_ranks(group: Group) -> Iterator[Finding]:
    engine, worker = group.leader.engine, group.worker.engine
    where = f"{place(group.owner)} spec.leaderWorkerTemplate"
    if engine is None or worker is None:
        yield Finding("group", where, "a pod has no container called vllm", "name it vllm")
        return
    if not launched(engine):
        return
    sizes = {}
    for kind, spellings in _SIZES.items():
        given = [a.values[0] for a in arguments(engine) if a.spelling in spellings and a.values]
        sizes[kind] = int(given[-1]) if given and given[-1].isdecimal() else 1
    ranks = sizes["tensor"] * sizes["pipeline"] * sizes["data"]
    split = " x ".join(f"{kind} {size}" for kind, size in sizes.items())
    gpus = engine.gpus + (group.size - 1) * worker.gpus
    if gpus == 0:
        if ranks != group.size:
            yield Finding(
                "parallelism",
                where,
                f"{group.size} CPU hosts for {ranks} ranks ({split})",
                f"use size {ranks}",
            )
    elif gpus != ranks:
        yield Finding(
            "parallelism",
            where,
            f"{gpus} GPUs in a group of {group.size} for {ranks} ranks ({split})",
            "make tensor x pipeline x data equal to the GPUs of the group",
        )
    elif sizes["tensor"] > engine.gpus and sizes["tensor"] % engine.gpus:
        yield Finding(
            "parallelism",
            where,
            f"tensor parallelism {sizes['tensor']} splits a host of {engine.gpus} GPUs",
            f"use at most {engine.gpus}, or a multiple of it",
        )


def _check_gpus(container: Container, *, grouped: bool) -> Iterator[Finding]:
    resources = container.body.get("resources") or {}
    limit = (resources.get("limits") or {}).get(GPU, 0)
    asked = (resources.get("requests") or {}).get(GPU, limit)
    where = f"{container.where}.resources"
    if whole(limit) is None:
        yield Finding("parallelism", where, f"{limit!r} is no number of GPUs", "write a whole number")
    elif whole(asked) != whole(limit):
        yield Finding(
            "parallelism",
            where,
            f"{GPU} requests {asked} differs from limits {container.gpus}",
            "make them equal: Kubernetes refuses the pod otherwise",
        )
    if grouped and container.gpus and container.name != ENGINE_CONTAINER:
        yield Finding("parallelism", where, "GPUs outside the engine's container", f"remove {GPU} from it")
    told = container.value("MANYHOST_GPUS_PER_HOST")
    if told is not None and told not in ({str(container.gpus)} if container.gpus else {"0", "1"}):
        yield Finding(
            "parallelism",
            f"{container.where}.env",
            f"MANYHOST_GPUS_PER_HOST is {told}, the container has {container.gpus} GPUs",
            "render host.gpus into both",
        )


def _check_equal(group: Group) -> Iterator[Finding]:
    leader = {c.name: c for c in group.leader.containers}
    worker = {c.name: c for c in group.worker.containers}
    where = place(group.owner)
    for name in sorted(leader.keys() ^ worker.keys()):
        yield Finding(
            "group",
            where,
            f"container {name} is in the {'leader' if name in leader else 'worker'} only",
            "both roles are made from one pod template",
        )
    for name in leader.keys() & worker.keys():
        for field in _EQUAL:
            if leader[name].body.get(field) != worker[name].body.get(field):
                yield Finding(
                    "group",
                    f"{worker[name].where}.{field}",
                    f"{field} differs between leader and worker",
                    "make them equal",
                )
        ours, theirs = leader[name].environment, worker[name].environment
        drift = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        if drift:
            yield Finding(
                "group",
                f"{worker[name].where}.env",
                f"{', '.join(drift)} differ between leader and worker",
                "make them equal",
            )
