"""Names that Kubernetes, LWS and Cloud Storage accept, with the suffixes that they get."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from manyhost.checks.finding import Finding
from manyhost.checks.objects import Container, Context, Group, Object, Pod, name_of, place

# LWS adds -<group>-<worker> for pod names, at most -999999-2147483646, and StatefulSet a hash of
# about as many characters for a label: together they fit the 63 of a DNS label.
MAX_LWS_NAME = 45
# What the API server takes: names of pods are labels, and a CronJob adds 11 characters to its Jobs'.
_MAX_NAMES = {"Job": 63, "CronJob": 52, "StatefulSet": 63}
_LABEL_LENGTH = 63

_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_ENVIRONMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # what a shell can export
_PORT = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
# cloud.google.com/storage/docs/buckets#naming
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
# Roles may also be called what stands in a path: system:reader.
_PATH_NAMES = frozenset({"Role", "RoleBinding"})
_PATH_NAME = re.compile(r"(?!\.{1,2}$)[^/%]+")
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")

GCS_FUSE = "gcsfuse.csi.storage.gke.io"


def is_subdomain(name: object) -> bool:
    """Return whether a name is a DNS-1123 subdomain, as most object names are."""
    return isinstance(name, str) and len(name) <= 253 and _SUBDOMAIN.fullmatch(name) is not None


def bucket_problem(name: str) -> str:
    """Return why Cloud Storage has no bucket of this name, or an empty string."""
    if not _BUCKET.fullmatch(name) or _ADDRESS.fullmatch(name):
        return "use 3 to 63 lower-case letters, digits, dashes, underscores and dots"
    if any(not part or len(part) > 63 for part in name.split(".")):
        return "between dots stand 1 to 63 characters"
    if name.startswith("goog") or "google" in name:
        return "names with google in them are reserved"
    return ""


def check(context: Context) -> Iterator[Finding]:
    """Yield findings about the names of objects, containers, volumes, ports and labels."""
    seen = set[str]()
    for item in context.objects:
        where = place(item)
        if where in seen:
            yield Finding("name", where, "two objects of this kind and name", "remove one")
        seen.add(where)
        yield from _check_object(item)
    for group in context.groups:
        yield from _check_group(group)
    for pod in context.pods:
        yield from _check_labels(pod.labels, pod.annotations, pod.at("metadata"))
        yield from _check_pod(pod)


def _check_object(item: Object) -> Iterator[Finding]:
    metadata, where = item["metadata"], f"{place(item)} metadata"
    name, kind = name_of(item), item["kind"]
    if kind in ("LeaderWorkerSet", "Service"):
        if not _DNS_1035.fullmatch(name) or len(name) > _LABEL_LENGTH:
            yield Finding(
                "name",
                f"{where}.name",
                f"{name!r} is no DNS label of at most 63 characters",
                "use lower-case letters, digits and dashes, a letter first",
            )
    elif kind in _MAX_NAMES and len(name) > _MAX_NAMES[kind]:
        message = f"{len(name)} characters leave no room for what is added to the names of pods"
        yield Finding("name", f"{where}.name", message, f"use at most {_MAX_NAMES[kind]}")
    elif not is_subdomain(name) and not (kind in _PATH_NAMES and _PATH_NAME.fullmatch(name)):
        yield Finding("name", f"{where}.name", f"{name!r} is no DNS name", "use a-z, 0-9 and -")
    yield from _check_labels(metadata.get("labels") or {}, metadata.get("annotations") or {}, where)


def _check_group(group: Group) -> Iterator[Finding]:
    name = name_of(group.owner)
    if len(name) > MAX_LWS_NAME:
        yield Finding(
            "name",
            f"{place(group.owner)} metadata.name",
            f"{len(name)} characters leave no room for what LWS adds to the names of pods",
            f"use at most {MAX_LWS_NAME}",
        )


def _check_labels(labels: dict[str, str], annotations: dict[str, str], where: str) -> Iterator[Finding]:
    for kind, pairs in (("labels", labels), ("annotations", annotations)):
        for key, value in pairs.items():
            prefix, slash, name = key.rpartition("/")
            if not _QUALIFIED.fullmatch(name) or (slash and not is_subdomain(prefix)):
                yield Finding("name", f"{where}.{kind}", f"{key!r} is no key of {kind}", "use prefix/name")
            if kind == "labels" and value and not _QUALIFIED.fullmatch(value):
                yield Finding(
                    "name",
                    f"{where}.labels[{key}]",
                    f"{value!r} is no label value",
                    "use at most 63 letters, digits, dashes, underscores and dots",
                )


def _check_pod(pod: Pod) -> Iterator[Finding]:
    containers = pod.containers
    yield from _check_list(pod, "containers", (c.name for c in containers))
    volumes = pod.spec.get("volumes") or []
    yield from _check_list(pod, "volumes", (volume["name"] for volume in volumes))
    for container in containers:
        yield from _check_container(container)
    for volume in volumes:
        source = volume.get("csi") or {}
        if source.get("driver") == GCS_FUSE:
            bucket = (source.get("volumeAttributes") or {}).get("bucketName", "")
            problem = bucket_problem(bucket)
            if problem:
                where = pod.at(f"spec.volumes[{volume['name']}]")
                yield Finding("name", where, f"{bucket!r} is no bucket name", problem)


def _check_list(pod: Pod, kind: str, given: Iterable[str]) -> Iterator[Finding]:
    seen = set[str]()
    for name in given:
        where = pod.at(f"spec.{kind}[{name}]")
        if not _LABEL_1123.fullmatch(name) or len(name) > _LABEL_LENGTH:
            yield Finding("name", where, f"{name!r} is no DNS label", "use a-z, 0-9 and -")
        if name in seen:
            yield Finding("name", where, "stands twice", "give each its own name")
        seen.add(name)


def _check_container(container: Container) -> Iterator[Finding]:
    seen = set[str]()
    for item in container.body.get("env") or []:
        name, where = item["name"], f"{container.where}.env[{item['name']}]"
        if not _ENVIRONMENT.fullmatch(name):
            yield Finding("name", where, "no shell can set this name", "use A-Z, 0-9 and _")
        if name in seen:
            yield Finding("name", where, "stands twice, the last one wins", "keep one")
        if "value" in item and "valueFrom" in item:
            yield Finding("name", where, "has both value and valueFrom", "keep one")
        seen.add(name)
    for port in container.body.get("ports") or []:
        name = port.get("name", "http")
        if not _PORT.fullmatch(name) or len(name) > 15:
            yield Finding(
                "name",
                f"{container.where}.ports",
                f"{name!r} is no port name",
                "use at most 15 of a-z, 0-9 and -",
            )
