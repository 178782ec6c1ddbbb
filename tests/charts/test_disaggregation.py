"""Prefill and decode in groups of their own: what the chart makes of roles.prefill.groups."""

import json
import shutil

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


def router(objects):
    """The router's pod template and its one container."""
    found = find(objects, "Deployment")["spec"]["template"]
    (container,) = found["spec"]["containers"]
    return found, container


def transfer(container):
    words = container["args"]
    return json.loads(expand(words[words.index("--kv-transfer-config") + 1]))


def without(container, *names):
    """A container without what its duty is allowed to change."""
    words = [word for word in container["args"] if "kv_role" not in word]
    env = [item for item in container["env"] if item["name"] not in names]
    return {**container, "args": words, "env": env}


def test_one_set_for_each_duty_and_a_router_before_them():
    objects = render(ON)
    assert kinds(objects) == [
        "ConfigMap", "ConfigMap", "Deployment", "LeaderWorkerSet", "LeaderWorkerSet", "NetworkPolicy",
        "NetworkPolicy", "PodDisruptionBudget", *["Service"] * 4, "ServiceAccount",
    ]  # fmt: skip
    sets = by_name(objects, "LeaderWorkerSet")
    assert {name: item["spec"]["replicas"] for name, item in sets.items()} == {"r1": 3, "r1-prefill": 2}
    assert {item["spec"]["leaderWorkerTemplate"]["size"] for item in sets.values()} == {2}
    services = by_name(objects, "Service")
    for name, duty in (("r1", "decode"), ("r1-prefill", "prefill")):
        assert sets[name]["metadata"]["labels"]["manyhost.dev/role"] == duty
        for role in ("leader", "worker"):
            assert template(objects, name, role)["metadata"]["labels"]["manyhost.dev/role"] == duty
            assert "initContainers" not in template(objects, name, role)["spec"]
        leaders = services[f"r1-{duty}-leaders"]["spec"]
        assert (leaders["clusterIP"], leaders["selector"]) == ("None", {NAME: name, INDEX: "0"})
        assert "publishNotReadyAddresses" not in leaders
    assert services["r1-svc"]["spec"]["selector"] == {NAME: "r1", INDEX: "0"}


def test_clients_have_the_router():
    """What is set of the Service is about the one that clients use; leaders are not shown to the world."""
    own = {"vllm": {"service": {"type": "LoadBalancer", "annotations": {"a": "b"}, "ports": {"http": 9000}}}}
    objects = render(merge(ON, own))
    services = by_name(objects, "Service")
    clients = services["r1-router"]
    labels = router(objects)[0]["metadata"]["labels"]
    assert clients["spec"]["selector"].items() <= labels.items()
    assert clients["spec"]["selector"]["app.kubernetes.io/component"] == "router"
    assert (clients["spec"]["type"], clients["metadata"]["annotations"]) == ("LoadBalancer", {"a": "b"})
    for name in ("r1-svc", "r1-decode-leaders", "r1-prefill-leaders"):
        assert services[name]["spec"]["type"] == "ClusterIP"
        assert "annotations" not in services[name]["metadata"]
    for item in services.values():
        assert item["spec"]["ports"] == [
            {"name": "http", "port": 9000, "targetPort": "http", "protocol": "TCP"}
        ]
    assert "port-forward service/r1-router 9000" in notes(merge(ON, own))
    assert "port-forward service/r1-svc 8000" in notes({})


def test_without_prefill_groups_nothing_of_it_is_there():
    text = json.dumps(render())
    for word in ("router", "manyhost.dev/role", "kv-transfer", "NIXL", "UCX", "-leaders"):
        assert word not in text


def test_engines_differ_in_their_duty_alone():
    """The same image, arguments and environment: the KV layouts fit by construction."""
    objects = render(ON)
    decode, prefill = engine(objects, "r1"), engine(objects, "r1-prefill")
    assert without(decode) == without(prefill)
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


