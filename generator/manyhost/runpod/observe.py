"""What a Prometheus and a Grafana need to watch what runs at RunPod, as files for a machine of one's own.

Rules and dashboards are those of charts/observability, as on Kubernetes; the public port is scraped.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from manyhost.plan import Plan
from manyhost.render import parse_manifests
from manyhost.render.helm import InProcess
from manyhost.runpod import watch
from manyhost.runpod.service import State

_NAMESPACE = "runpod"  # the label; RunPod has nothing of the kind
# The chart's board of dcgm-exporter, which RunPod lets nobody reach from outside.
_UNSEEN = "gpu"
_GRAFANA = "grafana"


def files(
    plan: Plan, charts: Path, state: State, again: Callable[..., str], folder: Path
) -> dict[str, bytes]:
    """Return the files by their names.

    Args:
        plan: Of the recipe.
        charts: Folder of the charts.
        state: What runs; its API has a URL.
        again: Returns a command of this program about it, of a verb and more words.
        folder: Where they will lie: Grafana wants to know.
    """
    release = plan.recipe.replace("/", "-").replace(".", "-")
    values = {
        "release": release,
        "recipe": plan.recipe,
        "prometheus": "operator",
        "startupSeconds": plan.startup_seconds,
        "usdPerHour": state.usd_per_hour,
    }
    chart = InProcess(charts / "observability")
    objects = parse_manifests(chart.render(values, release=release, namespace=_NAMESPACE))
    boards = {
        item["metadata"]["name"].removeprefix(f"{release}-"): text
        for item in objects
        if item["kind"] == "ConfigMap"
        for text in item["data"].values()
    }
    (rules,) = (item["spec"] for item in objects if item["kind"] == "PrometheusRule")
    # The chart's alerts name the commands of a release in Kubernetes.
    text = _yaml(rules)
    for verb in ("status", "logs"):
        about = f"`manyhost {verb} {plan.recipe} --release {release} --namespace {_NAMESPACE}`"
        text = text.replace(about, again(verb))
    dashboards = folder.resolve() / "dashboards"
    return {
        "prometheus.yml": _yaml(_scrape(release, state)).encode(),
        "rules.yml": text.encode(),
        f"{_GRAFANA}/datasources/manyhost.yml": _yaml(_source()).encode(),
        f"{_GRAFANA}/dashboards/manyhost.yml": _yaml(_provider(dashboards)).encode(),
        **{f"dashboards/{name}.json": board.encode() for name, board in boards.items() if name != _UNSEEN},
    }


def _scrape(release: str, state: State) -> dict[str, object]:
    url = urlsplit(state.url)
    leader = next(pod.id for pod in state.pods if watch.rank(pod) == 0)
    labels = {
        "namespace": _NAMESPACE,
        "pod": leader,
        "node": state.volume.data_center if state.volume else "",
        "manyhost_release": release,
    }
    return {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {
                "job_name": "manyhost",
                "scheme": url.scheme,
                "static_configs": [{"targets": [url.netloc], "labels": labels}],
            }
        ],
    }


def _source() -> dict[str, object]:
    # docs of Grafana: administration/provisioning. 9090 is where Prometheus listens by default.
    source = {"name": "manyhost", "type": "prometheus", "access": "proxy", "url": "http://127.0.0.1:9090"}
    return {"apiVersion": 1, "datasources": [source]}


def _provider(folder: Path) -> dict[str, object]:
    provider = {"name": "manyhost", "type": "file", "options": {"path": str(folder)}}
    return {"apiVersion": 1, "providers": [provider]}


def _yaml(document: object) -> str:
    return str(yaml.safe_dump(document, sort_keys=False, width=10_000, allow_unicode=True))
