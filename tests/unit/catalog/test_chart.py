"""What a chart says of itself is what its templates do."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from manyhost.catalog import Catalog
from manyhost.catalog.chart import KINDS, load
from manyhost.catalog.passthrough import CHART
from manyhost.errors import InvalidInput
from manyhost.render.helm import check_names

from tests.helpers.cli import ROOT
from tests.helpers.helm import fabric, find, merge, render
from tests.helpers.sample import EVERYTHING

FOUND = Catalog(ROOT).chart(CHART)
OBJECT = re.compile(r"^apiVersion: (\S+)\nkind: (\w+)$", re.M)


def test_its_kinds_are_those_that_its_templates_can_make() -> None:
    templates = [*(FOUND.path / "templates").glob("*.yaml"), *(FOUND.path / "templates").glob("*.tpl")]
    made = {kind: version for path in templates for version, kind in OBJECT.findall(path.read_text())}
    assert set(FOUND.kinds) == set(made)
    assert len(FOUND.kinds) == len(set(FOUND.kinds))
    assert {kind: KINDS[kind].version for kind in FOUND.kinds} == made


def test_they_are_made() -> None:
    """Every kind by some values, and no other."""
    of_the_fabric = {"deviceClaim": {"deviceClass": "rdma", "count": 8}, "computeDomain": True}
    claims = merge(fabric(), {"gpuPlatformSettings": of_the_fabric})
    of_gke = {
        "routing": "inferencepool",
        "gateway": {"name": "g", "gke": True, "endpointPicker": {"name": "p"}},
    }
    apart = {"roles": {"prefill": {"groups": 1}}, "model": {"tp_size": 16, "pp_size": 1}}
    made = {item["kind"] for values in (EVERYTHING, claims, of_gke, apart) for item in render(values)}
    assert made == set(FOUND.kinds)


def test_its_labels_are_on_everything_that_it_makes() -> None:
    labels = FOUND.labels("r1")
    objects = render(EVERYTHING, release="r1")
    for item in objects:
        assert labels.items() <= item["metadata"]["labels"].items(), item["kind"]
    templates = find(objects, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    for member in ("leader", "worker"):
        assert labels.items() <= templates[f"{member}Template"]["metadata"]["labels"].items()
    assert FOUND.selector("r1") == ",".join(f"{key}={value}" for key, value in labels.items())


def test_the_limit_of_a_release_name_is_the_one_that_is_checked() -> None:
    check_names("x" * FOUND.name_limit, "n", FOUND.name_limit)
    with pytest.raises(InvalidInput, match="at most 45"):
        check_names("x" * (FOUND.name_limit + 1), "n", FOUND.name_limit)


@pytest.mark.parametrize(
    ("installed", "own"),
    [("llm-multihost", True), ("llm-multihost-0.1.0", True), ("llm-multi", False), ("other-0.1.0", False)],
)
def test_an_installed_release_is_known_by_its_chart(installed: str, own: bool) -> None:
    assert FOUND.is_of(installed) is own


def test_what_templates_see() -> None:
    found = FOUND.effective({"vllm": {"replicaCount": 7}})
    assert found["vllm"]["replicaCount"] == 7
    assert found["vllm"]["service"] == FOUND.defaults["vllm"]["service"]
    assert FOUND.defaults["vllm"]["replicaCount"] != 7


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("manyhost.dev/kinds", "says nothing of 'manyhost.dev/kinds'"),
        ("manyhost.dev/name-limit", "name-limit"),
    ],
)
def test_a_chart_that_does_not_say_it_is_refused(line: str, words: str, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(FOUND.path, folder)
    path = folder / "Chart.yaml"
    path.write_text("".join(f"{text}\n" for text in path.read_text().splitlines() if line not in text))
    with pytest.raises(InvalidInput, match=words) as caught:
        load(folder)
    assert caught.value.where == "charts/other/Chart.yaml"
