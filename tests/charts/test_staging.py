"""The chart that stages weights: what its Job may do, and that its worker works as it is mounted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from manyhost import checks
from manyhost.catalog import Catalog

from testbed import hub
from tests.helpers import helm
from tests.helpers.helm import ROOT, RenderError, find, helm_binaries

CHART = ROOT / "charts/model-staging"
BUCKET = {"to": "gs://my-bucket/models/m"}
VOLUME = {"to": "/weights/m", "volume": {"claimName": "weights"}, "workers": 1}


def render(values: dict[str, Any], engine: str = "sdk") -> list[dict[str, Any]]:
    return helm.render(values, chart=CHART, engine=engine)


def container(objects: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = find(objects, "Job")["spec"]["template"]["spec"]["containers"][0]
    return found


@pytest.mark.parametrize("values", [BUCKET, VOLUME])
def test_the_objects_are_valid_restricted_and_the_same_for_every_helm(values: dict[str, Any]) -> None:
    objects = render(values)
    assert sorted(item["kind"] for item in objects) == ["ConfigMap", "Job", "ServiceAccount"]
    assert {item["kind"] for item in objects} <= set(Catalog(ROOT).chart("model-staging").kinds)
    for item in objects:
        kubernetes_validate.validate(item, "1.31", strict=True)
    assert checks.run(objects, environment_level=checks.Allowance("restricted")) == []
    for engine in helm_binaries():
        assert render(values, engine) == objects
    assert len(json.dumps(find(objects, "ConfigMap"))) < 1_000_000  # etcd's limit of an object


def test_the_pods_share_the_files_and_a_wrong_target_ends_the_job() -> None:
    objects = render(BUCKET)
    spec = find(objects, "Job")["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    assert container(objects)["args"] == [
        "deepseek-ai/DeepSeek-R1",
        Catalog(ROOT).model("deepseek-r1-671b").revision,
        "gs://my-bucket/models/m",
        "--workers=4",
        "--streams=8",
        f"--bytes={Catalog(ROOT).model('deepseek-r1-671b').weights_bytes}",
    ]
    rule = spec["podFailurePolicy"]["rules"][0]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2, 3])


def test_the_token_is_a_secret_of_the_users_and_may_be_missing() -> None:
    (token,) = [entry for entry in container(render(BUCKET))["env"] if entry["name"] == "HF_TOKEN"]
    assert token["valueFrom"]["secretKeyRef"] == {
        "name": "hf-secret",
        "key": "hf_api_token",
        "optional": True,
    }
    none = container(render({**BUCKET, "huggingface": {"secretName": ""}}))["env"]
    assert "HF_TOKEN" not in {entry["name"] for entry in none}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "to is needed"),
        ({"to": "/weights/m"}, "volume.claimName does not say of which volume"),
        ({**VOLUME, "to": "/other/m"}, "not below volume.mountPath /weights"),
        ({**BUCKET, "volume": {"claimName": "c"}}, "leave one out"),
        ({**BUCKET, "model": {"revision": "main"}}, "revision"),
        ({**BUCKET, "wrokers": 1}, "wrokers"),
        ({"to": "gs://bucket-only"}, "to"),
    ],
)
def test_what_cannot_work_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(RenderError, match=text):
        render(values)


def test_the_worker_as_it_is_mounted_stages_a_model(tmp_path: Path) -> None:
    """The files of the ConfigMap at the Job's paths, with the Job's command: both workers in turn."""
    with hub.Hub() as server:
        folder = hub.write_model(tmp_path / "model")
        commit = server.add("test/m", folder).commit
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        objects = render(
            {
                "model": {"name": "test/m", "revision": commit, "bytes": size},
                "to": str(tmp_path / "claim/m"),
                "volume": {"claimName": "c", "mountPath": str(tmp_path / "claim")},
                "workers": 2,
            }
        )
        data = find(objects, "ConfigMap")["data"]
        volumes = {v["name"]: v for v in find(objects, "Job")["spec"]["template"]["spec"]["volumes"]}
        mount = tmp_path / "opt"
        for item in volumes["worker"]["configMap"]["items"]:
            (mount / item["path"]).parent.mkdir(parents=True, exist_ok=True)
            (mount / item["path"]).write_text(data[item["key"]])
        assert len(data) == len(volumes["worker"]["configMap"]["items"])
        run = container(objects)

        def pod(index: int) -> str:
            done = subprocess.run(
                [sys.executable, *run["command"][1:], *run["args"]],
                env={
                    **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
                    "PYTHONPATH": str(mount),
                    "HF_ENDPOINT": server.url,
                    "JOB_COMPLETION_INDEX": str(index),
                },
                capture_output=True,
                text=True,
                check=True,
            )
            return done.stdout

        assert "other workers are at the rest" in pod(0)
        assert not (tmp_path / "claim/m/manyhost-weights.json").exists()
        assert "9 files" in pod(1)
        assert (tmp_path / "claim/m/manyhost-weights.json").exists()
        for path in folder.glob("*.safetensors"):
            assert (tmp_path / "claim/m" / path.name).read_bytes() == path.read_bytes()
