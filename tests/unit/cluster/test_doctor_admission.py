"""Doctor on what may refuse the pods: LimitRanges, quotas, webhooks, and the API server's own word."""

from __future__ import annotations

import copy
import json
import shlex
from typing import Any

import pytest

from tests.helpers import fixes
from tests.unit.cluster.doctor import (
    Examine,
    ResultsOf,
    Serve,
    a_range,
    a_target,
    lists,
)

# ------------------------------------------------------------------ LimitRanges


@pytest.mark.parametrize(
    ("kind", "bounds", "why"),
    [
        ("Container", {"max": {"memory": "2Ti"}, "default": {"memory": "2Ti"}}, ""),
        ("Container", {"max": {"cpu": "200"}, "default": {"cpu": "200"}}, ""),
        ("Container", {"max": {"memory": "500Gi"}, "default": {"memory": "500Gi"}},
         "container vllm may have no more than 500.0 GiB memory, and has 1124.0 GiB"),
        ("Container", {"max": {"nvidia.com/gpu": "4"}, "default": {"nvidia.com/gpu": "4"}},
         "container vllm may have no more than 4 nvidia.com/gpu, and has 8"),
        ("Container", {"default": {"cpu": "500m"}, "defaultRequest": {"cpu": "500m"}},
         "its default limit of 0.5 cpu is less than the 96 that container vllm requests"),
        ("Container", {"max": {"cpu": "64"}, "default": {"cpu": "64"}},
         "container vllm may have no more than 64 cpu, and has 96"),
        ("Container", {"min": {"memory": "8Gi"}, "defaultRequest": {"memory": "8Gi"}},
         "container tcpxo-daemon may have no less than 8.0 GiB memory, and has 4.0 GiB"),
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
    result = examined("limit-range", a_target(), api)
    if not why:
        wanted = "warn" if "cpu" in bounds.get("default", {}) else "pass"
        assert (result.status, "throttled NCCL threads" in result.why) == (wanted, wanted == "warn")
        return
    assert result.status == "fail"
    assert result.why.startswith("LimitRange tight: ")
    assert why in result.why
    allowed = patched(a_range(kind, "tight", **bounds), result.fix)
    assert (
        examined("limit-range", a_target(), f"http://{serve(lists(limitranges=[allowed]))}").status != "fail"
    )


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
    bound = a_range("Pod", "bound", max={"cpu": "150"})
    results = results_of("limit-range", a_target(), f"http://{serve(lists(limitranges=[gives, bound]))}")
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
        ("count/pods", 2, "a3mega/deepseek-r1-671b"),
        ("count/services", 2, "a3mega/deepseek-r1-671b"),
        ("services", 2, "a3mega/deepseek-r1-671b"),
        ("count/configmaps", 1, "a3mega/deepseek-r1-671b"),
        ("count/secrets", 1, "a3mega/deepseek-r1-671b"),  # Helm's record
        ("count/serviceaccounts", 1, "a3mega/deepseek-r1-671b"),
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
    quota = {"metadata": {"name": "tight"}, "status": {"hard": {"limits.cpu": "300"}, "used": {}}}
    ranges = [a_range(default={"cpu": "200"}, defaultRequest={"cpu": "1"})]
    api = f"http://{serve(lists(resourcequotas=[quota], limitranges=ranges))}"
    result = examined("quota", a_target(), api)
    assert "allows 300 limits.cpu, 0 are used and 800 are needed" in result.why
    memory = [a_range(default={"memory": "2Ti"})]
    silent = examined(
        "quota", a_target(), f"http://{serve(lists(resourcequotas=[quota], limitranges=memory))}"
    )
    assert "counts limits.cpu: pods that do not state them are refused" in silent.why
