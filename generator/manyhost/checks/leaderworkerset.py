"""Our schema of LeaderWorkerSet, closed, and the rules that its webhook applies.

Fields and rules as of LWS v0.10.0 (kubernetes-sigs/lws, api/leaderworkerset/v1 and
pkg/webhooks/leaderworkerset_webhook.go), less the deprecated restart policy `Default`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from manyhost.checks.closed import MAX_INT32, closed, integer
from manyhost.checks.finding import Finding
from manyhost.checks.objects import Context, Object, place

API = "leaderworkerset.x-k8s.io/v1"
KIND = "LeaderWorkerSet"

_MAX_REPLICAS = 1_000_000

_COUNT_OR_PERCENT = {
    "oneOf": [integer(0), {"type": "string", "pattern": "^(100|[1-9]?[0-9])%$"}],
}
_POD_TEMPLATE = {"$ref": "#/$defs/core.v1.PodTemplateSpec"}

SCHEMA: dict[str, Any] = closed(
    {
        "apiVersion": {"const": API},
        "kind": {"const": KIND},
        "metadata": {"$ref": "#/$defs/meta.v1.ObjectMeta"},
        "spec": closed(
            {
                "replicas": integer(0, _MAX_REPLICAS),
                "startupPolicy": {"enum": ["LeaderCreated", "LeaderReady"]},
                "rolloutStrategy": closed(
                    {
                        "type": {"const": "RollingUpdate"},
                        "rollingUpdateConfiguration": closed(
                            {
                                "maxUnavailable": _COUNT_OR_PERCENT,
                                "maxSurge": _COUNT_OR_PERCENT,
                                "partition": integer(0),
                            }
                        ),
                    },
                    "type",
                ),
                "networkConfig": closed(
                    {"subdomainPolicy": {"enum": ["Shared", "UniquePerReplica"]}},
                    "subdomainPolicy",
                ),
                "leaderWorkerTemplate": closed(
                    {
                        "leaderTemplate": _POD_TEMPLATE,
                        "workerTemplate": _POD_TEMPLATE,
                        "size": integer(1),
                        "restartPolicy": {
                            "enum": [
                                "None",
                                "RecreateGroupOnPodRestart",
                                "RecreateGroupAfterStart",
                            ]
                        },
                        "subGroupPolicy": closed(
                            {
                                "subGroupSize": integer(1),
                                "subGroupPolicyType": {"enum": ["LeaderWorker", "LeaderExcluded"]},
                            }
                        ),
                        "volumeClaimTemplates": {
                            "type": "array",
                            "items": {"$ref": "#/$defs/core.v1.PersistentVolumeClaim"},
                        },
                        "persistentVolumeClaimRetentionPolicy": closed(
                            {
                                "whenDeleted": {"enum": ["Retain", "Delete"]},
                                "whenScaled": {"enum": ["Retain", "Delete"]},
                            }
                        ),
                    },
                    "workerTemplate",
                ),
            },
            "leaderWorkerTemplate",
        ),
    },
    "apiVersion",
    "kind",
    "metadata",
    "spec",
)

_SUBGROUP_EXCLUSIVE = "leaderworkerset.sigs.k8s.io/subgroup-exclusive-topology"


def check(context: Context) -> Iterator[Finding]:
    """Yield what the LWS webhook would refuse although the fields are well formed."""
    for item in context.of_kind(KIND):
        yield from _check_rollout(item)
        yield from _check_size(item)


def _check_rollout(item: Object) -> Iterator[Finding]:
    spec = item["spec"]
    rollout = spec.get("rolloutStrategy", {}).get("rollingUpdateConfiguration", {})
    stopped = all(
        str(rollout.get(key, default)).rstrip("%") == "0"
        for key, default in (("maxUnavailable", 1), ("maxSurge", 0))
    )
    if stopped and spec.get("replicas", 1) > 0:
        yield Finding(
            "lws",
            f"{place(item)} spec.rolloutStrategy.rollingUpdateConfiguration",
            "maxUnavailable and maxSurge are both 0: no group could ever be replaced",
            "set one of them to 1",
        )


def _check_size(item: Object) -> Iterator[Finding]:
    spec = item["spec"]
    template = spec["leaderWorkerTemplate"]
    size, policy = template.get("size", 1), template.get("subGroupPolicy")
    where = f"{place(item)} spec.leaderWorkerTemplate"
    if spec.get("replicas", 1) * size > MAX_INT32:
        yield Finding("lws", where, f"replicas x size is over {MAX_INT32}", "use fewer replicas or hosts")
    if policy is None:
        if _SUBGROUP_EXCLUSIVE in (item["metadata"].get("annotations") or {}):
            yield Finding(
                "lws",
                f"{place(item)} metadata.annotations",
                f"{_SUBGROUP_EXCLUSIVE} needs a subGroupPolicy",
                "remove the annotation",
            )
        return
    sub = policy.get("subGroupSize", size)
    excluded = policy.get("subGroupPolicyType") == "LeaderExcluded"
    divides = (size - 1) % sub == 0 or (not excluded and size % sub == 0)
    if sub > size or not divides:
        yield Finding(
            "lws",
            f"{where}.subGroupPolicy",
            f"subGroupSize {sub} does not divide a group of {size}",
            f"use a divisor of {size - 1 if excluded else size}",
        )
