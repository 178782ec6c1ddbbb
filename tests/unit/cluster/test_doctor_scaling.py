"""Doctor on the autoscaler's metric."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import fixes
from tests.unit.cluster.doctor import Examine, Reply, Serve, a_target

ON = ("chart.autoscaling.enabled=true",)
LEADERS = {"app.kubernetes.io/instance": "deepseek-r1-671b", "role": "leader"}
OTHER = {"app.kubernetes.io/instance": "other"}


def cluster(*, adapter: bool = True, prometheus: bool = True, selects: dict[str, str] | None = None) -> Any:
    """A cluster with these parts; `selects` are the labels that a PodMonitoring selects."""

    def answer(method: str, path: str, headers: Any) -> Reply:
        if path.startswith("/apis/custom.metrics.k8s.io") and not adapter:
            return 404, {}, {"message": "no"}
        if "monitoring.googleapis.com" in path and not prometheus:
            return 404, {}, {"message": "no"}
        items = [{"metadata": {"name": "m"}, "spec": {"selector": {"matchLabels": selects}}}]
        return 200, {}, {"metadata": {}, "items": items if selects and "/podmonitorings" in path else []}

    return answer


@pytest.mark.parametrize(
    ("settings", "parts", "status", "why", "fix"),
    [
        ((), {}, "skip", "the number of groups is fixed", ""),
        (ON, {"adapter": False}, "fail", "serves no custom.metrics.k8s.io", "kubectl apply -f https://raw."),
        (ON, {"prometheus": False}, "fail", "Managed Service for Prometheus is off",
         "gcloud container clusters update "),
        (ON, {}, "fail", "no PodMonitoring selects the leaders",
         "helm install deepseek-r1-671b-observability charts/observability"),
        (ON, {"selects": OTHER}, "fail", "no PodMonitoring selects the leaders", "helm install "),
        (ON, {"selects": LEADERS}, "pass", "is read from the leaders, and served", ""),
        ((*ON, "chart.autoscaling.metric=vllm:num_requests_waiting"), {"adapter": False}, "fail",
         "never learns vllm:num_requests_waiting", "prometheus-adapter"),
        ((*ON, "chart.autoscaling.metric=vllm:num_requests_waiting"), {"prometheus": False}, "pass",
         "serves custom.metrics.k8s.io", ""),
    ],
)  # fmt: skip
def test_the_autoscalers_metric(
    settings: tuple[str, ...], parts: Any, status: str, why: str, fix: str, serve: Serve, examined: Examine
) -> None:
    result = examined("autoscaling", a_target(*settings), f"http://{serve(cluster(**parts))}")
    assert (result.status, why in result.why, fix in result.fix) == (status, True, True), result
    if status == "fail" and "prometheus-adapter" not in fix:
        assert len(fixes.commands(result.fix)) == 1
