"""The objects beside the LeaderWorkerSet."""

import pathlib
import shutil

import pytest

from tests.helpers.helm import CHART, RenderError, fabric, find, kinds, merge, nest, notes, pod, render

LEADERS = {
    "leaderworkerset.sigs.k8s.io/name": "r1",
    "leaderworkerset.sigs.k8s.io/worker-index": "0",
}
APART = {"roles": {"prefill": {"groups": 1}}, "model": {"tp_size": 16, "pp_size": 1}}


def launcher(*folders):
    """The launcher's files: those of every release, and those of these folders."""
    places = [CHART / "launcher", *(CHART / "launcher" / folder for folder in folders)]
    files = [path for place in places for path in place.iterdir() if path.is_file()]
    return {path.name: path.read_text() for path in files}


EVERYTHING = {
    "podDisruptionBudget": {"enabled": True},
    "autoscaling": {"enabled": True, "minReplicas": 2},
    "janitor": {"enabled": True},
}


def test_objects_by_default():
    assert kinds(render()) == ["ConfigMap", "LeaderWorkerSet", "NetworkPolicy", "Service", "ServiceAccount"]


def test_objects_on_request():
    assert set(kinds(render(EVERYTHING))) - set(kinds(render())) == {
        "CronJob",
        "Role",
        "RoleBinding",
        "PodDisruptionBudget",
        "HorizontalPodAutoscaler",
    }


@pytest.mark.parametrize("more", [{}, APART])
def test_a_measurement_has_one_group_and_nothing_that_clients_need(more):
    objects = render(merge(EVERYTHING, more, {"mode": "nccl"}))
    assert kinds(objects) == ["ConfigMap", "LeaderWorkerSet", "NetworkPolicy", "ServiceAccount"]
    assert len(find(objects, "NetworkPolicy")["spec"]["ingress"]) == 1  # from its own members
    spec = find(objects, "LeaderWorkerSet")["spec"]
    assert (spec["replicas"], spec["leaderWorkerTemplate"]["size"]) == (1, 2)
    assert "manyhost.dev/role" not in pod(objects)["metadata"]["labels"]


def test_a_measurement_needs_gpus():
    with pytest.raises(RenderError, match=r"mode: nccl measures between GPUs, but host\.gpus is 0"):
        render({"mode": "nccl", "host": {"gpus": 0, "networks": []}})


def test_every_object_has_namespace_and_labels():
    for item in render(EVERYTHING, release="x", namespace="prod"):
        assert item["metadata"]["namespace"] == "prod"
        assert item["metadata"]["labels"] == {
            "app.kubernetes.io/name": "llm-multihost",
            "app.kubernetes.io/instance": "x",
            "app.kubernetes.io/version": "v0.26.0",
            "app.kubernetes.io/managed-by": "Helm",
            "app.kubernetes.io/component": "inference",
            "helm.sh/chart": "llm-multihost-0.1.0",
        }


def test_the_environment_is_a_label_where_one_is_named():
    labels = find(
        render(nest("host.environment", "kubernetes") | {"network": {"interconnect": "none"}}), "Service"
    )
    assert labels["metadata"]["labels"]["manyhost.dev/environment"] == "kubernetes"


def test_version_label_of_a_digest_is_a_label():
    image = {"tag": "", "digest": "sha256:" + "ab" * 32}
    labels = find(render({"job": {"image": image}}), "Service")["metadata"]["labels"]
    assert labels["app.kubernetes.io/version"] == "sha256-abababababab"


def test_the_service_selects_leaders_only():
    values = {"vllm": {"service": {"type": "LoadBalancer", "ports": {"http": 9000}}}}
    service = find(render(values), "Service")
    assert service["metadata"]["name"] == "r1-svc"
    assert service["spec"] == {
        "type": "LoadBalancer",
        "selector": LEADERS,
        "ports": [{"name": "http", "port": 9000, "targetPort": "http", "protocol": "TCP"}],
    }


