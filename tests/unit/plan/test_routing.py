"""What a recipe says of the Gateway before its groups."""

from __future__ import annotations

import pytest
from manyhost.catalog import Catalog, resolve
from manyhost.errors import InvalidInput
from manyhost.render import Renderer, build

from tests.helpers.cli import RECIPE, ROOT

ON = ("routing=inferencepool", "gateway.name=g", "gateway.picker.name=epp")


def kinds(*assignments: str, recipe: str = RECIPE) -> set[str]:
    return {item["kind"] for item in build(recipe, assignments=assignments).objects}


def test_a_recipe_reaches_the_chart() -> None:
    more = ("gateway.namespace=infra", "gateway.timeout_seconds=900", "gateway.picker.port=9003")
    values = build(RECIPE, assignments=(*ON, *more, "gateway.picker.failure_mode=FailClose")).values
    assert values["routing"] == "inferencepool"
    assert values["gateway"] == {
        "name": "g",
        "namespace": "infra",
        "timeoutSeconds": 900,
        "gke": True,
        "endpointPicker": {"name": "epp", "port": 9003, "failureMode": "FailClose"},
    }
    assert {"InferencePool", "HTTPRoute", "GCPBackendPolicy", "HealthCheckPolicy"} <= kinds(*ON)
    elsewhere = kinds(*ON, recipe="kubernetes/qwen3-8b")
    assert {"InferencePool", "HTTPRoute"} <= elsewhere
    assert "GCPBackendPolicy" not in elsewhere
    hosts = build(RECIPE, assignments=(*ON, "chart.gateway.hostnames=[r1.example.com]")).objects
    assert [item["spec"]["hostnames"] for item in hosts if item["kind"] == "HTTPRoute"] == [
        ["r1.example.com"]
    ]


def test_without_it_nothing_changes() -> None:
    assert "InferencePool" not in kinds("gateway.name=g", "gateway.picker.name=epp")


def test_all_that_is_missing_is_told_by_the_key_that_was_written() -> None:
    catalog = Catalog(ROOT)
    with pytest.raises(InvalidInput) as error:
        Renderer(catalog).plan(resolve(catalog, RECIPE, assignments=["routing=inferencepool"]))
    found = [error.value, *error.value.more]
    assert [item.where for item in found] == ["--set: routing", "--set: routing"]
    assert [item.message for item in found] == [
        "inferencepool needs gateway.name",
        "inferencepool needs gateway.picker.name",
    ]
    assert found[0].fix == "set gateway.name to the name of a Gateway of the cluster, or routing to service"


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("routing=ingress", "routing"),
        ("gateway.timeout_seconds=86401", "gateway.timeout_seconds"),
        ("gateway.picker.failure_mode=Never", "gateway.picker.failure_mode"),
        ("chart.gateway.name=g", "is written from gateway.name"),
        ("chart.gateway.gke=false", "is a fact of the environment"),
    ],
)
def test_other_values_are_refused(assignment: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        build(RECIPE, assignments=[*ON, assignment])
