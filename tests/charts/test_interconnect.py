"""Networks of the pod, and GPUDirect-TCPXO."""

import json
from itertools import pairwise

import pytest
import yaml

from tests.charts.test_pods import CONFIGURATIONS
from tests.helpers.helm import (
    RenderError,
    engine_container,
    env,
    fabric,
    find,
    merge,
    nest,
    pod,
    render,
)

TCPXO = fabric("tcpxo")
A3_MEGA = merge(TCPXO, nest("network.interconnect", "none"))  # in words: its hosts, over plain TCP
OWN_PLUGIN = merge(TCPXO, nest("gpuPlatformSettings.useHostPlugin", False))
NINE = ["default", *[f"net-{i}.example" for i in range(1, 9)]]
TEN_OF_A3_ULTRA = ["default", "gvnic-1", *[f"rdma-{i}" for i in range(8)]]


def annotations(values):
    return pod(render(values))["metadata"]["annotations"]


def interfaces(values):
    items = json.loads(annotations(values)["networking.gke.io/interfaces"])
    return {item["interfaceName"]: item["network"] for item in items}


def init_containers(values):
    return {item["name"]: item for item in pod(render(values))["spec"].get("initContainers", [])}


def daemon(values=None):
    return init_containers(merge(TCPXO, values or {}))["tcpxo-daemon"]


def test_usual_networks_in_nic_order():
    expected = {"eth0": "default"} | {f"eth{i}": f"vpc{i}" for i in range(1, 9)}
    assert interfaces(A3_MEGA) == expected
    assert annotations(A3_MEGA)["networking.gke.io/default-interface"] == "eth0"


def test_names_of_another_cluster():
    values = merge(A3_MEGA, nest("network.subnetworks", NINE))
    assert list(interfaces(values).values()) == NINE


def test_hosts_with_one_network_have_no_annotation():
    assert not [key for key in annotations(nest("host.networks", [])) if "networking" in key]


def test_the_a3_ultra_list_of_the_published_example_is_refused_in_one_line():
    with pytest.raises(RenderError) as error:
        render(merge(A3_MEGA, nest("network.subnetworks", TEN_OF_A3_ULTRA)))
    (line,) = str(error.value).splitlines()
    assert ", ".join(TEN_OF_A3_ULTRA) in line
    assert "default, vpc1, vpc2, vpc3, vpc4, vpc5, vpc6, vpc7, vpc8" in line


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (merge(A3_MEGA, nest("network.subnetworks", ["default"])), "1 names"),
        (merge(A3_MEGA, nest("network.subnetworks", ["default"] * 9)), "a name stands twice"),
        (
            nest("network.subnetworks", ["a"]),
            "a for hosts of which nothing is known; add the values of a recipe",
        ),
        (merge(TCPXO, nest("host.networks", [])), "a network for each GPU NIC"),
        (merge(TCPXO, nest("host.gpus", 0), nest("model.tp_size", 1)), "tcpxo needs GPUs"),
        (nest("network.subnetworks", ["Default"] * 9), "subnetworks"),
        (nest("network.interconnect", "roce"), "nothing here says what roce is made of; add the values of"),
        (nest("network.interconnect", "tcpxo"), "nothing here says what tcpxo is made of; add the values of"),
        (nest("network.interconnect", "No Name"), "interconnect"),
        (
            merge(CONFIGURATIONS["rdma"], nest("gpuPlatformSettings.useHostPlugin", False)),
            r"useHostPlugin: roce has no plugin image that this chart installs; set it to true",
        ),
        (
            merge(OWN_PLUGIN, nest("gpuPlatformSettings.ncclPluginImage", "")),
            r"useHostPlugin: tcpxo has no plugin image that this chart installs; set it to true",
        ),
    ],
)
def test_networks_that_cannot_be(values, message):
    with pytest.raises(RenderError, match=message):
        render(values)


KNOWN_HOSTS = {
    "environment": nest("host.environment", "a3mega"),
    "networks": nest("host.networks", ["default", "vpc1"]),
    "accelerator": nest("host.nodeSelector", {"cloud.google.com/gke-accelerator": "nvidia-h100-mega-80gb"}),
}


@pytest.mark.parametrize("known", KNOWN_HOSTS)
def test_hosts_that_may_have_a_fabric_do_without_it_only_in_words(known):
    values = KNOWN_HOSTS[known]
    message = (
        r"interconnect: empty, so the 2 hosts of a group .* would talk over plain TCP; add the values of"
    )
    with pytest.raises(RenderError, match=message):
        render(values)
    with pytest.raises(RenderError, match="the 2 hosts of a group"):
        render(merge(values, nest("mode", "nccl"), nest("model.pp_size", 1)))
    assert "initContainers" not in pod(render(merge(values, nest("network.interconnect", "none"))))["spec"]
    assert render(merge(values, nest("model.pp_size", 1)))  # one host needs none


