"""The API server, permissions, versions, the namespace and its queue."""

from __future__ import annotations

import contextlib
import re

from manyhost.catalog.chart import KINDS
from manyhost.checks.allowance import LEVELS
from manyhost.checks.objects import Context
from manyhost.checks.pod_security import level as level_of
from manyhost.checks.pod_security import violations
from manyhost.cluster import gke
from manyhost.cluster.connection import Forbidden, Missing, Object, Refused, path_of
from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed, skipped, warned
from manyhost.cluster.teardown import MADE
from manyhost.cluster.threads import pool
from manyhost.commands import both

# Native sidecars are on by default since it: kubernetes.io, "Sidecar Containers".
_OLDEST = (1, 29)
_SHOWN = 3  # departures from a Pod Security level named in a message
_REVIEW = path_of("authorization.k8s.io/v1", "selfsubjectaccessreviews")


@check("api", "Does the Kubernetes API answer, with these credentials?", needs=(), cheap=True)
def api(sight: Sight) -> Finding:
    """One request that every authenticated user may make."""
    try:
        version = _version(sight)
        sight.connection.create(_REVIEW, _review("get", "", "pods", sight.target.namespace))
    except Forbidden as error:  # nothing else could be looked at: that is no warning
        return failed(error.message, error.fix)
    return passed(f"Kubernetes {version} answers as context {sight.connection.context}")


@check("permissions", "May you do what deploy, status, logs, chat and teardown do?", cheap=True)
def permissions(sight: Sight) -> Finding:
    """SelfSubjectAccessReviews; one for everything first, which answers for administrators."""
    namespace = sight.target.namespace
    if _allowed(sight, ("*", "*", "*", namespace)):
        return passed("everything in the namespace is allowed")
    wanted = []
    for item in {item["kind"] for item in sight.target.objects}:
        version, plural = KINDS[item]
        group = version.split("/")[0] if "/" in version else ""
        wanted += [(verb, group, plural, namespace) for verb in ("get", "list", "create", "patch", "delete")]
    wanted += [
        (verb, "", "secrets", namespace) for verb in ("get", "list", "create", "update", "delete")
    ]  # Helm's record
    wanted += [
        ("get", "", "pods", namespace),
        ("list", "", "pods", namespace),
        ("get", "", "pods/log", namespace),
        ("create", "", "pods/portforward", namespace),
        ("list", "", "events", namespace),
        ("delete", "apps", "statefulsets", namespace),  # what teardown hastens and waits for
        *(("list", version.rpartition("/")[0], plural, namespace) for version, plural in MADE.values()),
    ]
    with pool(6) as threads:
        answers = list(threads.map(lambda item: _allowed(sight, item), wanted))
    lacking = [
        (verb, f"{plural}.{group}" if group else plural)
        for (verb, group, plural, _), yes in zip(wanted, answers, strict=True)
        if not yes
    ]
    if lacking:
        denied = [" ".join(item) for item in lacking]
        shown = ", ".join(sorted(denied)[:6]) + (f" and {len(denied) - 6} more" if len(denied) > 6 else "")
        return failed(
            f"you may not, in namespace {namespace}: {shown}",
            f"ask an administrator for {_grant(sight, lacking)}",
        )
    return passed(f"all {len(wanted)} permissions are there")


def _grant(sight: Sight, lacking: list[tuple[str, str]]) -> str:
    """The command that gives this user what they lack in the namespace."""
    verbs, resources = (",".join(sorted(set(part))) for part in zip(*lacking, strict=True))
    path = path_of("authentication.k8s.io/v1", "selfsubjectreviews")
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        user = str(sight.connection.create(path, body)["status"]["userInfo"]["username"])
    except Refused:
        user = "USER"  # Kubernetes before 1.28 does not tell people who they are
    kubectl = sight.commands.kubectl
    return both(
        kubectl("create", "role", "manyhost", f"--verb={verbs}", f"--resource={resources}"),
        kubectl("create", "rolebinding", "manyhost", "--role", "manyhost", "--user", user),
    )


@check("kubernetes-version", "Is Kubernetes new enough?")
def kubernetes_version(sight: Sight) -> Finding:
    """Native sidecars are the floor."""
    version = _version(sight)
    match = re.match(r"v(\d+)\.(\d+)", version)
    if not match:
        return warned(f"version {version!r} is not understood")
    if (int(match[1]), int(match[2])) < _OLDEST:
        return failed(
            f"Kubernetes {version} is older than {_OLDEST[0]}.{_OLDEST[1]}: it has no native sidecars",
            f"upgrade it, on GKE: {gke.clusters('upgrade', *sight.gke, '--master')}",
        )
    return passed(f"Kubernetes {version}")


