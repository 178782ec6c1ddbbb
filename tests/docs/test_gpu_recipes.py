"""docs/how-to/coming-from-gpu-recipes.md: lines are taken, keys exist, and what it calls refused is."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from manyhost.benchmark.job import check
from manyhost.catalog import Catalog, resolve
from manyhost.catalog.settings import known_keys
from manyhost.plan import make_plan

from tests.docs.markdown import HOW_TO, code, table
from tests.docs.test_commands import commands
from tests.helpers.cli import manyhost
from tests.helpers.helm import (
    CHART,
    ROOT,
    RenderError,
    engine_container,
    find,
    helm_binaries,
    nest,
    pod,
    render,
)

PAGE = HOW_TO / "coming-from-gpu-recipes.md"
RECIPE, NEWER = "a3mega/deepseek-r1-671b-published", "a3mega/deepseek-r1-671b"
VALUES = ROOT / "recipes" / RECIPE / "values.yaml"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
SITE = {
    "ARTIFACT_REGISTRY": "us-east4-docker.pkg.dev/my-project/my-repo",
    "VLLM_IMAGE": "vllm-openai",
    "VLLM_VERSION": "v0.7.3",
    "CLUSTER_NAME": "my-cluster",
    "GCS_BUCKET": "my-bucket",
    "USER": "jane",
}
BINARIES = sorted(helm_binaries()) or [
    pytest.param("helm", marks=pytest.mark.skip(reason="no Helm binary, run make tools"))
]
# AI-Hypercomputer/gpu-recipes@2e1fd5e, inference/a3mega/deepseek-r1-671b/vllm-serving-gke/values.yaml
PUBLISHED = yaml.safe_load("""
targetPlatform: gke
clusterName:
queue:
huggingface: {secretName: hf-secret, secretData: {token: hf_api_token}}
model: {name: deepseek-ai/DeepSeek-R1, tp_size: 8, pp_size: 2}
job:
  image: {repository: , tag: }
  gpus: 16
volumes:
  ssdMountPath: /ssd
  gcsMounts:
    - {bucketName: , mountPath: /gcs}
gpuPlatformSettings:
  useHostPlugin: false
  ncclPluginImage: us-docker.pkg.dev/gce-ai-infra/gpudirect-tcpxo/nccl-plugin-gpudirecttcpx-dev:v1.0.8-1
  rxdmImage: us-docker.pkg.dev/gce-ai-infra/gpudirect-tcpxo/tcpgpudmarxd-dev:v1.0.14
  ncclBuildType: 223
network:
  ncclSettings:
    - {name: NCCL_DEBUG, value: TRACE}
  subnetworks[]:
vllm:
  replicaCount: 1
  service: {type: ClusterIP, ports: {http: 8000}}
  serverArgs:
    {max-model-len: 32768, max-num-seqs: 128, gpu-memory-utilization: 0.85, disable-log-requests: true}
""")
# These hold what people write, not keys of the chart.
FREE = {"network.ncclSettings", "vllm.serverArgs"}
KEYS = table(PAGE, "Keys of values.yaml")
REFUSED = [code(row[0])[0] for row in KEYS if row[1].startswith("refused")]


def paths(value: Any, start: str = "") -> list[str]:
    """The dotted keys of a values file; of a list `[]` and the keys of its items."""
    if start in FREE or not value or not isinstance(value, dict | list):
        return [start]
    if isinstance(value, list):
        return paths(value[0], f"{start}[]")
    return [path for key, item in value.items() for path in paths(item, f"{start}.{key}".lstrip("."))]


def in_schema(path: str) -> bool:
    node = SCHEMA
    for part in path.replace("[]", ".[]").split("."):
        node = node.get("items", {}) if part == "[]" else node.get("properties", {}).get(part, {})
    return bool(node)


def line(start: str) -> list[str]:
    """The words of the page's one line that begins so, as a shell with its variables set would pass them."""
    (found,) = (text for name, text in commands() if name.endswith(PAGE.name) and text.startswith(start))
    return shlex.split(re.sub(r"\$\{?([A-Z_]+)\}?", lambda match: SITE[match[1]], found))


@pytest.mark.parametrize("engine", BINARIES)
def test_the_published_install_line_renders_with_another_folder(engine: str) -> None:
    words = line("helm install")
    release, chart = words[-2:]
    options = [str(ROOT / word) if word.endswith("values.yaml") else word for word in words[2:-2]]
    assert ROOT / chart == CHART
    objects = render(release=release, engine=engine, options=tuple(options))
    image = f"{SITE['ARTIFACT_REGISTRY']}/{SITE['VLLM_IMAGE']}:{SITE['VLLM_VERSION']}"
    assert engine_container(objects)["image"] == image
    assert "ray" in json.dumps(engine_container(objects)["env"])
    assert find(objects, "Service")["metadata"]["name"] == "jane-serving-deepseek-r1-model-svc"
    (bucket,) = (v for v in pod(objects)["spec"]["volumes"] if v["name"] == "gcs-0")
    assert bucket["csi"]["volumeAttributes"]["bucketName"] == SITE["GCS_BUCKET"]