@pytest.mark.parametrize(
    "key", [("rxdmImage", "r:v1"), ("ncclPluginImage", "p:v1"), ("useHostPlugin", False)]
)
def test_images_of_a_fabric_that_nothing_would_use(key):
    values = nest(f"gpuPlatformSettings.{key[0]}", key[1])
    with pytest.raises(RenderError, match=r"interconnect: empty, so nothing would use gpuPlatformSettings"):
        render(values)
    assert render(merge(values, nest("network.interconnect", "none")))


def test_host_network():
    values = merge(
        TCPXO,
        nest("network.hostNetwork", True),
        nest("volumes.gcsMounts", [{"bucketName": "b-1"}]),
    )
    objects = render(values)
    spec = pod(objects)["spec"]
    assert spec["hostNetwork"] is True
    assert spec["dnsPolicy"] == "ClusterFirstWithHostNet"
    names = [key for key in annotations(values) if "networking" in key]
    assert names == ["networking.gke.io/default-interface"]
    assert engine_container(objects)["securityContext"] == {"privileged": True}
    (bucket,) = (v for v in spec["volumes"] if v["name"] == "gcs-0")
    assert bucket["csi"]["volumeAttributes"]["hostNetworkPodKSA"] == "true"


def test_without_interconnect_nothing_is_added():
    spec = pod(render())["spec"]
    assert "initContainers" not in spec
    assert [v["name"] for v in spec["volumes"]] == ["scripts", "control", "shm", "ssd"]


def test_the_daemon_is_a_native_sidecar_with_two_capabilities():
    container = daemon()
    assert container["restartPolicy"] == "Always"
    assert container["securityContext"]["capabilities"]["add"] == ["NET_ADMIN", "NET_BIND_SERVICE"]
    assert container["command"] == ["/bin/sh", "/opt/manyhost/tcpxo-daemon.sh"]
    variables = {item["name"]: item["value"] for item in container["env"]}
    assert container["startupProbe"]["exec"]["command"] == [
        "cat",
        variables["HEALTH_CHECK_LOG_FILE"],
    ]
    assert "_" not in variables["HEALTH_CHECK_LOG_FILE"]
    assert {m["name"]: m["mountPath"] for m in container["volumeMounts"]} == {
        "scripts": "/opt/manyhost",
        "nvidia": "/usr/local/nvidia",
        "sys": "/hostsysfs",
        "proc-sys": "/hostprocsysfs",
    }


@pytest.mark.parametrize("gpus", [8, 4])
def test_the_device_injector_finds_the_daemon_by_name(gpus):
    values = merge(TCPXO, {"host": {"gpus": gpus}})
    key = f"devices.gke.io/container.{daemon(values)['name']}"
    paths = [item["path"] for item in yaml.safe_load(annotations(values)[key])]
    assert paths == [f"/dev/nvidia{i}" for i in range(gpus)] + [
        "/dev/nvidiactl",
        "/dev/nvidia-uvm",
        "/dev/dmabuf_import_helper",
    ]


NEW, NICS, OLD = (
    ["--num_hops=2"],
    ["--num_hops=2", "--num_nics=8"],
    ["--num_hops=2", "--num_nics=8", "--uid=", "--alsologtostderr"],
)


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        (":v1.0.21", NEW),
        (":v1.0.20", NEW),
        (":v1.0.19", NICS),
        (":v1.0.18", NICS),
        (":v1.0.17", OLD),
        (":v1.0.14", OLD),
        (":v1.0.13_1", OLD),
        (":v1.0.09", OLD),
        (":v1.0.8", OLD),
        (":v1.0.6-sctp", OLD),
        (":v1.1.0", NEW),
        (":v2.0.0", NEW),
        (":latest", NEW),
        ("@sha256:" + "0" * 64, NEW),
        ("", NEW),
    ],
)
def test_flags_follow_the_release_of_the_daemon(tag, words):
    image = f"host:5000/v1.0.1/rxdm{tag}"
    container = daemon(nest("gpuPlatformSettings.rxdmImage", image))
    assert container["args"] == words
    assert container["image"] == image


