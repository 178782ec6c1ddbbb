"""The pod of a group: one template, two roles."""

import copy
import json
import re

import pytest

from tests.helpers.helm import (
    CHART,
    RenderError,
    args,
    engine_container,
    env,
    fabric,
    merge,
    nest,
    pod,
    render,
)

CONFIGURATIONS = {
    "defaults": {},
    "tcpxo": fabric("tcpxo"),
    "tcpxo from its own image": merge(fabric("tcpxo"), nest("gpuPlatformSettings.useHostPlugin", False)),
    "host network": merge(fabric("tcpxo"), nest("network.hostNetwork", True)),
    "buckets": {"volumes": {"gcsMounts": [{"bucketName": "weights"}]}},
    "cpu": {"host": {"gpus": 0, "networks": []}, "model": {"tp_size": 1}},
    "ray": {"job": {"image": {"tag": "v0.7.3"}}, "vllm": {"executor": "ray"}},
    "rdma": {
        "network": {"interconnect": "roce"},
        "gpuPlatformSettings": {
            "folders": [
                {"name": "gib", "hostPath": "/gib", "enginePath": "/usr/local/gib", "readOnly": True}
            ],
            "capabilities": ["IPC_LOCK"],
            "extendedResources": {"rdma/nic": "8"},
        },
    },
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_leader_and_worker_differ_in_their_role_labels_only(name):
    objects = render(CONFIGURATIONS[name])
    leader, worker = (copy.deepcopy(pod(objects, role)) for role in ("leader", "worker"))
    for role, template in (("leader", leader), ("worker", worker)):
        labels = template["metadata"]["labels"]
        assert labels.pop("role") == role
        assert labels.pop("app.kubernetes.io/component") == role
    assert leader == worker


def test_the_engine_container_is_the_default_one_and_runs_the_launch_script():
    objects = render()
    annotations = pod(objects)["metadata"]["annotations"]
    assert annotations["kubectl.kubernetes.io/default-container"] == "vllm"
    container = engine_container(objects)
    assert container["command"] == ["bash", "/opt/manyhost/launch.sh"]
    assert {"name": "scripts", "mountPath": "/opt/manyhost", "readOnly": True} in container["volumeMounts"]


def test_the_pod_is_left_alone_by_kubernetes():
    spec = pod(render())["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert "hostNetwork" not in spec


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({}, "vllm/vllm-openai:v0.26.0"),
        ({"repository": "localhost:5000/a/b", "tag": "1"}, "localhost:5000/a/b:1"),
        ({"digest": "sha256:" + "a" * 64}, "vllm/vllm-openai@sha256:" + "a" * 64),
        ({"digest": "sha256:" + "a" * 64, "tag": ""}, "vllm/vllm-openai@sha256:" + "a" * 64),
    ],
)
def test_image_reference(image, reference):
    assert engine_container(render({"job": {"image": image}}))["image"] == reference


# --- engine arguments


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, ["--flag"]),
        (False, ["--no-flag"]),
        ("true", ["--flag", "true"]),
        ("no", ["--flag", "no"]),
        ("", ["--flag", ""]),
        ("0123", ["--flag", "0123"]),
        (0, ["--flag", "0"]),
        (1_000_000, ["--flag", "1000000"]),
        (262_144_000_000, ["--flag", "262144000000"]),
        (1e6, ["--flag", "1000000"]),
        (0.85, ["--flag", "0.85"]),
        (-1, ["--flag=-1"]),
        ("--port", ["--flag=--port"]),
        ([], ["--flag", "[]"]),
        ([1_000_000, "a b"], ["--flag", '[1000000,"a b"]']),
        ({"n": 2_000_000, "deep": {"x": [True, None, "<&>"]}}, None),
        (None, []),
        ("$(POD_IP) $$(X) $HOME `id` ; |", ["--flag", "$(POD_IP) $$(X) $HOME `id` ; |"]),
    ],
)
def test_engine_arguments_are_words(value, words):
    given = args(render({"vllm": {"serverArgs": {"flag": value, "max-model-len": None}}}))
    rest = given[given.index("--served-model-name") + 2 :]
    if words is None:
        assert rest[0] == "--flag"
        assert json.loads(rest[1]) == value
        assert " " not in rest[1]
    else:
        assert rest == words


