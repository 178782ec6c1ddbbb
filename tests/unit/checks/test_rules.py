"""Single rules: what each accepts and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from manyhost.checks import Allowance, Finding, pod_security, run
from manyhost.checks.names import bucket_problem
from manyhost.checks.numbers import check as check_numbers
from manyhost.checks.objects import CONTAINER_LISTS, Context, leaves
from manyhost.checks.scripts import python_problems
from manyhost.checks.secrets import is_secret_name
from manyhost.render.shell import shell_problems

from tests.helpers.helm import fabric, merge, render
from tests.helpers.sample import (
    ALLOWED,
    Object,
    container,
    findings,
    flags,
    item,
    named,
    pod,
    pods,
    sample,
    scripts,
)

ETH = [{"interfaceName": f"eth{i}", "network": f"net{i}"} for i in range(3)]
CPU: Object = {
    "host": {
        "environment": "local",
        "gpus": 0,
        "networks": [],
        "nodeSelector": {},
        "tolerations": [],
        "topologyKeys": [],
    },
    "model": {"name": "tiny", "tp_size": 1, "pp_size": 2},
}


def found(objects: list[Object], check: str) -> list[Finding]:
    return [finding for finding in findings(objects) if finding.check == check]


# --------------------------------------------------------------------- whole renderings
@pytest.mark.parametrize(
    ("values", "allowed"),
    [
        ({}, []),
        (merge(fabric("tcpxo"), {"gpuPlatformSettings": {"useHostPlugin": False}}), []),
        (
            merge(
                fabric("tcpxo"),
                {"network": {"hostNetwork": True}, "volumes": {"gcsMounts": [{"bucketName": "b-1"}]}},
            ),
            ["hostNetwork", "privileged container vllm"],
        ),
        ({"model": {"tp_size": 8, "pp_size": 1}, "vllm": {"replicaCount": 3}}, []),
        ({"model": {"tp_size": 16, "pp_size": 1}}, []),
        ({"volumes": {"ssdHostPath": "/mnt/disks/ssd0"}}, ["hostPath volume ssd"]),
        ({"huggingface": {"secretName": ""}, "serviceAccount": {"create": False}}, []),
        (CPU, []),
    ],
    ids=["defaults", "plugin", "hostNetwork", "groups", "tensor16", "disk", "bare", "cpu"],
)
def test_what_the_chart_renders_is_accepted(values: Object, allowed: list[str]) -> None:
    allowance = Allowance("privileged", ALLOWED.violations | set(allowed))
    result = run(
        render(values),
        flags=flags(),
        environment_level=allowance,
        shipped_scripts=scripts(),
    )
    assert [str(finding) for finding in result if finding.severity == "error"] == []


# ------------------------------------------------------------------------- parallelism
def test_cpu_hosts_are_ranks() -> None:
    objects = render(CPU)
    item(objects, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]["size"] = 3
    (finding,) = [f for f in run(objects) if f.check == "parallelism"]
    assert finding.message == "3 CPU hosts for 2 ranks (tensor 1 x pipeline 2 x data 1)"
    assert finding.fix == "use size 2"


def test_data_parallel_ranks_count() -> None:
    objects = sample()
    for template in pods(objects):
        container(template)["args"].extend(["--data-parallel-size", "2"])
    (finding,) = found(objects, "parallelism")
    assert finding.message.startswith("16 GPUs in a group of 2 for 32 ranks")


def test_tensor_parallelism_fills_whole_hosts() -> None:
    objects = render({"model": {"tp_size": 8, "pp_size": 3}})
    for template in pods(objects):
        args = container(template)["args"]
        args[args.index("--tensor-parallel-size") + 1] = "12"
        args[args.index("--pipeline-parallel-size") + 1] = "2"
    (finding,) = found(objects, "parallelism")
    assert finding.message == "tensor parallelism 12 splits a host of 8 GPUs"


def test_only_the_worker_template_is_enough() -> None:
    objects = sample()
    template = item(objects, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    del template["leaderTemplate"]
    template["workerTemplate"]["metadata"]["labels"].pop("role")
    assert [f for f in findings(objects) if f.check != "reference"] == []


# ---------------------------------------------------------------------------- networks
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not a JSON list of interfaceName and network: JSONDecodeError"),
        ('{"interfaceName": "eth0"}', "not a JSON list of interfaceName and network: TypeError"),
        ('[{"network": "a"}]', "not a JSON list of interfaceName and network: KeyError"),
        (json.dumps([*ETH[:2], ETH[2] | {"interfaceName": "eth3"}]), "interfaces are eth0, eth1, eth3"),
        (json.dumps([*ETH[:2], ETH[2] | {"network": "net0"}]), "network net0 stands twice"),
        (json.dumps([*ETH[:2], ETH[2] | {"network": "Net"}]), "'Net' is not a Network name"),
        (json.dumps([*ETH[:2], ETH[2] | {"network": 3}]), "3 is not a Network name"),
        (json.dumps([ETH[0] | {"interfaceName": "net1"}]), "interfaces are net1"),
    ],
)
def test_interfaces_refused(text: str, message: str) -> None:
    objects = sample()
    for template in pods(objects):
        template["metadata"]["annotations"]["networking.gke.io/interfaces"] = text
    assert any(f.message.startswith(message) for f in found(objects, "network"))


def test_an_interface_object_may_stand_for_a_network() -> None:
    objects = sample()
    items: list[Object] = [*ETH[:2], {"interfaceName": "eth2", "interface": "my-interface"}]
    for template in pods(objects):
        template["metadata"]["annotations"]["networking.gke.io/interfaces"] = json.dumps(items)
    assert found(objects, "network") == []


def test_devices_are_paths() -> None:
    objects = sample()
    for template in pods(objects):
        template["metadata"]["annotations"]["devices.gke.io/container.tcpxo-daemon"] = "all"
    assert {f.message for f in found(objects, "network")} == {"not a list of device paths"}


# ------------------------------------------------------------------------------- names
@pytest.mark.parametrize(
    "name", ["abc", "my-weights", "weights.example.com", "a_b", "9to5", "a" * 63, "a" * 63 + ".b"]
)
def test_bucket_names_accepted(name: str) -> None:
    assert bucket_problem(name) == ""


@pytest.mark.parametrize(
    "name",
    ["", "ab", "Weights", "-abc", "abc-", "a..b", "192.168.1.1", "goog-x", "my-google", "a/b", "_",
     "gs://abc", "a" * 64, "a b c"],
)  # fmt: skip
def test_bucket_names_refused(name: str) -> None:
    assert bucket_problem(name) != ""


@pytest.mark.parametrize(
    ("name", "accepted"),
    [("a", True), ("a-1", True), ("1a", False), ("a.b", False), ("a_b", False), ("A", False),
     ("a-", False), ("a" * 45, True), ("a" * 46, False)],
)  # fmt: skip
def test_release_names(name: str, accepted: bool) -> None:
    objects = sample()
    item(objects, "LeaderWorkerSet")["metadata"]["name"] = name
    assert (found(objects, "name") == []) == accepted


def test_names_of_small_things() -> None:
    objects = sample()
    for template in pods(objects):
        engine = container(template)
        engine["ports"][0]["name"] = "a-port-name-too-long"
        engine["env"] += [{"name": "A-B", "value": "x"}]
        template["metadata"]["labels"]["bad key"] = "x"
        template["metadata"]["annotations"]["UPPER.example/x"] = "x"
    messages = {f.message for f in found(objects, "name")}
    assert messages == {
        "'a-port-name-too-long' is no port name",
        "no shell can set this name",
        "'bad key' is no key of labels",
        "'UPPER.example/x' is no key of annotations",
    }


def test_two_objects_of_one_name() -> None:
    objects = sample()
    objects.append(item(objects, "Service"))
    assert [f.message for f in found(objects, "name")] == ["two objects of this kind and name"]


# ----------------------------------------------------------------------------- numbers
@pytest.mark.parametrize(
    ("value", "count"),
    [
        (1.0, 1),
        (0.5, 1),
        (1000000, 0),
        ("1e+06", 1),
        ("--max-model-len=1e+06", 1),
        ('{"a":1.5e+07}', 1),
        ("0.9", 0),
        ("sha256:1e+06f", 0),
        ("rate+1e", 0),
        (True, 0),
        (None, 0),
    ],
)
def test_numbers(value: Any, count: int) -> None:
    body = {"kind": "Service", "metadata": {"name": "a"}, "spec": {"x": [{"y": value}]}}
    result = list(check_numbers(body, leaves(body)))
    assert len(result) == count
    assert all(f.where == "Service/a spec.x[0].y" for f in result)


# ----------------------------------------------------------------------------- scripts
def test_scripts() -> None:
    assert shell_problems("set -eu\nexec true\n", "bash") == ()
    assert "does not parse" in shell_problems("if true; then\n", "bash")[0]
    assert python_problems("x = 1\n") == ()
    assert "does not compile" in python_problems("x = = 1\n")[0]


def test_a_changed_script_is_looked_at() -> None:
    objects = sample()
    item(objects, "ConfigMap")["data"]["new.sh"] = "#!/bin/sh\ncd /nowhere || exit 1\n"
    assert found(objects, "script") == []
    item(objects, "ConfigMap")["data"]["new.sh"] = "echo $((1 +\n"
    assert found(objects, "script") != []


def test_inline_scripts_of_probes_are_looked_at() -> None:
    objects = sample()
    for template in pods(objects):
        container(template)["livenessProbe"]["exec"]["command"] = ["sh", "-ec", "test ("]
    assert {f.where.rsplit(".", 1)[1] for f in found(objects, "script")} == {"livenessProbe"}


# ----------------------------------------------------------------------------- secrets
@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True),
        ("DB_PASSWORD", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("OPENAI_API_KEY", True),
        ("--api-key", True),
        ("VLLM_APIKEY", True),
        ("TOKENIZERS_PARALLELISM", False),
        ("MAX_NUM_BATCHED_TOKENS", False),
        ("HF_TOKEN_PATH", False),
        ("GOOGLE_APPLICATION_CREDENTIALS_FILE", False),
        ("SORT_KEY", False),
        ("--ssl-keyfile", False),
        ("KEYBOARD", False),
    ],
)
def test_secret_names(name: str, secret: bool) -> None:
    assert is_secret_name(name) == secret


@pytest.mark.parametrize(
    "text",
    [
        "hf_" + "A1b2" * 9,
        "AIza" + "B" * 35,
        "ya29." + "a0" * 20,
        "AKIA" + "C" * 16,
        "ghp_" + "d" * 36,
        "-----BEGIN RSA PRIVATE " + "KEY-----",
        "Authorization: Bearer " + "e" * 20,
    ],
)
def test_credentials_are_found_anywhere_and_never_repeated(text: str) -> None:
    objects = sample()
    for template in pods(objects):
        container(template)["env"].append({"name": "EXTRA", "value": f"x {text}"})
    item(objects, "ConfigMap")["data"]["notes.txt"] = f"use {text} here"
    result = found(objects, "secret")
    assert len(result) == 3
    assert not any(text in str(finding) for finding in findings(objects))


def test_a_secret_object_is_refused() -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hf-secret"}}
    assert "a Secret is rendered" in {f.message for f in run([secret])}


# -------------------------------------------------------------------------- references
def test_known_secrets_are_given_by_the_caller() -> None:
    objects = render({"huggingface": {"secretName": "other"}})
    assert {f.check for f in run(objects, shipped_scripts=scripts())} == {"reference"}
    assert run(objects, shipped_scripts=scripts(), known_secrets=["other"]) == []


def test_two_mounts_at_one_path_and_an_idle_volume() -> None:
    objects = sample()
    for template in pods(objects):
        engine = container(template)
        engine["volumeMounts"].append(engine["volumeMounts"][0])
        template["spec"]["volumes"].append({"name": "idle", "emptyDir": {}})
        template["spec"]["volumes"].append({"name": "gke-gcsfuse-buffer", "emptyDir": {}})
    messages = {f.message for f in found(objects, "reference")}
    assert len(messages) == 2
    assert "no container mounts it" in messages


def test_probe_ports() -> None:
    objects = sample()
    for template in pods(objects):
        container(template)["readinessProbe"] = {"httpGet": {"port": "http", "path": "/health"}}
    assert findings(objects) == []
    for template in pods(objects):
        container(template)["readinessProbe"] = {"tcpSocket": {"port": 8080}}
    assert {f.message for f in found(objects, "reference")} == {"port 8080 is not a port of the container"}


_CONFIG_MAP = ("config map nope is not known", "error")
# A Secret is never among the manifests, so that it is missing there is only worth a warning.
_SECRET = ("secret nope is not among the manifests", "warning")


@pytest.mark.parametrize(
    ("field", "entry", "expected"),
    [
        ("env", {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "nope", "key": "k"}}}, _CONFIG_MAP),
        ("env", {"name": "X", "valueFrom": {"secretKeyRef": {"name": "nope", "key": "k"}}}, _SECRET),
        ("envFrom", {"configMapRef": {"name": "nope"}}, _CONFIG_MAP),
        ("envFrom", {"secretRef": {"name": "nope"}}, _SECRET),
    ],
)
def test_references_by_environment(field: str, entry: Object, expected: tuple[str, str]) -> None:
    objects = sample()
    for template in pods(objects):
        container(template).setdefault(field, []).append(entry)
    assert [(f.message, f.severity) for f in found(objects, "reference")] == [expected] * 2


# ------------------------------------------------------------------------ pod security
def levels(change: Object, spec_change: Object | None = None) -> tuple[str, list[str]]:
    """Return level and violations of a small restricted pod after a change of its container."""
    body: Object = {
        "name": "vllm",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    body["securityContext"] |= change
    template = {"spec": {"containers": [body], **(spec_change or {})}}
    owner = {
        "kind": "LeaderWorkerSet",
        "metadata": {"name": "a"},
        "spec": {"leaderWorkerTemplate": {"workerTemplate": template}},
    }
    (only,) = Context([owner]).pods
    return pod_security.level(only), pod_security.violations(only)


@pytest.mark.parametrize(
    ("change", "spec", "level", "violations"),
    [
        ({}, {}, "restricted", []),
        ({"runAsNonRoot": False}, {}, "baseline", []),
        ({}, {"securityContext": {"runAsUser": 0}}, "baseline", []),
        ({"allowPrivilegeEscalation": True}, {}, "baseline", []),
        ({"runAsUser": 0}, {}, "baseline", []),
        ({"capabilities": {}}, {}, "baseline", []),
        ({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}, {}, "restricted", []),
        ({"capabilities": {"add": ["CHOWN"]}}, {}, "baseline", []),
        ({"capabilities": {"add": ["SYS_ADMIN"]}}, {}, "privileged", ["capability SYS_ADMIN in vllm"]),
        ({"privileged": True}, {}, "privileged", ["privileged container vllm"]),
        ({"seccompProfile": {"type": "Unconfined"}}, {}, "privileged", ["seccomp Unconfined in vllm"]),
        ({"procMount": "Unmasked"}, {}, "privileged", ["procMount Unmasked in vllm"]),
        ({"seccompProfile": {"type": "Odd"}}, {}, "privileged", ["seccomp Odd in vllm"]),
        ({"appArmorProfile": {"type": "RuntimeDefault"}}, {}, "restricted", []),
        ({"appArmorProfile": {"type": "Unconfined"}}, {}, "privileged", ["AppArmor Unconfined in vllm"]),
        ({"seLinuxOptions": {"type": "container_t", "level": "s0:c1"}}, {}, "restricted", []),
        (
            {"seLinuxOptions": {"type": "spc_t", "user": "root", "role": "sysadm_r"}},
            {},
            "privileged",
            ["SELinux role sysadm_r in vllm", "SELinux type spc_t in vllm", "SELinux user root in vllm"],
        ),
        ({"windowsOptions": {"hostProcess": True}}, {}, "privileged", ["Windows hostProcess in vllm"]),
        (
            {},
            {
                "securityContext": {
                    "appArmorProfile": {"type": "Unconfined"},
                    "seLinuxOptions": {"type": "spc_t"},
                    "windowsOptions": {"hostProcess": True},
                }
            },
            "privileged",
            ["AppArmor Unconfined", "SELinux type spc_t", "Windows hostProcess"],
        ),
        ({}, {"securityContext": {"runAsNonRoot": False}}, "baseline", []),
        ({"runAsUser": 5}, {"securityContext": {"runAsUser": 0}}, "baseline", []),
        ({}, {"hostPID": True}, "privileged", ["hostPID"]),
        ({}, {"hostNetwork": True, "hostIPC": True}, "privileged", ["hostIPC", "hostNetwork"]),
        ({}, {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "privileged", ["hostPath volume v"]),
        ({}, {"volumes": [{"name": "v", "emptyDir": {}}]}, "restricted", []),
        ({}, {"volumes": [{"name": "v", "nfs": {}}]}, "baseline", []),
        (
            {},
            {"securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]}},
            "privileged",
            ["sysctl net.core.somaxconn"],
        ),
    ],
)  # fmt: skip
def test_levels(change: Object, spec: Object, level: str, violations: list[str]) -> None:
    assert levels(change, spec) == (level, violations)


@pytest.mark.parametrize("kind", CONTAINER_LISTS)
def test_containers_of_all_lists_keep_the_baseline(kind: str) -> None:
    template: Object = {"spec": {"containers": [{"name": "vllm"}]}}
    body = {
        "name": "x",
        "securityContext": {"capabilities": {"add": ["NET_RAW"]}},
        "ports": [{"containerPort": 1, "hostPort": 1}],
        "livenessProbe": {"httpGet": {"host": "169.254.169.254", "port": 80}},
        "lifecycle": {"preStop": {"tcpSocket": {"host": "10.0.0.1", "port": 80}}},
    }
    template["spec"].setdefault(kind, []).append(body)
    (only,) = Context([{"kind": "Job", "metadata": {"name": "a"}, "spec": {"template": template}}]).pods
    assert pod_security.violations(only) == [
        "capability NET_RAW in x",
        "hostPort 1 in x",
        "livenessProbe of host 169.254.169.254 in x",
        "preStop of host 10.0.0.1 in x",
    ]


@pytest.mark.parametrize(
    ("profile", "violations"),
    [("runtime/default", []), ("localhost/mine", []), ("unconfined", ["AppArmor unconfined in vllm"])],
)
def test_apparmor_by_its_old_annotation(profile: str, violations: list[str]) -> None:
    annotations = {"container.apparmor.security.beta.kubernetes.io/vllm": profile}
    body = {
        "kind": "Pod",
        "metadata": {"name": "a", "annotations": annotations},
        "spec": {"containers": [{"name": "vllm"}]},
    }
    (only,) = Context([body]).pods
    assert pod_security.violations(only) == violations


def test_the_sample_violates_exactly_what_its_environment_lists() -> None:
    context = Context(sample())
    for template in (each for group in context.groups for each in (group.leader, group.worker)):
        assert frozenset(pod_security.violations(template)) == ALLOWED.violations
    assert [pod_security.level(template) for template in context.alone] == ["restricted"]  # the janitor's


def test_a_weaker_level_than_the_environment_allows() -> None:
    result = run(render(CPU), environment_level=Allowance("restricted"), shipped_scripts=scripts())
    assert [f.message for f in result if f.check == "pod-security"] == [
        "Pod Security level is baseline, the environment allows restricted"
    ]


def test_differences_are_named_by_variable() -> None:
    objects = sample()
    named(container(pod(objects, "worker"))["env"], "HF_HOME")["value"] = "/elsewhere"
    assert [f.message for f in found(objects, "group")] == ["HF_HOME differ between leader and worker"]
