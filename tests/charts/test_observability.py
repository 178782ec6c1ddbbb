"""charts/observability: what is scraped, that its objects fit the CRDs, and that values are closed."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema_rs
import pytest
import yaml
from manyhost import checks
from manyhost.catalog import Catalog
from manyhost.catalog.chart import KINDS

from tests.helpers import helm
from tests.helpers.helm import ROOT, Object, RenderError, find, helm_binaries, kinds, merge
from tests.helpers.shared import shared_dir
from tools.dashboards import TARGET

CHART = ROOT / "charts/observability"
GOOGLE: Object = {"release": "r1", "recipe": "a3mega"}
OPERATOR: Object = {"release": "r1", "recipe": "local", "prometheus": "operator", "labels": {"team": "llm"}}
APART: Object = {"prefillGroups": 1}
PRICED: Object = {"usdPerHour": 185.88}
EVERYTHING = [merge(each, APART, PRICED) for each in (GOOGLE, OPERATOR)]
MONITORS = ("PodMonitoring", "PodMonitor")


def render(values: Object, engine: str = "sdk", release: str = "watch") -> list[Object]:
    return helm.render(values, release=release, namespace="n", chart=CHART, engine=engine)


def boards(values: Object) -> dict[str, Any]:
    """The dashboards by the last word of their ConfigMap's name."""
    maps = [item for item in render(values) if item["kind"] == "ConfigMap"]
    return {
        item["metadata"]["name"].rpartition("-")[2]: json.loads(text)
        for item in maps
        for text in item["data"].values()
    }


@pytest.mark.parametrize(
    ("values", "made"),
    [
        (GOOGLE, ["PodMonitoring", "Rules"]),
        (OPERATOR, ["PodMonitor", "PrometheusRule"]),
        (merge(GOOGLE, APART), ["PodMonitoring", "PodMonitoring", "Rules"]),
        (merge(OPERATOR, APART), ["PodMonitor", "PodMonitor", "PrometheusRule"]),
    ],
)
def test_one_value_says_whose_objects_are_made(values: Object, made: list[str]) -> None:
    objects = render(values)
    assert [kind for kind in kinds(objects) if kind != "ConfigMap"] == made
    chart = Catalog(ROOT).chart("observability")
    for item in objects:
        assert item["kind"] in chart.kinds
        assert KINDS[item["kind"]].version == item["apiVersion"]
        assert chart.labels("watch").items() <= item["metadata"]["labels"].items()
        assert item["metadata"]["namespace"] == "n"
    for engine in helm_binaries():
        assert render(values, engine) == objects


@pytest.mark.parametrize("values", EVERYTHING)
def test_the_objects_fit_the_crds(values: Object) -> None:
    folder = shared_dir()
    for item in render(values):
        if item["kind"] == "ConfigMap":
            assert checks.run([item]) == []
            continue
        kind = KINDS[item["kind"]]
        group, _, version = kind.version.partition("/")
        path = folder / "crds" / f"{kind.plural}.{group}.yaml" if folder else None
        if path is None or not path.is_file():
            pytest.skip("the upstream CRDs are not here")
        versions = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]["versions"]
        (schema,) = (each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == version)
        schema = closed(schema)
        schema["properties"]["metadata"] = {"type": "object"}
        validator = jsonschema_rs.validator_for(schema)
        assert [error.message for error in validator.iter_errors(item)] == []
        item["spec"]["slector"] = {}
        assert not validator.is_valid(item)


def closed(node: Any) -> Any:
    """A CRD's schema that takes no unknown field, and strings where Kubernetes takes numbers too."""
    if isinstance(node, list):
        return [closed(each) for each in node]
    if not isinstance(node, dict):
        return node
    found = {key: closed(value) for key, value in node.items() if key != "format"}
    if node.get("x-kubernetes-int-or-string"):
        found["type"] = ["integer", "string"]
    if "properties" in node and isinstance(node["properties"], dict) and node.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


