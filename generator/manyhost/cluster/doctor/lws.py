"""LeaderWorkerSet: the API, the controller, and its webhooks."""

from __future__ import annotations

import re

from manyhost.cluster.connection import Forbidden, Object, Refused, path_of
from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed, warned
from manyhost.cluster.target import LWS
from manyhost.commands import both

VERSION = "0.10.0"
MANIFESTS = f"https://github.com/kubernetes-sigs/lws/releases/download/v{VERSION}/manifests.yaml"
_CHART = "oci://registry.k8s.io/lws/charts/lws"
_OLDEST = (0, 7)  # size may be changed, and LWS_WORKER_INDEX is set (since v0.6): LWS release notes
_CRD = f"{LWS.plural}.{LWS.version.partition('/')[0]}"
_CRD_FILE = (
    f"https://raw.githubusercontent.com/kubernetes-sigs/lws/v{VERSION}/charts/lws/crds/"
    "leaderworkerset.x-k8s.io_leaderworkersets.yaml"
)


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
    found = _controllers(sight)
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
            f"the controller is {image}: v{_OLDEST[0]}.{_OLDEST[1]} or newer is needed", _upgrade(sight, item)
        )
    release, kept = _crd_owner(sight)
    if release and not kept:
        return warned(
            f"Helm release {release} has the CRD {_CRD} among its templates: its upgrade to v0.8.0 or newer "
            "would delete the CRD, and every group with it (kubernetes-sigs/lws#880)",
            f"whoever runs the cluster has Helm keep it: {_keep(sight)}",
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
        controllers = _controllers(sight)
        return failed(
            "no webhook of it is registered: pods would not get their leader's address",
            _upgrade(sight, controllers[0]) if controllers else _install(sight),
        )
    return passed("it answers")


def _install(sight: Sight) -> str:
    apply = sight.commands.kubectl("apply", "--server-side", "-f", MANIFESTS, namespace="")
    return f"whoever runs the cluster installs it: {apply}"


def _controllers(sight: Sight) -> list[Object]:
    """Deployments of the controller, as manifests and chart name and label them."""
    found = sight.list("apps/v1", "deployments", labels="control-plane=controller-manager")
    return [item for item in found if item["metadata"]["name"].startswith("lws")]


def _crd_owner(sight: Sight) -> tuple[str, bool]:
    """The Helm release that has made the CRD, if one has, and whether the CRD outlives it.

    Nothing is known to who may not read the CRD.
    """
    path = path_of("apiextensions.k8s.io/v1", "customresourcedefinitions", name=_CRD)
    try:
        found = sight.once("lws-crd", lambda: sight.connection.find(path, metadata=True)) or {}
    except Forbidden as error:
        if error.status == 401:
            raise
        return "", False
    annotations = (found.get("metadata") or {}).get("annotations") or {}
    kept = annotations.get("helm.sh/resource-policy") == "keep"
    return str(annotations.get("meta.helm.sh/release-name", "")), kept


def _keep(sight: Sight) -> str:
    """The annotation that keeps the CRD, and all LeaderWorkerSets, at Helm's upgrade from v0.7.0 or earlier.

    Charts up to it have the CRD among their templates, and later ones do not (kubernetes-sigs/lws#880).
    """
    words = ("annotate", "crd", _CRD, "helm.sh/resource-policy=keep", "--overwrite")
    return sight.commands.kubectl(*words, namespace="")


def _upgrade(sight: Sight, deployment: Object) -> str:
    """The upgrade that keeps the groups, for how the controller was installed.

    With Helm as lws.sigs.k8s.io says (Installation, "Upgrading from v0.7.0 or earlier"). With manifests the
    Deployment is made anew: v0.8.0 changed its selector, which nobody can change; groups run on meanwhile.
    """
    metadata = deployment["metadata"]
    namespace = metadata["namespace"]
    annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    owner, kept = _crd_owner(sight)
    apply = ("apply", "--server-side", "--force-conflicts", "-f")
    if owner or labels.get("app.kubernetes.io/managed-by") == "Helm":
        release = annotations.get("meta.helm.sh/release-name") or owner or "lws"
        helm = sight.commands._replace(namespace=namespace).helm
        upgrade = both(
            sight.commands.kubectl(*apply, _CRD_FILE, namespace=""),
            helm("upgrade", release, _CHART, "--version", VERSION, "--reset-then-reuse-values"),
        )
        upgrade = both(_keep(sight), upgrade) if owner and not kept else upgrade
    else:
        upgrade = both(
            sight.commands.kubectl("delete", "deployment", metadata["name"], namespace=namespace),
            sight.commands.kubectl(*apply, MANIFESTS, namespace=""),
        )
    return f"whoever runs the cluster upgrades it, when all groups may be made anew: {upgrade}"


def _start(sight: Sight, item: Object) -> str:
    """What to do about a controller that does not run."""
    name, namespace = item["metadata"]["name"], item["metadata"]["namespace"]
    if item["spec"].get("replicas") == 0:
        scale = sight.commands.kubectl("scale", f"deployment/{name}", "--replicas", "1", namespace=namespace)
        return f"somebody has scaled it to 0; unless that is on purpose: {scale}"
    return sight.commands.kubectl("describe", "deployment", name, namespace=namespace) + " says why"
