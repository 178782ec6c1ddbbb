"""Prefill and decode in groups of their own: what the chart makes of roles.prefill.groups."""

import json

import pytest

from tests.helpers.helm import (
    CHART,
    RenderError,
    expand,
    fabric,
    find,
    helm_binaries,
    kinds,
    merge,
    nest,
    notes,
    render,
    variables,
)

ON = {
    "roles": {"prefill": {"groups": 2}},
    "model": {"tp_size": 16, "pp_size": 1},
    "vllm": {"replicaCount": 3},
}
NAME, INDEX = "leaderworkerset.sigs.k8s.io/name", "leaderworkerset.sigs.k8s.io/worker-index"


def by_name(objects, kind):
    return {item["metadata"]["name"]: item for item in objects if item["kind"] == kind}


def template(objects, name, role="leader"):
    return by_name(objects, "LeaderWorkerSet")[name]["spec"]["leaderWorkerTemplate"][f"{role}Template"]


def engine(objects, name, role="leader"):
    (found,) = (c for c in template(objects, name, role)["spec"]["containers"] if c["name"] == "vllm")
    return found


def router(objects, name="r1", role="leader"):
    first = template(objects, name, role)["spec"].get("initContainers", [])
    return next((c for c in first if c["name"] == "router"), None)


def transfer(container):
    words = container["args"]
    return json.loads(expand(words[words.index("--kv-transfer-config") + 1]))


def without(container, *names):
    """A container without what its duty is allowed to change."""
    words = [word for word in container["args"] if "kv_role" not in word]
    env = [item for item in container["env"] if item["name"] not in names]
    return {**container, "args": words, "env": env, "ports": None, "lifecycle": None}


def test_one_set_and_one_service_for_each_duty():
    objects = render(ON)
    assert kinds(objects) == [
        "ConfigMap", "LeaderWorkerSet", "LeaderWorkerSet", "Service", "Service", "ServiceAccount",
    ]  # fmt: skip
    sets = by_name(objects, "LeaderWorkerSet")
    assert {name: item["spec"]["replicas"] for name, item in sets.items()} == {"r1": 3, "r1-prefill": 2}
    assert {item["spec"]["leaderWorkerTemplate"]["size"] for item in sets.values()} == {2}
    for name, duty in (("r1", "decode"), ("r1-prefill", "prefill")):
        assert sets[name]["metadata"]["labels"]["manyhost.dev/role"] == duty
        for role in ("leader", "worker"):
            assert template(objects, name, role)["metadata"]["labels"]["manyhost.dev/role"] == duty
    services = by_name(objects, "Service")
    for name in sets:
        assert services[f"{name}-svc"]["spec"]["selector"] == {NAME: name, INDEX: "0"}
    assert services["r1-prefill-svc"]["spec"]["type"] == "ClusterIP"


def test_without_prefill_groups_nothing_of_it_is_there():
    text = json.dumps(render())
    for word in ("router", "manyhost.dev/role", "kv-transfer", "NIXL", "UCX", "prefill-svc"):
        assert word not in text
    assert "router.py" in find(render(ON), "ConfigMap")["data"]