def test_it_scrapes_the_pods_that_the_serving_chart_makes() -> None:
    """Its leaders, of prefill and decode groups, and the routers; no worker, and nobody else's pods."""
    apart = {"roles": {"prefill": {"groups": 1}}, "model": {"tp_size": 16, "pp_size": 1}}
    made = helm.render(apart, release="r1")
    pods: dict[str, dict[str, str]] = {}
    for item in made:
        if item["kind"] == "LeaderWorkerSet":
            template = item["spec"]["leaderWorkerTemplate"]
            for index, role in enumerate(("leader", "worker")):
                own = template[f"{role}Template"]["metadata"]["labels"]
                # The controller's label.
                pods[f"{item['metadata']['name']} {role}"] = own | {
                    "leaderworkerset.sigs.k8s.io/worker-index": str(index)
                }
        elif item["kind"] == "Deployment":
            pods["router"] = item["spec"]["template"]["metadata"]["labels"]
    seen = {
        item["metadata"]["name"]: [
            name
            for name, labels in pods.items()
            if item["spec"]["selector"]["matchLabels"].items() <= labels.items()
        ]
        for item in render(merge(OPERATOR, APART))
        if item["kind"] in MONITORS
    }
    assert seen == {
        "watch-groups": ["r1 leader", "r1-prefill leader"],
        "watch-router": ["router"],
    }
    (ports,) = {
        port["name"]
        for item in made
        if item["kind"] == "LeaderWorkerSet"
        for port in item["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"]["containers"][0]["ports"]
    }
    for values, key in ((GOOGLE, "endpoints"), (OPERATOR, "podMetricsEndpoints")):
        (monitor,) = (item for item in render(values) if item["kind"] in MONITORS)
        assert [endpoint["port"] for endpoint in monitor["spec"][key]] == [ports]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "release is needed"),
        ({"release": "r1"}, "recipe is needed"),
        (merge(GOOGLE, {"relaese": "r1"}), "relaese"),
        (merge(GOOGLE, {"prometheus": "grafana"}), "prometheus"),
        (merge(GOOGLE, {"groups": 0}), "groups"),
        (merge(GOOGLE, {"usdPerHour": -1}), "usdPerHour"),
        (merge(GOOGLE, {"release": "r1'} or vector(1"}), "release"),
        (merge(GOOGLE, {"recipe": "a3mega; rm -rf /"}), "recipe"),
    ],
)
def test_what_it_refuses(values: Object, text: str) -> None:
    with pytest.raises(RenderError, match=text):
        render(values)


@pytest.mark.parametrize("values", EVERYTHING)
def test_nothing_is_left_to_fill_in_and_each_alert_names_a_command(values: Object) -> None:
    objects = render(values)
    # A command's @ would be a mistake of ours: no recipe, release or namespace has one.
    assert not re.findall(r"@[a-zA-Z:_]+@", json.dumps(objects))
    (rules,) = (item for item in objects if item["kind"] in ("Rules", "PrometheusRule"))
    for group in rules["spec"]["groups"]:
        for rule in group["rules"]:
            assert "release r1" in rule["annotations"]["summary"]
            about = f"{values['recipe']} --release r1 --namespace n`"
            assert re.search(rf"`manyhost (status|logs) {about}", rule["annotations"]["description"])
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert rule["for"]


def test_rules_leave_to_google_the_labels_that_it_sets_itself() -> None:
    """Its operator takes no rule of an object when one sets them; the other's routes alerts by namespace.

    (GoogleCloudPlatform/prometheus-engine, pkg/operator/apis/monitoring/v1/rules_config.go, setLabel.)
    """
    for values, wanted in ((EVERYTHING[0], set()), (EVERYTHING[1], {"namespace"})):
        (item,) = (each for each in render(values) if each["kind"] in ("Rules", "PrometheusRule"))
        labels = [set(rule["labels"]) for group in item["spec"]["groups"] for rule in group["rules"]]
        assert all(own & {"project_id", "location", "cluster", "namespace"} == wanted for own in labels)


def test_dashboards_are_for_grafanas_sidecar_and_for_one_release_each() -> None:
    everything = boards(EVERYTHING[0])
    assert set(everything) == {path.stem for path in TARGET.glob("*.json")}
    assert set(everything) - set(boards(GOOGLE)) == {"router", "cost"}
    for name, board in everything.items():
        assert len(board["uid"]) <= 40, "Grafana's limit"
        assert board["title"] == f"r1 in n: {name}"
        places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]}
        assert len(places) == len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        assert all(panel["description"] and panel["targets"] for panel in board["panels"])
    other = boards(merge(GOOGLE, {"release": "r2"}))
    assert not {board["uid"] for board in other.values()} & {board["uid"] for board in everything.values()}
    for item in render(GOOGLE):
        if item["kind"] == "ConfigMap":
            assert item["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_a_price_of_nothing_is_a_price() -> None:
    assert "cost" in boards(merge(GOOGLE, {"usdPerHour": 0}))
    assert find(render(GOOGLE), "Rules")
