"""What a container of a release does without, beyond Pod Security: each with a reason, or not at all.

The rules mean what checkov's checks of a pod mean (bridgecrewio/checkov, checkov/kubernetes), on every
container, those that start first included; reasons are in values/ under the key `exemptions`. Only pods of
groups and of their router are held to them: what stands in extraObjects is its owner's affair.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from manyhost.checks.finding import Finding
from manyhost.checks.objects import Container, Context, Object, Pod

_LOWEST_USER = 10_000  # below it, users of the host have the same number
_COMPONENT = "app.kubernetes.io/component"
_PROFILES = ("RuntimeDefault", "Localhost")


class Rule(msgspec.Struct, frozen=True):
    """One rule.

    Attributes:
        broken: What is said of whoever breaks it.
        checkov: The checks of checkov that mean it.
    """

    broken: str
    checkov: tuple[str, ...]


RULES = {
    "added-capabilities": Rule("has Linux capabilities added", ("CKV_K8S_25",)),
    "capabilities": Rule("keeps the capabilities that a runtime gives", ("CKV_K8S_28", "CKV_K8S_37")),
    "cpu-limit": Rule("has no limit of processors", ("CKV_K8S_11",)),
    "cpu-request": Rule("requests no processors", ("CKV_K8S_10",)),
    "default-namespace": Rule("is in the namespace default", ("CKV_K8S_21",)),
    "image-tag": Rule(
        "names its image by a tag, and does not pull it at each start", ("CKV_K8S_15", "CKV_K8S_43")
    ),
    "memory-limit": Rule("has no limit of memory", ("CKV_K8S_13",)),
    "memory-request": Rule("requests no memory", ("CKV_K8S_12",)),
    "network-policy": Rule("is reached by the whole cluster: no NetworkPolicy selects it", ("CKV2_K8S_6",)),
    "privilege-escalation": Rule("may gain privileges while it runs", ("CKV_K8S_20",)),
    "seccomp": Rule("has no seccomp profile", ("CKV_K8S_29", "CKV_K8S_31")),
    "secret-variable": Rule("has a Secret in an environment variable", ("CKV_K8S_35",)),
    "service-account-token": Rule("holds a token for the Kubernetes API", ("CKV_K8S_38",)),
    "user": Rule("runs as root or as a user that hosts have too", ("CKV_K8S_23", "CKV_K8S_40")),
    "writable-root": Rule("may write to its image's file system", ("CKV_K8S_22",)),
}


def check(context: Context) -> Iterator[Finding]:
    """Yield each rule that a group's pod breaks without a reason, and each reason for no rule."""
    exemptions = context.allowance.exemptions if context.allowance else None
    if exemptions is None:
        return
    for name in sorted(exemptions):
        if name.partition(" in ")[0] not in RULES:
            known = ", ".join(RULES)
            yield Finding("hardening", "exemptions", f"{name}: there is no such rule", f"one of {known}")
    for pod in own_pods(context):
        for name, where in departures(pod, context):
            if name not in exemptions:
                yield Finding(
                    "hardening",
                    where,
                    f"{RULES[name.partition(' in ')[0]].broken}, and no reason is given for {name!r}",
                    "tighten it, or give the reason under exemptions in the environment's file",
                )


def own_pods(context: Context) -> list[Pod]:
    """Return the pods of the groups and of their router."""
    pods = [pod for group in context.groups for pod in (group.leader, group.worker)]
    return pods + [pod for pod in context.alone if pod.labels.get(_COMPONENT) == "router"]


def departures(pod: Pod, context: Context) -> Iterator[tuple[str, str]]:
    """Yield (rule in container, place) of each rule that a pod breaks, of the pod itself first."""
    spec = pod.spec
    if spec.get("automountServiceAccountToken") is not False:
        yield "service-account-token", pod.at("spec.automountServiceAccountToken")
    if (pod.owner.get("metadata") or {}).get("namespace", "default") == "default":
        yield "default-namespace", pod.at("metadata")
    policies = [
        item["spec"]["podSelector"].get("matchLabels") or {} for item in context.of_kind("NetworkPolicy")
    ]
    if not any(labels.items() <= pod.labels.items() for labels in policies):
        yield "network-policy", pod.at("metadata.labels")
    common: Object = spec.get("securityContext") or {}
    for container in pod.containers:
        for rule in _broken(container, common | (container.body.get("securityContext") or {})):
            yield f"{rule} in {container.name}", container.where


def _broken(container: Container, own: Object) -> Iterator[str]:
    """Yield the rules that a container breaks; `own` is its security context over the pod's."""
    if not own.get("privileged"):  # whoever is has all of these: a departure that pod_security tells
        capabilities = own.get("capabilities") or {}
        if own.get("allowPrivilegeEscalation") is not False:
            yield "privilege-escalation"
        if "ALL" not in (capabilities.get("drop") or []):
            yield "capabilities"
        if capabilities.get("add"):
            yield "added-capabilities"
        if (own.get("seccompProfile") or {}).get("type") not in _PROFILES:
            yield "seccomp"
    if (own.get("runAsUser") or 0) < _LOWEST_USER:
        yield "user"
    if not own.get("readOnlyRootFilesystem"):
        yield "writable-root"
    resources = container.body.get("resources") or {}
    for part in ("request", "limit"):
        amounts = resources.get(f"{part}s") or {}
        yield from (f"{name}-{part}" for name in ("cpu", "memory") if name not in amounts)
    if "@" not in container.body["image"]:
        yield "image-tag"
    secrets = [
        item for item in container.body.get("env") or [] if "secretKeyRef" in (item.get("valueFrom") or {})
    ]
    secrets += [item for item in container.body.get("envFrom") or [] if "secretRef" in item]
    if secrets:
        yield "secret-variable"
