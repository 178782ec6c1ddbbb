"""Size and life of a group: the LeaderWorkerSet object."""

import pytest

from tests.helpers.helm import RenderError, args, find, merge, nest, pod, render


def lws(values=None, release="r1"):
    return find(render(values, release), "LeaderWorkerSet")


@pytest.mark.parametrize(
    ("tp", "pp", "dp", "gpus", "hosts"),
    [
        (8, 2, 1, 8, 2),
        (8, 1, 1, 8, 1),
        (16, 1, 1, 8, 2),
        (4, 4, 1, 8, 2),
        (8, 3, 1, 8, 3),
        (8, 1, 4, 8, 4),
        (4, 2, 1, 4, 2),
        (2, 2, 1, 1, 4),
        (1, 2, 1, 0, 2),
        (1, 1, 1, 0, 1),
    ],
)
def test_hosts_of_a_group(tp, pp, dp, gpus, hosts):
    values = {"model": {"tp_size": tp, "pp_size": pp, "dp_size": dp}, "host": {"gpus": gpus}}
    spec = lws(values)["spec"]["leaderWorkerTemplate"]
    assert spec["size"] == hosts
    limits = spec["workerTemplate"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits.get("nvidia.com/gpu", 0) == gpus


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"tp_size": 4, "pp_size": 1}}, "do not fill whole hosts of 8"),
        ({"model": {"tp_size": 6, "pp_size": 2}}, "do not fill whole hosts of 8"),
        ({"model": {"tp_size": 6, "pp_size": 4}}, "cross the border of a host"),
        ({"model": {"tp_size": 12, "pp_size": 2}}, "cross the border of a host"),
        ({"job": {"gpus": 24}}, "job.gpus: 24 is not the size of a group"),
        ({"job": {"gpus": 8}}, "set it to 16 or leave it out"),
    ],
)
def test_sizes_that_cannot_be(values, message):
    with pytest.raises(RenderError) as error:
        render(values)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_gpus_of_the_published_values_file_are_accepted():
    assert lws({"job": {"gpus": 16}})["spec"]["leaderWorkerTemplate"]["size"] == 2


def test_a_lost_rank_recreates_the_group_and_workers_do_not_wait_for_the_leader():
    spec = lws()["spec"]
    assert spec["leaderWorkerTemplate"]["restartPolicy"] == "RecreateGroupOnPodRestart"
    assert spec["startupPolicy"] == "LeaderCreated"


def test_rollout_takes_counts_and_percentages():
    rolling = lws({"rollout": {"maxUnavailable": "25%", "maxSurge": 2}})["spec"]["rolloutStrategy"]
    assert rolling == {
        "type": "RollingUpdate",
        "rollingUpdateConfiguration": {"maxUnavailable": "25%", "maxSurge": 2},
    }


def test_replicas_belong_to_the_autoscaler_while_it_is_on():
    assert lws({"vllm": {"replicaCount": 3}})["spec"]["replicas"] == 3
    assert lws({"vllm": {"replicaCount": 0}})["spec"]["replicas"] == 0
    assert "replicas" not in lws({"autoscaling": {"enabled": True}})["spec"]


def test_labels_and_annotations_of_the_set():
    bare = lws()["metadata"]
    assert "annotations" not in bare
    assert "kueue.x-k8s.io/queue-name" not in bare["labels"]
    assert "manyhost.dev/recipe" not in bare["labels"]
    full = lws(
        {
            "clusterName": "my cluster: 1",
            "queue": "a3-mega",
            "recipe": "a3mega/deepseek-r1-671b",
            "exclusiveTopologyKey": "cloud.google.com/gke-nodepool",
        }
    )["metadata"]
    assert full["annotations"] == {
        "manyhost.dev/cluster-name": "my cluster: 1",
        "leaderworkerset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool",
    }
    assert full["labels"]["kueue.x-k8s.io/queue-name"] == "a3-mega"
    assert full["labels"]["manyhost.dev/recipe"] == "a3mega.deepseek-r1-671b"


@pytest.mark.parametrize(
    ("release", "suggestion"),
    [
        ("jane_doe-serving", "jane-doe-serving"),
        ("a.b", "a-b"),
        ("1st", "r-1st"),
        ("Big", "big"),
        ("___", "llm"),
        ("x" * 46, "x" * 45),
        ("x" * 44 + "_y", "x" * 44),
    ],
)
def test_release_names_that_pods_cannot_bear(release, suggestion):
    with pytest.raises(RenderError) as error:
        render(release=release)
    assert str(error.value).endswith(f"call the release {suggestion}")
    assert render(release=suggestion)


@pytest.mark.parametrize("release", ["x", "x" * 45, "true", "null", "yes", "e5"])
def test_release_names_that_yaml_could_take_for_something_else(release):
    for item in render(release=release):
        assert item["metadata"]["labels"]["app.kubernetes.io/instance"] == release
        assert item["metadata"]["name"].startswith(release)


def test_members_on_hosts_without_gpus_are_spread_within_their_group():
    cpu = {"host": {"gpus": 0, "networks": [], "topologyKeys": []}, "model": {"tp_size": 1}}
    objects = render(cpu)
    for role in ("leader", "worker"):
        spec = pod(objects, role)["spec"]
        assert "affinity" not in spec
        (spread,) = spec["topologySpreadConstraints"]
        assert spread["topologyKey"] == "kubernetes.io/hostname"
        assert spread["whenUnsatisfiable"] == "DoNotSchedule"
        assert spread["matchLabelKeys"] == ["leaderworkerset.sigs.k8s.io/group-index"]
        selected = spread["labelSelector"]["matchLabels"]
        assert selected.items() <= pod(objects, role)["metadata"]["labels"].items()
    assert "topologySpreadConstraints" not in pod(render())["spec"]


def test_members_prefer_near_hosts_and_the_nearest_most():
    (block, subblock) = pod(render())["spec"]["affinity"]["podAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    assert (block["weight"], subblock["weight"]) == (1, 2)
    assert subblock["podAffinityTerm"]["topologyKey"] == "cloud.google.com/gce-topology-subblock"
    term = block["podAffinityTerm"]
    assert term["matchLabelKeys"] == ["leaderworkerset.sigs.k8s.io/group-index"]
    assert term["labelSelector"]["matchLabels"]["app.kubernetes.io/instance"] == "r1"


def test_target_nodes_bind_the_pods():
    affinity = pod(render({"targetNodes": ["node-1", "node-2.example"]}))["spec"]["affinity"]
    (term,) = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-1", "node-2.example"]}
    ]


def test_data_parallel_size_is_passed_only_when_there_is_some():
    assert args(render())[:4] == ["--tensor-parallel-size", "8", "--pipeline-parallel-size", "2"]
    assert "--data-parallel-size" not in args(render())
    with_dp = args(render(merge(nest("model.pp_size", 1), nest("model.dp_size", 2))))
    assert with_dp[4:6] == ["--data-parallel-size", "2"]
