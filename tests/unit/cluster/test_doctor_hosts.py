"""Doctor on the hosts: GPUs, networks, topology, processors and drivers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from manyhost.catalog.engine import ImageLock
from manyhost.cluster.doctor.topology import fits
from manyhost.cluster.target import Target

from testbed.shapes import KUBERNETES
from tests.unit.cluster.doctor import Examine, ResultsOf, Serve, a_host, a_target, lists, networks

GPU = "nvidia.com/gpu"
PUBLISHED = "a3mega/deepseek-r1-671b-published"


def served(serve: Serve, *nodes: dict[str, Any], **more: list[Any]) -> str:
    return f"http://{serve(lists(nodes=list(nodes), **{**networks(), **more}))}"


def with_gpus(node: dict[str, Any], healthy: int, shown: int = 8) -> dict[str, Any]:
    node["status"]["allocatable"][GPU], node["status"]["capacity"][GPU] = str(healthy), str(shown)
    return node


# ------------------------------------------------------------------ hosts


OLDER = ("engine.version=v0.26.0", "engine.tag=v0.26.0-cu129")


@pytest.mark.parametrize(
    ("healthy", "shown", "why"),
    [
        (7, 8, "gke-a3mega-2: 7 of its 8 GPUs are healthy"),
        (7, 7, "gke-a3mega-2: shows 7 GPUs where a3-megagpu-8g has 8"),
        (0, 0, "gke-a3mega-2: shows 0 GPUs where a3-megagpu-8g has 8"),
    ],
)
def test_a_host_with_a_broken_gpu_is_not_full(
    healthy: int, shown: int, why: str, serve: Serve, examined: Examine
) -> None:
    """Nobody frees such a host, and draining it is not the reader's business."""
    api = served(serve, a_host(1), with_gpus(a_host(2), healthy, shown))
    result = examined("hosts", a_target(), api)
    assert result.status == "fail"
    assert why in result.why
    assert result.fix.startswith("`kubectl describe node gke-a3mega-2 ")
    assert "whoever runs the hosts drains and replaces" in result.fix
    assert "free the hosts" not in result.fix


def test_a_machine_of_another_type_has_its_gpus_by_right(serve: Serve, examined: Examine) -> None:
    other = with_gpus(a_host(2, **{"node.kubernetes.io/instance-type": "a3-megagpu-4g"}), 4, 4)
    result = examined("hosts", a_target(), served(serve, a_host(1), other))
    assert "4 of 4 nvidia.com/gpu free, 8 needed" in result.why


def test_a_broken_gpu_does_not_matter_while_others_are_free(serve: Serve, examined: Examine) -> None:
    api = served(serve, a_host(1), with_gpus(a_host(2), 7), a_host(3))
    assert examined("hosts", a_target(), api).status == "pass"


@pytest.mark.parametrize("of", ["", ".IP"])
def test_hosts_that_are_not_attached_to_a_network(of: str, serve: Serve, examined: Examine) -> None:
    far = a_host(2, pool="other-pool")
    del far["status"]["allocatable"][f"networking.gke.io.networks/vpc3{of}"]
    api = served(serve, a_host(1), far)
    result = examined("hosts", a_target(), api, context="gke_p_us-east4_prod")
    assert result.status == "fail"
    assert f"no NIC in network vpc3: it offers no networking.gke.io.networks/vpc3{of}" in result.why
    assert result.fix.startswith(
        "`gcloud container node-pools describe other-pool --cluster prod --location us-east4 --project p "
    )


def test_a_network_that_is_missing_or_not_ready_is_no_hosts_fault(serve: Serve, examined: Examine) -> None:
    def without_vpc3() -> list[dict[str, Any]]:
        nodes = [a_host(1), a_host(2)]
        for node in nodes:
            for of in ("", ".IP"):
                del node["status"]["allocatable"][f"networking.gke.io.networks/vpc3{of}"]
        return nodes

    objects = networks()
    objects["networks"] = [item for item in objects["networks"] if item["metadata"]["name"] != "vpc3"]
    assert examined("hosts", a_target(), served(serve, *without_vpc3(), **objects)).status == "pass"
    unready = networks(Ready=("Unknown", ""))
    assert examined("hosts", a_target(), served(serve, *without_vpc3(), **unready)).status == "pass"


# ------------------------------------------------------------------ networks


@pytest.mark.parametrize(
    ("conditions", "why", "fix"),
    [
        (
            {"ParamsReady": ("False", "set is not ready"), "Ready": ("False", "subnet s not found")},
            "the parameters of Network vpc1 are not ready (False): subnet s not found",
            "kubectl describe gkenetworkparamsets.networking.gke.io vpc1",
        ),
        (
            {"ParamsReady": ("True", ""), "Ready": ("Unknown", "no word of the node yet")},
            "Network vpc1 is not ready (Unknown): no word of the node yet",
            "kubectl describe networks.networking.gke.io vpc1",
        ),
        (
            {"Ready": ("False", "")},
            "Network vpc1 is not ready (False): no reason is given",
            "kubectl describe networks.networking.gke.io vpc1",
        ),
    ],
)
def test_networks_that_are_not_ready(
    conditions: dict[str, tuple[str, str]], why: str, fix: str, serve: Serve, results_of: ResultsOf
) -> None:
    """Each is named once, by the condition that the other builds on."""
    results = results_of("networks", a_target(), f"http://{serve(lists(**networks(**conditions)))}")
    assert [result.status for result in results] == ["fail"] * 8
    assert results[0].why == why
    assert f"`{fix} " in results[0].fix