def test_the_router_is_told_where_everything_is():
    more = {
        "lifecycle": {"stallSeconds": 7, "drainSeconds": 20},
        "vllm": {"service": {"ports": {"http": 9000}}},
    }
    own = {"maxRequests": 9, "maxBodyMiB": 3, "replicas": 3}
    objects = render(merge(ON, more, nest("roles.router", own)))
    pod, container = router(objects)
    assert container["ports"] == engine(objects, "r1")["ports"] == [{"name": "http", "containerPort": 9000}]
    assert {k: v for k, v in variables(container).items() if k.startswith("MANYHOST_ROUTER_")} == {
        "MANYHOST_ROUTER_PORT": "9000",
        "MANYHOST_ROUTER_DECODE": "r1-decode-leaders:9000",
        "MANYHOST_ROUTER_PREFILL": "r1-prefill-leaders:9000",
        "MANYHOST_ROUTER_STALL_SECONDS": "7",
        "MANYHOST_ROUTER_DRAIN_SECONDS": "20",
        "MANYHOST_ROUTER_MOST_REQUESTS": "9",
        "MANYHOST_ROUTER_BODY_BYTES": str(3 << 20),
    }
    memory = next(item for item in container["env"] if item["name"] == "MANYHOST_ROUTER_MEMORY_BYTES")
    assert memory["valueFrom"]["resourceFieldRef"]["resource"] == "limits.memory"
    # What is in flight, and before that the time in which new requests still come.
    assert pod["spec"]["terminationGracePeriodSeconds"] >= 20 + 10 + 5
    assert find(objects, "Deployment")["spec"]["replicas"] == 3


def test_the_router_may_do_nothing_but_listen():
    """Not even what the engine may: no root, no token, no identity that reads buckets."""
    values = merge(ON, nest("security.runAsUser", 0), nest("security.privileged", True))
    pod, container = router(render(values))
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
        "readOnlyRootFilesystem": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "runAsNonRoot": True,
    }
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod["spec"]
    assert "nvidia.com/gpu" not in json.dumps(container["resources"])
    assert container["resources"]["limits"]["memory"] == "1Gi"
    assert {name: probe["httpGet"]["path"] for name, probe in container.items() if "Probe" in name} == {
        "startupProbe": "/health",
        "readinessProbe": "/ready",
        "livenessProbe": "/health",
    }


