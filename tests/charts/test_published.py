"""The `helm install` lines of the published recipe keep working, with the values for its engine.

AI-Hypercomputer/gpu-recipes: inference/a3mega/deepseek-r1-671b/vllm-serving-gke/README.md. The chart's
own values are for an engine that starts several hosts by itself; v0.7.3 has only Ray.
"""

import json

import pytest
import yaml

from tests.helpers.helm import CHART, ROOT, RenderError, engine_container, helm_binaries, merge, pod, render

REPOSITORY = "us-central1-docker.pkg.dev/p/r/vllm-openai"
NINE = ["default", *[f"vpc{i}" for i in range(1, 9)]]
_IMAGES = "us-docker.pkg.dev/gce-ai-infra/gpudirect-tcpxo"
PAIR = {
    "ncclPluginImage": f"{_IMAGES}/nccl-plugin-gpudirecttcpx-dev:v1.0.8-1",
    "rxdmImage": f"{_IMAGES}/tcpgpudmarxd-dev:v1.0.14",
}
A3_ULTRA = ["default", "gvnic-1", *[f"rdma-{i}" for i in range(8)]]
BINARIES = sorted(helm_binaries()) or [
    pytest.param("helm", marks=pytest.mark.skip(reason="no Helm binary, run make tools"))
]


VALUES = ROOT / "recipes/a3mega/deepseek-r1-671b-published/values.yaml"


def line(networks=(), cluster="c-1", values=VALUES):
    options = ["-f", str(values), "--set", f"job.image.repository={REPOSITORY}"]
    if cluster:
        options += ["--set", f"clusterName={cluster}"]
    options += ["--set", "job.image.tag=v0.7.3"]
    options += ["--set", "volumes.gcsMounts[0].bucketName=my_bucket.example"]
    for index, name in enumerate(networks):
        options += ["--set", f"network.subnetworks[{index}]={name}"]
    return tuple(options)


@pytest.mark.parametrize("engine", BINARIES)
def test_default_networks(engine):
    objects = render(release="jane-serving-deepseek-r1-model", engine=engine, options=line())
    assert engine_container(objects)["image"] == f"{REPOSITORY}:v0.7.3"
    lws = next(o for o in objects if o["kind"] == "LeaderWorkerSet")
    assert lws["metadata"]["annotations"]["manyhost.dev/cluster-name"] == "c-1"
    service = next(o for o in objects if o["kind"] == "Service")
    assert service["metadata"]["name"] == "jane-serving-deepseek-r1-model-svc"
    (bucket,) = (v for v in pod(objects)["spec"]["volumes"] if v["name"] == "gcs-0")
    assert bucket["csi"]["volumeAttributes"]["bucketName"] == "my_bucket.example"


@pytest.mark.parametrize("engine", BINARIES)
def test_the_charts_own_values_are_for_another_engine(engine):
    """They would install mp with an engine that has only Ray: both hosts start, and never find each other."""
    with pytest.raises(RenderError) as error:
        render(engine=engine, options=line(values=CHART / "values.yaml"))
    (message,) = (text for text in str(error.value).splitlines() if "vllm.executor" in text)
    assert "vLLM v0.7.3 starts several hosts with ray, not with mp" in message
    assert "-f recipes/a3mega/deepseek-r1-671b-published/values.yaml" in message


@pytest.mark.parametrize("engine", BINARIES)
def test_own_networks(engine):
    names = [f"net-{i}" for i in range(9)]
    objects = render(engine=engine, options=line(names, cluster=""))
    interfaces = pod(objects)["metadata"]["annotations"]["networking.gke.io/interfaces"]
    assert [item["network"] for item in json.loads(interfaces)] == names


@pytest.mark.parametrize("engine", BINARIES)
def test_the_ten_names_of_the_published_example(engine):
    with pytest.raises(RenderError) as error:
        render(engine=engine, options=line(A3_ULTRA, cluster=""))
    (message,) = (text for text in str(error.value).splitlines() if "network.subnetworks" in text)
    assert ", ".join(A3_ULTRA) in message
    assert ", ".join(NINE) in message


@pytest.mark.parametrize("engine", BINARIES)
def test_without_the_values_of_a_recipe_networks_are_refused(engine):
    with pytest.raises(RenderError, match="add the values of a recipe"):
        render(engine=engine, options=line(NINE, values=CHART / "values.yaml"))


@pytest.mark.parametrize("engine", BINARIES)
def test_a_user_name_with_an_underscore(engine):
    with pytest.raises(RenderError, match="name"):
        render(release="jane_doe-serving-deepseek-r1-model", engine=engine, options=line())


@pytest.mark.parametrize("engine", BINARIES)
def test_numbers_on_the_command_line(engine):
    options = (
        "--set",
        "vllm.replicaCount=2,vllm.serverArgs.max-num-batched-tokens=1000000",
        "--set",
        "vllm.serverArgs.gpu-memory-utilization=0.85,vllm.serverArgs.enforce-eager=true",
        "--set-string",
        "vllm.serverArgs.revision=1000000",
    )
    words = engine_container(render(engine=engine, options=options))["args"]
    assert words[6:] == [
        "--enforce-eager",
        "--gpu-memory-utilization",
        "0.85",
        "--max-model-len",
        "32768",
        "--max-num-batched-tokens",
        "1000000",
        "--revision",
        "1000000",
    ]


def test_the_published_values_file_is_refused_with_the_reasons():
    """Its text, shortened to what the chart reads; two of its keys never had an effect."""
    published = {
        "targetPlatform": "gke",
        "clusterName": None,
        "queue": None,
        "huggingface": {"secretName": "hf-secret", "secretData": {"token": "hf_api_token"}},
        "model": {"name": "deepseek-ai/DeepSeek-R1", "tp_size": 8, "pp_size": 2},
        "job": {"image": {"repository": None, "tag": None}, "gpus": 16},
        "volumes": {"ssdMountPath": "/ssd", "gcsMounts": [{"bucketName": None, "mountPath": "/gcs"}]},
        "gpuPlatformSettings": {"useHostPlugin": False, "ncclBuildType": 223, **PAIR},
        "network": {"ncclSettings": [{"name": "NCCL_DEBUG", "value": "TRACE"}]},
        "vllm": {
            "replicaCount": 1,
            "service": {"type": "ClusterIP", "ports": {"http": 8000}},
            "serverArgs": {"max-model-len": 32768, "disable-log-requests": True},
        },
    }
    with pytest.raises(RenderError) as error:
        render(published)
    lines = str(error.value).partition("): ")[2].splitlines()
    assert [text.split(": ")[0] for text in lines] == [
        "targetPlatform",
        "gpuPlatformSettings.ncclBuildType",
        "job.image.repository",
        "job.image.tag",
        "network.interconnect",
        "volumes.gcsMounts[0].bucketName",
    ]
    del published["targetPlatform"], published["gpuPlatformSettings"]["ncclBuildType"]
    published["job"]["image"] = {"repository": REPOSITORY, "tag": "v0.7.3"}
    published["vllm"]["executor"] = "ray"
    published["volumes"]["gcsMounts"][0]["bucketName"] = "my-bucket"
    with pytest.raises(
        RenderError, match=r"nothing would use gpuPlatformSettings; add the values of a recipe"
    ):
        render(published)
    objects = render(merge(yaml.safe_load(VALUES.read_text()), published))
    assert "--disable-log-requests" in engine_container(objects)["args"]
    images = {item["name"]: item["image"] for item in pod(objects)["spec"]["initContainers"]}
    assert images == {"tcpxo-install": PAIR["ncclPluginImage"], "tcpxo-daemon": PAIR["rxdmImage"]}
