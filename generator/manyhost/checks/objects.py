"""The manifests as the checks see them: the pod templates of all objects, each with its place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from typing import Any

import msgspec

from manyhost.checks.allowance import Allowance
from manyhost.checks.flag_table import FlagTable

Object = dict[str, Any]

ENGINE_CONTAINER = "vllm"
GPU = "nvidia.com/gpu"
# Where a pod spec holds containers, in the order in which they start.
CONTAINER_LISTS = ("initContainers", "containers", "ephemeralContainers")

# Labels that the LeaderWorkerSet controller adds; rank 0 of a group is its leader.
LWS_NAME = "leaderworkerset.sigs.k8s.io/name"
LWS_INDEX = "leaderworkerset.sigs.k8s.io/worker-index"

# What is wrong with a shell script, given its text and the name of its shell: ShellCheck("...", "bash").
ShellCheck = Callable[[str, str], Sequence[str]]


def place(item: Object) -> str:
    """Return `Kind/name` of an object."""
    metadata = item.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{item.get('kind') or '?'}/{name or '?'}".replace(" ", "_")


class Container(msgspec.Struct, frozen=True, dict=True):
    """A container with the place it stands at, for messages."""

    where: str
    body: Object
    kind: str  # one of CONTAINER_LISTS

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
        """GPUs that the container asks for; 0 when that is no whole number."""
        limits = (self.body.get("resources") or {}).get("limits") or {}
        return whole(limits.get(GPU, 0)) or 0


def whole(quantity: object) -> int | None:
    """Return a quantity that is written as a whole number, None for any other."""
    text = str(quantity)
    return int(text) if text.isdecimal() else None


class Pod(msgspec.Struct, frozen=True, dict=True):
    """A pod, or the template of one, in an object of any kind.

    Attributes:
        owner: The object.
        path: Where in it the template is; empty for a pod itself.
        body: The template: a mapping with a spec that has containers.
        claims: Names of the volumes that the owner adds to each pod, from volumeClaimTemplates.
    """

    owner: Object
    path: str
    body: Object
    claims: frozenset[str] = frozenset()

    def at(self, path: str) -> str:
        """Return the place of a field of the template, for messages."""
        return f"{place(self.owner)} {f'{self.path}.' if self.path else ''}{path}"

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
        """All containers, init and ephemeral ones too, in the order in which they start."""
        return [
            Container(self.at(f"spec.{kind}[{body['name']}]"), body, kind)
            for kind in CONTAINER_LISTS
            for body in self.spec.get(kind) or []
        ]

    @cached_property
    def engine(self) -> Container | None:
        """The container that runs the engine, None if the pod has none."""
        for container in self.containers:
            if container.name == ENGINE_CONTAINER and container.kind == "containers":
                return container
        return None


class Group(msgspec.Struct, frozen=True):
    """A LeaderWorkerSet with its two templates."""

    owner: Object
    size: int
    replicas: int
    leader: Pod
    worker: Pod

    def labels(self, *, leader: bool) -> dict[str, str]:
        """Return the labels of its leader or of a worker, those that the controller adds included."""
        pod = self.leader if leader else self.worker
        return pod.labels | {LWS_NAME: name_of(self.owner), LWS_INDEX: "0" if leader else "1"}


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


def pod_templates(item: Object) -> Iterator[Pod]:
    """Yield whatever has a pod spec in an object of any kind and shape, in the order of its fields."""
    waiting: list[tuple[str, Any, Any]] = [("", item, None)]
    while waiting:
        path, node, parent = waiting.pop()
        if isinstance(node, dict):
            spec = node.get("spec")
            if isinstance(spec, dict) and isinstance(spec.get("containers"), list):
                yield Pod(item, path, node, _claims(parent))
            below = [
                (f"{path}.{key}" if path else str(key), value, node)
                for key, value in node.items()
                if isinstance(value, (dict, list)) and key not in CONTAINER_LISTS
            ]
        else:
            below = [
                (f"{path}[{index}]", value, node)
                for index, value in enumerate(node)
                if isinstance(value, (dict, list))
            ]
        waiting.extend(reversed(below))


def _claims(parent: Any) -> frozenset[str]:
    """Return the names of the claims that stand beside a pod template, as in a StatefulSet."""
    templates = parent.get("volumeClaimTemplates") if isinstance(parent, dict) else None
    bodies = [body for body in templates if isinstance(body, dict)] if isinstance(templates, list) else []
    return frozenset(map(name_of, bodies))


def control_secret(release: str) -> str:
    """Return the name of the Secret with the key by which members of a release's groups know each other."""
    return f"{release}-control"


