"""LeaderWorkerSet: the API, the controller, and its webhooks."""

from __future__ import annotations

import re

from manyhost.cluster.connection import Forbidden, Object, Refused, path_of
from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed, warned
from manyhost.cluster.target import LWS

_MANIFESTS = "https://github.com/kubernetes-sigs/lws/releases/download/v0.10.0/manifests.yaml"
_OLDEST = (0, 7)  # size may be changed, and LWS_WORKER_INDEX is set (since v0.6): LWS release notes


@check("lws-api", "Does the cluster know LeaderWorkerSets?", cheap=True)
def lws_api(sight: Sight) -> Finding:
    """The version that the chart uses must be served."""
    found = sight.connection.find(f"/apis/{LWS[0]}")
    kinds = {item["kind"] for item in (found or {}).get("resources", [])}
    if "LeaderWorkerSet" not in kinds:
        return failed(f"the cluster does not serve LeaderWorkerSet {LWS[0]}", _install(sight))
    return passed(f"{LWS[0]} is served")


@check(
    "lws-controller",
    "Does the LeaderWorkerSet controller run, in a version that is new enough?",
    needs=("api", "lws-api"),
)
def lws_controller(sight: Sight) -> Finding:
    """The Deployment of the official manifests and of the official chart."""
    found = [
        item
        for item in sight.list("apps/v1", "deployments", labels="control-plane=controller-manager")
        if item["metadata"]["name"].startswith("lws")
    ]
    if not found:
        return warned(
            "no Deployment of the controller is to be seen; its webhook tells more",
            sight.commands.kubectl("get", "deployments", "--all-namespaces", namespace="")
            + " may show it under another name",
        )
    item = found[0]
    name, namespace = item["metadata"]["name"], item["metadata"]["namespace"]
    if not (item.get("status") or {}).get("availableReplicas"):
        return failed(
            f"{namespace}/{name} is not available: no pod of a group would be made",
            _start(sight, item),
        )
    image = item["spec"]["template"]["spec"]["containers"][0]["image"]
    match = re.search(r":v(\d+)\.(\d+)\.", image)
    if match and (int(match[1]), int(match[2])) < _OLDEST:
        return failed(
            f"the controller is {image}: v{_OLDEST[0]}.{_OLDEST[1]} or newer is needed", _install(sight)
        )
    return passed(f"{namespace}/{name} runs {image.rsplit('/', 1)[-1]}")


@check("lws-webhook", "Does its webhook answer?", needs=("api", "namespace", "lws-api", "lws-controller"))
def lws_webhook(sight: Sight) -> Finding:
    """A rehearsed LeaderWorkerSet: only the webhook fills in networkConfig."""
    namespace = sight.target.namespace
    container = {"name": "c", "image": "none.invalid/none:0"}
    body = {
        "apiVersion": LWS[0],
        "kind": "LeaderWorkerSet",
        "metadata": {"name": "manyhost-doctor", "namespace": namespace},
        "spec": {
            "leaderWorkerTemplate": {"size": 2, "workerTemplate": {"spec": {"containers": [container]}}}
        },
    }
    try:
        answer = sight.connection.create(path_of(*LWS, namespace), body, dry_run=True)
    except Forbidden:
        return warned("you may not rehearse a LeaderWorkerSet in this namespace")
    except Refused as error:
        if error.status == 409:
            return passed("it answers")
        return failed(
            f"it does not take a minimal LeaderWorkerSet: {error.message}",
            "see whether its controller runs: "
            + sight.commands.kubectl("get", "pods,endpointslices", namespace="lws-system"),
        )
    if not answer["spec"].get("networkConfig"):
        return failed(
            "no webhook of it is registered: pods would not get their leader's address", _install(sight)
        )
    return passed("it answers")


def _install(sight: Sight) -> str:
    apply = sight.commands.kubectl("apply", "--server-side", "-f", _MANIFESTS, namespace="")
    return f"whoever runs the cluster installs it: {apply}"


def _start(sight: Sight, item: Object) -> str:
    """What to do about a controller that does not run."""
    name, namespace = item["metadata"]["name"], item["metadata"]["namespace"]
    if item["spec"].get("replicas") == 0:
        scale = sight.commands.kubectl("scale", f"deployment/{name}", "--replicas", "1", namespace=namespace)
        return f"somebody has scaled it to 0; unless that is on purpose: {scale}"
    return sight.commands.kubectl("describe", "deployment", name, namespace=namespace) + " says why"
