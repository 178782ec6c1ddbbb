"""Which releases of the interconnect's plugin run, and for which NCCL."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.cluster.doctor import Examine, Reply, Serve, a_target, lists

PLUGIN = "us-docker.pkg.dev/gce-ai-infra/gpudirect-tcpxo/nccl-plugin-gpudirecttcpx-dev"


def with_installer(method: str, path: str, headers: Any) -> Reply:
    """The API server of a cluster with the newest installer of the plugin."""
    if path.partition("?")[0].endswith("/daemonsets/nccl-tcpxo-installer"):
        containers = [{"name": "nccl-tcpxo-installer", "image": f"{PLUGIN}:v1.0.15"}]
        return 200, {}, {"spec": {"template": {"spec": {"initContainers": containers}}}}
    return lists()(method, path, headers)


@pytest.mark.parametrize(
    ("setting", "end"),
    [
        (
            "engine.version=v0.33.0",
            "for NCCL 2.28.7-1; PyTorch in vllm/vllm-openai:v0.33.0 brings 2.30.7",
        ),
        ("engine.tag=v0.33.0-mine", "for NCCL 2.28.7-1"),  # nobody has read it
    ],
)
def test_the_nccl_of_plugin_and_image_are_said_side_by_side(
    setting: str, end: str, serve: Serve, examined: Examine
) -> None:
    result = examined("interconnect-versions", a_target(setting), f"http://{serve(with_installer)}")
    assert result.status == "pass"
    assert result.why == f"plugin v1.0.15 and daemon v1.0.21 are one release, {end}"
