"""Seeded faults in the chart, the values template and the code of the plan: each is caught.

The tables say by what: a check of the render, the golden of a recipe, or a test function by name.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import manyhost.catalog.settings as settings_module
import pytest
from manyhost.catalog import Catalog, resolve
from manyhost.errors import InvalidInput
from manyhost.plan import memory, parallelism, startup
from manyhost.plan import plan as plan_module
from manyhost.render import Renderer
from manyhost.render import values as values_module
from manyhost.render.helm import InProcess

from tests.helpers.cli import ROOT
from tests.unit.catalog import test_settings
from tests.unit.plan import test_memory, test_parallelism, test_plan
from tools import goldens

CHART = ROOT / "charts/llm-multihost"
GOLDEN = ROOT / "tests/golden"
RECIPES = ["a3mega/deepseek-r1-671b", "local/tiny-r1", "local/tiny-r1-disaggregated"]


# ------------------------------------------------------------------------ chart and template
# file, old text, new text, what catches it: "golden", or the name of a check, or words of the refusal
CHART_FAULTS = [
    ("_container.tpl", "int64 $model.tp_size", "mul 2 $model.tp_size", "parallelism"),
    ("_container.tpl", "- --pipeline-parallel-size", "- --pipeline-paralel-size", "parallelism"),
    ("_container.tpl", "- {{ int64 $model.pp_size | quote }}", "- {{ int64 $model.pp_size }}", "schema"),
    ("_container.tpl", "- {{ int64 $model.tp_size | quote }}", '- "1"', "parallelism"),
    (
        "_container.tpl",
        '- --{{ ternary "" "no-" $value }}{{ $name }}',
        "- --{{ $name }}\n- {{ $value | quote }}",
        "engine-flag",
    ),
    (
        "_container.tpl",
        "command: [bash, /opt/manyhost/launch.sh]",
        "command: [bash, /opt/manyhost/start.sh]",
        "reference",
    ),
    (
        "_container.tpl",
        "- name: vllm\n",
        "- name: engine\n",
        "schema|reference|parallelism|engine-flag|group",
    ),
    ("_container.tpl", "allowPrivilegeEscalation: false", "privileged: true", "pod-security"),
    ("_container.tpl", "drop: [ALL]", "add: [SYS_ADMIN]", "pod-security"),
    ("_container.tpl", "type: RuntimeDefault", "type: Unconfined", "pod-security"),
    (
        "_container.tpl",
        "containerPort: {{ int64 $values.vllm.service.ports.http }}",
        "containerPort: 8001",
        "reference",
    ),
    ("_group.tpl", "size: {{ div", "size: {{ add 1 ", "parallelism"),
    ("_group.tpl", "restartPolicy: RecreateGroupOnPodRestart", "restartPolicy: None", "golden"),
    ("_group.tpl", "startupPolicy: LeaderCreated", "startupPolicy: LeaderReady", "lws|golden"),
    ("_group.tpl", "kind: LeaderWorkerSet", "kind: LeaderWorkerset", "schema"),
    ("_group.tpl", "replicas: {{ int64 $values.vllm.replicaCount }}", "replicas: 2", "golden"),
    ("_group.tpl", '"role" "worker"', '"role" "leader"', "golden|group"),
    ("service.yaml", "manyhost.leaderLabels", "manyhost.labels", "reference"),
    ("service.yaml", "{{ .Release.Name }}-svc", "{{ .Release.Name }}", "reference"),
    ("service.yaml", "targetPort: http", "targetPort: web", "reference"),
    ("service.yaml", "port: {{ int64 .Values", "port: {{ float64 1e21 }} # {{ .Values", "schema|number"),
    ("configmap.yaml", "{{ .Release.Name }}-scripts", "{{ .Release.Name }}-script", "reference"),
    ("_pod.tpl", "launcher/%s*", "launcher/%slaunch.sh", "reference"),
    ("_pod.tpl", '"%s/" .Values.network.interconnect', '"%s/" "none"', "reference"),
    ("_pod.tpl", 'append $folders "router/"', 'append $folders "route/"', "reference"),
    ("_pod.tpl", '"eth%d" $i', '"eth%d" 1', "network"),
    (
        "_pod.tpl",
        '"networking.gke.io/default-interface" "eth0"',
        '"networking.gke.io/default-interface" "eth9"',
        "network",
    ),
    (
        "_pod.tpl",
        '"networking.gke.io/interfaces" (toJson $interfaces)',
        '"networking.gke.io/interfaces" (toString $interfaces)',
        "network",
    ),
    (
        "_pod.tpl",
        '"kubectl.kubernetes.io/default-container" "vllm"',
        '"kubectl.kubernetes.io/default-container" "engine"',
        "reference|golden",
    ),
    (
        "_pod.tpl",
        "(add $values.lifecycle.drainSeconds 30)",
        "(sub $values.lifecycle.drainSeconds 30)",
        "golden|schema",
    ),
    ("_pod.tpl", "serviceAccountName: {{ include", 'serviceAccountName: "x{{ 1 }}" # {{ include', "golden"),
    ("_pod.tpl", "enableServiceLinks: false", "hostPID: true", "pod-security"),
    ("_pod.tpl", "role: {{ .role }}", "role: {{ .Role }}", "schema"),
    ("_storage.tpl", "- name: shm\n", "- name: shared\n", "reference"),
    ("_storage.tpl", "medium: Memory", "medium: memory", "golden"),
    ("_storage.tpl", "name: {{ .Release.Name }}-scripts", "name: scripts", "reference"),
    ("_storage.tpl", "sizeLimit: {{ $volumes.shmSize | quote }}", "sizeLimit: lots", "schema|golden"),
    ("_interconnect-tcpxo.tpl", "- name: tcpxo-daemon", "- name: rxdm", "network"),
    ("_interconnect-tcpxo.tpl", "restartPolicy: Always", "restartPolicy: Never", "schema|network|golden"),
    (
        "_interconnect-tcpxo.tpl",
        "add: [NET_ADMIN, NET_BIND_SERVICE]",
        "add: [NET_ADMIN, SYS_ADMIN]",
        "pod-security",
    ),
    ("_interconnect-tcpxo.tpl", "{path: /proc/sys}", "{path: /proc}", "golden|pod-security"),
    ("_interconnect-tcpxo.tpl", "until (int .Values.host.gpus)", "until 4", "network|golden"),
    (
        "_interconnect-tcpxo.tpl",
        "- {name: nvidia, mountPath: /usr/local/nvidia, readOnly: true}\n",
        "",
        "reference|golden",
    ),
    (
        "_interconnect-tcpxo.tpl",
        "- {name: aperture-devices, hostPath",
        "- {name: apertures, hostPath",
        "reference",
    ),
    ("_disaggregation.tpl", "- name: router", "- name: proxy", "group"),
    ("_disaggregation.tpl", "containerPort: {{ $port }}", "containerPort: {{ add1 $port }}", "reference"),
    ("_disaggregation.tpl", "router.sh, serve", "route.sh, serve", "reference"),
    ("_disaggregation.tpl", "toRawJson $config", "$config", "engine-flag"),
    ("_disaggregation.tpl", '"kv_producer" "kv_consumer"', '"kv_consumer" "kv_producer"', "golden"),
    ("_disaggregation.tpl", "{{ .Release.Name }}-prefill-svc:", "{{ .Release.Name }}-svc:", "golden"),
    ("_disaggregation.tpl", "readOnlyRootFilesystem: true", "privileged: true", "pod-security"),
    ("_container.tpl", "router.sh, drain", "route.sh, drain", "reference"),
    ("_container.tpl", "containerPort: {{ add1", "containerPort: {{ int64", "reference"),
    ("prefill-service.yaml", "name: {{ .Release.Name }}-prefill\n", "name: {{ .Release.Name }}\n", "golden"),
    ("prefill-service.yaml", 'worker-index: "0"', 'worker-index: "9"', "reference"),
    ("service.yaml", "targetPort: {{ int64", "targetPort: {{ add 2", "reference"),
]

TEMPLATE_FAULTS = [
    ("  tp_size: {{ plan.tensor }}", "  tp_size: {{ plan.pipeline }}", "chart|parallelism"),
    ("  pp_size: {{ plan.pipeline }}", "  pp_size: 1.5", "parallelism.pipeline"),
    ("  gpus: {{ environment.host.gpus }}", "  gpus: 4", "chart|network|golden"),
    ("  tag: {{ plan.tag }}", "  tag: latest", "engine.tag"),
    ("  executor: {{ plan.executor }}", "  executer: {{ plan.executor }}", "chart"),
    ("  executor: {{ plan.executor }}", "  executor: ray", "golden"),
    ("  subnetworks: {{ plan.networks }}", "  subnetworks: []", "golden|values"),
    ("  networks: {{ environment.networks }}", "  networks: [default]", "network.subnetworks"),
    ("{{ name }}: {{ value }}  #", "{{ name }}: {{ value ~ '' }}  #", "engine-flag|chart|golden|values"),
    ("  path: {{ plan.weights_path }}", "  path: ''", "golden|values"),
    ("  startupSeconds: {{ plan.startup_seconds }}", "  startupSeconds: 60", "golden"),
    ("  replicaCount: {{ plan.groups }}", "  replicaCount: {{ plan.group }}", "undefined"),
    ("  shmSize: {{ environment.shm_size }}", "  shmSize: 1Gi", "golden"),
    ("  runAsUser: {{ environment.security.run_as_user }}", "  runAsUser: 0", "golden"),
    ("  prefillGroups: {{ plan.prefill_groups }}", "  prefillGroups: 0", "golden|values"),
    ("  prefillGroups: {{ plan.prefill_groups }}", "  prefillGroups: 1", "parallelism|interconnect"),
]


@functools.cache
def _golden(recipe: str) -> tuple[str, str]:
    folder = GOLDEN / goldens.folder_name(recipe)
    return (folder / "manifests.yaml").read_text(), (folder / "values.yaml").read_text()


def _catchers(renderer: Renderer) -> str:
    """Render the recipes and return what finds a fault: words of a refusal, a check, "golden" or ""."""
    found = []
    for recipe in RECIPES:
        try:
            rendered = renderer.render(resolve(renderer.catalog, recipe))
        except InvalidInput as error:
            found.append(str(error))
            continue
        except (jinja2.UndefinedError, TypeError):  # StrictUndefined is nothing that JSON could write
            found.append("undefined")
            continue
        manifests, values = _golden(recipe)
        if goldens.manifests_text(rendered.objects, CHART / "launcher") != manifests:
            found.append("golden")
        if goldens.values_text(rendered.values) != values:
            found.append("values")
    return "; ".join(found)


def _expect(found: str, expected: str) -> None:
    assert found, "nothing caught it"
    names = expected.split("|")
    assert any(f"[{name}]" in found or name in found for name in names), found


def test_without_a_fault_nothing_is_found() -> None:
    assert _catchers(Renderer(Catalog(ROOT))) == ""


@pytest.mark.parametrize(("file", "old", "new", "caught_by"), CHART_FAULTS)
def test_faults_in_the_chart(file: str, old: str, new: str, caught_by: str, tmp_path: Path) -> None:
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    path = chart / "templates" / file
    text = path.read_text()
    assert old in text, "the fault no longer fits the chart"
    path.write_text(text.replace(old, new))
    try:
        engine = InProcess(chart)
    except InvalidInput as error:
        _expect(str(error), caught_by)
        return
    _expect(_catchers(Renderer(Catalog(ROOT), engine)), caught_by)


@pytest.mark.parametrize(("old", "new", "caught_by"), TEMPLATE_FAULTS)
def test_faults_in_the_values_template(
    old: str, new: str, caught_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = values_module._template()
    source = (Path(values_module.__file__).parent / "templates/values.yaml.j2").read_text()
    assert source.count(old) == 1, "the fault no longer fits the template"
    broken = template.environment.from_string(source.replace(old, new))
    monkeypatch.setattr(values_module, "_template", lambda: broken)
    _expect(_catchers(Renderer(Catalog(ROOT))), caught_by)


# ----------------------------------------------------------------------------------- code
Test = Callable[..., None]
# module, function, old text, new text, the test function that catches it
CODE_FAULTS: list[tuple[ModuleType, str, str, str, Test]] = [
    (
        parallelism,
        "pipeline_layers",
        "-(extra + 2)",
        "-(extra + 1)",
        test_parallelism.test_layers_are_split_as_vllm_does,
    ),
    (
        parallelism,
        "pipeline_layers",
        "layers % stages)",
        "layers % stages - 1)",
        test_parallelism.test_layers_are_split_as_vllm_does,
    ),
    (
        parallelism,
        "hosts_per_group",
        "ranks // per_host",
        "ranks // per_host + 1",
        test_parallelism.test_hosts,
    ),
    (parallelism, "hosts_per_group", "max(host.gpus, 1)", "8", test_parallelism.test_hosts),
    (
        parallelism,
        "hosts_per_group",
        "if ranks % per_host:",
        "if False:",
        test_parallelism.test_sizes_that_cannot_be,
    ),
    (
        parallelism,
        "hosts_per_group",
        "and tensor % host.gpus:",
        "and False:",
        test_parallelism.test_sizes_that_cannot_be,
    ),
    (
        parallelism,
        "hosts_per_group",
        "parallelism.data > 1 and hosts > 1",
        "False",
        test_parallelism.test_sizes_that_cannot_be,
    ),
    (
        parallelism,
        "check_model_fits_ranks",
        "model.heads % parallelism.tensor",
        "0",
        test_parallelism.test_models_that_cannot_be_divided,
    ),
    (
        parallelism,
        "check_model_fits_ranks",
        "model.moe_intermediate % parallelism.tensor",
        "0",
        test_parallelism.test_experts_must_be_divided_too,
    ),
    (
        memory,
        "kv_bytes_per_token_layer",
        "math.ceil(entry / align) * align",
        "entry",
        test_memory.test_logged_kv_tokens,
    ),
    (
        memory,
        "kv_bytes_per_token_layer",
        "* _KV_BYTES[kv_dtype]",
        "* 2",
        test_memory.test_fp8_holds_twice_the_tokens,
    ),
    (memory, "kv_bytes_per_token_layer", " + model.qk_rope_head_dim", "", test_memory.test_logged_kv_tokens),
    (
        memory,
        "kv_tokens",
        "layers * bytes_per_token_layer",
        "61 * bytes_per_token_layer",
        test_memory.test_logged_kv_tokens,
    ),
    (memory, "kv_tokens", "max(0, int(", "abs(int(", test_memory.test_a_pool_that_is_too_small_holds_nothing),
    (
        memory,
        "stage_weights_bytes",
        "a.routed_experts + a.shared_experts",
        "a.routed_experts * 0.9",
        test_memory.test_logged_weights,
    ),
    (
        memory,
        "stage_weights_bytes",
        "layers * _absorbed_bytes(a, engine, tensor)",
        "0",
        test_memory.test_logged_weights,
    ),
    (
        memory,
        "stage_weights_bytes",
        "((first_layer == 0) + is_last)",
        "2",
        test_memory.test_stages_add_up_to_the_whole_model_without_its_prediction_layer,
    ),
    (memory, "_matrix", "rows * columns + 4 * scales", "2 * rows * columns", test_memory.test_logged_weights),
    (startup, "budget_seconds", "own * _MARGIN", "own", test_plan.test_cold_start_phases_and_budget),
    (
        startup,
        "cold_start",
        "READ_RATES[source]",
        "READ_RATES['folder']",
        test_plan.test_cold_start_phases_and_budget,
    ),
    (
        plan_module,
        "_check_executor",
        "executor not in engine.executors",
        "False",
        test_plan.test_executors_that_cannot_start,
    ),
    (
        plan_module,
        "_check_executor",
        "and not own_image",
        "and False",
        test_plan.test_executors_that_cannot_start,
    ),
    (
        plan_module,
        "_check_arguments",
        "plain in RESERVED",
        "name in RESERVED",
        test_plan.test_flags_that_manyhost_sets_itself,
    ),
    (
        plan_module,
        "_networks",
        "len(names) != len(environment.networks)",
        "False",
        test_plan.test_what_cannot_work_says_why,
    ),
    (
        plan_module,
        "_networks",
        "len(set(names)) != len(names)",
        "False",
        test_plan.test_what_cannot_work_says_why,
    ),
    (
        plan_module,
        "_weights",
        '"bucket" if recipe.site.gcs_bucket else "hub"',
        '"hub"',
        test_plan.test_sources_of_the_weights,
    ),
    (
        plan_module,
        "_memory",
        "if tokens[fullest] < recipe.context:",
        "if False:",
        test_plan.test_what_cannot_work_says_why,
    ),
    (plan_module, "_image", 'and "/" not in image', "", test_plan.test_images),
    (
        plan_module,
        "_price",
        "recipe.site.cluster_region, recipe.site.region",
        "recipe.site.region",
        test_plan.test_price_by_region,
    ),
    (
        plan_module,
        "_arguments",
        "sorted(recipe.arguments)",
        "reversed(sorted(recipe.arguments))",
        test_plan.test_arguments_have_a_fixed_order_and_derived_ones_come_first,
    ),
    (
        settings_module,
        "_merge",
        "result.pop(name, None)",
        "pass",
        test_settings.test_null_removes_an_optional_key_and_the_default_applies,
    ),
    (
        settings_module,
        "_nest",
        "if prefix else key.split",
        "if False else key.split",
        test_settings.test_assignments,
    ),
    (
        settings_module,
        "_set_by",
        "layers[::-1]",
        "layers",
        test_settings.test_the_layer_that_is_wrong_is_named,
    ),
]


def _rows(test: Test) -> Iterator[dict[str, Any]]:
    """Return the arguments of every case of a parametrized test function."""
    axes = []
    for mark in getattr(test, "pytestmark", []):
        names, rows = mark.args[:2]
        names = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
        axes.append([dict(zip(names, row if len(names) > 1 else (row,), strict=True)) for row in rows])
    for combination in itertools.product(*axes):
        yield {key: value for part in combination for key, value in part.items()}


def _fails(test: Test) -> bool:
    for row in _rows(test):
        try:
            test(**row)
        except (Exception, pytest.fail.Exception):
            return True
    return False


@pytest.mark.parametrize(
    ("module", "function", "old", "new", "test"),
    CODE_FAULTS,
    ids=lambda value: getattr(value, "__name__", str(value))[-32:],
)
def test_faults_in_the_code(
    module: ModuleType, function: str, old: str, new: str, test: Test, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(module, function)
    source = inspect.getsource(original)
    assert old in source, "the fault no longer fits the code"
    scope: dict[str, Any] = {}
    exec(compile(source.replace(old, new), module.__file__ or "", "exec"), module.__dict__, scope)
    for other in list(sys.modules.values()):
        if getattr(other, function, None) is original:
            monkeypatch.setattr(other, function, scope[function])
    assert _fails(test), f"{test.__name__} does not notice"


@pytest.mark.parametrize("test", sorted({row[4] for row in CODE_FAULTS}, key=lambda t: t.__name__))
def test_the_tests_themselves_pass(test: Test) -> None:
    assert not _fails(test)
