"""ResourceQuotas of the namespace: do they leave room for all groups, and do they concern them at all?"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from manyhost.cluster import control
from manyhost.cluster.connection import Missing, Object
from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed
from manyhost.cluster.doctor.hosts import Amounts, limits_of, requests_of
from manyhost.cluster.doctor.limits import filled, ranges_of
from manyhost.cluster.quantity import parse, show, whole
from manyhost.cluster.target import LWS, Target, kind_of, size_of

Spec = dict[str, Any]


@check("quota", "Does the namespace's quota allow the groups?", needs=("api", "namespace"))
def quota(sight: Sight) -> Finding | list[Finding]:
    """Every ResourceQuota against what the pods that it counts request."""
    target = sight.target
    quotas = sight.list("v1", "resourcequotas", target.namespace)
    if not quotas:
        return passed("the namespace has no quota")
    wanted = sum(count for _, count in target.pods) - len(target.timed)
    share = len(own_pods(sight)) / max(1, wanted)  # an upgrade reuses what the release has now
    objects = objects_of(target)
    findings: list[Finding] = []
    counted = 0
    for item in quotas:
        pods = _counted(sight, item)
        scoped = bool(_scopes(item))
        if scoped and not pods:
            continue
        counted += 1
        name = item["metadata"]["name"]
        needed = _pods_need(pods)
        reused = {key: share * amount for key, amount in needed.items()}
        if not scoped:
            for amounts, more in ((needed, objects), (reused, _there(sight, objects))):
                amounts |= {key: amounts.get(key, 0.0) + amount for key, amount in more.items()}
        status = item.get("status") or {}
        hard, used = status.get("hard") or item["spec"].get("hard") or {}, status.get("used") or {}
        silent = sorted(key for key in hard if _unstated(pods, key))
        if silent:
            findings.append(
                failed(
                    f"quota {name} counts {', '.join(silent)}: pods that do not "
                    "state them are refused, and these do not",
                    f"ask whoever set it to give namespace {target.namespace} defaults with a LimitRange "
                    "(https://kubernetes.io/docs/concepts/policy/limit-range)",
                )
            )
        for key, limit in hard.items():
            amount = needed.get(key, 0.0)
            resource = key.removeprefix("requests.").removeprefix("limits.")
            taken = max(0.0, parse(used.get(key, "0")) - reused.get(key, 0.0))
            if amount and taken + amount > parse(limit):
                findings.append(
                    failed(
                        f"quota {name} allows {show(resource, parse(limit))} {key}, "
                        f"{show(resource, taken)} are used and {show(resource, amount)} are needed",
                        f"free something, or ask whoever set it: {_raise(sight, name, key, taken + amount)}",
                    )
                )
    if counted == 0:
        return passed("no quota of the namespace counts such pods")
    return findings or passed("1 quota leaves room" if counted == 1 else f"{counted} quotas leave room")


def _raise(sight: Sight, name: str, key: str, amount: float) -> str:
    """The command that lets a quota allow so much."""
    resource = key.removeprefix("requests.").removeprefix("limits.")
    patch = json.dumps({"spec": {"hard": {key: whole(resource, amount)}}}, separators=(",", ":"))
    return sight.commands.kubectl("patch", "quota", name, "--type", "merge", "-p", patch)


def _scopes(item: Object) -> list[Object]:
    """The conditions of a quota, all of which a pod must meet to be counted."""
    spec = item.get("spec") or {}
    plain = [{"scopeName": name, "operator": "Exists"} for name in spec.get("scopes") or ()]
    return [*plain, *((spec.get("scopeSelector") or {}).get("matchExpressions") or ())]


def _counted(sight: Sight, item: Object) -> list[tuple[Spec, int]]:
    """The pod specs that a quota counts, and how many pods of each there will be."""
    ranges = ranges_of(sight)
    found = [(filled(spec, ranges), count) for spec, count in sight.target.pods]
    conditions = _scopes(item)
    return [(spec, count) for spec, count in found if all(_meets(sight, spec, one) for one in conditions)]


def _meets(sight: Sight, spec: Spec, condition: Object) -> bool:
    """Whether a pod meets one condition of a quota (kubernetes.io, "Resource Quotas", quota scopes).

    Scopes of what is no pod, and ones that Kubernetes may get later, meet none.
    """
    name = condition["scopeName"]
    if name == "PriorityClass":
        return _has_class(_priority_class(sight, spec), condition)
    if name == "CrossNamespacePodAffinity":
        return _looks_elsewhere(spec)
    if name in {"BestEffort", "NotBestEffort"}:
        return _best_effort(spec) is (name == "BestEffort")
    ends = spec.get("activeDeadlineSeconds") is not None
    return (name == "Terminating" and ends) or (name == "NotTerminating" and not ends)


def _best_effort(spec: Spec) -> bool:
    """Whether no container requests CPU or memory; GPUs do not count for that."""
    containers = [*spec["containers"], *(spec.get("initContainers") or [])]
    stated = {
        name
        for container in containers
        for part in ("requests", "limits")
        for name, amount in ((container.get("resources") or {}).get(part) or {}).items()
        if parse(amount)
    }
    return not stated & {"cpu", "memory"}


def _looks_elsewhere(spec: Spec) -> bool:
    affinity = spec.get("affinity") or {}
    for kind in ("podAffinity", "podAntiAffinity"):
        rules = affinity.get(kind) or {}
        terms = list(rules.get("requiredDuringSchedulingIgnoredDuringExecution") or ())
        preferred = rules.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        terms += [item["podAffinityTerm"] for item in preferred]
        if any(term.get("namespaces") or term.get("namespaceSelector") is not None for term in terms):
            return True
    return False


def _priority_class(sight: Sight, spec: Spec) -> str:
    """The pod's priority class: its own, or else the cluster's default, which admission writes into it."""
    own = str(spec.get("priorityClassName") or "")
    if own:
        return own
    known = sight.list("scheduling.k8s.io/v1", "priorityclasses")
    return next((str(item["metadata"]["name"]) for item in known if item.get("globalDefault")), "")


def _has_class(name: str, condition: Object) -> bool:
    """Match as label selectors do: NotIn takes a pod without a class too."""
    values = condition.get("values") or ()
    match condition["operator"]:
        case "In":
            return name in values
        case "NotIn":
            return name not in values
        case "Exists":
            return bool(name)
    return not name  # DoesNotExist


def _unstated(pods: list[tuple[Spec, int]], key: str) -> bool:
    """Whether a quota's key is one that every container must state, and one of ours does not.

    The rule holds for CPU and memory alone (kubernetes.io, "Resource Quotas", requests and limits).
    """
    part, _, name = key.rpartition(".")
    if name not in {"cpu", "memory"} or part not in {"", "requests", "limits"}:
        return False
    for spec, _ in pods:
        for container in [*spec["containers"], *(spec.get("initContainers") or [])]:
            resources = container.get("resources") or {}
            stated = dict(resources.get("limits") or {})  # a limit is the request too where there is none
            if part != "limits":
                stated |= resources.get("requests") or {}
            if name not in stated:
                return True
    return False


def own_pods(sight: Sight) -> list[Object]:
    """Return the pods that the release has now."""
    labels = sight.target.place.selector
    return sight.list("v1", "pods", sight.target.namespace, labels=labels, metadata=True)


def _there(sight: Sight, objects: Amounts) -> Amounts:
    """Which of the objects beside pods are there already; Helm makes a record for each revision."""
    target = sight.target
    try:
        there = sight.list(*LWS, target.namespace, labels=target.place.selector, metadata=True)
    except Missing:
        there = []
    if not there:
        return {}
    return {key: amount - key.endswith("secrets") for key, amount in objects.items()}


def _pods_need(pods: list[tuple[Spec, int]]) -> Amounts:
    """What these pods request, under the names that quotas use."""
    total: Amounts = {}
    for spec, count in pods:
        amounts = {"pods": 1.0, "count/pods": 1.0}
        for name, amount in requests_of(spec).items():
            amounts[name] = amounts[f"requests.{name}"] = amount
        amounts |= {f"limits.{name}": amount for name, amount in limits_of(spec).items()}
        for name, amount in amounts.items():
            total[name] = total.get(name, 0.0) + amount * count
    return total


def objects_of(target: Target) -> Amounts:
    """Return how many objects beside running pods a release is, under the names that quotas use.

    Those of the chart, Helm's record of them, the key of the control channel, and what controllers make of a
    LeaderWorkerSet (kubernetes-sigs/lws, pkg/controllers): a headless Service, a StatefulSet of the leaders
    and one of each group's workers, a ControllerRevision of the set and of each StatefulSet; endpoints of
    each Service; a claim of each template; a ReplicaSet of a Deployment; the Jobs of a CronJob, with the pods
    of those that it keeps.
    """
    made: Counter[tuple[str, str]] = Counter({("", "secrets"): 1 + control.needed(target)})
    for item in target.objects:
        version, plural = kind_of(item)
        made[version.rpartition("/")[0], plural] += 1
        if item["kind"] == "Deployment":
            made["apps", "replicasets"] += 1
    for item, groups in target.sets:
        sets = 1 + groups * (size_of(item) > 1)
        made["", "services"] += 1
        made["apps", "statefulsets"] += sets
        made["apps", "controllerrevisions"] += 1 + sets
        pod = item["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]
        templates = [one for one in pod.get("resourceClaims") or () if one.get("resourceClaimTemplateName")]
        made["resource.k8s.io", "resourceclaims"] += groups * size_of(item) * len(templates)
    for timed, _ in target.timed:
        # Without a word Kubernetes keeps these (kubernetes.io, "CronJob", jobs history limits).
        kept = timed.get("successfulJobsHistoryLimit", 3) + timed.get("failedJobsHistoryLimit", 1)
        made["batch", "jobs"] += 1 + kept
        made["", "pods"] += kept
    made["", "endpoints"] = made["discovery.k8s.io", "endpointslices"] = made["", "services"]
    total: Amounts = {}
    for (group, plural), count in made.items():
        total[f"count/{plural}.{group}" if group else f"count/{plural}"] = float(count)
        if not group and plural != "pods":
            total[plural] = float(count)  # as older quotas call it; their pods are those that have not ended
    return total