def test_engines_differ_in_their_duty_alone():
    """The same image, arguments and environment: the KV layouts fit by construction."""
    objects = render(ON)
    decode, prefill = engine(objects, "r1"), engine(objects, "r1-prefill")
    own = ("MANYHOST_PORT", "MANYHOST_ROUTER_PORT")
    assert without(decode, *own) == without(prefill, *own)
    assert transfer(decode) == {
        "kv_connector": "NixlConnector",
        "kv_role": "kv_consumer",
        "kv_buffer_device": "cpu",
        "kv_load_failure_policy": "recompute",
    }
    assert transfer(prefill) == {**transfer(decode), "kv_role": "kv_producer"}
    env = variables(prefill)
    assert (env["UCX_TLS"], env["UCX_NET_DEVICES"]) == ("tcp,self", "eth0")
    address = next(item for item in prefill["env"] if item["name"] == "VLLM_NIXL_SIDE_CHANNEL_HOST")
    assert address["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    assert env["VLLM_NIXL_SIDE_CHANNEL_PORT"] == "5600"


@pytest.mark.parametrize("port", [8000, 9000])
def test_the_router_has_the_port_of_the_api(port):
    objects = render(merge(ON, nest("vllm.service.ports.http", port)))
    assert variables(engine(objects, "r1"))["MANYHOST_PORT"] == str(port + 1)
    assert engine(objects, "r1")["ports"] == [{"name": "engine", "containerPort": port + 1}]
    assert variables(engine(objects, "r1-prefill"))["MANYHOST_PORT"] == str(port)
    before = router(objects)
    assert before["restartPolicy"] == "Always"
    assert before["ports"] == [{"name": "http", "containerPort": port}]
    env = variables(before)
    assert (
        env["MANYHOST_ROUTER_PORT"] == variables(engine(objects, "r1"))["MANYHOST_ROUTER_PORT"] == str(port)
    )
    assert env["MANYHOST_ROUTER_ENGINE"] == f"http://127.0.0.1:{port + 1}"
    assert env["MANYHOST_ROUTER_PREFILL"] == f"http://r1-prefill-svc:{port}"
    (spec,) = by_name(objects, "Service")["r1-svc"]["spec"]["ports"]
    assert (spec["port"], spec["targetPort"]) == (port, port)


def test_only_decode_leaders_have_a_router():
    objects = render(ON)
    assert router(objects, "r1", "worker") is None
    assert router(objects, "r1-prefill") is None
    assert "lifecycle" not in engine(objects, "r1-prefill")
    hook = engine(objects, "r1")["lifecycle"]["preStop"]["exec"]["command"]
    assert hook == ["bash", "/opt/manyhost/router.sh", "drain"]


def test_the_router_may_do_nothing_but_listen():
    values = merge(ON, nest("security.runAsUser", 1000), nest("security.privileged", True))
    found = router(render(values))
    assert found["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
        "readOnlyRootFilesystem": True,
        "runAsUser": 1000,
        "runAsNonRoot": True,
    }
    assert "nvidia.com/gpu" not in json.dumps(found["resources"])
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(found)


def test_it_runs_the_engine_that_lies_on_the_hosts():
    mounts = [{"name": "engine", "hostPath": "/opt/vllm", "mountPath": "/opt/vllm"}]
    values = merge(ON, nest("volumes.hostMounts", mounts), nest("vllm.command", ["/opt/vllm/bin/vllm", "x"]))
    found = router(render(values))
    assert variables(found)["MANYHOST_ENGINE"] == "/opt/vllm/bin/vllm\nx"
    assert {"name": "host-engine", "mountPath": "/opt/vllm", "readOnly": True} in found["volumeMounts"]


def test_scaling_disruption_and_network_are_about_those_who_answer():
    more = {name: {"enabled": True} for name in ("autoscaling", "podDisruptionBudget", "networkPolicy")}
    objects = render(merge(ON, more, nest("autoscaling.minReplicas", 2)))
    sets = by_name(objects, "LeaderWorkerSet")
    assert "replicas" not in sets["r1"]["spec"]
    assert sets["r1-prefill"]["spec"]["replicas"] == 2
    assert find(objects, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == "r1"
    assert find(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"][NAME] == "r1"
    policy = find(objects, "NetworkPolicy")["spec"]
    for name in sets:  # both duties are members: routers and NIXL reach the other side
        labels = template(objects, name)["metadata"]["labels"]
        for selector in (policy["podSelector"], policy["ingress"][0]["from"][0]["podSelector"]):
            assert selector["matchLabels"].items() <= labels.items()
    assert policy["ingress"][1]["ports"] == [{"port": 8000, "protocol": "TCP"}]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model", {"tp_size": 8, "pp_size": 2}, "model.pp_size: KV caches"),
        ("vllm.serverArgs", {"kv-transfer-config": {}}, "vllm.serverArgs.kv-transfer-config: cannot stand"),
        ("vllm.serverArgs", {"kv-transfer-config.kv_role": "x"}, "cannot stand beside"),
        ("vllm.serverArgs", {"kv-offloading-size": 4}, "vllm.serverArgs.kv-offloading-size: cannot stand"),
        ("vllm.serverArgs", {"ssl-certfile": "/a"}, "vllm.serverArgs.ssl-certfile: cannot stand"),
        ("vllm.serverArgs", {"ssl-keyfile": "/a"}, "vllm.serverArgs.ssl-keyfile: cannot stand"),
        ("vllm.env", [{"name": "VLLM_NIXL_SIDE_CHANNEL_PORT", "value": "1"}], "belongs to the KV handover"),
        ("vllm.service.ports.http", 5599, "not both free"),
        ("vllm.service.ports.http", 65535, "not both free"),
    ],
)
def test_what_cannot_work_is_refused(key, value, words):
    with pytest.raises(RenderError) as error:
        render(merge(ON, nest(key, value)))
    (line,) = str(error.value).partition("): ")[2].splitlines()
    assert words in line


def test_each_role_may_have_its_own_size_and_arguments():
    values = {
        "roles": {
            "prefill": {"tp_size": 8, "dp_size": 2, "serverArgs": {"max-num-seqs": 4, "max-model-len": None}},
            "decode": {"tp_size": 32, "serverArgs": {"max-num-seqs": 1_000_000}},
        },
        "vllm": {"serverArgs": {"max-num-seqs": 64, "enable-prefix-caching": True}},
    }
    objects = render(merge(ON, values))
    sizes, words = {}, {}
    for name, item in by_name(objects, "LeaderWorkerSet").items():
        sizes[name] = item["spec"]["leaderWorkerTemplate"]["size"]
        words[name] = engine(objects, name)["args"]
        assert engine(objects, name, "worker")["args"] == words[name]
        assert "--enable-prefix-caching" in words[name]
    assert sizes == {"r1": 4, "r1-prefill": 2}
    assert words["r1"][:2] == ["--tensor-parallel-size", "32"]
    assert words["r1-prefill"][:2] == ["--tensor-parallel-size", "8"]
    assert words["r1-prefill"][4:6] == ["--data-parallel-size", "2"]
    assert "--data-parallel-size" not in words["r1"]
    assert "--max-model-len" in words["r1"]
    assert "--max-model-len" not in words["r1-prefill"]
    assert words["r1"][words["r1"].index("--max-num-seqs") + 1] == "1000000"
    assert words["r1-prefill"][words["r1-prefill"].index("--max-num-seqs") + 1] == "4"
    assert "3 group(s) of 4 host(s), behind 2 prefill group(s) of 2 host(s)." in notes(merge(ON, values))


def test_what_roles_have_of_their_own_counts_only_while_they_are_apart():
    own = {"tp_size": 4, "serverArgs": {"max-num-seqs": 1}}
    assert render({"roles": {"prefill": own, "decode": own}}) == render()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("roles.prefill.tp_size", 6, "roles.prefill: tp_size 6 x pp_size 1 x dp_size 1 = 6 GPUs do not fill"),
        ("roles.decode.tp_size", 12, "roles.decode: tp_size 12 x pp_size 1 x dp_size 1 = 12 GPUs do not"),
        ("roles.prefill.serverArgs", {"tp": 1}, "roles.prefill.serverArgs.tp: reserved; use model.tp_size"),
        (
            "roles.decode.serverArgs",
            {"api-key": "x"},
            "roles.decode.serverArgs.api-key: reserved; a key must",
        ),
        ("roles.decode.serverArgs", {"max_num_seqs": 1}, "flags are written with dashes"),
        ("roles.prefill.serverArgs", {"ssl-keyfile": "/a"}, "roles.prefill.serverArgs.ssl-keyfile: cannot"),
        (
            "vllm.envFrom",
            [{"name": "VLLM_NIXL_SIDE_CHANNEL_PORT", "secret": "s"}],
            "vllm.envFrom: VLLM_NIXL_SIDE_CHANNEL_PORT belongs to the KV handover",
        ),
    ],
)
def test_roles_that_cannot_be(key, value, words):
    with pytest.raises(RenderError) as error:
        render(merge(ON, nest(key, value)))
    (line,) = str(error.value).partition("): ")[2].splitlines()
    assert words in line


