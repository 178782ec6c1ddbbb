"""What stops the render: one line for each problem, with the key and what to do."""

import pytest

from tests.helpers.helm import RenderError, merge, nest, render

REFUSED_KEYS = {
    "targetPlatform": nest("targetPlatform", "gke"),
    "gpuPlatformSettings.ncclBuildType": nest("gpuPlatformSettings.ncclBuildType", 223),
    "network.subnetworks[]": nest("network.subnetworks[]", ["default"]),
}


def problems(values, release="r1"):
    with pytest.raises(RenderError) as error:
        render(values, release)
    text = str(error.value)
    assert text.startswith("execution error at (llm-multihost/templates/leaderworkerset.yaml:1:4): ")
    return text.partition("): ")[2].splitlines()


@pytest.mark.parametrize("key", REFUSED_KEYS)
def test_published_keys_that_are_gone(key):
    (line,) = problems(REFUSED_KEYS[key])
    assert line.startswith(f"{key}: this key is gone")
    assert ";" in line


def test_all_problems_are_told_at_once():
    values = merge(*REFUSED_KEYS.values(), nest("job.gpus", 24), nest("vllm.serverArgs.port", 80))
    lines = problems(values, release="a_b")
    assert len(lines) == 6
    assert all(": " in line and ";" in line for line in lines)


@pytest.mark.parametrize(
    ("flag", "place"),
    [
        ("model", "model.name"),
        ("served-model-name", "model.servedName"),
        ("tensor-parallel-size", "model.tp_size"),
        ("tensor_parallel_size", "model.tp_size"),
        ("tp", "model.tp_size"),
        ("pipeline-parallel-size", "model.pp_size"),
        ("pp", "model.pp_size"),
        ("data-parallel-size", "model.dp_size"),
        ("dp", "model.dp_size"),
        ("distributed-executor-backend", "vllm.executor"),
        ("port", "vllm.service.ports.http"),
        ("host", "the launcher sets it"),
        ("nnodes", "the launcher sets it"),
        ("node-rank", "the launcher sets it"),
        ("node_rank", "the launcher sets it"),
        ("master-addr", "the launcher sets it"),
        ("master-port", "the launcher sets it"),
        ("headless", "the launcher sets it"),
        ("no-headless", "the launcher sets it"),
        ("data-parallel-address", "the launcher sets it"),
        ("download-dir", "volumes.ssdMountPath"),
        ("hf-token", "huggingface.secretName"),
        ("api-key", "gateway"),
        ("max_num_seqs", "max-num-seqs"),
    ],
)
def test_reserved_engine_flags(flag, place):
    (line,) = problems({"vllm": {"serverArgs": {flag: "1"}}})
    assert line.startswith(f"vllm.serverArgs.{flag}: ")
    assert place in line