def test_service_annotations():
    annotations = {"networking.gke.io/load-balancer-type": "Internal"}
    service = find(render(nest("vllm.service.annotations", annotations)), "Service")
    assert service["metadata"]["annotations"] == annotations


@pytest.mark.parametrize(
    ("values", "made", "used"),
    [
        ({}, "r1", "r1"),
        ({"name": "mine"}, "mine", "mine"),
        ({"create": False}, None, "default"),
        ({"create": False, "name": "theirs"}, None, "theirs"),
    ],
)
def test_service_account(values, made, used):
    objects = render({"serviceAccount": values})
    names = [o["metadata"]["name"] for o in objects if o["kind"] == "ServiceAccount"]
    assert names == ([made] if made else [])
    assert pod(objects)["spec"]["serviceAccountName"] == used


def test_service_account_annotations():
    key = "iam.gke.io/gcp-service-account"
    account = find(render(nest("serviceAccount.annotations", {key: "a@b"})), "ServiceAccount")
    assert account["metadata"]["annotations"] == {key: "a@b"}


@pytest.mark.parametrize(
    ("values", "folders"),
    [
        ({}, []),
        (fabric("tcpxo"), ["tcpxo"]),
        (APART, []),
        (merge(APART, {"mode": "nccl"}), ["nccl"]),
    ],
)
def test_the_launcher_is_mounted_as_it_is(values, folders):
    objects = render(values, release="x")
    (config,) = (item for item in objects if item["metadata"]["name"] == "x-scripts")
    assert config["kind"] == "ConfigMap"
    assert config["data"] == launcher(*folders)


def test_the_volume_is_the_launchers():
    objects = render(release="x")
    (volume,) = (v for v in pod(objects)["spec"]["volumes"] if v["name"] == "scripts")
    assert volume["configMap"]["name"] == "x-scripts"


def test_pods_follow_their_own_launcher(tmp_path):
    """A running pod keeps what it started; a fabric's scripts are no matter of groups without it."""
    values = {"none": {}, "tcpxo": fabric("tcpxo")}
    before = {name: pod(render(value)) for name, value in values.items()}
    for changed, restarted in (("tcpxo/tcpxo-daemon.sh", {"tcpxo"}), ("launch.sh", {"none", "tcpxo"})):
        chart = shutil.copytree(CHART, tmp_path / pathlib.PurePath(changed).stem)
        with (chart / "launcher" / changed).open("a") as file:
            file.write("# changed\n")
        after = {name: pod(render(value, chart=chart)) for name, value in values.items()}
        assert {name for name in values if after[name] != before[name]} == restarted


def budget(groups, amount):
    return {
        "vllm": {"replicaCount": groups},
        "podDisruptionBudget": {"enabled": True, "minAvailable": amount},
    }


@pytest.mark.parametrize(
    ("groups", "amount", "pods"), [(2, 1, 3), (3, 1, 4), (3, 2, 5), (2, 0, 2), (2, "50%", 3), (4, "10%", 5)]
)
def test_a_disruption_budget_lets_go_one_pod_of_each_group_that_may_be_lost(groups, amount, pods):
    """The groups are of two hosts: a group is lost with the worker too."""
    assert find(render(budget(groups, amount)), "PodDisruptionBudget")["spec"] == {
        "minAvailable": pods,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": {"leaderworkerset.sigs.k8s.io/name": "r1"}},
    }


@pytest.mark.parametrize(
    ("values", "key"),
    [
        (budget(1, 1), r"vllm\.replicaCount"),
        (budget(1, "50%"), r"vllm\.replicaCount"),
        (budget(2, 2), r"vllm\.replicaCount"),
        (budget(3, "90%"), r"vllm\.replicaCount"),
        (merge(budget(3, 1), nest("autoscaling.enabled", True)), r"autoscaling\.minReplicas"),
    ],
)
def test_a_disruption_budget_that_would_stop_every_drain(values, key):
    with pytest.raises(RenderError, match=f"drains would wait for ever; raise {key}"):
        render(values)


