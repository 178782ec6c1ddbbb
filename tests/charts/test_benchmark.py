"""charts/llm-benchmark: one measurement as a Job, unprivileged, in the engine's image."""

from __future__ import annotations

import json
from typing import Any

import pytest
from manyhost import checks
from manyhost.benchmark.job import _deployed, check, values
from manyhost.catalog import Catalog
from manyhost.catalog.environment import RunPod
from manyhost.cluster.target import Target, from_rendered
from manyhost.errors import InvalidInput
from manyhost.render import allowance, build, parse_manifests
from manyhost.render.helm import Binary, InProcess
from manyhost.render.refusal import ChartRefusal

from tests.helpers.helm import ROOT, find, helm_binaries

CATALOG = Catalog(ROOT)
GPUS = "a3mega/deepseek-r1-671b"
CHART = CATALOG.chart("llm-benchmark")
SPEC = {"key": "k", "limit_seconds": 60, "command": ["vllm", "{url}", "$(HOME)", "{{ .Values }}", 'a "b"\n']}
RECIPES = [
    name
    for name in CATALOG.recipes()
    if not isinstance(CATALOG.environment(name.split("/")[0]).platform, RunPod)
]


def target(recipe: str, *settings: str) -> Target:
    return from_rendered(build(recipe, assignments=settings))


def render(made: dict[str, Any], engine: Any = None) -> list[dict[str, Any]]:
    return parse_manifests((engine or InProcess(CHART.path)).render(made, release="r-bench", namespace="n"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_has_a_job_that_may_run_where_the_engine_runs(recipe: str) -> None:
    of = target(recipe)
    objects = render(values(of, SPEC))
    assert sorted(item["kind"] for item in objects) == ["ConfigMap", "Job"]
    assert checks.run(objects, environment_level=allowance(of.plan.allowed)) == []
    pod = find(objects, "Job")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == str(of.plan.image)
    assert "nvidia.com/gpu" not in str(container["resources"])
    assert pod.get("tolerations", []) == of.effective["host"]["tolerations"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert "privileged" not in container["securityContext"]
    told = find(objects, "ConfigMap")["data"]
    assert json.loads(told["spec.json"]) == SPEC, "no template, no shell and no Kubernetes changes a word"
    for path in (CHART.path / "client").glob("*.py"):
        assert told[path.name] == path.read_text()


def test_the_engines_key_comes_from_the_engines_secret() -> None:
    """A name alone is the variable's and the key's."""
    given = "chart.vllm.envFrom=[{name: VLLM_API_KEY, secret: engine-key, key: api.key}]"
    (container,) = find(render(values(target(GPUS, given), SPEC)), "Job")["spec"]["template"]["spec"][
        "containers"
    ]
    secret = {"name": "engine-key", "key": "api.key"}
    assert {"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": secret}} in container["env"]
    made = values(target(GPUS, "chart.vllm.envFrom=[{name: OTHER, secret: c}]"), SPEC)
    assert made["apiKey"] == {}
    assert "VLLM_API_KEY" not in str(find(render(made), "Job"))
    assert values(target(GPUS, "chart.vllm.envFrom=[{name: VLLM_API_KEY, secret: s}]"), SPEC)["apiKey"] == {
        "secretName": "s", "secretKey": "VLLM_API_KEY",
    }  # fmt: skip


def test_it_needs_no_privilege_at_all() -> None:
    with_user = render({"spec": "{}", "security": {"runAsUser": 1000}})
    assert checks.run(with_user, environment_level=checks.Allowance("restricted")) == []
    pod = find(with_user, "Job")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False


def test_every_helm_renders_the_same() -> None:
    made = values(target(GPUS), SPEC)
    engines = [InProcess(CHART.path), *(Binary(CHART.path, str(path)) for path in helm_binaries().values())]
    found = [sorted(render(made, engine), key=lambda item: str(item["kind"])) for engine in engines]
    assert all(other == found[0] for other in found)


def test_weights_in_a_bucket_bring_the_tokenizer() -> None:
    of = target(GPUS, "site.gcs_bucket=weights-1")
    made = values(of, SPEC)
    pod = find(render(made), "Job")["spec"]["template"]["spec"]
    assert pod["volumes"][-1]["csi"]["volumeAttributes"]["bucketName"] == "weights-1"
    assert pod["volumes"][-1]["csi"]["readOnly"] is True
    assert pod["serviceAccountName"] == of.service_account
    environment = {item["name"]: item.get("value") for item in pod["containers"][0]["env"]}
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert "HF_TOKEN" not in environment
    hub = find(render(values(target(GPUS), SPEC)), "Job")["spec"]["template"]["spec"]
    names = {item["name"] for item in hub["containers"][0]["env"]}
    assert "HF_TOKEN" in names
    assert "HF_HUB_OFFLINE" not in names


@pytest.mark.parametrize("made", [{"speck": 1}, {"image": {"tga": "x"}}, {"spec": 5}, {"deadlineSeconds": 0}])
def test_values_are_closed(made: dict[str, Any]) -> None:
    with pytest.raises(ChartRefusal):
        render(made)


def test_engines_it_cannot_measure_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no `vllm bench serve`"):
        check(target("a3mega/deepseek-r1-671b-published").plan, "vllm")
    check(target("a3mega/deepseek-r1-671b-published").plan, "manyhost")
    with pytest.raises(InvalidInput, match="plain HTTP"):
        check(target(GPUS, "arguments.ssl-certfile=/tls/tls.crt").plan, "manyhost")
    check(target(GPUS).plan, "vllm")


def test_a_pod_with_another_flag_image_or_executor_is_not_as_planned() -> None:
    of = target("local/tiny-r1")
    spec = json.loads(json.dumps(of.pod("leader")["spec"]))
    pod = {"metadata": {"name": "tiny-r1-0"}, "spec": spec, "status": {}}
    for item in spec["containers"][0]["env"]:
        if item.get("value") == "":
            del item["value"]  # as the API server does
    spec["containers"][0]["env"].insert(0, {"name": "LWS_GROUP_SIZE", "value": "2"})  # as its controller does
    assert _deployed(pod, of).differences == ()
    engine = spec["containers"][0]
    place = engine["args"].index("--max-num-seqs") + 1
    engine["args"][place] = "8"
    engine["image"] = "docker.io/local/engine:2"
    for item in engine["env"]:
        if item["name"] == "MANYHOST_EXECUTOR":
            item["value"] = "ray"
    assert _deployed(pod, of).differences == (
        "image is docker.io/local/engine:2, planned docker.io/local/engine:1",
        "arguments have 8, planned 16",
        "MANYHOST_EXECUTOR is ray, planned mp",
    )
