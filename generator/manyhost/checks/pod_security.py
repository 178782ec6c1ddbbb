"""The Pod Security level of each pod, against what the environment allows with a reason.

Rules: kubernetes.io/docs/concepts/security/pod-security-standards.
"""

from __future__ import annotations

from collections.abc import Iterator

from manyhost.checks.allowance import LEVELS, Level
from manyhost.checks.finding import Finding
from manyhost.checks.objects import Container, Context, Object, Pod

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
_SELINUX_TYPES = frozenset({"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
_PROFILES = ("RuntimeDefault", "Localhost")
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"  # before the field appArmorProfile
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
    found += _context_violations(context)
    for key, value in pod.annotations.items():
        if key.startswith(_APPARMOR) and value != "runtime/default" and not value.startswith("localhost/"):
            found.append(f"AppArmor {value} in {key.removeprefix(_APPARMOR)}")
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
    for violation in _context_violations(context):
        yield f"{violation} in {container.name}"
    if context.get("procMount", "Default") != "Default":
        yield f"procMount {context['procMount']} in {container.name}"
    for port in container.body.get("ports") or []:
        # The API server fills in host ports of pods on the host network: one departure, not two.
        if port.get("hostPort"):
            yield f"hostPort {port['hostPort']} in {container.name}"
    for name, handler in _handlers(container):
        for action in ("httpGet", "tcpSocket"):
            host = (handler.get(action) or {}).get("host")
            if host:
                yield f"{name} of host {host} in {container.name}"


def _context_violations(context: Object) -> Iterator[str]:
    """Yield departures that a security context can have for the pod and for a container alike."""
    for name, key in (("seccomp", "seccompProfile"), ("AppArmor", "appArmorProfile")):
        profile = (context.get(key) or {}).get("type", "RuntimeDefault")
        if profile not in _PROFILES:
            yield f"{name} {profile}"
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type", "") not in _SELINUX_TYPES:
        yield f"SELinux type {selinux['type']}"
    for key in ("user", "role"):
        if selinux.get(key):
            yield f"SELinux {key} {selinux[key]}"
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield "Windows hostProcess"


def _handlers(container: Container) -> Iterator[tuple[str, Object]]:
    """Yield what the kubelet calls: probes and hooks, by name."""
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        yield name, container.body.get(name) or {}
    yield from (container.body.get("lifecycle") or {}).items()


def _is_restricted(pod: Pod) -> bool:
    """Return whether a pod that keeps the baseline is restricted as well."""
    common = pod.spec.get("securityContext") or {}
    # The standard wants these of the pod too, even where every container has its own.
    if common.get("runAsNonRoot") is False or common.get("runAsUser") == 0:
        return False
    for container in pod.containers:
        own = common | (container.body.get("securityContext") or {})
        capabilities = own.get("capabilities") or {}
        if (
            own.get("allowPrivilegeEscalation") is not False
            or own.get("runAsNonRoot") is not True
            or own.get("runAsUser") == 0
            or "ALL" not in (capabilities.get("drop") or [])
            or not set(capabilities.get("add") or []) <= {"NET_BIND_SERVICE"}
            or (own.get("seccompProfile") or {}).get("type") not in _PROFILES
        ):
            return False
    return all(not _RESTRICTED_VOLUMES.isdisjoint(volume) for volume in pod.spec.get("volumes") or [])


def level(pod: Pod) -> Level:
    """Return the level that a pod keeps."""
    return _level(pod, violations(pod))


def _level(pod: Pod, departures: list[str]) -> Level:
    if departures:
        return "privileged"
    return "restricted" if _is_restricted(pod) else "baseline"


def check(context: Context) -> Iterator[Finding]:
    """Yield each departure that the environment does not allow."""
    allowance = context.allowance
    if allowance is None:
        return
    weak: list[tuple[Pod, Level]] = []
    for pod in context.pods:
        departures = violations(pod)
        for violation in departures:
            if violation not in allowance.violations:
                yield Finding(
                    "pod-security",
                    pod.at("spec"),
                    f"{violation} is not allowed in this environment",
                    "remove it, or give a reason in the violations of its interconnect's file",
                )
        found = _level(pod, departures)
        if LEVELS.index(found) > LEVELS.index(allowance.level):
            weak.append((pod, found))
    if weak:
        pod, found = max(weak, key=lambda entry: LEVELS.index(entry[1]))
        yield Finding(
            "pod-security",
            pod.at("spec"),
            f"Pod Security level is {found}, the environment allows {allowance.level}",
            "tighten the securityContext, or change platform.pod_security in the environment's file",
        )