def test_the_daemon_and_the_install_have_resources_on_request():
    settings = {k: v for k, v in TCPXO["gpuPlatformSettings"].items() if k != "daemonResources"}
    bare = {**TCPXO, "gpuPlatformSettings": {**settings, "useHostPlugin": False}}
    assert not [item for item in init_containers(bare).values() if "resources" in item]
    resources = {"requests": {"cpu": 1}, "limits": {"memory": "4Gi"}}
    values = merge(bare, nest("gpuPlatformSettings.daemonResources", resources))
    containers = init_containers(values)
    assert list(containers) == ["tcpxo-install", "tcpxo-daemon"]
    assert [item["resources"] for item in containers.values()] == [resources, resources]
    with pytest.raises(RenderError, match="memory"):
        render(merge(TCPXO, nest("gpuPlatformSettings.daemonResources", {"memory": "1Gi"})))


CLAIM = nest("gpuPlatformSettings.deviceClaim", {"deviceClass": "mrdma.google.com", "count": 4})


def test_a_fabric_of_device_plugins():
    """RDMA without a template of its own: folders, capabilities and resources are all data."""
    objects = render(merge(CONFIGURATIONS["rdma"], nest("host.networks", [])))
    container = engine_container(objects)
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8, "rdma/nic": "8"}
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert {"name": "gib", "mountPath": "/usr/local/gib", "readOnly": True} in container["volumeMounts"]
    assert {"name": "gib", "hostPath": {"path": "/gib"}} in pod(objects)["spec"]["volumes"]
    assert not {"initContainers", "resourceClaims"} & set(pod(objects)["spec"])
    keys = pod(objects)["metadata"]["annotations"]
    assert not [key for key in keys if key.startswith(("networking.gke.io", "devices.gke.io"))]
    assert [name for name in find(objects, "ConfigMap")["data"] if "tcpxo" in name] == []


def test_libraries_and_profile_of_a_fabric():
    settings = {
        "libraries": "/usr/local/gib/lib64",
        "profile": "{libraries}/../set_nccl_env.sh",
        "env": [{"name": "NCCL_NET", "value": "gIB"}, {"name": "X", "value": "{libraries}:{libraries}/x"}],
    }
    found = env(render(merge(CONFIGURATIONS["rdma"], {"gpuPlatformSettings": settings})))
    assert found["LD_LIBRARY_PATH"] == "/usr/local/gib/lib64"
    assert found["MANYHOST_PROFILE"] == "/usr/local/gib/lib64/../set_nccl_env.sh"
    assert (found["NCCL_NET"], found["X"]) == ("gIB", "/usr/local/gib/lib64:/usr/local/gib/lib64/x")


def test_claimed_nics_stand_in_the_place_of_named_networks():
    objects = render(merge(CONFIGURATIONS["rdma"], CLAIM), "x", "prod")
    for role in ("leader", "worker"):
        template = pod(objects, role)
        assert [key for key in template["metadata"]["annotations"] if "gke.io" in key] == []
        assert template["spec"]["resourceClaims"] == [{"name": "rdma", "resourceClaimTemplateName": "x-rdma"}]
        assert engine_container(objects, role)["resources"]["claims"] == [{"name": "rdma"}]
    claim = find(objects, "ResourceClaimTemplate")
    assert (claim["metadata"]["name"], claim["metadata"]["namespace"]) == ("x-rdma", "prod")
    (request,) = claim["spec"]["spec"]["devices"]["requests"]
    assert (request["exactly"]["deviceClassName"], request["exactly"]["count"]) == ("mrdma.google.com", 4)


def test_a_compute_domain_is_as_large_as_its_group_and_leaves_the_networks():
    values = merge(CONFIGURATIONS["rdma"], nest("host.networks", ["default", "a"]))
    objects = render(merge(values, nest("gpuPlatformSettings.computeDomain", True)), "x")
    domain = find(objects, "ComputeDomain")["spec"]
    assert domain["numNodes"] == 2
    name = domain["channel"]["resourceClaimTemplate"]["name"]
    spec = pod(objects)["spec"]
    assert spec["resourceClaims"] == [{"name": "compute-domain", "resourceClaimTemplateName": name}]
    assert engine_container(objects)["resources"]["claims"] == [{"name": "compute-domain"}]
    assert "networking.gke.io/interfaces" in pod(objects)["metadata"]["annotations"]


@pytest.mark.parametrize("more", [nest("vllm.replicaCount", 2), nest("autoscaling.enabled", True)])
def test_a_compute_domain_holds_one_group(more):
    values = merge(CONFIGURATIONS["rdma"], nest("gpuPlatformSettings.computeDomain", True), more)
    with pytest.raises(RenderError, match=r"vllm\.replicaCount: the hosts of a release share one NVLink"):
        render(values)


