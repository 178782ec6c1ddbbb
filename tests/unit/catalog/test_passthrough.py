"""Values of the chart that people set by their own names: chart.<value>."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from manyhost.catalog import Catalog, resolve
from manyhost.catalog.passthrough import CHART, leaves
from manyhost.catalog.written import WRITTEN
from manyhost.errors import InvalidInput
from manyhost.render import Rendered, build

from tests.helpers.cli import RECIPE, ROOT

SCHEMA = Catalog(ROOT).chart(CHART).schema


def rendered(*assignments: str, recipe: str = RECIPE) -> Rendered:
    return build(recipe, assignments=assignments)


def kinds(found: Rendered) -> list[str]:
    return [item["kind"] for item in found.objects]


def test_a_value_reaches_the_manifests() -> None:
    found = rendered("chart.networkPolicy.allowedNamespaces=[gateway]")
    (policy,) = (item for item in found.objects if item["kind"] == "NetworkPolicy")
    assert "gateway" in str(policy["spec"])
    assert "NetworkPolicy" not in kinds(rendered("chart.networkPolicy.enabled=false"))


def test_a_value_beside_written_ones_changes_nothing_else() -> None:
    plain, found = rendered().values, rendered("chart.job.image.pullPolicy=Always").values
    assert found["job"]["image"].pop("pullPolicy") == "Always"
    assert found == plain


def test_what_only_the_environment_would_say_can_be_said_otherwise() -> None:
    """No setting writes these, and other clusters of the same machines need others."""
    assert rendered("chart.host.tolerations=[]").values["host"]["tolerations"] == []
    assert rendered("chart.volumes.shmSize=64Gi").values["volumes"]["shmSize"] == "64Gi"


@pytest.mark.parametrize(
    ("assignment", "where", "words"),
    [
        ("nope=1", "nope", "unknown key"),
        ("networkPolicy.enabeld=true", "networkPolicy.enabeld", "did you mean chart.networkPolicy.enabled?"),
        ("networkPolicy.enabled.x=true", "networkPolicy.enabled", "is not of type"),
        ("networkPolicy.enabled=5", "networkPolicy.enabled", '5 is not of type "boolean"'),
        ("networkPolicy=5", "networkPolicy", '5 is not of type "object"'),
        ("extraObjects=[5]", "extraObjects[0]", '5 is not of type "object"'),
        ("podLabels.a=b c", "podLabels.a", "does not match"),
        ("vllm.serverArgs.seed=5", "vllm.serverArgs", "is written from arguments"),
        ("host.nodeSelector={a: b}", "host.nodeSelector", "is written from node_selector"),
        ("job.image.repository=x", "job.image.repository", "set engine.image or site.artifact_registry"),
        ("host.gpus=4", "host.gpus", "is a fact of the environment or its interconnect"),
        ("gpuPlatformSettings.folders=[]", "gpuPlatformSettings.folders", "is a fact of the environment"),
        ("gpuPlatformSettings.deviceClaim={}", "gpuPlatformSettings.deviceClaim", "is a fact of the"),
        ("roles.handover.buffer=cpu", "roles.handover.buffer", "is a fact of the environment"),
        ("vllm={}", "vllm", "names no value"),
        ("roles.prefill={}", "roles.prefill", "names no value"),
    ],
)
def test_what_cannot_be_set_is_refused_by_its_name(assignment: str, where: str, words: str) -> None:
    for text in (f"chart.{assignment}", f"chart={_nested(assignment)}"):
        with pytest.raises(InvalidInput) as caught:
            rendered(text)
        assert caught.value.where == f"--set: chart.{where}"
        assert words in f"{caught.value.message}; {caught.value.fix}"
        assert len(str(caught.value).splitlines()) <= 2


def _nested(assignment: str) -> str:
    path, _, value = assignment.partition("=")
    found: Any = yaml.safe_load(value)
    for part in reversed(path.split(".")):
        found = {part: found}
    return yaml.safe_dump(found, default_flow_style=True).strip()


@pytest.mark.parametrize("name", ["podAnnotations", "podLabels", "serviceAccount.annotations"])
@pytest.mark.parametrize("key", ["example.com/owner.team", "a.b", "plain", "1", "on"])
def test_names_that_people_choose_stay_whole(name: str, key: str) -> None:
    found: Any = rendered(f"chart.{name}.{key}=value").values
    for part in name.split("."):
        found = found[part]
    assert found == {key: "value"}


@pytest.mark.parametrize("value", ["one\\ntwo\\n\\nthree\\n", "a: b #c", "é\\u2028", "- x", "1e3"])
def test_texts_reach_the_manifests_byte_for_byte(value: str) -> None:
    found = rendered(f'chart.podAnnotations.example.com/text="{value}"')
    (group,) = (item for item in found.objects if item["kind"] == "LeaderWorkerSet")
    for member in ("leader", "worker"):
        metadata = group["spec"]["leaderWorkerTemplate"][f"{member}Template"]["metadata"]
        assert metadata["annotations"]["example.com/text"] == yaml.safe_load(f'"{value}"')


def test_other_objects_go_with_the_release() -> None:
    found = rendered(
        "chart.extraObjects=[{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {x: 'one'}},"
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: b}}]"
    )
    assert len(found.objects) == len(rendered().objects) + 2
    assert all(yaml.load_all(found.manifests_text, Loader=yaml.CSafeLoader))  # no empty document between them
    own = [item for item in found.objects if item["metadata"]["name"] in ("a", "b")]
    labels = found.chart.labels(found.release)
    assert [labels.items() <= item["metadata"]["labels"].items() for item in own] == [True, True]


def test_values_yaml_keeps_its_comments() -> None:
    plain = rendered().values_text.splitlines()
    found = rendered("chart.networkPolicy.enabled=true", "chart.vllm.service.type=ClusterIP")
    lines = found.values_text.splitlines()
    assert [line for line in plain if line not in lines] == []
    assert [line for line in lines if line.lstrip().startswith("#")] == [
        line for line in plain if line.lstrip().startswith("#")
    ]
    assert len(lines) == len(plain) + 4


def test_a_site_sets_them_for_all_recipes(tmp_path: Path) -> None:
    local = tmp_path / "local.yaml"
    local.write_text("chart:\n  priorityClassName: high\n  networkPolicy: {enabled: true}\n")
    catalog = Catalog(ROOT)
    found = resolve(catalog, RECIPE, local_file=local, assignments=["chart.networkPolicy.enabled=false"])
    assert found.recipe.chart == {"priorityClassName": "high", "networkPolicy": {"enabled": False}}
    assert found.origin("chart.priorityClassName") == "values/local.yaml"
    local.write_text("chart: {networkPolicy: {enabeld: true}}\n")
    with pytest.raises(InvalidInput, match=r"^values/local.yaml: chart.networkPolicy.enabeld: unknown key"):
        resolve(catalog, RECIPE, local_file=local)


def test_every_value_that_a_setting_writes_is_one_of_the_chart() -> None:
    """Both tables of names: WRITTEN, and the flags that others set."""
    known = set(leaves(SCHEMA))
    blocks = {name[:at] for name in known for at, letter in enumerate(name) if letter == "."}
    assert {name for name in WRITTEN if name not in known | blocks} == set()
    reserved = yaml.safe_load((ROOT / "charts/llm-multihost/reserved-flags.yaml").read_text())
    values = {value for value in reserved["setBy"].values() if value}
    assert values - known == set()
    assert set(reserved["setBy"]) & set(reserved["refused"]) == set()


def test_every_setting_that_writes_a_value_is_one() -> None:
    from manyhost.catalog.settings import known_keys

    assert {name for names in WRITTEN.values() for name in names} - set(known_keys()) == set()


def test_a_flag_that_is_set_elsewhere_names_the_setting() -> None:
    reserved = Catalog(ROOT).reserved_flags()
    assert reserved["tp"] == reserved["tensor-parallel-size"] == "parallelism.tensor"
    assert reserved["distributed-executor-backend"] == "engine.executor"
    assert reserved["model"] == "model"
    assert reserved["node-rank"] == ""
