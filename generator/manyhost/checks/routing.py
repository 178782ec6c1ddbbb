"""A Gateway reaches exactly the leaders of the groups that answer, on the port of their API.

An InferencePool is what a Service is elsewhere (Gateway API Inference Extension, api/v1): its labels select
pods, and its HTTPRoute and the policies of GKE name it.
"""

from __future__ import annotations

from collections.abc import Iterator

from manyhost.checks.finding import Finding
from manyhost.checks.objects import Context, Group, Object, name_of, place

_ROLE = "manyhost.dev/role"


def check(context: Context) -> Iterator[Finding]:
    """Yield a finding for each pod that a pool misses or should not reach, and each name that is nobody's."""
    for pool in context.of_kind("InferencePool"):
        yield from _check_members(pool, context)
        yield from _check_ports(pool, context)
    pools = context.names("InferencePool")
    for route in context.of_kind("HTTPRoute"):
        for index, rule in enumerate(route["spec"].get("rules") or []):
            for target in rule.get("backendRefs") or []:
                at = f"{place(route)} spec.rules[{index}].backendRefs"
                yield from _check_name(at, target.get("kind", "Service"), target["name"], pools)
    for kind in ("GCPBackendPolicy", "HealthCheckPolicy"):
        for policy in context.of_kind(kind):
            target = policy["spec"]["targetRef"]
            yield from _check_name(f"{place(policy)} spec.targetRef", target["kind"], target["name"], pools)


def answers(group: Group) -> bool:
    """Return whether clients talk to a group: those that only prefill hand their work on."""
    return group.leader.labels.get(_ROLE) != "prefill"


def _check_members(pool: Object, context: Context) -> Iterator[Finding]:
    where = f"{place(pool)} spec.selector"
    own = name_of(pool) in context.names("LeaderWorkerSet")  # the release's; others are of extraObjects
    wanted: dict[str, str] = pool["spec"]["selector"]["matchLabels"]

    def selects(labels: dict[str, str]) -> bool:
        return wanted.items() <= labels.items()

    for group in context.groups:
        name = name_of(group.owner)
        if own and answers(group) and not selects(group.labels(leader=True)):
            yield _finding(where, f"misses the leaders of {name}", "select what the Service selects")
        if not answers(group) and selects(group.labels(leader=True)):
            yield _finding(where, f"selects {name}, which only prefills", "select what the Service selects")
        if group.size > 1 and selects(group.labels(leader=False)):
            yield _finding(where, f"selects the workers of {name}, which serve nothing", "select leaders")
    for pod in context.alone:
        if own and selects(pod.labels):
            yield _finding(where, f"selects {place(pod.owner)}, which is no group", "select leaders")


def _check_ports(pool: Object, context: Context) -> Iterator[Finding]:
    if name_of(pool) not in context.names("LeaderWorkerSet"):
        return
    open_ports = {
        port["containerPort"]
        for group in context.groups
        if answers(group)
        for container in group.leader.containers
        for port in container.body.get("ports") or []
        if port.get("name") == "http"
    }
    for index, port in enumerate(pool["spec"]["targetPorts"]):
        if open_ports and port["number"] not in open_ports:
            at = f"{place(pool)} spec.targetPorts[{index}]"
            known = " or ".join(map(str, sorted(open_ports)))
            yield _finding(at, f"{port['number']} is not the port of the API", f"use {known}")


def _check_name(where: str, kind: str, name: str, pools: set[str]) -> Iterator[Finding]:
    if kind == "InferencePool" and pools and name not in pools:
        yield _finding(where, f"InferencePool {name} is not among the manifests", "correct the name")


def _finding(where: str, message: str, fix: str) -> Finding:
    return Finding("routing", where, message, fix)
