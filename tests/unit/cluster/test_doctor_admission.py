"""Doctor on what may refuse the pods: LimitRanges, quotas, webhooks, and the API server's own word."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers import fixes
from tests.unit.cluster.doctor import (
    Examine,
    Reply,
    ResultsOf,
    Serve,
    a_range,
    a_target,
    lists,
    with_pods,
)

# Its engine requests processors and limits none.
UNLIMITED = "kubernetes/qwen3-8b"

# ------------------------------------------------------------------ LimitRanges


@pytest.mark.parametrize(
    ("kind", "bounds", "why"),
    [
        ("Container", {"max": {"memory": "2Ti"}, "default": {"memory": "2Ti"}}, ""),
        ("Container", {"max": {"cpu": "200"}, "default": {"cpu": "200"}}, "throttled NCCL threads"),
        ("Container", {"max": {"ephemeral-storage": "1Gi"}, "default": {"ephemeral-storage": "1Gi"}},
         "limits the engine to 1.0 GiB ephemeral-storage: its pod is evicted when"),
        ("Container", {"max": {"memory": "500Gi"}, "default": {"memory": "500Gi"}},
         "container vllm may have no more than 500.0 GiB memory, and has 1124.0 GiB"),
        ("Container", {"max": {"nvidia.com/gpu": "4"}, "default": {"nvidia.com/gpu": "4"}},
         "container vllm may have no more than 4 nvidia.com/gpu, and has 8"),
        ("Container", {"default": {"cpu": "500m"}, "defaultRequest": {"cpu": "500m"}},
         "its default limit of 0.5 cpu is less than the 32 that container vllm requests"),
        ("Container", {"max": {"cpu": "64"}, "default": {"cpu": "64"}},
         "container vllm may have no more than 64 cpu, and has 208"),
        ("Container", {"min": {"memory": "8Gi"}, "defaultRequest": {"memory": "8Gi"}},
         "container tcpxo-daemon may have no less than 8.0 GiB memory, and has 4.0 GiB"),
        ("Container", {"min": {"memory": "80Mi"}, "defaultRequest": {"memory": "80Mi"}},
         "container janitor may have no less than 80 MiB memory, and has 64 MiB"),
        ("Container", {"min": {"ephemeral-storage": "1Gi"}},
         "container vllm must request at least 1.0 GiB ephemeral-storage, and requests none"),
        ("Container", {"maxLimitRequestRatio": {"memory": "1"}, "default": {"memory": "4Gi"}},
         "container vllm may limit memory to 1 times its request, and does to 1.87 times"),
        ("Container", {"maxLimitRequestRatio": {"cpu": "2"}},
         "container vllm must state request and limit of cpu, for their ratio"),
        ("Pod", {"max": {"memory": "500Gi"}}, "a pod may have no more than 500.0 GiB memory, and has"),
        ("Pod", {"max": {"cpu": "500"}}, "a pod must limit its cpu to 500, and has no limit"),
        ("Pod", {"min": {"cpu": "200"}}, "a pod may have no less than 200 cpu, and has 98"),
        ("PersistentVolumeClaim", {"max": {"storage": "1Gi"}}, ""),
    ],
)  # fmt: skip
def test_limit_range(kind: str, bounds: dict[str, Any], why: str, serve: Serve, examined: Examine) -> None:
    """One finding of one LimitRange, whatever it is about; the API has completed its defaults already."""
    api = f"http://{serve(lists(limitranges=[a_range(kind, 'tight', **bounds)]))}"
    unlimited = any(text in why for text in ("default", "throttled", "must state", "no limit"))
    target = a_target(recipe=UNLIMITED) if unlimited else a_target()
    result = examined("limit-range", target, api)
    if not why or "the engine" in why or "throttled" in why:
        assert result.status == ("warn" if why else "pass")
        assert why in result.why
        return
    assert result.status == "fail"
    assert result.why.startswith("LimitRange tight: ")
    assert why in result.why
    allowed = patched(a_range(kind, "tight", **bounds), result.fix)
    assert examined("limit-range", target, f"http://{serve(lists(limitranges=[allowed]))}").status != "fail"


def patched(item: dict[str, Any], fix: str) -> dict[str, Any]:
    """A LimitRange after the command of a fix."""
    (command,) = fixes.commands(fix)
    words = shlex.split(command)
    assert words[:6] == ["kubectl", "patch", "limitrange", "tight", "--type", "json"]
    changed = copy.deepcopy(item)
    for change in json.loads(words[words.index("-p") + 1]):
        *way, last = (part.replace("~1", "/") for part in change["path"].split("/")[1:])
        place = changed
        for part in way:
            place = place[int(part) if part.isdigit() else part]
        if change["op"] == "remove":
            del place[last]
        else:
            assert last in place
            place[last] = change["value"]
    return changed


def test_limit_ranges_add_up(serve: Serve, results_of: ResultsOf) -> None:
    """What one fills in, another one's bounds are held against; each is blamed for what is its own."""
    gives = a_range("Container", "gives", default={"cpu": "100"}, defaultRequest={"cpu": "100"})
    bound = a_range("Pod", "bound", max={"cpu": "50"})
    results = results_of(
        "limit-range", a_target(recipe=UNLIMITED), f"http://{serve(lists(limitranges=[gives, bound]))}"
    )
    told = {result.why.partition(":")[0].partition(" limits")[0]: result.status for result in results}
    assert told == {"LimitRange gives": "warn", "LimitRange bound": "fail"}