@pytest.mark.parametrize("groups", [1, 2])
def test_no_kv_cache_moves_over_tcpxo(groups):
    with pytest.raises(RenderError, match=r"roles\.prefill\.groups: KV caches do not move over tcpxo;"):
        render(merge(ON, fabric("tcpxo"), nest("roles.prefill.groups", groups)))


def test_prefill_leaves_room_in_the_names_of_pods():
    assert render(ON, release="r" * 37)
    with pytest.raises(RenderError, match="at most 37 characters"):
        render(ON, release="r" * 38)
    assert render(release="r" * 45)


def test_values_of_a_user_win_over_the_transfer_librarys():
    values = merge(
        ON, nest("vllm.env", [{"name": "UCX_TLS", "value": "all"}]), nest("roles.handover.buffer", "")
    )
    found = engine(render(values), "r1")
    assert variables(found)["UCX_TLS"] == "all"
    assert "kv_buffer_device" not in transfer(found)


def test_notes_name_both():
    assert "3 group(s) of 2 host(s), behind 2 prefill group(s) of 2 host(s)." in notes(ON)


@pytest.mark.parametrize("name", sorted(helm_binaries()))
def test_the_binaries_agree(name):
    own = {"prefill": {"tp_size": 8, "serverArgs": {"max-model-len": None}}, "decode": {"dp_size": 2}}
    for values in (ON, merge(ON, {"roles": own})):
        assert render(values, engine=name) == render(values)


def test_scripts_are_the_charts_own():
    data = find(render(ON), "ConfigMap")["data"]
    for name in ("router.py", "router.sh"):
        assert data[name].rstrip() == (CHART / "launcher" / "router" / name).read_text().rstrip()