def name_of(item: Object) -> str:
    """Return the name of an object, an empty string if it has none."""
    metadata = item.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""


def containers_anywhere(item: Object, sound: Collection[int] = ()) -> Iterator[tuple[str, Any]]:
    """Yield (place in the object, container) of all that stands in a list of containers, of any shape.

    Args:
        item: An object of any shape.
        sound: Identities of containers with the fields of a container and no others: nothing to find inside.
    """
    waiting: list[tuple[str, Any]] = [("", item)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, dict):
            for key, value in node.items():
                below = f"{path}.{key}" if path else str(key)
                if key in CONTAINER_LISTS and isinstance(value, list):
                    for index, body in enumerate(value):
                        label = body.get("name", index) if isinstance(body, dict) else index
                        yield f"{below}[{label}]", body
                        if isinstance(body, (dict, list)) and id(body) not in sound:
                            waiting.append((f"{below}[{label}]", body))
                elif isinstance(value, (dict, list)):
                    waiting.append((below, value))
        else:
            waiting.extend(
                (f"{path}[{index}]", value)
                for index, value in enumerate(node)
                if isinstance(value, (dict, list))
            )


class Context(msgspec.Struct, frozen=True, dict=True):
    """Manifests and what is known about the place they go to.

    Attributes:
        objects: The objects whose shape is right.
        rescued: Pods whose shape is right in objects whose shape is wrong or not known.
        flags: Flags of the pinned engine version.
        allowance: What the environment allows its pods.
        shell: Says what is wrong with a shell script.
        shipped_scripts: Texts of the scripts that are right as they are.
        known_secrets: Secrets that exist outside these manifests.
    """

    objects: Sequence[Object]
    rescued: Sequence[Pod] = ()
    flags: FlagTable | None = None
    allowance: Allowance | None = None
    shell: ShellCheck | None = None
    shipped_scripts: frozenset[str] = frozenset()
    known_secrets: frozenset[str] = frozenset()

    def of_kind(self, kind: str) -> Iterator[Object]:
        """Yield the objects of one kind."""
        return (item for item in self.objects if item.get("kind") == kind)

    def names(self, kind: str) -> set[str]:
        """Return the names of the objects of one kind."""
        return {name_of(item) for item in self.of_kind(kind)}

    @cached_property
    def _own(self) -> list[Pod]:
        return [pod for item in self.objects for pod in pod_templates(item)]

    @cached_property
    def pods(self) -> list[Pod]:
        """All pods and pod templates, of objects of any kind, each once."""
        return [*self._own, *self.rescued]

    @cached_property
    def groups(self) -> list[Group]:
        """LeaderWorkerSets; without a leader template, leaders are made from the worker's."""
        found = []
        for item in self.of_kind("LeaderWorkerSet"):
            spec, template = item["spec"], item["spec"]["leaderWorkerTemplate"]
            pods = {pod.path.rpartition(".")[2]: pod for pod in self._own if pod.owner is item}
            worker = pods["workerTemplate"]
            leader = pods.get("leaderTemplate", worker)
            found.append(Group(item, template.get("size", 1), spec.get("replicas", 1), leader, worker))
        return found

    @cached_property
    def in_groups(self) -> frozenset[int]:
        """Identities of the pods that are a leader or a worker of a group."""
        return frozenset(id(pod) for group in self.groups for pod in (group.leader, group.worker))

    @property
    def alone(self) -> list[Pod]:
        """Pods of objects whose shape is right that are in no group."""
        return [pod for pod in self._own if id(pod) not in self.in_groups]