def test_networks_that_are_ready(serve: Serve, examined: Examine) -> None:
    ready = networks(ParamsReady=("True", ""), Ready=("True", ""))
    assert examined("networks", a_target(), f"http://{serve(lists(**ready))}").status == "pass"


# ------------------------------------------------------------------ topology

ZONES = "topology.kubernetes.io/zone"
BLOCKS = "cloud.google.com/gce-topology-block"


@pytest.mark.parametrize(
    ("hosts", "settings", "status", "words"),
    [
        ([{"zone": "a"}, {"zone": "b"}, {"zone": "b"}], (), "pass", ""),
        ([{"zone": "a"}, {"zone": "b"}], (), "warn", f"fit into one {ZONES}: free are 1 in a, 1 in b"),
        ([{"block": "x"}, {"block": "y"}], (), "warn", f"fit into one {BLOCKS}: free are 1 in x, 1 in y"),
        ([{"subblock": "x"}, {"subblock": "y"}], (), "pass", ""),
        # Two groups: three hosts in one zone are one group's, and the fourth is alone.
        ([{"zone": z} for z in "aaab"], ("groups=2",), "warn", "free are 3 in a, 1 in b"),
        ([{"zone": z} for z in "aabb"], ("groups=2",), "pass", ""),
        ([{"zone": z} for z in "aaaa"], ("groups=2",), "pass", ""),
        ([{"block": None, "zone": None}] * 2, (), "pass", ""),
        ([{"zone": "a"}, {"zone": "b"}, {"zone": None}], (), "pass", ""),  # nobody knows where the third is
        ([{}], (), "skip", "not enough free hosts"),
    ],
)  # fmt: skip
def test_topology(
    hosts: list[dict[str, Any]], settings: tuple[str, ...], status: str, words: str, serve: Serve,
    examined: Examine,
) -> None:  # fmt: skip
    nodes = [a_host(number, **labels) for number, labels in enumerate(hosts, 1)]
    result = examined("topology", a_target(*settings), served(serve, *nodes))
    assert result.status == status, result
    assert words in result.why
    if status == "warn":
        key = ZONES if ZONES in result.why else BLOCKS
        selector = "cloud.google.com/gke-accelerator=nvidia-h100-mega-80gb"
        assert f"`kubectl get nodes --selector {selector} --label-columns {key} " in result.fix


def test_topology_that_must_hold(serve: Serve, examined: Examine) -> None:
    """LeaderWorkerSet gives a domain to one group alone; Kueue lets several into one."""
    pool = "chart.exclusiveTopologyKey=cloud.google.com/gke-nodepool"
    one_pool = [a_host(number) for number in range(1, 5)]
    alone = examined("topology", a_target(pool, "groups=2"), served(serve, *one_pool))
    assert (alone.status, "2 hosts of one to itself cloud.google.com/gke-nodepool" in alone.why) == (
        "fail",
        True,
    )
    queue = ("chart.queue=q", f"chart.queueTopology.required={BLOCKS}", "groups=2")
    assert examined("topology", a_target(*queue), served(serve, *one_pool)).status == "pass"
    apart = [a_host(number, block=str(number)) for number in range(1, 5)]
    assert examined("topology", a_target(*queue), served(serve, *apart)).status == "fail"


def test_nothing_that_keeps_a_group_in_its_zone(serve: Serve, examined: Examine) -> None:
    """Hosts in several zones where the environment has no topology: a warning until something prefers one."""
    nodes = [a_host(number, KUBERNETES, zone=zone) for number, zone in enumerate("aabb", 1)]
    recipe = "kubernetes/deepseek-r1-671b"
    result = examined("topology", a_target(recipe=recipe), served(serve, *nodes))
    assert (result.status, "nothing keeps a group in one of them" in result.why) == ("warn", True)
    setting = f"chart.host.topologyKeys=[{ZONES}]"
    assert result.fix.endswith(f"--set '{setting}'`")
    kept = examined("topology", a_target(setting, recipe=recipe), served(serve, *nodes))
    assert kept.status == "pass"


@pytest.mark.parametrize(
    ("found", "sizes", "alone", "fitting"),
    [
        ({"a": 4}, [2, 2], False, True),
        ({"a": 4}, [2, 2], True, False),
        ({"a": 3, "b": 3}, [2, 4], False, False),
        (
            {"a": 2, "b": 6},
            [4, 2, 2],
            False,
            True,
        ),  # the small groups leave the large domain to the large one
        ({}, [2], False, False),
    ],
)
def test_groups_fit_into_domains(found: dict[str, int], sizes: list[int], alone: bool, fitting: bool) -> None:
    assert fits(found, sizes, alone=alone) is fitting


