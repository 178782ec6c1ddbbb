"""A second chart is a folder: rendered, checked, selected and removed as the first is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from manyhost import checks
from manyhost.catalog import Catalog
from manyhost.checks.names import MAX_LWS_NAME
from manyhost.cluster.connection import Connection, path_of
from manyhost.cluster.target import Place, kind_of
from manyhost.cluster.teardown import inventory
from manyhost.errors import InvalidInput
from manyhost.render import parse_manifests
from manyhost.render.helm import Binary, InProcess

from tests.helpers.helm import ROOT, helm_binaries

CHART = """\
apiVersion: v2
name: load
type: application
version: 0.1.0
annotations:
  manyhost.dev/kinds: Job ServiceAccount
  manyhost.dev/name-limit: "52"
"""
VALUES = """\
# Requests to send.
requests: 100
serviceAccount: {create: true, name: ""}
security: {runAsUser: 1000, runAsGroup: null}
"""
JOB = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name | quote }}
  namespace: {{ .Release.Namespace | quote }}
  labels:
    {{- include "manyhost.podLabels" . | nindent 4 }}
spec:
  template:
    metadata:
      labels:
        {{- include "manyhost.podLabels" . | nindent 8 }}
    spec:
      restartPolicy: Never
      serviceAccountName: {{ include "manyhost.serviceAccountName" . | quote }}
      automountServiceAccountToken: false
      containers:
      - name: load
        image: example.com/load:1
        args: [{{ int64 .Values.requests | quote }}]
        securityContext:
          {{- include "manyhost.unprivileged" "" | nindent 10 }}
          {{- include "manyhost.user" . | trim | nindent 10 }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "manyhost.serviceAccountName" . | quote }}
  namespace: {{ .Release.Namespace | quote }}
  labels:
    {{- include "manyhost.podLabels" . | nindent 4 }}
automountServiceAccountToken: false
"""
SCHEMA = '{"type": "object", "properties": {"requests": {"type": "integer"}}}'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with two charts; the second has the common templates, as `make generate` puts them there."""
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts/llm-multihost").symlink_to(ROOT / "charts/llm-multihost")
    chart = tmp_path / "charts/load"
    (chart / "templates").mkdir(parents=True)
    files = {
        "Chart.yaml": CHART,
        "values.yaml": VALUES,
        "templates/job.yaml": JOB,
        "values.schema.json": SCHEMA,
    }
    for name, text in files.items():
        (chart / name).write_text(text)
    shutil.copy(ROOT / "charts/common.tpl", chart / "templates/_common.tpl")
    return tmp_path


def test_it_is_rendered_and_checked_by_every_helm(root: Path) -> None:
    chart = Catalog(root).chart("load")
    assert (chart.kinds, chart.name_limit) == (("Job", "ServiceAccount"), 52)
    assert chart.effective({"requests": 5})["requests"] == 5
    assert chart.comments["requests"] == "Requests to send."
    engines = [InProcess(chart.path), *(Binary(chart.path, str(path)) for path in helm_binaries().values())]
    texts = [engine.render({"requests": 5}, release="r1", namespace="n") for engine in engines]
    made = [sorted(parse_manifests(text), key=lambda o: o["kind"]) for text in texts]
    assert all(other == made[0] for other in made)
    assert [item["kind"] for item in made[0]] == ["Job", "ServiceAccount"]
    assert checks.run(made[0], environment_level=checks.Allowance("restricted")) == []
    made[0][0]["spec"]["template"]["spec"]["containers"][0]["securityContext"]["privileged"] = True
    found = checks.run(made[0], environment_level=checks.Allowance("restricted"))
    assert {finding.check for finding in found} == {"pod-security"}


class Api:
    """Objects by their path, with labels."""

    def __init__(self, objects: dict[str, dict[str, str]]) -> None:
        self.objects = objects

    def pages(
        self, path: str, kind: Any, *, labels: str = "", metadata: bool = False
    ) -> Iterator[dict[str, Any]]:
        wanted = dict(item.split("=") for item in labels.split(","))
        for item, own in self.objects.items():
            if item.rpartition("/")[0] == path and wanted.items() <= own.items():
                yield {"metadata": {"name": item.rpartition("/")[2], "labels": own}}


def test_what_it_has_made_is_found_and_what_others_made_is_not(root: Path) -> None:
    first, second = Catalog(root).chart("llm-multihost"), Catalog(root).chart("load")
    own = {path_of("batch/v1", "jobs", "n", "r1"): second.labels("r1")}
    others = {
        path_of("leaderworkerset.x-k8s.io/v1", "leaderworkersets", "n", "r1"): first.labels("r1"),
        path_of("batch/v1", "jobs", "n", "r2"): second.labels("r2"),
    }
    found = inventory(cast("Connection", Api(own | others)), Place(second, "n", "r1"))
    assert [(item.kind, item.name) for item in found.items] == [("Job", "r1")]
    assert second.is_of("load-0.1.0")
    assert not second.is_of("llm-multihost-0.1.0")
    assert kind_of({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}}).plural == "jobs"


def test_the_limit_of_a_name_is_that_of_what_the_chart_makes() -> None:
    chart = Catalog(ROOT).chart("llm-multihost")
    assert "LeaderWorkerSet" in chart.kinds
    assert chart.name_limit == MAX_LWS_NAME


def test_a_folder_that_says_nothing_of_itself_is_no_chart_of_ours(root: Path) -> None:
    (root / "charts/load/Chart.yaml").write_text("name: load\n")
    with pytest.raises(InvalidInput, match=r"manyhost\.dev/kinds"):
        Catalog(root).chart("load")