def test_arguments_stand_in_one_order():
    one = args(render({"vllm": {"serverArgs": {"b": 1, "a": 2}}}))
    two = args(render({"vllm": {"serverArgs": {"a": 2, "b": 1}}}))
    assert one == two
    assert one[4:6] == ["--served-model-name", "deepseek-ai/DeepSeek-R1"]


# --- environment


def test_the_launch_script_gets_its_settings():
    assert env(render()) == {
        "FLASHINFER_WORKSPACE_BASE": "/ssd/cache",
        "GLOO_SOCKET_IFNAME": "eth0",
        "HF_HOME": "/ssd/huggingface",
        "MANYHOST_CONTROL_KEY_FILE": "/etc/manyhost/key",
        "MANYHOST_DRAIN_SECONDS": "300",
        "MANYHOST_ENGINE": "vllm",
        "MANYHOST_EXECUTOR": "mp",
        "MANYHOST_GPUS_PER_HOST": "8",
        "MANYHOST_INTERFACE": "eth0",
        "MANYHOST_MASTER_PORT": "29501",
        "MANYHOST_MODEL": "deepseek-ai/DeepSeek-R1",
        "MANYHOST_MODEL_PATH": "",
        "MANYHOST_PEER_WAIT_SECONDS": "1800",
        "MANYHOST_PORT": "8000",
        "MANYHOST_PROFILE": "",
        "MANYHOST_RAY_PORT": "6379",
        "MANYHOST_STAGED": "",
        "MANYHOST_STALL_SECONDS": "120",
        "MANYHOST_STARTUP_SECONDS": "3600",
        "MANYHOST_START_ATTEMPTS": "3",
        "TRITON_CACHE_DIR": "/ssd/cache/triton",
        "VLLM_CACHE_ROOT": "/ssd/cache/vllm",
        "VLLM_NO_USAGE_STATS": "1",
    }


@pytest.mark.parametrize(("user", "named"), [(None, False), (0, True), (2000, True)])
def test_a_user_id_has_a_name_and_a_home(user, named):
    """The image's passwd need not know it."""
    found = env(render(nest("security.runAsUser", user)))
    assert (found.get("USER"), found.get("HOME")) == (("engine", "/ssd/home") if named else (None, None))


def test_large_numbers_keep_their_digits_in_the_environment():
    values = env(render({"lifecycle": {"startupSeconds": 86_400, "peerWaitSeconds": 86_399}}))
    assert values["MANYHOST_STARTUP_SECONDS"] == "86400"
    assert values["MANYHOST_PEER_WAIT_SECONDS"] == "86399"


def test_engine_words_are_joined_by_line_ends():
    values = env(render({"vllm": {"command": ["/opt/my vllm/bin/python", "-m", "x"]}}))
    assert values["MANYHOST_ENGINE"].split("\n") == ["/opt/my vllm/bin/python", "-m", "x"]


def test_staged_weights_keep_the_engine_offline():
    values = env(render({"model": {"path": "/gcs/r1"}}))
    assert values["MANYHOST_MODEL"] == values["MANYHOST_MODEL_PATH"] == "/gcs/r1"
    assert values["HF_HUB_OFFLINE"] == "1"
    assert "deepseek-ai/DeepSeek-R1" in args(render({"model": {"path": "/gcs/r1"}}))
    assert "HF_HUB_OFFLINE" not in env(render())


def test_served_name():
    assert "r1" in args(render({"model": {"servedName": "r1"}}))


def test_the_port_reaches_every_reader():
    objects = render({"vllm": {"service": {"ports": {"http": 9000}}}})
    assert env(objects)["MANYHOST_PORT"] == "9000"
    assert engine_container(objects)["ports"] == [{"name": "http", "containerPort": 9000}]


def token(objects):
    return [item for item in engine_container(objects)["env"] if item["name"] == "HF_TOKEN"]


def test_the_token_comes_from_the_secret_and_may_be_missing():
    (item,) = token(render({"huggingface": {"secretName": "s", "secretData": {"token": "k"}}}))
    assert item["valueFrom"] == {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}
    assert token(render({"huggingface": {"secretName": ""}})) == []


def test_a_user_variable_replaces_the_charts_own_and_names_stay_unique():
    own = [{"name": "HF_HOME", "value": "/x"}, {"name": "A", "value": "yes"}]
    objects = render(merge(fabric("tcpxo"), nest("vllm.env", own)))
    names = [item["name"] for item in engine_container(objects)["env"]]
    assert len(names) == len(set(names))
    assert env(objects)["HF_HOME"] == "/x"
    assert env(objects)["A"] == "yes"


