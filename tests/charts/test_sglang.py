"""The chart with vllm.engine: sglang."""

import pytest

from tests.helpers.helm import RenderError, args, env, merge, nest, render

SGLANG = {
    "job": {"image": {"repository": "lmsysorg/sglang", "tag": "v0.5.20"}},
    "model": {"tp_size": 8},
    "vllm": {
        "engine": "sglang",
        "command": ["sglang"],
        "serverArgs": {"max-model-len": None, "context-length": 4096},
    },
}


def refused(*changes):
    with pytest.raises(RenderError) as caught:
        render(merge(SGLANG, *changes))
    return str(caught.value)


def test_flags_and_environment():
    objects = render(SGLANG)
    words = args(objects)
    assert words[words.index("--context-length") + 1] == "4096"
    assert "--enable-metrics" in words
    assert "--max-model-len" not in words
    found = env(objects)
    assert found["MANYHOST_ENGINE"] == found["MANYHOST_ENGINE_NAME"] == "sglang"
    assert found["SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION"] == "false"
    assert found["SGLANG_CACHE_DIR"] == "/ssd/cache/sglang"
    assert not [name for name in found if name.startswith("VLLM_")]


def test_vllm_gets_nothing_of_it():
    objects = render({})
    assert "--enable-metrics" not in args(objects)
    assert not [name for name in env(objects) if "SGLANG" in name or name == "MANYHOST_ENGINE_NAME"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([nest("vllm.executor", "ray")], "vllm.executor: SGLang starts its ranks itself"),
        ([nest("model.dp_size", 2), nest("model.tp_size", 4)], "model.dp_size: SGLang's data parallel"),
        ([nest("roles.prefill.groups", 1)], "roles.prefill.groups: prefill and decode apart are vLLM's"),
        ([nest("routing", "inferencepool")], "routing: inferencepool asks an endpoint picker"),
        ([nest("autoscaling.enabled", True)], "autoscaling.metric: prometheus.googleapis.com|vllm:"),
        ([nest("vllm.env", [{"name": "VLLM_API_KEY", "value": "x"}])], "vllm.env: SGLang does not read"),
        ([nest("vllm.envFrom", [{"name": "VLLM_API_KEY", "secret": "s"}])], "vllm.envFrom: SGLang does not"),
        ([nest("vllm.serverArgs", {"tp-size": 8})], "vllm.serverArgs.tp-size: reserved; use model.tp_size"),
        ([nest("vllm.serverArgs", {"node-rank": 1})], "vllm.serverArgs.node-rank: reserved; the launcher"),
        ([nest("vllm.serverArgs", {"config": "x"})], "vllm.serverArgs.config: reserved; flags in a file"),
        ([nest("job.image.tag", "v0.26.0")], "job.image.tag: v0.26.0 is a version of vllm"),
    ],
)
def test_refusals(changes, words):
    assert words in refused(*changes)


def test_an_image_of_sglang_is_not_started_as_vllm():
    with pytest.raises(RenderError, match=r"v0\.5\.20 is a version of sglang, and vllm\.engine is vllm"):
        render({"job": {"image": {"repository": "lmsysorg/sglang", "tag": "v0.5.20"}}})


def test_an_image_of_ones_own_may_have_any_tag():
    image = {"repository": "registry/team/vllm", "tag": "v0.5.20"}
    assert render({"job": {"image": image}})


def test_a_metric_of_sglang_may_scale():
    metric = nest("autoscaling.metric", "prometheus.googleapis.com|sglang:num_queue_reqs|gauge")
    assert render(merge(SGLANG, nest("autoscaling.enabled", True), metric))