@pytest.mark.parametrize("key", ["deviceClaim", "computeDomain", "folders", "env", "extendedResources"])
def test_nothing_of_a_fabric_is_used_while_it_is_off(key):
    settings = merge(CONFIGURATIONS["rdma"], CLAIM, nest("gpuPlatformSettings.computeDomain", True))
    settings["gpuPlatformSettings"]["env"] = [{"name": "X", "value": "x"}]
    only = {"gpuPlatformSettings": {key: settings["gpuPlatformSettings"][key]}}
    assert render(only) == render()


def test_plugin_of_the_host():
    objects = render(TCPXO)
    assert env(objects).items() >= {
        ("NCCL_LIB_DIR", "/usr/local/nvidia/lib64"),
        ("LD_LIBRARY_PATH", "/usr/local/nvidia/lib64"),
        ("NCCL_FASTRAK_LLCM_DEVICE_DIRECTORY", "/dev/aperture_devices"),
        ("MANYHOST_PROFILE", "/usr/local/nvidia/lib64/nccl-env-profile.sh"),
    }
    mounts = {m["name"]: m["mountPath"] for m in engine_container(objects)["volumeMounts"]}
    assert mounts["nvidia"] == "/usr/local/nvidia"
    assert mounts["aperture-devices"] == "/dev/aperture_devices"
    assert list(init_containers(TCPXO)) == ["tcpxo-daemon"]


def test_plugin_of_its_own_image_is_installed_before_the_daemon_starts():
    values = OWN_PLUGIN
    assert list(init_containers(values)) == ["tcpxo-install", "tcpxo-daemon"]
    objects = render(values)
    assert env(objects).items() >= {
        ("NCCL_LIB_DIR", "/usr/local/nccl-plugin/lib64"),
        ("LD_LIBRARY_PATH", "/usr/local/nccl-plugin/lib64:/usr/local/nvidia/lib64"),
        ("MANYHOST_PROFILE", "/usr/local/nccl-plugin/lib64/nccl-env-profile.sh"),
    }
    install = init_containers(values)["tcpxo-install"]
    assert install["image"].endswith("nccl-plugin-gpudirecttcpx-dev:v1.0.15")
    mounts = [m for m in engine_container(objects)["volumeMounts"] if m["name"] == "nccl-plugin"]
    assert mounts == [{"name": "nccl-plugin", "mountPath": "/usr/local/nccl-plugin", "readOnly": True}]


@pytest.mark.parametrize("values", [{}, TCPXO, OWN_PLUGIN])
def test_every_mount_has_its_volume_and_every_volume_a_mount(values):
    spec = pod(render(values))["spec"]
    mounted = {
        mount["name"]
        for container in [*spec.get("initContainers", []), *spec["containers"]]
        for mount in container["volumeMounts"]
    }
    assert mounted == {volume["name"] for volume in spec["volumes"]}


def test_no_shell_text_stands_in_the_manifests():
    spec = pod(render(OWN_PLUGIN))["spec"]
    for container in [*spec["initContainers"], *spec["containers"]]:
        words = [*container["command"], *container.get("args", [])]
        assert ("sh", "-c") not in {(a.rsplit("/")[-1], b) for a, b in pairwise(words)}
        assert not [word for word in words if "\n" in word]


def test_pods_of_one_host_without_a_fabric_have_the_cluster_network_alone():
    assert not [key for key in annotations(nest("model.pp_size", 1)) if "networking" in key]
    assert [key for key in annotations(merge(fabric(), nest("model.pp_size", 1))) if "networking" in key]


def test_a_plugin_from_an_image_needs_a_script_that_installs_it():
    values = merge(fabric("tcpx"), nest("gpuPlatformSettings.useHostPlugin", False))
    with pytest.raises(RenderError, match="useHostPlugin"):
        render(values)


def test_the_hosts_of_an_nvlink_domain_must_be_near():
    spec = pod(render(merge(fabric("gib-imex"), nest("host.topologyKeys", ["a/block", "a/subblock"]))))[
        "spec"
    ]
    (required,) = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert required["topologyKey"] == "a/subblock"


@pytest.mark.parametrize("port", [6379, 29501, 29511])
def test_the_api_has_a_port_of_its_own(port):
    with pytest.raises(RenderError, match="port of the launcher"):
        render(nest("vllm.service.ports.http", port))