@pytest.mark.parametrize(
    ("tag", "executor", "image", "words"),
    [
        (
            "v0.7.3",
            "mp",
            "vllm/vllm-openai",
            "vLLM v0.7.3 starts several hosts with ray, not with mp; add the",
        ),
        ("0.7.3-mine", "mp", "own/image", "vLLM v0.7.3 starts several hosts with ray, not with mp; add the"),
        ("v0.7.3", "ray", "vllm/vllm-openai", ""),
        (
            "v0.26.0",
            "ray",
            "vllm/vllm-openai",
            "ray is not in the image vllm/vllm-openai:v0.26.0; set it to mp",
        ),
        ("v0.26.0-cu129", "ray", "own/image", ""),
        ("v0.19.0", "mp", "vllm/vllm-openai", ""),
    ],
)
def test_an_engine_that_cannot_start_several_hosts_so(tag, executor, image, words):
    values = {"job": {"image": {"tag": tag, "repository": image}}, "vllm": {"executor": executor}}
    if not words:
        render(values)
        return
    (line,) = problems(values)
    assert line.startswith(f"vllm.executor: {words}")


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (nest("job.image.tag", ""), 'job.image.tag: "" does not pin a version'),
        (nest("job.image.tag", None), 'job.image.tag: "" does not pin a version'),
        (nest("job.image.tag", "latest"), 'job.image.tag: "latest" does not pin a version'),
        (nest("job.image.repository", ""), "job.image.repository: no image is named"),
        (nest("job.image.repository", None), "job.image.repository: no image is named"),
        (nest("job.image.tag", "nightly"), 'job.image.tag: "nightly" does not pin a version'),
        (nest("job.image.tag", "nightly-x86_64"), 'job.image.tag: "nightly-x86_64" does not pin'),
        (
            nest("job.image.repository", "https://a.b/c"),
            "job.image.repository: https://a.b/c is a web address",
        ),
        (nest("job.image.repository", "a/b:v1"), "job.image.repository: a/b:v1 ends with a tag"),
        (nest("job.image.repository", "a/B"), "job.image.repository: a/B has upper case"),
        (
            nest("job.image.repository", "vllm-openai"),
            "job.image.repository: vllm-openai alone is docker.io/lib",
        ),
        (nest("job.image.digest", "sha256:ab"), "job.image.digest: sha256:ab is not a whole"),
        (nest("vllm.env", [{"name": "HF_TOKEN", "value": "x"}]), "vllm.env: HF_TOKEN would put"),
        (nest("vllm.env", [{"name": "LWS_GROUP_SIZE", "value": "1"}]), "vllm.env: LWS_GROUP_SIZE"),
        (nest("vllm.env", [{"name": "MANYHOST_X", "value": "1"}]), "vllm.env: MANYHOST_X belongs"),
        (nest("vllm.env", [{"name": "A", "value": "1"}] * 2), "vllm.env: A stands twice"),
        (
            nest("network.ncclSettings", [{"name": "A", "value": "1"}] * 2),
            "network.ncclSettings: A stands twice",
        ),
        (nest("podLabels", {"role": "x"}), "podLabels.role: the chart"),
        (
            nest("podAnnotations", {"networking.gke.io/interfaces": "[]"}),
            "podAnnotations.networking.gke.io/interfaces: the chart",
        ),
        (
            nest("host.resources.limits", {"nvidia.com/gpu": 4}),
            "host.resources.limits: nvidia.com/gpu follows from host.gpus",
        ),
        (nest("rollout.maxUnavailable", 0), "rollout: maxUnavailable and maxSurge are both 0"),
        (nest("rollout.maxUnavailable", "0%"), "rollout: maxUnavailable and maxSurge are both 0"),
        (
            {"autoscaling": {"enabled": True, "minReplicas": 3}},
            "autoscaling.maxReplicas: 2 is less than minReplicas 3",
        ),
    ],
)
def test_values_that_contradict(values, line):
    (found,) = problems(values)
    assert found.startswith(line)
    assert ";" in found


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"vlllm": {}}, "vlllm"),
        (nest("vllm.serverargs", {}), "serverargs"),
        (nest("job.image.tags", "x"), "tags"),
        (nest("network.subnetwork", []), "subnetwork"),
        (nest("vllm.service.ports.metrics", 1), "metrics"),
        (nest("host.tolerations", [{"keys": "x"}]), "keys"),
        (nest("vllm.env", [{"name": "A", "valueFrom": {}}]), "valueFrom"),
    ],
)
def test_unknown_keys(values, key):
    with pytest.raises(RenderError, match=key):
        render(values)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        (nest("model.tp_size", "8"), "tp_size"),
        (nest("model.tp_size", 0), "tp_size"),
        (nest("model.tp_size", 1.5), "tp_size"),
        (nest("model.name", ""), "model/name"),
        (nest("model.name", "--port=1"), "model/name"),
        (nest("model.path", "gcs/x"), "model/path"),
        (nest("vllm.replicaCount", -1), "replicaCount"),
        (nest("vllm.executor", "mpi"), "executor"),
        (nest("vllm.command", []), "command"),
        (nest("vllm.command", ["a\nb"]), "command"),
        (nest("vllm.serverArgs", {"a b": 1}), "serverArgs"),
        (nest("vllm.serverArgs", {"--max-model-len": 1}), "serverArgs"),
        (nest("vllm.env", [{"name": "A B", "value": "1"}]), "env"),
        (nest("vllm.env", [{"name": "A", "value": 1}]), "env"),
        (nest("network.ncclSettings", [{"name": "1A", "value": "1"}]), "ncclSettings"),
        (nest("rollout.maxUnavailable", "101%"), "maxUnavailable"),
        (nest("rollout.maxUnavailable", 2**31), "maxUnavailable"),
        (nest("lifecycle.startupSeconds", 9223372036854775807), "startupSeconds"),
        (nest("lifecycle.peerWaitSeconds", 86401), "peerWaitSeconds"),
        (nest("lifecycle.stallSeconds", 86401), "stallSeconds"),
        (nest("lifecycle.drainSeconds", 86401), "drainSeconds"),
        (nest("lifecycle.startAttempts", 11), "startAttempts"),
        (nest("vllm.replicaCount", 1001), "replicaCount"),
        (nest("roles.prefill.groups", 1001), "groups"),
        (nest("autoscaling.maxReplicas", 1001), "maxReplicas"),
        (nest("model.tp_size", 4097), "tp_size"),
        (nest("model.pp_size", 4097), "pp_size"),
        (nest("security.runAsUser", 2**31), "runAsUser"),
        (nest("host.gpus", 129), "gpus"),
        (nest("queue", "a b"), "queue"),
        (nest("recipe", "a3mega"), "recipe"),
        (nest("lifecycle", None), "lifecycle"),
        (nest("lifecycle.startupSeconds", None), "startupSeconds"),
        (nest("security.runAsUser", -1), "runAsUser"),
        (nest("podLabels", {"a": "b c"}), "podLabels"),
    ],
)
def test_schema(values, key):
    with pytest.raises(RenderError, match=key):
        render(values)