@check("namespace", "Does the namespace exist?", cheap=True)
def namespace(sight: Sight) -> Finding:
    """Existence, and that it is there to stay."""
    name = sight.target.namespace
    found = sight.namespace(name)
    if found is None:
        return failed(
            f"namespace {name} does not exist",
            sight.commands.kubectl("create", "namespace", name, namespace=""),
        )
    if (found.get("status") or {}).get("phase") == "Terminating":
        return failed(
            f"namespace {name} is being deleted", "wait until it has gone, or use another --namespace"
        )
    return passed(f"namespace {name} exists")


@check(
    "pod-security",
    "Does the namespace's Pod Security level admit the pods?",
    needs=("api", "namespace"),
    cheap=True,
)
def pod_security(sight: Sight) -> Finding:
    """The level that the namespace's label enforces against that of the pods."""
    name = sight.target.namespace
    found = sight.namespace(name) or {"metadata": {}}
    enforced = (found["metadata"].get("labels") or {}).get("pod-security.kubernetes.io/enforce", "privileged")
    # What the pods are, not what their environment would allow them.
    pods = Context(sight.target.objects).pods
    level = max((level_of(pod) for pod in pods), key=LEVELS.index, default="restricted")
    if enforced in LEVELS and LEVELS.index(level) > LEVELS.index(enforced):
        needs = list(dict.fromkeys(what for pod in pods for what in violations(pod)))
        own = f"{sight.target.release}-{level}"
        shown = ", ".join(needs[:_SHOWN]) + (
            f" and {len(needs) - _SHOWN} more" if len(needs) > _SHOWN else ""
        )
        return failed(
            f"namespace {name} enforces the Pod Security level {enforced}; "
            f"the pods of {sight.target.recipe} need {level}{f' for {shown}' if shown else ''}",
            f"use a namespace of their own: {_make(sight, own, level)}, and then "
            f"--namespace {own}; labelling {name} would allow it to all its pods",
        )
    return passed(f"namespace {name} admits {level} pods")


def _make(sight: Sight, name: str, level: str) -> str:
    """The command that makes a namespace for pods of a level."""
    label = f"pod-security.kubernetes.io/enforce={level}"
    return both(
        sight.commands.kubectl("create", "namespace", name, namespace=""),
        sight.commands.kubectl("label", "namespace", name, label, namespace=""),
    )


@check("queue", "Does the Kueue queue exist?", needs=("api", "namespace"))
def queue(sight: Sight) -> Finding:
    """Only when the values name one."""
    name = str(sight.target.effective.get("queue") or "")
    if not name:
        return skipped("no queue is set")
    known = _queues(sight)
    if known is None:
        return failed(
            f"the cluster does not serve Kueue's LocalQueue: nothing would queue the pods in {name}",
            "install Kueue (https://kueue.sigs.k8s.io/docs/installation), or leave queue empty",
        )
    names = sorted(item["metadata"]["name"] for item in known)
    if name not in names:
        there = ", ".join(names) or "none"
        return failed(
            f"namespace {sight.target.namespace} has no LocalQueue {name}; it has {there}",
            "set queue to one that it has, or leave it empty; "
            + sight.commands.kubectl("get", "localqueues", "--all-namespaces", namespace="")
            + " shows all",
        )
    return passed(f"LocalQueue {name} exists")


def _queues(sight: Sight) -> list[Object] | None:
    """The LocalQueues of the namespace; None when the cluster has no such type."""
    for version in ("v1beta1", "v1beta2"):  # which of them is served depends on Kueue's version
        with contextlib.suppress(Missing):
            return sight.list(
                f"kueue.x-k8s.io/{version}", "localqueues", sight.target.namespace, metadata=True
            )
    return None


def _version(sight: Sight) -> str:
    return str(sight.once("version", lambda: sight.connection.get("/version"))["gitVersion"])


def _review(verb: str, group: str, plural: str, namespace: str) -> Object:
    resource, _, part = plural.partition("/")
    attributes = {
        "verb": verb,
        "group": group,
        "resource": resource,
        "subresource": part,
        "namespace": namespace,
    }
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }


def _allowed(sight: Sight, item: tuple[str, str, str, str]) -> bool:
    answer = sight.connection.create(_REVIEW, _review(*item))
    return bool((answer.get("status") or {}).get("allowed"))