def test_the_variables_of_the_published_recipe_render_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SITE.items():
        monkeypatch.setenv(name, value)
    words = line(".venv/bin/manyhost deploy a3mega/deepseek-r1-671b-published")
    release = words[words.index("--release") + 1]
    ran = manyhost("render", RECIPE, "--release", release, "--out", str(tmp_path / "same"))
    assert ran.code == 0, ran.err
    refused = manyhost("render", "a3mega", "--out", str(tmp_path / "newer"))
    assert (refused.code, "starts several hosts with ray" in refused.err) == (3, True)
    for name in line("unset")[1:]:
        monkeypatch.delenv(name)
    assert manyhost("render", "a3mega", "--out", str(tmp_path / "newer")).code == 0


def test_every_published_key_has_a_line() -> None:
    assert [code(row[0])[0] for row in KEYS] == paths(PUBLISHED)


@pytest.mark.parametrize("row", KEYS, ids=lambda row: row[0])
def test_keys_and_settings_exist(row: list[str]) -> None:
    (key,), setting = code(row[0]), code(row[2])[0]
    assert row[1].startswith("refused") or (row[1].startswith("same") and in_schema(key))
    chart = setting.removeprefix("chart.")
    assert setting in known_keys() or setting == "arguments" or setting == "/gcs" or in_schema(chart), setting
    if setting.startswith("chart."):
        ran = manyhost("explain", setting, RECIPE)
        assert ran.code == 0, ran.err


@pytest.mark.parametrize("key", REFUSED)
def test_a_refused_key_is_refused_by_name(key: str) -> None:
    with pytest.raises(RenderError, match=re.escape(f"{key}: this key is gone")):
        render(nest(key, "x"))


@pytest.mark.parametrize("engine", BINARIES)
def test_ones_own_values_file_works_behind_that_of_the_recipe(engine: str, tmp_path: Path) -> None:
    own = json.loads(json.dumps(PUBLISHED))
    for key in REFUSED:
        *above, last = key.split(".")
        node = own
        for part in above:
            node = node[part]
        del node[last]
    own |= {"clusterName": "my-cluster", "queue": "a3-mega"}
    own["job"]["image"] = {"repository": "r.example/p/vllm-openai", "tag": "v0.7.3"}
    own["volumes"]["gcsMounts"][0]["bucketName"] = "my-bucket"
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(own))
    objects = render(engine=engine, options=("-f", str(VALUES), "-f", str(path)))
    assert engine_container(objects)["image"] == "r.example/p/vllm-openai:v0.7.3"


LINE = ("--set", "job.image.tag=v0.7.3")
NETWORKS = ["default", "gvnic-1", *(f"rdma-{i}" for i in range(8))]
# By the start of a row: whether the recipe's values are used, the release, options, and what is named.
CASES: dict[str, tuple[bool, str, tuple[str, ...], str]] = {
    "tag `v0.7.3` without": (False, "r1", LINE, "vllm.executor"),
    "the ten networks": (
        True,
        "r1",
        tuple(w for i, name in enumerate(NETWORKS) for w in ("--set", f"network.subnetworks[{i}]={name}")),
        "network.subnetworks",
    ),
    "release `jane_doe-": (True, "jane_doe-serving-deepseek-r1-model", LINE, "invalid release name"),
    "tag `latest`": (True, "r1", ("--set", "job.image.tag=latest"), "job.image.tag"),
    "a bucket with": (
        True,
        "r1",
        ("--set", "volumes.gcsMounts[0].bucketName=gs://my-bucket"),
        "volumes.gcsMounts[0].bucketName",
    ),
}


@pytest.mark.parametrize("start", CASES)
def test_what_is_refused(start: str) -> None:
    (row,) = (row for row in table(PAGE, "What is refused, and why") if row[0].startswith(start))
    recipe, release, options, key = CASES[start]
    engine = next(iter(helm_binaries()), "")
    if not engine:
        pytest.skip("no Helm binary, run make tools")
    command = [str(helm_binaries()[engine]), "template", release, str(CHART), *options]
    done = subprocess.run(
        [*command, *(["-f", str(VALUES)] if recipe else [])], capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert key in done.stderr
    if "recipes/" in row[2]:
        assert code(row[2])[0] in done.stderr


def test_every_refusal_has_a_case() -> None:
    rows = [row[0] for row in table(PAGE, "What is refused, and why")]
    assert [next(start for start in CASES if row.startswith(start)) for row in rows] == list(CASES)


def test_trust_remote_code_is_asked_for_by_the_published_recipe_alone() -> None:
    asking = [
        path.parent.name
        for path in (ROOT / "recipes").glob("a3mega/*/values.yaml")
        if yaml.safe_load(path.read_text())["vllm"]["serverArgs"].get("trust-remote-code")
    ]
    assert asking == ["deepseek-r1-671b-published"]


def test_the_published_engine_and_the_newer_one_are_measured_by_a_job() -> None:
    catalog = Catalog(ROOT)
    lines = {text for name, text in commands() if name.endswith(PAGE.name) and "manyhost bench" in text}
    for text in lines:
        check(make_plan(resolve(catalog, RECIPE if RECIPE in text else NEWER), catalog), "manyhost")
    assert len(lines) == 1
