"""Everything that is referred to is there: volumes, config maps, accounts, ports, labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from manyhost.checks.finding import Finding
from manyhost.checks.objects import (
    LWS_INDEX,
    LWS_NAME,
    Container,
    Context,
    Object,
    Pod,
    control_secret,
    name_of,
    place,
)
from manyhost.errors import nearest

# Cloud Storage FUSE finds its cache volumes by name; no container mounts them.
_FUSE_VOLUMES = "gke-gcsfuse-"


def check(context: Context) -> Iterator[Finding]:
    """Yield a finding for each reference that leads nowhere."""
    for pod in context.pods:
        yield from _check_volumes(pod)
        yield from _check_pod_references(pod, context)
        for container in pod.containers:
            yield from _check_ports(container)
            yield from _check_files(container, pod, context)
    for service in context.of_kind("Service"):
        yield from _check_service(service, context)
    yield from _check_selectors(context)
    yield from _check_scaling(context)


def _check_volumes(pod: Pod) -> Iterator[Finding]:
    own = {volume["name"] for volume in pod.spec.get("volumes") or []}
    volumes, mounted = own | pod.claims, set[str]()
    for container in pod.containers:
        paths = Counter(m["mountPath"] for m in container.body.get("volumeMounts") or [])
        for path in sorted(path for path, count in paths.items() if count > 1):
            yield _finding(container.where, f"two volumes are mounted at {path}", "keep one")
        for field in ("volumeMounts", "volumeDevices"):
            for name in (mount["name"] for mount in container.body.get(field) or []):
                mounted.add(name)
                if name not in volumes:
                    where = f"{container.where}.{field}[{name}]"
                    fix = nearest(name, volumes, "add the volume")
                    yield _finding(where, f"the pod has no volume {name}", fix)
    for name in sorted(own - mounted):
        if not name.startswith(_FUSE_VOLUMES):
            yield _finding(pod.at(f"spec.volumes[{name}]"), "no container mounts it", "remove it")


def _check_pod_references(pod: Pod, context: Context) -> Iterator[Finding]:
    config_maps = context.names("ConfigMap")
    keys = {control_secret(name) for name in context.names("LeaderWorkerSet")}  # deploy makes them
    account = pod.spec.get("serviceAccountName", "default")
    if account != "default" and account not in context.names("ServiceAccount"):
        yield Finding(
            "reference",
            pod.at("spec.serviceAccountName"),
            f"service account {account} is not among the manifests",
            "it must exist in the cluster before",
            "warning",
        )
    for where, kind, name in _named(pod):
        known = config_maps if kind == "config map" else context.known_secrets | keys
        if name in known:
            continue
        if kind == "secret":  # never among manifests: it holds a credential
            message = f"secret {name} is not among the manifests"
            yield Finding("reference", where, message, "it must exist in the cluster before", "warning")
        else:
            fix = nearest(name, known, "" if known else "add one")
            yield _finding(where, f"{kind} {name} is not known", fix)


def _named(pod: Pod) -> Iterator[tuple[str, str, str]]:
    """Yield (place, kind, name) of each config map that a pod needs, and of each secret.

    An optional secret is named too: without it the pod starts, and fails later.
    """
    for where, kind, reference in _sources(pod):
        if reference is not None and not (kind == "config map" and reference.get("optional")):
            yield where, kind, reference.get("secretName") or reference.get("name", "")


def _sources(pod: Pod) -> Iterator[tuple[str, str, Object | None]]:
    for volume in pod.spec.get("volumes") or []:
        where = pod.at(f"spec.volumes[{volume['name']}]")
        for source in (volume, *((volume.get("projected") or {}).get("sources") or [])):
            yield where, "config map", source.get("configMap")
            yield where, "secret", source.get("secret")
    for container in pod.containers:
        for item in container.body.get("env") or []:
            where, source = f"{container.where}.env[{item['name']}]", item.get("valueFrom") or {}
            yield where, "config map", source.get("configMapKeyRef")
            yield where, "secret", source.get("secretKeyRef")
        for item in container.body.get("envFrom") or []:
            where = f"{container.where}.envFrom"
            yield where, "config map", item.get("configMapRef")
            yield where, "secret", item.get("secretRef")


def _probes(container: Container) -> Iterator[tuple[str, Object]]:
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        if name in container.body:
            yield name, container.body[name]


def _check_ports(container: Container) -> Iterator[Finding]:
    ports = {p["containerPort"] for p in container.body.get("ports") or []}
    names = {p.get("name") for p in container.body.get("ports") or []}
    told = container.value("MANYHOST_PORT")
    if told is not None and ports and told not in {str(port) for port in ports}:
        where = f"{container.where}.env[MANYHOST_PORT]"
        yield _finding(where, f"{told} is not a port of the container", f"use {min(ports)}")
    for name, probe in _probes(container):
        target = (probe.get("httpGet") or probe.get("tcpSocket") or probe.get("grpc") or {}).get("port")
        # A number needs no declaration; where some are declared, another is a slip.
        declared = target in ports or target in names or (isinstance(target, int) and not ports)
        if target is not None and not declared:
            where = f"{container.where}.{name}"
            yield _finding(where, f"port {target} is not a port of the container", "correct it")


def _check_files(container: Container, pod: Pod, context: Context) -> Iterator[Finding]:
    """Check that scripts which are run from a mounted config map are in it."""
    folders = _script_folders(container, pod, context)
    commands: list[tuple[str, list[str]]] = [("command", container.body.get("command") or [])]
    commands += [(name, (p.get("exec") or {}).get("command") or []) for name, p in _probes(container)]
    hooks = container.body.get("lifecycle") or {}
    commands += [(f"lifecycle.{n}", (h.get("exec") or {}).get("command") or []) for n, h in hooks.items()]
    for field, words in commands:
        for word in words:
            folder, _, name = word.rpartition("/")
            if folder in folders and name not in folders[folder]:
                fix = nearest(name, folders[folder], "add the script to the config map")
                yield _finding(f"{container.where}.{field}", f"{word} is not there", fix)


def _script_folders(container: Container, pod: Pod, context: Context) -> dict[str, set[str]]:
    """Return the files under each folder at which a config map of these manifests is mounted."""
    data = {name_of(item): set(item.get("data") or {}) for item in context.of_kind("ConfigMap")}
    sources = {
        volume["name"]: volume["configMap"].get("name")
        for volume in pod.spec.get("volumes") or []
        if "configMap" in volume and not volume["configMap"].get("items")
    }
    return {
        mount["mountPath"].rstrip("/"): data[sources[mount["name"]]]
        for mount in container.body.get("volumeMounts") or []
        if sources.get(mount["name"]) in data and "subPath" not in mount
    }


def _matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def _check_service(service: Object, context: Context) -> Iterator[Finding]:
    where, spec = place(service), service.get("spec") or {}
    selector = spec.get("selector") or {}
    if name_of(service) in context.names("LeaderWorkerSet"):
        fix = "add a suffix such as -svc"
        yield _finding(where, "LWS makes a headless Service of this name itself", fix)
    selected = [g.leader for g in context.groups if _matches(selector, g.labels(leader=True))]
    selected += [pod for pod in context.alone if _matches(selector, pod.labels)]
    if not context.groups and not selected:
        return  # what it selects is not among these manifests
    if not selector or not selected:
        yield _finding(
            f"{where} spec.selector",
            "selects no leader",
            f"use {LWS_NAME} and {LWS_INDEX}: '0'",
        )
        return
    if any(_matches(selector, g.labels(leader=False)) for g in context.groups):
        yield _finding(
            f"{where} spec.selector",
            "selects workers too, which serve nothing",
            f"add {LWS_INDEX}: '0'",
        )
    open_ports = {
        value
        for pod in selected
        for container in pod.containers
        for port in container.body.get("ports") or []
        for value in (port["containerPort"], port.get("name"))
    }
    for index, port in enumerate(spec.get("ports") or []):
        target = port.get("targetPort", port["port"])
        if target not in open_ports:
            at = f"{where} spec.ports[{index}]"
            yield _finding(at, f"targetPort {target} is not a port of what it selects", "correct it")


def _check_selectors(context: Context) -> Iterator[Finding]:
    for kind, field in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        for item in context.of_kind(kind):
            selector = (item.get("spec") or {}).get(field) or {}
            labels = selector.get("matchLabels") or {}
            pods = [g.labels(leader=leader) for g in context.groups for leader in (True, False)]
            pods += [pod.labels for pod in context.alone]
            if pods and not any(_matches(labels, pod) for pod in pods):
                yield _finding(f"{place(item)} spec.{field}", "selects no pod", "correct it")


def _check_scaling(context: Context) -> Iterator[Finding]:
    for item in context.of_kind("HorizontalPodAutoscaler"):
        target: Any = item["spec"]["scaleTargetRef"]
        known = [(o["apiVersion"], o["kind"], name_of(o)) for o in context.objects]
        if (target.get("apiVersion"), target["kind"], target["name"]) not in known:
            yield _finding(
                f"{place(item)} spec.scaleTargetRef",
                f"{target['kind']} {target['name']} is not among the manifests",
                "correct apiVersion, kind and name",
            )


def _finding(where: str, message: str, fix: str) -> Finding:
    return Finding("reference", where, message, fix)


def duplicate_keys(text: str) -> list[Finding]:
    """Return a finding for each key that stands twice in a mapping of a YAML text.

    Parsers keep the last one without a word; the API server refuses the document.
    """
    import yaml  # noqa: PLC0415 - used by `manyhost check` only

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: list[Finding] = []
    waiting = [node for node in yaml.compose_all(text, Loader=loader) if node is not None]
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            counts = Counter(key.value for key, _ in node.value if isinstance(key.value, str))
            line = node.start_mark.line + 1
            found += [
                Finding("duplicate-key", f"line {line}", f"key {key} stands twice", "keep one")
                for key, count in counts.items()
                if count > 1
            ]
            waiting.extend(value for _, value in node.value)
    return found
