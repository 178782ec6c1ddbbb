"""Plan → values.yaml. This is the only place that knows the chart's keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import yaml12

from manyhost.plan import Plan

# Characters that may not stand for themselves (YAML 1.2.2, section 5.1), and line breaks of YAML 1.1.
_ESCAPED = re.compile(r"[\x7f-\x84\x86-\x9f\x85\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")

_DERIVED_ARGUMENTS = {"max-model-len": "context", "gpu-memory-utilization": "utilization"}
_HEAD = (
    "Helm values of charts/llm-multihost for the recipe {recipe}.",
    "Made by `manyhost render`; change the recipe or the settings, not this file.",
    "`manyhost explain KEY` says where a value came from.",
)


class _Block(dict[str, Any]):
    """A mapping with each key on a line of its own; any other value stands on the line of its key."""


class _Items(list[_Block]):
    """A sequence of blocks, one below the other; `[]` when empty."""


class _Remark(NamedTuple):
    """A value with a comment behind it."""

    value: Any
    comment: str


def quote(value: Any) -> str:
    """Return a value as a YAML flow scalar, sequence or mapping that reads back as itself.

    Strings are always quoted: `no`, `1e3` and `*x` stay strings, for YAML 1.1 and 1.2 alike.
    """
    text = json.dumps(value, ensure_ascii=False, sort_keys=isinstance(value, dict))
    return _ESCAPED.sub(lambda m: f"\\u{ord(m.group()):04x}", text)


def values_text(plan: Plan) -> str:
    """Return values.yaml of a plan: the same bytes for the same plan."""
    lines = [f"# {_one_line(line.format(recipe=plan.recipe))}" for line in _HEAD]
    for comments, block in _sections(plan):
        lines += ["", *(f"# {_one_line(comment)}" for comment in comments), *_lines(block, "")]
    return "\n".join(lines) + "\n"


def parse_values(text: str) -> dict[str, Any]:
    """Parse rendered values; they are our own output, so the fast reader will do."""
    return cast("dict[str, Any]", yaml12.parse_yaml(text))


def _sections(plan: Plan) -> Iterator[tuple[list[str], _Block]]:
    """Yield the blocks of the file, each with the lines of its comment."""
    recipe, environment = plan.settings, plan.environment

    def sources(*keys: str) -> str:
        """Name where each key came from, the same origin once."""
        by_origin: dict[str, list[str]] = {}
        for key in keys:
            by_origin.setdefault(plan.origin(key), []).append(key)
        return "; ".join(f"{', '.join(names)}: {origin}" for origin, names in by_origin.items())

    def argument(name: str, value: Any) -> _Remark:
        key = _DERIVED_ARGUMENTS.get(name)
        return _Remark(value, f"{key}: {plan.origin(key)}" if key else plan.origin(f"arguments.{name}"))

    yield [], _Block(recipe=plan.recipe)

    yield (
        [sources("engine.version", "engine.image", "engine.tag", "engine.digest", "site.artifact_registry")],
        _Block(job=_Block(image=_Block(repository=plan.image, tag=plan.tag, digest=plan.digest))),
    )

    yield [sources("site.cluster_name")], _Block(clusterName=recipe.site.cluster_name)

    yield (
        [sources("model", "parallelism.tensor", "parallelism.pipeline", "parallelism.data", "weights.path")],
        _Block(
            model=_Block(
                name=plan.model.hub_id,
                path=plan.weights_path,
                servedName=plan.model.served_name,
                tp_size=plan.tensor,
                pp_size=plan.pipeline,
                dp_size=plan.data,
            )
        ),
    )

    yield (
        [f"values/environments/{environment.name}.yaml; {sources('node_selector')}"],
        _Block(
            host=_Block(
                environment=environment.name,
                gpus=environment.host.gpus,
                networks=environment.networks,
                nodeSelector=environment.node_selector | recipe.node_selector,
                tolerations=environment.tolerations,
                topologyKeys=environment.topology_keys,
                resources=environment.resources,
            )
        ),
    )

    yield (
        [sources("network.interconnect", "network.subnetworks", "network.host_network", "network.nccl")],
        _Block(
            network=_Block(
                interconnect=plan.interconnect.name,
                hostNetwork=recipe.network.host_network or environment.security.host_network,
                subnetworks=plan.networks,
                socketInterface=environment.socket_interface,
                ncclSettings=_pairs(recipe.network.nccl),
            )
        ),
    )

    if plan.interconnect.releases:
        fabric, release = plan.interconnect, plan.interconnect.releases[0]
        yield (
            [f"values/interconnects/{fabric.name}.yaml, release of {release.date}"],
            _Block(
                gpuPlatformSettings=_Block(
                    ncclPluginImage=f"{fabric.plugin_repository}:{release.plugin}",
                    rxdmImage=f"{fabric.daemon_repository}:{release.daemon}",
                )
            ),
        )

    yield (
        [sources("site.gcs_bucket", "weights.source", "ssd_host_path", "host_mounts")],
        _Block(
            volumes=_Block(
                ssdHostPath=recipe.ssd_host_path,
                shmSize=environment.shm_size,
                gcsMounts=_Items([_Block(bucketName=plan.bucket, mountPath="/gcs")] if plan.bucket else []),
                hostMounts=_Items(
                    _Block(
                        name=mount.name,
                        hostPath=mount.host_path,
                        mountPath=mount.mount_path,
                        readOnly=mount.read_only,
                    )
                    for mount in recipe.host_mounts
                ),
            )
        ),
    )

    yield (
        [sources("groups", "engine.executor", "engine.command", "variables")],
        _Block(
            vllm=_Block(
                replicaCount=plan.groups,
                executor=plan.executor,
                command=recipe.engine.command,
                serverArgs=_Block(
                    {quote(name): argument(name, value) for name, value in plan.arguments.items()}
                ),
                env=_pairs(plan.variables),
            )
        ),
    )

    yield (
        [
            f"Start budget: {', '.join(f'{name} {seconds} s' for name, seconds in plan.cold_start)}",
            sources("startup_seconds", "stall_seconds", "drain_seconds", "start_attempts"),
        ],
        _Block(
            lifecycle=_Block(
                startupSeconds=plan.startup_seconds,
                peerWaitSeconds=plan.startup_seconds,
                stallSeconds=recipe.stall_seconds,
                drainSeconds=recipe.drain_seconds,
                startAttempts=recipe.start_attempts,
            )
        ),
    )

    security = environment.security
    yield (
        [f"values/environments/{environment.name}.yaml"],
        _Block(
            security=_Block(
                privileged=security.privileged,
                runAsUser=security.run_as_user,
                runAsGroup=security.run_as_group,
                fsGroup=security.fs_group,
            )
        ),
    )


def _pairs(mapping: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": mapping[name]} for name in sorted(mapping)]


def _lines(block: _Block, indent: str) -> Iterator[str]:
    """Yield the lines of a block; keys are written as they stand, values are quoted."""
    for key, value in block.items():
        if isinstance(value, _Block):
            yield f"{indent}{key}:"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, _Items) and value:
            yield f"{indent}{key}:"
            for item in value:
                first, *others = _lines(item, indent + "    ")
                yield f"{indent}  - {first.lstrip()}"
                yield from others
        elif isinstance(value, _Remark):
            yield f"{indent}{key}: {quote(value.value)}  # {_one_line(value.comment)}"
        else:
            yield f"{indent}{key}: {quote(value)}"


def _one_line(comment: str) -> str:
    """Return a comment's text without line breaks, which would end the comment."""
    return " ".join(comment.split())