# ------------------------------------------------------------------ image lock


def test_processors_that_the_image_is_not_built_for(serve: Serve, examined: Examine) -> None:
    target = a_target(recipe=PUBLISHED)
    arm = a_host(3, architecture="arm64")
    result = examined("image-architecture", target, served(serve, a_host(1), a_host(2), arm))
    assert result.status == "fail"
    assert "gke-a3mega-3: arm64, and vllm/vllm-openai:v0.7.3 is built for amd64" in result.why
    assert result.fix.endswith("--set node_selector.kubernetes.io/arch=amd64`")
    few = examined("image-architecture", target, served(serve, a_host(1), arm))
    assert few.fix.startswith("set engine.image and engine.tag to an image for arm64")
    assert examined("image-architecture", target, served(serve, a_host(1))).status == "pass"
    own = a_target("engine.image=o/vllm", "engine.tag=v0.7.3", recipe=PUBLISHED)
    skipped = examined("image-architecture", own, served(serve, arm))
    assert (skipped.status, skipped.why) == ("skip", "nobody has read what o/vllm:v0.7.3 is built for")


@pytest.mark.parametrize(
    ("labels", "version", "settings", "status", "why"),
    [
        ({"driver": "default"}, "v1.32.4-gke.1", (), "fail", "driver R535; CUDA 13.0 in vllm/vllm-openai"),
        ({"driver": "latest"}, "v1.32.4-gke.1", (), "pass", "drivers from R580 on run CUDA 13.0"),
        ({"driver": "latest"}, "v1.30.1-gke.1", (), "fail", "have driver R550; CUDA 13.0"),
        ({"driver": "default"}, "v1.32.4-gke.1", OLDER, "pass", "run CUDA 12.9"),
        # Nobody has read these.
        ({"driver": "default"}, "v1.36.0-gke.1", (), "skip", "no free host tells its driver"),
        ({"driver": None}, "v1.32.4-gke.1", (), "skip", "no free host tells its driver"),
        ({"driver": "default"}, "v1.32.4-gke.1", ("engine.tag=v0.33.0-mine",), "skip", "nobody has read"),
        (
            {"driver": "default"}, "v1.32.4-gke.1", ("variables.VLLM_ENABLE_CUDA_COMPATIBILITY='1'",),
            "skip", "VLLM_ENABLE_CUDA_COMPATIBILITY is set",
        ),
        ({"driver": None, "nvidia.com/cuda.driver-version.major": "570"}, "v1.32.1", (), "fail", "R570"),
        ({"driver": None, "nvidia.com/cuda.driver.major": "580"}, "v1.32.1", (), "pass", "R580"),
    ],
)  # fmt: skip
def test_gpu_driver(
    labels: dict[str, Any], version: str, settings: tuple[str, ...], status: str, why: str, serve: Serve,
    examined: Examine,
) -> None:  # fmt: skip
    nodes = [a_host(number, **labels) for number in (1, 2)]
    for node in nodes:
        node["status"]["nodeInfo"]["kubeletVersion"] = version
    result = examined("gpu-driver", a_target(*settings), served(serve, *nodes), context="gke_p_us-east4_prod")
    assert result.status == status, result
    assert why in result.why
    if status == "fail" and labels.get("driver"):
        first, second = result.fix.split("; or ")
        assert first.startswith("take vLLM v0.26.0 with CUDA 12.9: `manyhost deploy ")
        assert first.endswith(" --set engine.version=v0.26.0 --set engine.tag=v0.26.0-cu129`")
        assert second.endswith(
            "`gcloud container node-pools update a3-megagpu-8g-a3-megagpu-pool --cluster prod "
            "--location us-east4 --project p "
            "--accelerator type=nvidia-h100-mega-80gb,count=8,gpu-driver-version=latest`"
        )


def test_an_image_of_the_recipes_own_version_is_advised_first(serve: Serve, examined: Examine) -> None:
    node = a_host(1, driver="default")
    result = examined("gpu-driver", a_target(OLDER[0]), served(serve, node))
    first, *_ = result.fix.split("; or ")
    assert first.startswith("take the image with CUDA 12.9: `manyhost deploy ")
    assert first.endswith(" --set engine.tag=v0.26.0-cu129`")


def test_a_driver_of_another_system_is_not_known(serve: Serve, examined: Examine) -> None:
    """The table of drivers is that of Container-Optimized OS."""
    node = a_host(1, driver="default")
    node["status"]["nodeInfo"]["osImage"] = "Ubuntu 24.04 LTS"
    assert examined("gpu-driver", a_target(), served(serve, node)).status == "skip"


def test_an_image_of_whose_cuda_nothing_is_known(serve: Serve, examined: Examine) -> None:
    target = a_target()
    engine = msgspec.structs.replace(target.plan.engine, image_lock={"v0.33.0": ImageLock()})
    target: Target = msgspec.structs.replace(target, plan=msgspec.structs.replace(target.plan, engine=engine))
    api = served(serve, a_host(1, driver="default"))
    for name in ("gpu-driver", "image-architecture"):
        assert examined(name, target, api).status == "skip"
