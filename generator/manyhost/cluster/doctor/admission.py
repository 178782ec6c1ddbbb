"""What stands between the API server and the pods: webhooks that are down, and a rehearsal of each pod."""

from __future__ import annotations

import re
from collections.abc import Iterator

from manyhost.cluster.connection import Forbidden, Object, Refused, path_of
from manyhost.cluster.doctor import access, limits, quota
from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed, skipped
from manyhost.cluster.doctor.fabric import INTERFACES
from manyhost.cluster.doctor.selectors import matches
from manyhost.cluster.target import LWS

_WEBHOOKS = "admissionregistration.k8s.io/v1"
_MUTATING, _VALIDATING = "mutatingwebhookconfigurations", "validatingwebhookconfigurations"
_NOBODY = "00000000-0000-0000-0000-000000000000"
_OWNER = {"apiVersion": "apps/v1", "kind": "StatefulSet", "uid": _NOBODY, "controller": True}
_CALLING = re.compile(r'failed calling webhook "([^"]+)"')
_DENIED = re.compile(r'admission webhook "([^"]+)" denied')
# Words of admission plug-ins (kubernetes/kubernetes, plugin/pkg/admission) that have a check of their own,
# and of the API's validation where a LimitRange has filled in too little.
_QUOTA = re.compile(r"exceeded quota|failed quota")
_SECURITY = re.compile(r"violates PodSecurity")
_LIMITS = re.compile(r"usage per (Container|Pod)|limit to request ratio|less than or equal to \S+ limit")


@check("admission", "Would the API server take the pods?", needs=("api", "namespace"))
def admission(sight: Sight) -> Finding | list[Finding]:
    """Webhooks that no pod gets past, from their configurations; then every pod, rehearsed."""
    down = _down(sight)
    findings = [_unanswered(sight, service, hooks) for service, hooks in down.items()]
    named = {hook for hooks in down.values() for hook in hooks} | _of_lws(sight)
    refusals = _refusals(sight)
    if refusals is None:
        return findings or skipped("you may not rehearse a pod in this namespace")
    for message in refusals:
        if _said_elsewhere(sight, message):
            continue
        match = _CALLING.search(message) or _DENIED.search(message)
        hook = match[1] if match else ""
        if hook in named:
            continue
        said = f"the API server would not take the pods: {message}"
        findings.append(failed(said, _cure(sight, message, hook)))
    return findings or passed("it would")


def _cure(sight: Sight, message: str, hook: str) -> str:
    """Where to look, and whom to ask: a rule of the cluster is somebody's."""
    kubectl = sight.commands.kubectl
    if hook:
        kind, name = next(
            ((kind, name) for kind, name, one in _hooks(sight) if one["name"] == hook), ("", "")
        )
        if kind == _MUTATING:
            look = kubectl("describe", "mutatingwebhookconfigurations", name, namespace="")
        elif kind:
            look = kubectl("describe", "validatingwebhookconfigurations", name, namespace="")
        else:
            look = kubectl(
                "get", "mutatingwebhookconfigurations,validatingwebhookconfigurations", namespace=""
            )
        return f"ask whoever runs {hook}: {look} tells where it is"
    if "PriorityClass" in message:
        classes = kubectl("get", "priorityclasses", namespace="")
        return f"set chart.priorityClassName to one of those that {classes} lists"
    if "RuntimeClass" in message:
        classes = kubectl("get", "runtimeclasses", namespace="")
        return f"set chart.runtimeClassName to one of those that {classes} lists"
    if "ValidatingAdmissionPolicy" in message:
        rules = kubectl("describe", "validatingadmissionpolicies", namespace="")
        return f"ask whoever made the policy: {rules} tells what it wants"
    look = kubectl("describe", "namespace", sight.target.namespace, namespace="")
    return f"ask whoever runs the cluster what it wants; {look} tells what holds here"


def _said_elsewhere(sight: Sight, message: str) -> bool:
    """Whether another check fails for this reason; an upgrade needs no quota beside that of its own pods."""
    try:
        if _QUOTA.search(message):
            return _fails(quota.quota(sight)) or bool(quota.own_pods(sight))
        if _SECURITY.search(message):
            return _fails(access.pod_security(sight))
        return bool(_LIMITS.search(message)) and _fails(limits.limit_range(sight))
    except Forbidden:
        return False


def _fails(found: Finding | list[Finding]) -> bool:
    return any(status == "fail" for status, _, _ in (found if isinstance(found, list) else [found]))


# ------------------------------------------------------------------ webhooks


def _down(sight: Sight) -> dict[tuple[str, str], list[str]]:
    """Webhooks that are asked about the pods, must answer and cannot: names by namespace and Service.

    Where conditions in CEL decide whether one is asked, only the rehearsal knows.
    """
    own, found = _of_lws(sight), dict[tuple[str, str], list[str]]()
    namespace = sight.namespace_labels(sight.target.namespace)
    pods = [pod["metadata"].get("labels") or {} for pod in _pods(sight)]
    for _, _, hook in _hooks(sight):
        service = (hook.get("clientConfig") or {}).get("service")
        if (
            service
            and hook["name"] not in own
            and hook.get("failurePolicy", "Fail") == "Fail"
            and not hook.get("matchConditions")
            and any(_concerns_pods(rule) for rule in hook.get("rules") or ())
            and matches(hook.get("namespaceSelector"), namespace)
            and any(matches(hook.get("objectSelector"), pod) for pod in pods)
            and not _answers(sight, service["namespace"], service["name"])
        ):
            found.setdefault((service["namespace"], service["name"]), []).append(hook["name"])
    return found


