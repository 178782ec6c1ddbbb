"""Seeded faults in rendered manifests: each is caught, by the check that is named beside it.

A fault is made in both roles where that is possible, so that it is not found merely because
leader and worker differ.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.helpers.sample import (
    Object,
    container,
    findings,
    item,
    named,
    pod,
    pods,
    put,
    sample,
)

Fault = Callable[[list[Object]], None]
FAULTS: list[tuple[str, Fault]] = []

INTERFACES = "networking.gke.io/interfaces"


def caught_by(check: str) -> Callable[[Fault], Fault]:
    def add(fault: Fault) -> Fault:
        FAULTS.append((check, fault))
        return fault

    return add


# ------------------------------------------------------------------------------- gateway
@caught_by("routing")
def pool_of_workers_too(objects: list[Object]) -> None:
    labels = item(objects, "InferencePool")["spec"]["selector"]["matchLabels"]
    del labels["leaderworkerset.sigs.k8s.io/worker-index"]


@caught_by("routing")
def pool_of_another_port(objects: list[Object]) -> None:
    item(objects, "InferencePool")["spec"]["targetPorts"] = [{"number": 8001}]


@caught_by("routing")
def route_to_no_pool(objects: list[Object]) -> None:
    item(objects, "HTTPRoute")["spec"]["rules"][0]["backendRefs"][0]["name"] = "other"


@caught_by("schema")
def time_limit_without_a_unit(objects: list[Object]) -> None:
    item(objects, "HTTPRoute")["spec"]["rules"][0]["timeouts"]["request"] = "300"


@caught_by("schema")
def misspelled_picker(objects: list[Object]) -> None:
    spec = item(objects, "InferencePool")["spec"]
    spec["endpointpickerRef"] = spec.pop("endpointPickerRef")


# ------------------------------------------------------------------------------- shape
@caught_by("schema")
def misspelled_port_field(objects: list[Object]) -> None:
    for template in pods(objects):
        port = container(template)["ports"][0]
        port["containerport"] = port.pop("containerPort")


@caught_by("schema")
def misspelled_size(objects: list[Object]) -> None:
    template = item(objects, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    template["sizes"] = template.pop("size")


@caught_by("schema")
def numeric_env_value(objects: list[Object]) -> None:
    for template in pods(objects):
        named(container(template)["env"], "MANYHOST_PORT")["value"] = 8000


@caught_by("schema")
def env_without_name(objects: list[Object]) -> None:
    for template in pods(objects):
        entry = container(template)["env"][-1]
        entry["nam"] = entry.pop("name")


@caught_by("schema")
def null_image(objects: list[Object]) -> None:
    for template in pods(objects):
        container(template)["image"] = None


@caught_by("schema")
def group_of_no_host(objects: list[Object]) -> None:
    item(objects, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]["size"] = 0


@caught_by("schema")
def unknown_kind(objects: list[Object]) -> None:
    item(objects, "LeaderWorkerSet")["kind"] = "LeaderWorkerset"


@caught_by("schema")
def restart_policy_that_does_not_exist(objects: list[Object]) -> None:
    template = item(objects, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    template["restartPolicy"] = "Always"


@caught_by("schema")
def service_port_as_text(objects: list[Object]) -> None:
    item(objects, "Service")["spec"]["ports"][0]["port"] = "8000"


@caught_by("schema")
def probe_at_the_wrong_level(objects: list[Object]) -> None:
    for template in pods(objects):
        template["spec"]["startupProbe"] = container(template).pop("startupProbe")


@caught_by("lws")
def rollout_that_cannot_move(objects: list[Object]) -> None:
    item(objects, "LeaderWorkerSet")["spec"]["rolloutStrategy"] = {
        "type": "RollingUpdate",
        "rollingUpdateConfiguration": {"maxUnavailable": 0, "maxSurge": 0},
    }


@caught_by("lws")
def subgroups_that_do_not_divide(objects: list[Object]) -> None:
    template = item(objects, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    template["subGroupPolicy"] = {"subGroupSize": 3}


# ------------------------------------------------------------------------- arithmetic
@caught_by("parallelism")
def tensor_parallel_over_too_many(objects: list[Object]) -> None:
    for template in pods(objects):
        put(template, "--tensor-parallel-size", "12")


@caught_by("parallelism")
def one_host_too_few(objects: list[Object]) -> None:
    item(objects, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]["size"] = 1


@caught_by("parallelism")
def gpu_limit_lost(objects: list[Object]) -> None:
    for template in pods(objects):
        del container(template)["resources"]["limits"]["nvidia.com/gpu"]


@caught_by("parallelism")
def fewer_gpus_in_workers(objects: list[Object]) -> None:
    resources = container(pod(objects, "worker"))["resources"]
    resources["limits"]["nvidia.com/gpu"] = resources["requests"]["nvidia.com/gpu"] = 4


@caught_by("parallelism")
def sidecar_takes_a_gpu(objects: list[Object]) -> None:
    for template in pods(objects):
        container(template, "tcpxo-daemon")["resources"] = {"limits": {"nvidia.com/gpu": 1}}


@caught_by("parallelism")
def script_told_another_gpu_count(objects: list[Object]) -> None:
    for template in pods(objects):
        named(container(template)["env"], "MANYHOST_GPUS_PER_HOST")["value"] = "4"


# ------------------------------------------------------------------ leader and worker
@caught_by("group")
def nccl_setting_in_the_leader_only(objects: list[Object]) -> None:
    entry = named(container(pod(objects, "leader"))["env"], "MANYHOST_SET_NCCL_DEBUG")
    entry["value"] = "INFO"


@caught_by("group")
def worker_with_another_flag(objects: list[Object]) -> None:
    put(pod(objects, "worker"), "--max-model-len", "16384")


@caught_by("group")
def worker_with_another_image(objects: list[Object]) -> None:
    container(pod(objects, "worker"))["image"] = "vllm/vllm-openai:v0.25.0"


@caught_by("group")
def worker_without_its_sidecar(objects: list[Object]) -> None:
    spec = pod(objects, "worker")["spec"]
    spec["initContainers"] = [c for c in spec["initContainers"] if c["name"] != "tcpxo-daemon"]


# ----------------------------------------------------------------------------- network
def _interfaces(objects: list[Object], change: Callable[[list[Object]], list[Object]]) -> None:
    for template in pods(objects):
        annotations = template["metadata"]["annotations"]
        annotations[INTERFACES] = json.dumps(change(json.loads(annotations[INTERFACES])))


@caught_by("network")
def trailing_comma_in_interfaces(objects: list[Object]) -> None:
    for template in pods(objects):
        annotations = template["metadata"]["annotations"]
        annotations[INTERFACES] = annotations[INTERFACES].replace("}]", "},]")


@caught_by("network")
def interface_left_out(objects: list[Object]) -> None:
    _interfaces(objects, lambda items: items[:3] + items[4:])


@caught_by("network")
def network_used_twice(objects: list[Object]) -> None:
    _interfaces(objects, lambda items: [*items[:-1], items[-1] | {"network": "vpc1"}])


@caught_by("network")
def network_with_an_underscore(objects: list[Object]) -> None:
    _interfaces(objects, lambda items: [*items[:-1], items[-1] | {"network": "vpc_8"}])


@caught_by("network")
def default_interface_without_interfaces(objects: list[Object]) -> None:
    for template in pods(objects):
        del template["metadata"]["annotations"][INTERFACES]


@caught_by("network")
def interfaces_on_the_host_network(objects: list[Object]) -> None:
    for template in pods(objects):
        template["spec"]["hostNetwork"] = True


@caught_by("network")
def socket_interface_that_is_not_there(objects: list[Object]) -> None:
    for template in pods(objects):
        named(container(template)["env"], "MANYHOST_INTERFACE")["value"] = "eth9"


@caught_by("network")
def devices_for_a_renamed_container(objects: list[Object]) -> None:
    for template in pods(objects):
        container(template, "tcpxo-daemon")["name"] = "rxdm"


# ------------------------------------------------------------------------------- flags
def _args(objects: list[Object], *words: str) -> None:
    for template in pods(objects):
        container(template)["args"].extend(words)


@caught_by("engine-flag")
def misspelled_flag(objects: list[Object]) -> None:
    _args(objects, "--max-model-lenght", "32768")


@caught_by("engine-flag")
def flag_of_a_newer_version(objects: list[Object]) -> None:
    _args(objects, "--kda-decode-backend", "auto")


@caught_by("engine-flag")
def switch_with_a_value(objects: list[Object]) -> None:
    _args(objects, "--trust-remote-code=False")


@caught_by("engine-flag")
def whole_number_as_words(objects: list[Object]) -> None:
    for template in pods(objects):
        put(template, "--max-model-len", "32 thousand")


@caught_by("engine-flag")
def broken_json(objects: list[Object]) -> None:
    for template in pods(objects):
        put(template, "--hf-overrides", '{"rope_theta": 10000')


@caught_by("engine-flag")
def word_that_is_no_choice(objects: list[Object]) -> None:
    _args(objects, "--kv-cache-dtype", "int3")


@caught_by("engine-flag")
def flag_given_twice(objects: list[Object]) -> None:
    _args(objects, "--max-model-len", "16384")


@caught_by("engine-flag")
def flag_without_its_value(objects: list[Object]) -> None:
    _args(objects, "--seed")


@caught_by("engine-flag")
def flag_that_belongs_to_the_launch_script(objects: list[Object]) -> None:
    _args(objects, "--port", "9000")


@caught_by("engine-flag")
def switched_off_what_has_no_off(objects: list[Object]) -> None:
    _args(objects, "--no-disable-log-stats")


# ----------------------------------------------------------------------- names, numbers
@caught_by("name")
def release_with_an_underscore(objects: list[Object]) -> None:
    item(objects, "LeaderWorkerSet")["metadata"]["name"] = "jane_doe-deepseek"


@caught_by("name")
def release_name_too_long(objects: list[Object]) -> None:
    item(objects, "LeaderWorkerSet")["metadata"]["name"] = "d" * 46


@caught_by("name")
def bucket_that_cannot_exist(objects: list[Object]) -> None:
    for template in pods(objects):
        for volume in template["spec"]["volumes"]:
            if "csi" in volume:
                volume["csi"]["volumeAttributes"]["bucketName"] = "Weights"


@caught_by("name")
def volume_called_after_a_bucket(objects: list[Object]) -> None:
    for template in pods(objects):
        volume = next(v for v in template["spec"]["volumes"] if "csi" in v)
        old, new = volume["name"], "weights.example.com"
        volume["name"] = new
        named(container(template)["volumeMounts"], old)["name"] = new


@caught_by("name")
def label_with_a_slash(objects: list[Object]) -> None:
    for template in pods(objects):
        template["metadata"]["labels"]["recipe"] = "a3mega/deepseek"


@caught_by("name")
def variable_given_twice(objects: list[Object]) -> None:
    for template in pods(objects):
        container(template)["env"].append({"name": "HF_HOME", "value": "/tmp"})


@caught_by("number")
def million_through_a_float(objects: list[Object]) -> None:
    for template in pods(objects):
        put(template, "--max-num-batched-tokens", "1e+06")


@caught_by("number")
def seconds_as_a_float(objects: list[Object]) -> None:
    for template in pods(objects):
        container(template)["startupProbe"]["periodSeconds"] = 5.0


@caught_by("number")
def exponent_inside_json(objects: list[Object]) -> None:
    for template in pods(objects):
        put(template, "--hf-overrides", '{"rope_theta":1e+07}')


# ------------------------------------------------------------------- scripts and secrets
@caught_by("script")
def unclosed_quote_in_a_script(objects: list[Object]) -> None:
    data = item(objects, "ConfigMap")["data"]
    data["launch.sh"] += 'echo "never closed\n'


@caught_by("script")
def python_that_does_not_compile(objects: list[Object]) -> None:
    item(objects, "ConfigMap")["data"]["extra.py"] = "def f(:\n"


@caught_by("script")
def inline_script_that_does_not_parse(objects: list[Object]) -> None:
    for template in pods(objects):
        container(template, "tcpxo-daemon")["command"] = ["/bin/sh", "-c", "if true; then"]


@caught_by("secret")
def literal_token(objects: list[Object]) -> None:
    for template in pods(objects):
        entry = named(container(template)["env"], "HF_TOKEN")
        del entry["valueFrom"]
        entry["value"] = "not-even-a-real-one"


@caught_by("secret")
def token_in_an_annotation(objects: list[Object]) -> None:
    item(objects, "Service")["metadata"]["annotations"] = {"note": "hf_" + "a" * 34}


@caught_by("secret")
def api_key_among_the_flags(objects: list[Object]) -> None:
    _args(objects, "--api-key", "letmein")


# -------------------------------------------------------------------------- references
@caught_by("reference")
def dangling_mount(objects: list[Object]) -> None:
    for template in pods(objects):
        volumes = template["spec"]["volumes"]
        template["spec"]["volumes"] = [v for v in volumes if v["name"] != "shm"]


@caught_by("reference")
def scripts_under_another_name(objects: list[Object]) -> None:
    item(objects, "ConfigMap")["metadata"]["name"] = "deepseek-script"


@caught_by("reference")
def script_that_is_not_shipped(objects: list[Object]) -> None:
    for template in pods(objects):
        container(template)["command"] = ["bash", "/opt/manyhost/lauch.sh"]


@caught_by("reference")
def probe_that_is_not_shipped(objects: list[Object]) -> None:
    del item(objects, "ConfigMap")["data"]["probe.sh"]


@caught_by("reference")
def secret_with_another_name(objects: list[Object]) -> None:
    for template in pods(objects):
        entry = named(container(template)["env"], "HF_TOKEN")
        entry["valueFrom"]["secretKeyRef"]["name"] = "hf-secrets"


@caught_by("reference")
def missing_service_account(objects: list[Object]) -> None:
    accounts = (o for o in objects if o["kind"] == "ServiceAccount")
    objects.remove(next(account for account in accounts if account["metadata"]["name"] == "deepseek"))


@caught_by("reference")
def service_that_selects_nobody(objects: list[Object]) -> None:
    item(objects, "Service")["spec"]["selector"] = {"app": "deepseek-serving"}


@caught_by("reference")
def service_that_selects_workers(objects: list[Object]) -> None:
    selector = item(objects, "Service")["spec"]["selector"]
    del selector["leaderworkerset.sigs.k8s.io/worker-index"]


@caught_by("reference")
def service_called_like_the_set(objects: list[Object]) -> None:
    item(objects, "Service")["metadata"]["name"] = "deepseek"


@caught_by("reference")
def service_port_to_nowhere(objects: list[Object]) -> None:
    item(objects, "Service")["spec"]["ports"][0]["targetPort"] = 9000


@caught_by("reference")
def engine_told_another_port(objects: list[Object]) -> None:
    for template in pods(objects):
        named(container(template)["env"], "MANYHOST_PORT")["value"] = "9000"


@caught_by("reference")
def budget_for_nobody(objects: list[Object]) -> None:
    labels = item(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
    labels["app.kubernetes.io/instance"] = "other"


@caught_by("reference")
def autoscaler_of_a_deployment(objects: list[Object]) -> None:
    target = item(objects, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    target["apiVersion"], target["kind"] = "apps/v1", "Deployment"


# ------------------------------------------------------------------------ pod security
@caught_by("pod-security")
def privileged_engine(objects: list[Object]) -> None:
    for template in pods(objects):
        container(template)["securityContext"] = {"privileged": True}


@caught_by("pod-security")
def engine_with_sys_admin(objects: list[Object]) -> None:
    for template in pods(objects):
        container(template)["securityContext"]["capabilities"] = {"add": ["SYS_ADMIN"]}


@caught_by("pod-security")
def another_host_path(objects: list[Object]) -> None:
    for template in pods(objects):
        named(template["spec"]["volumes"], "shm").pop("emptyDir")
        named(template["spec"]["volumes"], "shm")["hostPath"] = {"path": "/dev/shm"}


@caught_by("pod-security")
def processes_of_the_host(objects: list[Object]) -> None:
    for template in pods(objects):
        template["spec"]["hostPID"] = True


# ------------------------------------------------------------------------------- tests
def test_the_manifests_themselves_are_clean() -> None:
    assert findings(sample()) == []


@pytest.mark.parametrize(("check", "fault"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_fault_is_caught(check: str, fault: Fault) -> None:
    objects = sample()
    fault(objects)
    assert json.dumps(objects) != json.dumps(sample()), "the fault changed nothing"
    found = findings(objects)
    assert check in {f.check for f in found}, [str(f) for f in found]
    for finding in found:
        assert "\n" not in str(finding)
        assert finding.message
        assert finding.where