# ------------------------------------------------------------------ quotas of objects


@pytest.mark.parametrize(
    ("key", "least", "recipe"),
    [
        ("count/leaderworkersets.leaderworkerset.x-k8s.io", 1, "a3mega/deepseek-r1-671b"),
        ("count/leaderworkersets.leaderworkerset.x-k8s.io", 2, "local/tiny-r1-disaggregated"),
        ("count/statefulsets.apps", 2, "a3mega/deepseek-r1-671b"),  # leaders, and the group's workers
        ("count/statefulsets.apps", 1, "a3ultra/deepseek-r1-671b"),  # groups of one have no workers
        ("pods", 3, "a3mega/deepseek-r1-671b"),  # the janitor's too
        ("count/pods", 5, "a3mega/deepseek-r1-671b"),  # and those of its Jobs that are kept
        ("count/jobs.batch", 3, "a3mega/deepseek-r1-671b"),
        ("count/pods", 2, "local/tiny-r1"),
        ("count/pods", 4, "local/tiny-r1-disaggregated"),  # the routers too
        ("count/deployments.apps", 1, "local/tiny-r1-disaggregated"),
        ("count/replicasets.apps", 1, "local/tiny-r1-disaggregated"),
        ("count/services", 2, "a3mega/deepseek-r1-671b"),
        ("services", 2, "a3mega/deepseek-r1-671b"),
        ("count/configmaps", 1, "a3mega/deepseek-r1-671b"),
        ("count/secrets", 2, "a3mega/deepseek-r1-671b"),  # Helm's record, and the key of the control channel
        ("count/secrets", 1, "a3ultra/deepseek-r1-671b"),  # which groups of one host have not
        ("count/serviceaccounts", 2, "a3mega/deepseek-r1-671b"),
        ("count/resourceclaims.resource.k8s.io", 4, "a4x/deepseek-r1-671b"),
    ],
)
def test_quota_of_objects(key: str, least: int, recipe: str, serve: Serve, examined: Examine) -> None:
    for hard, status in ((least, "pass"), (least - 1, "fail")):
        quota = {"metadata": {"name": "tight"}, "status": {"hard": {key: str(hard)}, "used": {key: "0"}}}
        api = f"http://{serve(lists(resourcequotas=[quota]))}"
        result = examined("quota", a_target(recipe=recipe), api)
        assert result.status == status, result
        if status == "fail":
            assert result.why == f"quota tight allows {hard} {key}, 0 are used and {least} are needed"
            assert (
                f'kubectl patch quota tight --type merge -p \'{{"spec":{{"hard":{{"{key}":"{least}"'
                in result.fix
            )


def test_an_upgrade_reuses_its_objects(serve: Serve, examined: Examine) -> None:
    """All but Helm's record, of which each revision has one of its own."""
    there = [{"metadata": {"name": "deepseek-r1-671b"}}]

    def quota(key: str, amount: str) -> list[dict[str, Any]]:
        return [{"metadata": {"name": "tight"}, "status": {"hard": {key: amount}, "used": {key: amount}}}]

    for key, amount, status in (("count/statefulsets.apps", "2", "pass"), ("count/secrets", "1", "fail")):
        api = f"http://{serve(lists(resourcequotas=quota(key, amount), leaderworkersets=there))}"
        assert examined("quota", a_target(), api).status == status


def test_a_quota_counts_what_a_limit_range_fills_in(serve: Serve, examined: Examine) -> None:
    quota = {"metadata": {"name": "tight"}, "status": {"hard": {"limits.cpu": "100"}, "used": {}}}
    ranges = [a_range(default={"cpu": "200"}, defaultRequest={"cpu": "1"})]
    api = f"http://{serve(lists(resourcequotas=[quota], limitranges=ranges))}"
    result = examined("quota", a_target(recipe=UNLIMITED), api)
    assert "allows 100 limits.cpu, 0 are used and 200.2 are needed" in result.why
    memory = [a_range(default={"memory": "2Ti"})]
    silent = examined(
        "quota",
        a_target(recipe=UNLIMITED),
        f"http://{serve(lists(resourcequotas=[quota], limitranges=memory))}",
    )
    assert "counts limits.cpu: pods that do not state them are refused" in silent.why


