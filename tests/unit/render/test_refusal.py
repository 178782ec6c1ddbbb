"""A refusal of the chart names the setting that a person wrote, and where."""

from __future__ import annotations

import re

import pytest
import yaml
from manyhost.catalog import Catalog, resolve
from manyhost.errors import InvalidInput
from manyhost.render import Renderer, build
from manyhost.render.helm import Binary, InProcess
from manyhost.render.refusal import SETTINGS, ChartRefusal, in_settings

from tests.helpers.cli import RECIPE, ROOT
from tests.helpers.helm import helm_binaries

MOUNTS = "host_mounts=[{name: a, host_path: /a, mount_path: /x}, {name: b, host_path: %s, mount_path: %s}]"
# What templates/values.yaml.j2 writes from the catalog: no setting changes it by itself.
FACTS = {
    "recipe", "model.name", "model.servedName", "host.environment", "host.gpus", "host.networks",
    "host.tolerations", "host.topologyKeys", "host.resources", "gpuPlatformSettings.daemonResources",
    "roles.handover.buffer", "roles.handover.env", "gateway.gke",
    "network.socketInterface", "gpuPlatformSettings.ncclPluginImage", "gpuPlatformSettings.rxdmImage",
    "gpuPlatformSettings.capabilities", "gpuPlatformSettings.devices", "gpuPlatformSettings.env",
    "gpuPlatformSettings.extendedResources", "gpuPlatformSettings.folders", "gpuPlatformSettings.libraries",
    "gpuPlatformSettings.profile",
    "volumes.shmSize", "janitor.enabled", "janitor.heldMinutes",
    "security.runAsUser", "security.runAsGroup", "security.fsGroup",
}  # fmt: skip


@pytest.mark.parametrize(
    ("assignment", "where", "words"),
    [
        ("engine.tag=-x", "engine.tag", "does not match pattern"),
        ("site.gcs_bucket=gs://x", "site.gcs_bucket", '"gs://x" is no bucket name'),
        ("node_selector.a=b c", "node_selector.a", "does not match pattern"),
        ("network.nccl.1a=b", "network.nccl.1a", "is no name of a variable"),
        ("variables.a-b=x", "variables.a-b", "is no name of a variable"),
        ("engine.tag=a; b", "engine.tag", "'a; b' does not match pattern"),
        ("variables.HF_TOKEN=x", "variables", "HF_TOKEN would put a secret"),
        ("ssd_host_path=x", "ssd_host_path", "must be an absolute path"),
        ('engine.command=[""]', "engine.command[0]", "does not match pattern"),
        (MOUNTS % ("b", "/b"), "host_mounts[1].host_path", "must be an absolute path"),
        (MOUNTS % ("/b", "/x"), "host_mounts[1].mount_path", "the place of host_mounts[0].mount_path"),
        ("arguments.hf-token=x", "arguments.hf-token", "reserved"),
    ],
)
def test_the_setting_is_named(assignment: str, where: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        build(RECIPE, assignments=[assignment])
    assert caught.value.where == (where if where == "variables" else f"--set: {where}")
    assert words in caught.value.message
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("engine", ["helm3", "helm4"])
def test_by_every_helm(engine: str) -> None:
    """Helm 3 and 4 write the place of a schema error in ways of their own."""
    if engine not in helm_binaries():
        pytest.skip(f"{engine} is not here: make tools")
    catalog = Catalog(ROOT)
    renderer = Renderer(catalog, Binary(ROOT / "charts/llm-multihost", str(helm_binaries()[engine])))
    for assignment, where in (("node_selector.a=b c", "node_selector.a"), ("engine.tag=-x", "engine.tag")):
        with pytest.raises(InvalidInput) as caught:
            renderer.render(resolve(catalog, RECIPE, assignments=[assignment]))
        assert caught.value.where == f"--set: {where}"


def test_all_problems_are_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        build(RECIPE, assignments=["site.gcs_bucket=gs://x", "variables.HF_TOKEN=x", "arguments.hf-token=x"])
    assert caught.value.message == "reserved"
    assert [error.where for error in caught.value.more] == ["variables", "--set: site.gcs_bucket"]


@pytest.mark.parametrize(
    ("problem", "where", "message"),
    [
        ("vllm.service.ports.http: taken; use another", "chart: vllm.service.ports.http", "taken"),
        ("something that is no problem of ours", "chart", "something that is no problem of ours"),
        ("job.images: unknown", "chart: job.images", "unknown"),
    ],
)
def test_what_has_no_setting_stays_as_the_chart_says_it(problem: str, where: str, message: str) -> None:
    said = in_settings(ChartRefusal([problem]), {}, lambda _: "default")
    assert (said.where, said.message) == (where, message)


@pytest.mark.parametrize("engine", ["in process", "helm3", "helm4"])
def test_a_refusal_that_quotes_a_huge_value_is_cut(engine: str) -> None:
    if engine != "in process" and engine not in helm_binaries():
        pytest.skip(f"{engine} is not here: make tools")
    chart = ROOT / "charts/llm-multihost"
    helm = InProcess(chart) if engine == "in process" else Binary(chart, str(helm_binaries()[engine]))
    with pytest.raises(ChartRefusal) as caught:
        helm.render({"clusterName": ["x" * 50_000]}, release="r", namespace="default")
    assert 0 < sum(map(len, caught.value.problems)) < 2000


def test_the_limit_of_an_image_name() -> None:
    with pytest.raises(InvalidInput, match="length of at most 255") as caught:
        build(RECIPE, assignments=[f"engine.image={'a' * 256}"])
    assert caught.value.where == "--set: engine.image"
    with pytest.raises(InvalidInput) as caught:
        build(RECIPE, assignments=[f"engine.image={'a' * 200}", f"site.artifact_registry={'b' * 60}"])
    assert caught.value.where == "--set: engine.image and --set: site.artifact_registry"


def test_every_value_of_a_render_is_a_setting_or_a_fact() -> None:
    """A line that is added to templates/values.yaml.j2 belongs into the table too."""
    texts = [
        build(RECIPE, assignments=["site.gcs_bucket=bucket", "node_selector.a=b"]).values_text,
        build("local/tiny-r1-disaggregated").values_text,
        build("a3mega/deepseek-r1-671b-sglang").values_text,
        build(
            RECIPE, assignments=["routing=inferencepool", "gateway.name=g", "gateway.picker.name=p"]
        ).values_text,
    ]
    keys = [key for text in texts for key in _leaves(yaml.load(text, Loader=yaml.CSafeLoader), "")]
    known = [*SETTINGS, *FACTS]
    assert [key for key in keys if not re.match(rf"({'|'.join(map(re.escape, known))})($|[.\[])", key)] == []
    assert [key for key in known if not any(re.match(rf"{re.escape(key)}($|[.\[])", k) for k in keys)] == []


def _leaves(value: object, at: str) -> list[str]:
    if isinstance(value, dict) and value:
        return [leaf for key, below in value.items() for leaf in _leaves(below, f"{at}.{key}".lstrip("."))]
    return [at]
