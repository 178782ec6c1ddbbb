"""The autoscaler's metric: who serves it, and who reads it from the leaders."""

from __future__ import annotations

from manyhost.catalog.chart import KINDS
from manyhost.cluster import gke
from manyhost.cluster.connection import Missing
from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed, skipped
from manyhost.cluster.doctor.selectors import matches, member_labels

_API = "custom.metrics.k8s.io"
_GOOGLE = "prometheus.googleapis.com|"  # how metrics of Managed Service for Prometheus are called
_PODS = KINDS["PodMonitoring"]
# "Horizontal Pod autoscaling (HPA)" of Google Cloud Managed Service for Prometheus names this file of master.
_ADAPTER = (
    "https://raw.githubusercontent.com/GoogleCloudPlatform/k8s-stackdriver/"
    "3862cca9eb3e79c31724b86942999b4af79d03e6/custom-metrics-stackdriver-adapter/deploy/production/"
    "adapter_new_resource_model.yaml"
)


@check("autoscaling", "Does the autoscaler learn its metric?", needs=("api", "namespace"))
def autoscaling(sight: Sight) -> Finding:
    """Only with autoscaling: the API of custom metrics, and for Google's Prometheus who reads the leaders."""
    target = sight.target
    settings = target.effective["autoscaling"]
    if not settings["enabled"]:
        return skipped("the number of groups is fixed")
    metric = settings["metric"]
    of_google = metric.startswith(_GOOGLE)
    if sight.connection.find(f"/apis/{_API}") is None:
        adapter = sight.commands.kubectl("apply", "-f", _ADAPTER, namespace="")
        return failed(
            f"the cluster serves no {_API}, so the autoscaler never learns {metric}",
            f"install Google's adapter, if no other one is to come: {adapter}"
            if of_google
            else "install an adapter that serves it, such as prometheus-adapter",
        )
    if not of_google:
        return passed(f"the cluster serves {_API}")
    leader = member_labels(target.group, "leader", 0)
    try:
        found = [
            *sight.list(_PODS.version, _PODS.plural, target.namespace),
            *sight.list(_PODS.version, f"cluster{_PODS.plural}"),
        ]
    except Missing:
        return failed(
            "Managed Service for Prometheus is off, so nothing reads the queue's length",
            f"turn it on: {gke.clusters('update', *sight.gke, '--enable-managed-prometheus')}",
        )
    if any(matches(item["spec"].get("selector"), leader) for item in found):
        return passed(f"{metric} is read from the leaders, and served")
    install = sight.commands.helm(
        *("install", f"{target.release}-observability", "charts/observability"),
        *("--set", f"release={target.release}", "--set", f"recipe={target.recipe}"),
    )
    return failed(
        f"no PodMonitoring selects the leaders, so nobody reads {metric}",
        f"make one, for example with the chart for it: {install}",
    )