# ------------------------------------------------------------------ webhooks and the rehearsal

POLICY = "pods.policy.example"
RULE = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
SERVICE = {"service": {"namespace": "policy", "name": "hooks"}}


def a_hook(**fields: Any) -> dict[str, Any]:
    hook = {"name": POLICY, "failurePolicy": "Fail", "rules": [RULE], "clientConfig": SERVICE, **fields}
    return {"metadata": {"name": "policy"}, "webhooks": [hook]}


def cluster(
    *refusals: tuple[int, str], service: bool = True, **objects: list[Any]
) -> Callable[[str, str, Any], Reply]:
    """An API server with these objects that answers every rehearsed pod with the refusals in turn."""
    read = lists(**objects)
    left = list(refusals)

    def answer(method: str, path: str, headers: Any) -> Reply:
        if path.endswith("/namespaces/default"):
            return 200, {}, {"metadata": {"name": "default", "labels": {"team": "ours"}}}
        if path.endswith("/namespaces/policy/services/hooks"):
            return (
                (200, {}, {"metadata": {"name": "hooks"}}) if service else (404, {}, {"message": "not found"})
            )
        if method == "POST" and "/pods?" in path:
            assert "dryRun=All" in path
            if left:
                status, message = left.pop(0)
                return status, {}, {"message": message}
            return 201, {}, {}
        return read(method, path, headers)

    return answer


