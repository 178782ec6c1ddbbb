"""The Pod Security level of each pod, against what the environment allows with a reason.

Rules: kubernetes.io/docs/concepts/security/pod-security-standards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from manyhost.checks.finding import Finding
from manyhost.checks.objects import Container, Context, Pod

Level = Literal["restricted", "baseline", "privileged"]
_ORDER: tuple[Level, ...] = ("restricted", "baseline", "privileged")

_BASELINE_CAPABILITIES = frozenset(
    {
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    }
)
_SAFE_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    }
)
_RESTRICTED_VOLUMES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)


class Allowance(msgspec.Struct, frozen=True):
    """What an environment allows its pods.

    Attributes:
        level: The weakest level that its pods may have.
        violations: Departures from the baseline, in the words of `violations()`.
    """

    level: Level
    violations: frozenset[str] = frozenset()


def violations(pod: Pod) -> list[str]:
    """Return the pod's departures from the Pod Security baseline, sorted."""
    spec = pod.spec
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    found += [
        f"hostPath volume {volume['name']}" for volume in spec.get("volumes") or [] if "hostPath" in volume
    ]
    context = spec.get("securityContext") or {}
    found += [
        f"sysctl {item['name']}" for item in context.get("sysctls") or [] if item["name"] not in _SAFE_SYSCTLS
    ]
    if (context.get("seccompProfile") or {}).get("type") == "Unconfined":
        found.append("seccomp Unconfined")
    for container in pod.containers:
        found += _container_violations(container)
    return sorted(found)


def _container_violations(container: Container) -> Iterator[str]:
    context = container.body.get("securityContext") or {}
    if context.get("privileged"):
        yield f"privileged container {container.name}"
    for capability in (context.get("capabilities") or {}).get("add") or []:
        if capability not in _BASELINE_CAPABILITIES:
            yield f"capability {capability} in {container.name}"
    if (context.get("seccompProfile") or {}).get("type") == "Unconfined":
        yield f"seccomp Unconfined in {container.name}"
    if context.get("procMount", "Default") != "Default":
        yield f"procMount {context['procMount']} in {container.name}"
    for port in container.body.get("ports") or []:
        # The API server fills in host ports of pods on the host network: one departure, not two.
        if port.get("hostPort"):
            yield f"hostPort {port['hostPort']} in {container.name}"


def _is_restricted(pod: Pod) -> bool:
    """Return whether a pod that keeps the baseline is restricted as well."""
    common = pod.spec.get("securityContext") or {}
    for container in pod.containers:
        own = common | (container.body.get("securityContext") or {})
        capabilities = own.get("capabilities") or {}
        if (
            own.get("allowPrivilegeEscalation") is not False
            or own.get("runAsNonRoot") is not True
            or own.get("runAsUser") == 0
            or "ALL" not in (capabilities.get("drop") or [])
            or not set(capabilities.get("add") or []) <= {"NET_BIND_SERVICE"}
            or (own.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost")
        ):
            return False
    return all(not _RESTRICTED_VOLUMES.isdisjoint(volume) for volume in pod.spec.get("volumes") or [])


def level(pods: Iterable[Pod]) -> Level:
    """Return the level that all of these pods keep."""
    weakest = 0
    for pod in pods:
        weakest = max(weakest, 2 if violations(pod) else 0 if _is_restricted(pod) else 1)
    return _ORDER[weakest]


def check(context: Context) -> Iterator[Finding]:
    """Yield each departure that the environment does not allow."""
    allowance = context.allowance
    if allowance is None:
        return
    for pod in context.pods:
        for violation in violations(pod):
            if violation not in allowance.violations:
                yield Finding(
                    "pod-security",
                    f"{pod.where}.spec",
                    f"{violation} is not allowed in this environment",
                    "remove it, or list it with a reason in the environment's file",
                )
    found = level(context.pods)
    if _ORDER.index(found) > _ORDER.index(allowance.level) and context.pods:
        yield Finding(
            "pod-security",
            context.pods[0].where,
            f"Pod Security level is {found}, the environment allows {allowance.level}",
            "tighten the securityContext, or change security.level in the environment's file",
        )