def given(objects, name):
    (item,) = (item for item in engine_container(objects)["env"] if item["name"] == name)
    return item["valueFrom"]


def test_variables_come_from_keys_of_secrets_and_config_maps():
    sources = [
        {"name": "A", "secret": "s", "key": "k"},
        {"name": "B", "configMap": "c"},
        {"name": "HF_HOME", "configMap": "c", "key": "home"},
        {"secret": "whole-secret"},
        {"configMap": "whole-map"},
    ]
    objects = render(nest("vllm.envFrom", sources))
    assert given(objects, "A") == {"secretKeyRef": {"name": "s", "key": "k"}}
    assert given(objects, "B") == {"configMapKeyRef": {"name": "c", "key": "B"}}
    assert given(objects, "HF_HOME") == {"configMapKeyRef": {"name": "c", "key": "home"}}
    assert engine_container(objects)["envFrom"] == [
        {"secretRef": {"name": "whole-secret"}},
        {"configMapRef": {"name": "whole-map"}},
    ]
    assert "envFrom" not in engine_container(render())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"name": "B"}, r"envFrom\[0\]: names neither a secret nor a configMap"),
        ({"secret": "s", "configMap": "c"}, r"envFrom\[0\]: names both a secret and a configMap"),
        ({"name": "A", "secret": "s"}, r"envFrom\[0\]: A stands twice"),
        ({"secret": "s", "key": "k"}, r"envFrom\[0\]: has a key but no name"),
        ({"name": "MANYHOST_PORT", "secret": "s"}, r"envFrom\[0\]: MANYHOST_PORT belongs to the launcher"),
        ({"name": "LWS_GROUP_SIZE", "secret": "s"}, r"envFrom\[0\]: LWS_GROUP_SIZE belongs to the launcher"),
        ({"name": "HF_TOKEN", "secret": "s"}, r"HF_TOKEN comes from huggingface\.secretName"),
        ({"name": "A B", "secret": "s"}, "name"),
        ({"secret": ""}, "secret"),
    ],
)
def test_sources_of_variables_that_cannot_be(source, message):
    own = [{"name": "A", "value": "1"}]
    with pytest.raises(RenderError, match=message):
        render({"vllm": {"env": own, "envFrom": [source]}})


def test_a_token_of_ones_own_needs_the_charts_to_be_off():
    values = {
        "huggingface": {"secretName": ""},
        "vllm": {"envFrom": [{"name": "HF_TOKEN", "secret": "mine", "key": "token"}]},
    }
    assert given(render(values), "HF_TOKEN") == {"secretKeyRef": {"name": "mine", "key": "token"}}


def test_nccl_settings_wait_for_the_profile():
    values = env(render({"network": {"ncclSettings": [{"name": "NCCL_DEBUG", "value": "INFO"}]}}))
    assert values["MANYHOST_SET_NCCL_DEBUG"] == "INFO"
    assert "NCCL_DEBUG" not in values