@pytest.mark.parametrize("kind", ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"])
def test_a_pod_webhook_without_endpoints(kind: str, serve: Serve, examined: Examine) -> None:
    """Named once, although the rehearsal stumbles over it too."""
    calling = (
        f'Internal error occurred: failed calling webhook "{POLICY}": failed to call webhook: no endpoints'
    )
    api = cluster((500, calling), **{kind: [a_hook()]})
    result = examined("admission", a_target(), f"http://{serve(api)}")
    assert result.status == "fail"
    assert f"webhook {POLICY} must be asked, and Service policy/hooks has no endpoint" in result.why
    assert result.fix.startswith("`kubectl describe service hooks --namespace policy ")


def test_a_pod_webhook_without_a_service(serve: Serve, examined: Examine) -> None:
    """What is left of something that was removed: its own configuration tells whose it was."""
    api = cluster(service=False, mutatingwebhookconfigurations=[a_hook()])
    result = examined("admission", a_target(), f"http://{serve(api)}")
    assert f"webhook {POLICY} must be asked, and Service policy/hooks does not exist" in result.why
    assert "`kubectl describe mutatingwebhookconfigurations policy " in result.fix


def test_webhooks_of_one_service_are_one_finding(serve: Serve, examined: Examine) -> None:
    """What is down is the Service, however many of its webhooks are asked."""
    both = {"mutatingwebhookconfigurations": [a_hook(name="m.example")]}
    api = cluster(**both, validatingwebhookconfigurations=[a_hook(name="v.example")])
    result = examined("admission", a_target(), f"http://{serve(api)}")
    assert "webhook m.example, v.example must be asked" in result.why


@pytest.mark.parametrize(
    "fields",
    [
        {"failurePolicy": "Ignore"},
        {"namespaceSelector": {"matchLabels": {"team": "theirs"}}},
        {"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}},
        {"objectSelector": {"matchLabels": {"app": "theirs"}}},
        {"rules": [{**RULE, "operations": ["DELETE"]}]},
        {"rules": [{**RULE, "resources": ["pods/exec"]}]},
        {"rules": [{**RULE, "apiGroups": ["apps"]}]},
        {"rules": [{**RULE, "scope": "Cluster"}]},
        {"matchConditions": [{"name": "some", "expression": "false"}]},
        {"clientConfig": {"url": "https://elsewhere.example"}},
    ],
)
def test_webhooks_that_are_not_asked_about_the_pods(
    fields: dict[str, Any], serve: Serve, examined: Examine
) -> None:
    api = cluster(validatingwebhookconfigurations=[a_hook(**fields)])
    assert examined("admission", a_target(), f"http://{serve(api)}").status == "pass"


@pytest.mark.parametrize(
    ("conditions", "status"), [({"ready": True}, "pass"), ({}, "pass"), ({"ready": False}, "fail")]
)
def test_endpoints_of_a_webhook(
    conditions: dict[str, bool], status: str, serve: Serve, examined: Examine
) -> None:
    slices = [{"metadata": {"name": "s"}, "endpoints": [{"conditions": conditions}]}]
    api = cluster(validatingwebhookconfigurations=[a_hook()], endpointslices=slices)
    assert examined("admission", a_target(), f"http://{serve(api)}").status == status


def test_the_webhooks_of_leaderworkersets_have_their_own_check(serve: Serve, examined: Examine) -> None:
    """Also where an older version of them is asked about every pod."""
    own = a_hook(name="mpod.kb.io")
    own["webhooks"].append(
        {
            "name": "m.kb.io",
            "rules": [{**RULE, "apiGroups": ["leaderworkerset.x-k8s.io"]}],
            "clientConfig": SERVICE,
        }
    )
    calling = 'Internal error occurred: failed calling webhook "mpod.kb.io": refused'
    api = cluster((500, calling), mutatingwebhookconfigurations=[own])
    assert examined("admission", a_target(), f"http://{serve(api)}").status == "pass"


@pytest.mark.parametrize(
    ("status", "message", "fix"),
    [
        (500, f'Internal error occurred: failed calling webhook "{POLICY}": certificate has expired',
         "kubectl describe validatingwebhookconfigurations policy "),
        (403, f'admission webhook "{POLICY}" denied the request: no hostPath here',
         "kubectl describe validatingwebhookconfigurations policy "),
        (403, 'pods "manyhost-doctor" is forbidden: no PriorityClass with name high was found',
         "set chart.priorityClassName to one of those that `kubectl get priorityclasses "),
        (422, "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
         "kubectl describe validatingadmissionpolicies "),
        (403, 'pods "x" is forbidden: exceeded quota: q, requested: pods=1', "kubectl describe name"),
        (403, 'pods "x" is forbidden: maximum cpu usage per Pod is 1', "kubectl describe name"),
    ],
)  # fmt: skip
def test_what_the_api_server_says(
    status: int, message: str, fix: str, serve: Serve, examined: Examine
) -> None:
    """In its own words, once for all pods; also of what the checks beside it have not seen."""
    serving = [{"metadata": {"name": "s"}, "endpoints": [{"conditions": {"ready": True}}]}]
    hooks = {"validatingwebhookconfigurations": [a_hook()], "endpointslices": serving}
    api = cluster((status, message), (status, message), **hooks)
    result = examined("admission", a_target(), f"http://{serve(api)}")
    assert (result.status, result.why) == ("fail", f"the API server would not take the pods: {message}")
    assert fix in result.fix


@pytest.mark.parametrize(
    ("message", "objects"),
    [
        ('pods "x" is forbidden: exceeded quota: tight',
         {"resourcequotas": [{"metadata": {"name": "tight"}, "status": {"hard": {"pods": "0"}}}]}),
        ('pods "x" is forbidden: exceeded quota: tight', {"pods": [{"metadata": {"name": "own"}}]}),
        ('pods "x" is forbidden: maximum memory usage per Container is 1Gi, but limit is 1124Gi',
         {"limitranges": [a_range(max={"memory": "1Gi"}, default={"memory": "1Gi"})]}),
        ('Pod "x" is invalid: spec.containers[0].resources.requests: Invalid value: "96": must be less than '
         "or equal to cpu limit of 500m", {"limitranges": [a_range(default={"cpu": "500m"})]}),
    ],
)  # fmt: skip
def test_what_another_check_says_is_not_said_twice(
    message: str, objects: dict[str, list[Any]], serve: Serve, examined: Examine
) -> None:
    api = cluster((403, message), (403, message), **objects)
    target = a_target(recipe=UNLIMITED) if "cpu limit" in message else a_target()
    assert examined("admission", target, f"http://{serve(api)}").status == "pass"


@pytest.mark.parametrize(
    ("status", "message", "wanted"),
    [
        (403, 'pods is forbidden: User "u" cannot create resource "pods" in API group ""', "skip"),
        (409, 'pods "manyhost-doctor" already exists', "pass"),
        (400, f'admission webhook "{POLICY}" does not support dry run', "pass"),
    ],
)
def test_pods_that_cannot_be_rehearsed(
    status: int, message: str, wanted: str, serve: Serve, examined: Examine
) -> None:
    api = cluster((status, message), (status, message))
    assert examined("admission", a_target(), f"http://{serve(api)}").status == wanted


def test_the_rehearsed_pods_are_the_groups(serve: Serve, examined: Examine) -> None:
    """A class of the pods that does not exist is named with the value that sets it."""
    message = 'pods "manyhost-doctor" is forbidden: no PriorityClass with name high was found'
    api = cluster((403, message))
    result = examined("admission", with_pods(priorityClassName="high"), f"http://{serve(api)}")
    assert "set chart.priorityClassName to one of those" in result.fix