def test_the_router_runs_on_any_host_and_never_twice_on_one():
    """Rather where there is no GPU, but also where there is nothing else."""
    selector = {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    values = merge(
        ON, nest("host.nodeSelector", selector), nest("targetNodes", ["a", "b"]),
        nest("network.interconnect", "none"), nest("runtimeClassName", "nvidia"),
    )  # fmt: skip
    pod, _ = router(render(values))
    assert "nodeSelector" not in pod["spec"]
    (rule,) = pod["spec"]["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    (expression,) = rule["preference"]["matchExpressions"]
    assert (expression["operator"], expression["values"]) == ("NotIn", ["nvidia-h100-80gb"])
    assert "requiredDuringSchedulingIgnoredDuringExecution" not in json.dumps(pod)
    assert {"key": "nvidia.com/gpu", "operator": "Exists"} in pod["spec"]["tolerations"]
    (spread,) = pod["spec"]["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"], spread["maxSkew"]) == (
        "kubernetes.io/hostname", "DoNotSchedule", 1,
    )  # fmt: skip
    assert spread["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert (
        "runtimeClassName" not in router(render(merge(values, nest("runtimeClassName", "nvidia"))))[0]["spec"]
    )


def test_an_update_or_a_drain_takes_one_router_after_the_other():
    objects = render(ON)
    update = find(objects, "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert update == {"maxUnavailable": 0, "maxSurge": 1}
    budget = by_name(objects, "PodDisruptionBudget")["r1-router"]["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"] == find(objects, "Deployment")["spec"]["selector"]


def test_it_runs_the_engine_that_lies_on_the_hosts():
    mounts = [{"name": "engine", "hostPath": "/opt/vllm", "mountPath": "/opt/vllm"}]
    values = merge(
        ON, nest("volumes.hostMounts", mounts), nest("vllm.command", ["/opt/vllm/bin/vllm", "x"]),
        nest("host.nodeSelector", {"a": "b"}),
    )  # fmt: skip
    pod, found = router(render(values))
    assert variables(found)["MANYHOST_ENGINE"] == "/opt/vllm/bin/vllm\nx"
    assert {"name": "host-engine", "mountPath": "/opt/vllm", "readOnly": True} in found["volumeMounts"]
    assert pod["spec"]["nodeSelector"] == {"a": "b"}


def test_it_may_have_an_image_of_its_own():
    assert router(render(ON))[1]["image"] == engine(render(ON), "r1")["image"]
    small = "example.com/python-aiohttp:1"
    objects = render(merge(ON, nest("roles.router.image", small)))
    assert router(objects)[1]["image"] == small
    assert small not in json.dumps(by_name(objects, "LeaderWorkerSet"))
    for wrong in ("python", "a b:1", "x@sha256:1"):
        with pytest.raises(RenderError, match="image"):
            render(merge(ON, nest("roles.router.image", wrong)))


def test_a_change_of_the_router_restarts_no_group(tmp_path):
    before = render(ON)
    chart = shutil.copytree(CHART, tmp_path / "chart")
    script = chart / "launcher/router/router.py"
    script.write_text(script.read_text() + "# more\n")
    after = render(ON, chart=chart)
    assert by_name(after, "LeaderWorkerSet") == by_name(before, "LeaderWorkerSet")
    sums = [
        router(objects)[0]["metadata"]["annotations"]["manyhost.dev/scripts-checksum"]
        for objects in (before, after)
    ]
    assert sums[0] != sums[1]


def test_what_is_set_of_all_pods_holds_for_the_router_too():
    more = {
        "podLabels": {"team": "a"}, "podAnnotations": {"b": "c"}, "imagePullSecrets": ["s"],
        "priorityClassName": "high",
    }  # fmt: skip
    pod, _ = router(render(merge(ON, more)))
    assert pod["metadata"]["labels"]["team"] == "a"
    assert pod["metadata"]["annotations"]["b"] == "c"
    assert (pod["spec"]["imagePullSecrets"], pod["spec"]["priorityClassName"]) == ([{"name": "s"}], "high")


def find_members(values):
    return by_name(render(values), "NetworkPolicy")["r1"]["spec"]


def test_scaling_disruption_and_network_are_about_those_who_answer():
    more = {name: {"enabled": True} for name in ("autoscaling", "podDisruptionBudget")}
    objects = render(merge(ON, more, nest("autoscaling.minReplicas", 2)))
    sets = by_name(objects, "LeaderWorkerSet")
    assert "replicas" not in sets["r1"]["spec"]
    assert sets["r1-prefill"]["spec"]["replicas"] == 2
    assert find(objects, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == "r1"
    assert by_name(objects, "PodDisruptionBudget")["r1"]["spec"]["selector"]["matchLabels"][NAME] == "r1"
    policies = by_name(objects, "NetworkPolicy")
    members, clients = policies["r1"]["spec"], policies["r1-router"]["spec"]
    pods = [template(objects, name) for name in sets] + [router(objects)[0]]
    for pod in pods:  # NIXL and the router reach all of them
        for selector in (members["podSelector"], members["ingress"][0]["from"][0]["podSelector"]):
            assert selector["matchLabels"].items() <= pod["metadata"]["labels"].items()
    # Clients reach the router and no engine: that would take from them where to fetch caches.
    _, metrics = members["ingress"]
    assert metrics["from"][0]["namespaceSelector"]["matchExpressions"][0]["values"] == ["gmp-system"]
    _, metrics = find_members(merge(ON, nest("networkPolicy.metricsNamespaces", [])))["ingress"]
    assert [*metrics["from"][0]] == ["podSelector"]  # the benchmark, which reads their counters
    reached = [
        clients["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items() for pod in pods
    ]
    assert reached == [False, False, True]
    assert clients["ingress"][0]["ports"] == [{"port": "http", "protocol": "TCP"}]


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
        ("vllm.service.ports.http", 5600, "is the port of the KV handover"),
        ("roles.router.resources", {"limits": {"memory": None}}, "roles.router.resources.limits.memory: not"),
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
    maps = by_name(render(ON), "ConfigMap")
    files = {path.name: path.read_text().rstrip() for path in (CHART / "launcher" / "router").glob("*.*")}
    assert {name: text.rstrip() for name, text in maps["r1-router"]["data"].items()} == files
    assert not set(files) & set(maps["r1-scripts"]["data"])