@pytest.mark.parametrize(
    ("seconds", "up", "down"), [(1200, 1200, 1200), (2160, 1800, 2160), (7200, 1800, 3600)]
)
def test_the_autoscaler_waits_for_a_start(seconds, up, down):
    values = {"autoscaling": {"enabled": True}, "lifecycle": {"startupSeconds": seconds}}
    behavior = find(render(values), "HorizontalPodAutoscaler")["spec"]["behavior"]
    one = {"type": "Pods", "value": 1, "periodSeconds": up}
    assert behavior["scaleUp"] == {"selectPolicy": "Min", "policies": [one]}
    assert behavior["scaleDown"] == {"stabilizationWindowSeconds": down, "policies": [one]}


@pytest.mark.parametrize("kind", ["required", "preferred"])
def test_kueue_places_a_group_by_its_topology(kind):
    label = "cloud.google.com/gce-topology-block"
    values = {"queue": "gpus", "queueTopology": {kind: label}}
    for role in ("leader", "worker"):
        annotations = pod(render(values), role)["metadata"]["annotations"]
        found = {key: value for key, value in annotations.items() if key.startswith("kueue")}
        assert found == {
            f"kueue.x-k8s.io/podset-{kind}-topology": label,
            "kueue.x-k8s.io/podset-group-name": "group",
        }
    one_host = pod(render(merge(values, nest("model.pp_size", 1))))["metadata"]["annotations"]
    assert "kueue.x-k8s.io/podset-group-name" not in one_host
    with pytest.raises(RenderError, match="queueTopology: has no effect without Kueue; set queue"):
        render(merge(values, nest("queue", "")))
    with pytest.raises(RenderError, match="queueTopology: names both"):
        render(merge(values, {"queueTopology": {"required": "a", "preferred": "b"}}))


def clients_of(namespaces, **more):
    values = {"networkPolicy": {"allowedNamespaces": namespaces, **more}}
    spec = find(render(values), "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    members = {"app.kubernetes.io/name": "llm-multihost", "app.kubernetes.io/instance": "r1"}
    assert spec["podSelector"]["matchLabels"] == members
    inside, outside = spec["ingress"]
    assert inside == {"from": [{"podSelector": {"matchLabels": members}}]}
    assert outside["ports"] == [{"port": "http", "protocol": "TCP"}]
    return outside.get("from")


def test_without_a_word_only_the_api_is_open_and_to_everybody():
    """A load balancer and a Gateway of GKE are in no namespace: nobody could name them."""
    assert clients_of([]) is None


def test_network_policy_lets_in_the_named_namespaces():
    peer, bench, _ = clients_of(["apps", "true"])  # and the pod of helm test
    assert peer["namespaceSelector"]["matchExpressions"] == [
        {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["apps", "true", "gmp-system"]}
    ]
    assert bench == {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "llm-benchmark"}}}
    peer, *_ = clients_of(["apps"], metricsNamespaces=["monitoring", "apps"])
    assert peer["namespaceSelector"]["matchExpressions"][0]["values"] == ["apps", "monitoring"]


@pytest.mark.parametrize("kind", ["LoadBalancer", "NodePort"])
def test_clients_from_outside_are_in_no_namespace(kind):
    outside = nest("vllm.service.type", kind)
    assert find(render(outside), "NetworkPolicy")
    with pytest.raises(RenderError, match=f"would shut out the clients of a {kind}"):
        render(merge(outside, nest("networkPolicy.allowedNamespaces", ["apps"])))
    closed = {"networkPolicy": {"enabled": False, "allowedNamespaces": ["apps"]}}
    assert "NetworkPolicy" not in kinds(render(merge(outside, closed)))