def _unanswered(sight: Sight, service: tuple[str, str], hooks: list[str]) -> Finding:
    namespace, name = service
    names = ", ".join(dict.fromkeys(hooks))
    if not _exists(sight, namespace, name):
        return failed(
            f"no pod can be made: webhook {names} must be asked, and Service {namespace}/{name} does not "
            "exist",
            _cure(sight, "", hooks[0]),
        )
    look = sight.commands.kubectl("describe", "service", name, namespace=namespace)
    return failed(
        f"no pod can be made: webhook {names} must be asked, and Service {namespace}/{name} has no endpoint "
        "that is ready",
        f"{look} shows which pods should answer; whoever runs them brings them back",
    )


def _hooks(sight: Sight) -> Iterator[tuple[str, str, Object]]:
    """Every webhook with the kind and the name of its configuration; none for who may not read them."""
    for plural in (_MUTATING, _VALIDATING):
        try:
            found = sight.list(_WEBHOOKS, plural)
        except Forbidden as error:
            if error.status == 401:
                raise
            return  # the rehearsal tells without them
        for item in found:
            for hook in item.get("webhooks") or ():
                yield plural, item["metadata"]["name"], hook


def _of_lws(sight: Sight) -> set[str]:
    """Names of the webhooks of LeaderWorkerSet, which have a check of their own."""
    group = LWS.version.partition("/")[0]
    own = {
        name
        for _, name, hook in _hooks(sight)
        if any(group in rule["apiGroups"] for rule in hook.get("rules") or ())
    }
    return {hook["name"] for _, name, hook in _hooks(sight) if name in own}


def _concerns_pods(rule: Object) -> bool:
    """Whether a rule takes the creation of pods in."""
    return (
        bool({"CREATE", "*"} & set(rule.get("operations") or ()))
        and bool({"", "*"} & set(rule.get("apiGroups") or ()))
        and bool({"v1", "*"} & set(rule.get("apiVersions") or ()))
        and bool({"pods", "*", "*/*"} & set(rule.get("resources") or ()))
        and rule.get("scope", "*") in ("*", "Namespaced")
    )


def _answers(sight: Sight, namespace: str, name: str) -> bool:
    """Whether a Service has an endpoint that is ready; what nobody says or may look at counts as one."""
    selector = f"kubernetes.io/service-name={name}"
    try:
        slices = sight.list("discovery.k8s.io/v1", "endpointslices", namespace, labels=selector)
    except Forbidden:
        return True
    return any(
        (endpoint.get("conditions") or {}).get("ready") is not False
        for item in slices
        for endpoint in item.get("endpoints") or ()
    )


def _exists(sight: Sight, namespace: str, name: str) -> bool:
    """Whether a Service is there; one that nobody may look at counts as there."""
    try:
        return sight.find("v1", "services", name, namespace) is not None
    except Forbidden:
        return True


# ------------------------------------------------------------------ the rehearsal


def _pods(sight: Sight) -> list[Object]:
    """The pods of all groups, each kind of them once, owned as a StatefulSet's are: some rules refuse others.

    Without the labels of the LeaderWorkerSet controller, whose webhook would ask for more, and without the
    networks: both have checks of their own. With the namespace's default ServiceAccount, since the release's
    own may not be there yet.
    """
    namespace, found = sight.target.namespace, list[Object]()
    for item, _ in sight.target.sets:
        for member in ("leaderTemplate", "workerTemplate"):
            template = item["spec"]["leaderWorkerTemplate"][member]
            metadata = {**template["metadata"], "name": "manyhost-doctor", "namespace": namespace}
            metadata["ownerReferences"] = [{**_OWNER, "name": item["metadata"]["name"]}]
            annotations = metadata.get("annotations") or {}
            metadata["annotations"] = {k: v for k, v in annotations.items() if k != INTERFACES}
            spec = {key: value for key, value in template["spec"].items() if key != "serviceAccountName"}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
            if pod not in found:
                found.append(pod)
    return found


def _refusals(sight: Sight) -> list[str] | None:
    """What the API server says against the pods, each sentence once; None when it may not be asked."""
    path = path_of("v1", "pods", sight.target.namespace)
    said: dict[str, None] = {}
    for pod in _pods(sight):
        try:
            sight.connection.create(path, pod, dry_run=True)
        except Forbidden as error:
            if error.status == 401:
                raise
            if 'cannot create resource "pods"' in error.message:
                return None
            said[error.message] = None
        except Refused as error:
            # A name that is taken is no refusal, and what cannot be rehearsed is none either.
            if error.status != 409 and "does not support dry run" not in error.message:
                said[error.message] = None
    return list(said)
