"""The manifests as the checks see them: pods found once, with their place and role."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from manyhost.checks.engine_flags import FlagTable
    from manyhost.checks.pod_security import Allowance

Object = dict[str, Any]

ENGINE_CONTAINER = "vllm"
GPU = "nvidia.com/gpu"


def place(item: Object) -> str:
    """Return `Kind/name` of an object."""
    metadata = item.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{item.get('kind') or '?'}/{name or '?'}".replace(" ", "_")


class Container(msgspec.Struct, frozen=True, dict=True):
    """A container with the place it stands at, for messages."""

    where: str
    body: Object
    is_init: bool

    @property
    def name(self) -> str:
        """Name of the container."""
        return str(self.body["name"])

    @cached_property
    def arguments(self) -> list[str]:
        """Return the container's args, or none."""
        return self.body.get("args") or []

    @cached_property
    def environment(self) -> dict[str, Object]:
        """Return the env entries by name; of a name that stands twice the last one counts."""
        return {item["name"]: item for item in self.body.get("env") or []}

    def value(self, name: str) -> str | None:
        """Return the literal value of an environment variable, None if it has none."""
        value: str | None = self.environment.get(name, {}).get("value")
        return value

    @property
    def gpus(self) -> int:
        """GPUs that the container asks for."""
        limits = (self.body.get("resources") or {}).get("limits") or {}
        return int(limits.get(GPU, 0))


class Pod(msgspec.Struct, frozen=True, dict=True):
    """A pod template of a LeaderWorkerSet."""

    owner: Object
    role: str
    path: str
    body: Object

    @property
    def where(self) -> str:
        """Place of the template, for messages."""
        return f"{place(self.owner)} {self.path}"

    @property
    def spec(self) -> Object:
        """The pod's spec."""
        spec: Object = self.body["spec"]
        return spec

    @property
    def annotations(self) -> dict[str, str]:
        """The pod's annotations."""
        return (self.body.get("metadata") or {}).get("annotations") or {}

    @property
    def labels(self) -> dict[str, str]:
        """The pod's labels."""
        return (self.body.get("metadata") or {}).get("labels") or {}

    @cached_property
    def containers(self) -> list[Container]:
        """All containers, init containers first, in the order in which they start."""
        return [
            Container(f"{self.where}.spec.{key}[{body['name']}]", body, key == "initContainers")
            for key in ("initContainers", "containers")
            for body in self.spec.get(key) or []
        ]

    @cached_property
    def engine(self) -> Container | None:
        """The container that runs the engine, None if the pod has none."""
        for container in self.containers:
            if container.name == ENGINE_CONTAINER and not container.is_init:
                return container
        return None


class Group(msgspec.Struct, frozen=True):
    """A LeaderWorkerSet with its two templates."""

    owner: Object
    size: int
    replicas: int
    leader: Pod
    worker: Pod


def leaves(item: Any) -> list[Any]:
    """Return every scalar of an object, in no order; cheap, for checks that rarely find anything."""
    found, waiting = [], [item]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
        else:
            found.append(node)
    return found


def paths(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every scalar of an object with its path."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from paths(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from paths(value, f"{path}[{index}]")
    else:
        yield path, node


class Context(msgspec.Struct, frozen=True, dict=True):
    """Manifests and what is known about the place they go to."""

    objects: Sequence[Object]
    flags: FlagTable | None = None
    allowance: Allowance | None = None
    shipped_scripts: frozenset[str] = frozenset()
    known_secrets: frozenset[str] = frozenset()

    def without(self, places: Collection[str]) -> Context:
        """Return the context less the objects at these places."""
        return msgspec.structs.replace(self, objects=[o for o in self.objects if place(o) not in places])

    def of_kind(self, kind: str) -> Iterator[Object]:
        """Yield the objects of one kind."""
        return (item for item in self.objects if item.get("kind") == kind)

    def names(self, kind: str) -> set[str]:
        """Return the names of the objects of one kind."""
        return {item["metadata"]["name"] for item in self.of_kind(kind)}

    @cached_property
    def groups(self) -> list[Group]:
        """LeaderWorkerSets; without a leader template, leaders are made from the worker's."""
        found = []
        for item in self.of_kind("LeaderWorkerSet"):
            spec, template = item["spec"], item["spec"]["leaderWorkerTemplate"]
            role = "leaderTemplate" if "leaderTemplate" in template else "workerTemplate"
            pods = [
                Pod(item, name, f"spec.leaderWorkerTemplate.{key}", template[key])
                for name, key in (("leader", role), ("worker", "workerTemplate"))
            ]
            found.append(Group(item, template.get("size", 1), spec.get("replicas", 1), pods[0], pods[1]))
        return found

    @cached_property
    def pods(self) -> list[Pod]:
        """All pod templates, each once."""
        return [
            pod
            for group in self.groups
            for pod in (group.leader, group.worker)
            if pod.role == "worker" or pod.path != group.worker.path
        ]