def test_network_policy_selects_both_roles():
    objects = render(EVERYTHING)
    selector = find(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    for role in ("leader", "worker"):
        assert selector.items() <= pod(objects, role)["metadata"]["labels"].items()


def test_autoscaler_scales_groups():
    values = {"enabled": True, "minReplicas": 2, "maxReplicas": 5, "targetValue": 1_000_000}
    spec = find(render({"autoscaling": values}), "HorizontalPodAutoscaler")["spec"]
    assert spec["scaleTargetRef"] == {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "name": "r1",
    }
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 5)
    (metric,) = spec["metrics"]
    assert metric["pods"] == {
        "metric": {"name": "prometheus.googleapis.com|vllm:num_requests_waiting|gauge"},
        "target": {"type": "AverageValue", "averageValue": "1000000"},
    }


def mine(**metadata):
    return {"apiVersion": "example.com/v1", "kind": "Rule", "metadata": {"name": "mine", **metadata}}


def test_extra_objects_belong_to_the_release():
    labels = {"team": "serving", "app.kubernetes.io/instance": "stolen"}
    one = {**mine(namespace="elsewhere", labels=labels, annotations={"a": "b"}), "spec": {"big": 1_000_000}}
    objects = render({"extraObjects": [one, {**mine(name="other"), "spec": {}}]}, "x", "prod")
    first, second = (item for item in objects if item["kind"] == "Rule")
    own = find(objects, "ConfigMap")["metadata"]["labels"]
    assert first["metadata"] == {
        "name": "mine",
        "namespace": "prod",
        "labels": {"team": "serving", **own},
        "annotations": {"a": "b"},
    }
    assert first["spec"] == {"big": 1_000_000}
    assert second["metadata"] == {"name": "other", "namespace": "prod", "labels": own}


def test_a_measurement_has_no_extra_objects():
    assert "Rule" not in kinds(render({"extraObjects": [mine()], "mode": "nccl"}))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({**mine(), "kind": "Secret"}, r"extraObjects\[0\]: a Secret must not stand in values;"),
        ({**mine(), "kind": "List", "items": []}, r"extraObjects\[0\]: a list of objects cannot"),
        ({**mine(), "kind": "SecretList", "items": []}, r"extraObjects\[0\]: a list of objects cannot"),
        ({**mine(), "kind": ""}, r"extraObjects\[0\]: has no apiVersion, kind or metadata.name;"),
        ({**mine(), "apiVersion": None}, r"extraObjects\[0\]: has no apiVersion, kind or metadata.name;"),
        (mine(name=""), r"extraObjects\[0\]: has no apiVersion, kind or metadata.name;"),
        ({**mine(), "metadata": "mine"}, r"extraObjects\[0\]: has no apiVersion, kind or metadata.name;"),
        ({}, r"extraObjects\[0\]: has no apiVersion, kind or metadata.name;"),
        (mine(labels="team"), r"extraObjects\[0\]\.metadata\.labels: is no map;"),
        ("kind: Rule", "extraObjects"),
    ],
)
def test_extra_objects_that_cannot_be(item, message):
    with pytest.raises(RenderError, match=message):
        render({"extraObjects": [item]})


# --- NOTES.txt


def test_notes_say_how_to_go_on():
    text = notes({"model": {"path": "/gcs/r1"}}, release="x", namespace="prod")
    assert "WARNING" not in text
    assert "kubectl --namespace prod logs --follow service/x-svc" in text
    assert "port-forward service/x-svc 8000" in text
    assert "helm --namespace prod uninstall x" in text
    assert "1 group(s) of 2 host(s)" in text
    assert "kubectl --namespace prod create secret generic x-control --from-literal=key=" in text
    assert len(text.strip().splitlines()) < 14


def test_notes_of_a_measurement_say_where_its_result_is():
    text = notes({"mode": "nccl"}, release="x", namespace="prod")
    assert "kubectl --namespace prod logs --follow x-0" in text
    assert "Chat" not in text
    assert "WARNING" not in text


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        ({}, "no weights are staged"),
        (nest("network.hostNetwork", True), "hostNetwork is on"),
        (nest("security.privileged", True), "runs privileged"),
        (
            merge(nest("network.hostNetwork", True), fabric("tcpxo")),
            "runs privileged",
        ),
    ],
)
def test_notes_warn(values, warning):
    assert warning in notes(values)