def test_pod_address_is_given():
    (item,) = (i for i in engine_container(render())["env"] if i["name"] == "MANYHOST_ADDRESS")
    assert item["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}


# --- probes and ends


@pytest.mark.parametrize(
    ("lifecycle", "threshold"),
    [
        ({}, 2160),
        ({"startupSeconds": 7, "startAttempts": 1}, 2),
        ({"startupSeconds": 5, "startAttempts": 1}, 1),
        ({"startupSeconds": 86_400, "startAttempts": 10}, 172_800),
    ],
)
def test_startup_budget_is_rounded_up_to_periods(lifecycle, threshold):
    probe = engine_container(render({"lifecycle": lifecycle}))["startupProbe"]
    assert probe == {
        "exec": {"command": ["bash", "/opt/manyhost/probe.sh", "startup"]},
        "periodSeconds": 5,
        "timeoutSeconds": 5,
        "failureThreshold": threshold,
    }


def test_readiness_and_liveness_ask_the_script():
    container = engine_container(render())
    seen = {
        name: (
            container[f"{name}Probe"]["exec"]["command"][2],
            container[f"{name}Probe"]["periodSeconds"],
            container[f"{name}Probe"]["timeoutSeconds"],
            container[f"{name}Probe"]["failureThreshold"],
        )
        for name in ("readiness", "liveness")
    }
    assert seen == {"readiness": ("ready", 2, 10, 1), "liveness": ("live", 10, 10, 3)}


def test_a_leader_that_leaves_answers_until_its_readiness_has_failed():
    """Else clients are sent to a port that is closed."""
    launcher = CHART / "launcher"
    beats = re.search(r'\("leaving", (\d+)\)', (launcher / "manyhost_group.py").read_text())
    beat = re.search(r'BEAT_SECONDS", "(\d+)"', (launcher / "manyhost_settings.py").read_text())
    assert beats
    assert beat
    probe = engine_container(render())["readinessProbe"]
    assert int(beats[1]) * int(beat[1]) > probe["periodSeconds"] * probe["failureThreshold"] + int(beat[1])


def test_requests_may_finish():
    spec = pod(render({"lifecycle": {"drainSeconds": 600}}))["spec"]
    assert spec["terminationGracePeriodSeconds"] == 630


# --- resources, placement, metadata


def test_resources():
    resources = {"requests": {"cpu": 100, "memory": "1000Gi"}, "limits": {"memory": "1100Gi"}}
    found = engine_container(render({"host": {"resources": resources}}))["resources"]
    assert found == {
        "requests": {"cpu": 100, "memory": "1000Gi", "nvidia.com/gpu": 8},
        "limits": {"memory": "1100Gi", "nvidia.com/gpu": 8},
    }


def test_host_facts_reach_the_pod():
    toleration = {"key": "k", "operator": "Equal", "value": "true", "effect": "NoExecute"}
    spec = pod(render({"host": {"nodeSelector": {"a/b": "true"}, "tolerations": [toleration]}}))
    assert spec["spec"]["nodeSelector"] == {"a/b": "true"}
    assert spec["spec"]["tolerations"] == [toleration]


@pytest.mark.parametrize("key", ["priorityClassName", "runtimeClassName", "schedulerName"])
def test_what_the_cluster_decides_unless_it_is_said(key):
    for empty in ({}, {key: ""}, {key: None}):
        assert key not in pod(render(empty))["spec"]
    for role in ("leader", "worker"):
        assert pod(render({key: "mine"}), role)["spec"][key] == "mine"
    with pytest.raises(RenderError, match=key):
        render({key: "Not A Name"})


def test_image_pull_secrets():
    assert "imagePullSecrets" not in pod(render())["spec"]
    found = pod(render({"imagePullSecrets": ["mine", "theirs"]}))["spec"]["imagePullSecrets"]
    assert found == [{"name": "mine"}, {"name": "theirs"}]


REQUIRED, PREFERRED = (f"{word}DuringSchedulingIgnoredDuringExecution" for word in ("required", "preferred"))


def test_affinity_is_laid_over_the_charts_own():
    near_zone = [{"weight": 5, "preference": {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}}]
    apart = [{"topologyKey": "rack", "labelSelector": {"matchLabels": {"app": "other"}}}]
    own = pod(render({"targetNodes": ["n"]}))["spec"]["affinity"]
    values = {
        "targetNodes": ["n"],
        "affinity": {"nodeAffinity": {PREFERRED: near_zone}, "podAntiAffinity": {REQUIRED: apart}},
    }
    assert pod(render(values))["spec"]["affinity"] == {
        "nodeAffinity": own["nodeAffinity"] | {PREFERRED: near_zone},
        "podAffinity": own["podAffinity"],
        "podAntiAffinity": {REQUIRED: apart},
    }


@pytest.mark.parametrize("terms", [[], [{"weight": 1, "podAffinityTerm": {"topologyKey": "rack"}}]])
def test_lists_of_an_affinity_replace_the_charts_own(terms):
    affinity = pod(render(nest(f"affinity.podAffinity.{PREFERRED}", terms)))["spec"]["affinity"]
    assert affinity == {"podAffinity": {PREFERRED: terms}}


def test_affinity_has_no_other_keys():
    with pytest.raises(RenderError, match="nodeAfinity"):
        render(nest("affinity.nodeAfinity", {}))


def test_spread_constraints_stand_beside_the_charts_own():
    mine = {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    values = nest("topologySpreadConstraints", [mine])
    assert pod(render(values))["spec"]["topologySpreadConstraints"] == [mine]
    cpu = merge(CONFIGURATIONS["cpu"], values)
    (own,) = pod(render(CONFIGURATIONS["cpu"]))["spec"]["topologySpreadConstraints"]
    assert pod(render(cpu))["spec"]["topologySpreadConstraints"] == [own, mine]


def test_own_labels_and_annotations_are_added():
    objects = render({"podLabels": {"team": "1"}, "podAnnotations": {"note": "a: b\nc"}})
    assert pod(objects)["metadata"]["labels"]["team"] == "1"
    assert pod(objects)["metadata"]["annotations"]["note"] == "a: b\nc"


def test_fuse_limits_may_be_overridden():
    objects = render(
        {
            "podAnnotations": {"gke-gcsfuse/memory-limit": "10Gi"},
            "volumes": {"gcsMounts": [{"bucketName": "b-1"}]},
        }
    )
    assert pod(objects)["metadata"]["annotations"]["gke-gcsfuse/memory-limit"] == "10Gi"


def test_a_chart_upgrade_alone_restarts_nothing():
    text = json.dumps(pod(render()))
    assert "helm.sh/chart" not in text


# --- security

BASELINE_CAPABILITIES = {  # kubernetes.io: Pod Security Standards, baseline
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
}


def baseline_violations(spec):
    """What the baseline level of the Pod Security Standards has against a pod."""
    found = {f"{key}" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)}
    found |= {f"hostPath {v['hostPath']['path']}" for v in spec["volumes"] if "hostPath" in v}
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        context = container.get("securityContext", {})
        if context.get("privileged"):
            found.add(f"privileged {container['name']}")
        for name in context.get("capabilities", {}).get("add", []):
            if name not in BASELINE_CAPABILITIES:
                found.add(f"{name} {container['name']}")
        if any("hostPort" in port for port in container.get("ports", [])):
            found.add(f"hostPort {container['name']}")
    return found


TCPXO_VIOLATIONS = {
    "hostPath /home/kubernetes/bin/nvidia",
    "hostPath /dev/aperture_devices",
    "hostPath /sys",
    "hostPath /proc/sys",
    "NET_ADMIN tcpxo-daemon",
}


@pytest.mark.parametrize(
    ("values", "violations"),
    [
        ({}, set()),
        (CONFIGURATIONS["buckets"], set()),
        (CONFIGURATIONS["cpu"], set()),
        (CONFIGURATIONS["tcpxo"], TCPXO_VIOLATIONS),
        (CONFIGURATIONS["tcpxo from its own image"], TCPXO_VIOLATIONS),
        (CONFIGURATIONS["host network"], TCPXO_VIOLATIONS | {"hostNetwork", "privileged vllm"}),
        (CONFIGURATIONS["rdma"], {"hostPath /gib", "IPC_LOCK vllm"}),
        (nest("network.hostNetwork", True), {"hostNetwork"}),
        (nest("security.privileged", True), {"privileged vllm"}),
        (nest("volumes.ssdHostPath", "/mnt/ssd"), {"hostPath /mnt/ssd"}),
    ],
)
def test_pod_security_baseline(values, violations):
    for role in ("leader", "worker"):
        assert baseline_violations(pod(render(values), role)["spec"]) == violations


def test_engine_has_no_rights():
    assert engine_container(render())["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


@pytest.mark.parametrize(("user", "not_root"), [(0, False), (1000, True), (2_147_483_647, True)])
def test_user_ids(user, not_root):
    objects = render({"security": {"runAsUser": user, "runAsGroup": user, "fsGroup": user}})
    context = engine_container(objects)["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (user, user)
    assert context["runAsNonRoot"] is not_root
    assert pod(objects)["spec"]["securityContext"]["fsGroup"] == user


def test_a_user_id_is_for_the_engine_and_not_for_the_daemon():
    objects = render(merge(CONFIGURATIONS["tcpxo"], nest("security.runAsUser", 1000)))
    spec = pod(objects)["spec"]
    assert spec["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    (daemon,) = spec["initContainers"]
    assert "runAsUser" not in daemon["securityContext"]


def test_errors_for_unknown_and_wrong_values_name_the_key():
    with pytest.raises(RenderError, match="runAsUser"):
        render({"security": {"runAsUser": "root"}})


def test_members_of_a_group_have_a_key_that_nothing_renders():
    """Without the Secret they start all the same; one host alone has nobody to talk to."""
    objects = render()
    (volume,) = (item for item in pod(objects)["spec"]["volumes"] if item["name"] == "control")
    assert volume["secret"] == {"secretName": "r1-control", "optional": True}
    assert not [item for item in objects if item["kind"] == "Secret"]
    alone = pod(render({"model": {"pp_size": 1}}))["spec"]
    assert "control" not in {item["name"] for item in alone["volumes"]}
