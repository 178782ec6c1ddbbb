"""A container node: containerd, kubelet and kube-proxy on a machine of their own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed import cgroups, images
from testbed.api import Api
from testbed.errors import ClusterError
from testbed.layout import MAX_NODES
from testbed.layout import Node as Place
from testbed.machine import Machine
from testbed.system import wait_for

CNI_PLUGINS = Path("/usr/lib/cni")  # where Debian's containernetworking-plugins puts them
_SOCKET = "/run/containerd/containerd.sock"
_CTR = ("ctr", "--namespace", "k8s.io")
_LEASE_SECONDS = 8


@dataclass(frozen=True)
class Kind:
    """What a node says about itself.

    Attributes:
        gpus: GPUs that it offers; none of them exist.
        labels: labels beside the usual ones.
        taints: `key=value:effect` items.
    """

    gpus: int = 0
    labels: dict[str, str] | None = None
    taints: tuple[str, ...] = ()


class ContainerNode:
    """One node whose pods are real containers."""

    def __init__(self, place: Place, kind: Kind, programs: Path) -> None:
        self.place, self.kind, self.programs = place, kind, programs
        self.machine = Machine(place.cluster, place.name, place.address)

    def boot(self) -> None:
        """Starts the machine and containerd; what earlier boots imported is still there."""
        cluster, folder = self.place.cluster, self.place.folder
        others = [cluster.node(n) for n in range(1, MAX_NODES + 1) if n != self.place.number]
        routes = {n.pods: n.address for n in others}
        # The way out ends at the bridge, which forwards nothing: programs find their own address
        # by asking for a route, but no packet leaves.
        self.machine.boot(self.programs / "pause", routes, default=cluster.gateway)
        cgroups.create(self.place.cgroup)
        (folder / "cni").mkdir(exist_ok=True)
        (folder / "cni/10-pods.conflist").write_text(json.dumps(self._pod_network()))
        config = folder / "containerd.toml"
        config.write_text(self._containerd())
        self.machine.start("containerd", "containerd", "--config", config)
        wait_for(f"containerd of {self.place.name}", lambda: self.machine.run(*_CTR, "version"))

    def import_image(self, archive: Path) -> None:
        """Makes the images of a docker or OCI archive available to the node's pods, once.

        Raises:
            ClusterError: no such file, or containerd refused it.
        """
        if not archive.is_file():
            raise ClusterError(f"image archive {archive}: no such file")
        stat = archive.stat()
        stamp = f"{archive.resolve()} {stat.st_mtime_ns} {stat.st_size}\n"
        notes = self.place.folder / "imported"
        if not notes.exists() or stamp not in notes.read_text():
            self.machine.run(*_CTR, "images", "import", archive.resolve())
            with notes.open("a") as file:
                file.write(stamp)

    def start_kubelet(self) -> None:
        """Starts kubelet and kube-proxy; the API server must serve."""
        place, folder = self.place, self.place.folder
        (folder / "kubelet.json").write_text(json.dumps(self._kubelet()))
        (folder / "proxy.json").write_text(json.dumps(self._proxy()))
        labels = ",".join(f"{k}={v}" for k, v in (self.kind.labels or {}).items())
        self.machine.start(
            *("kubelet", self.programs / "kubelet", "--config", folder / "kubelet.json"),
            *("--kubeconfig", place.cluster.kubeconfig, "--cert-dir", folder / "pki"),
            *("--hostname-override", place.name, "--node-ip", place.address),
            *("--node-labels", labels, "--register-with-taints", ",".join(self.kind.taints)),
        )
        proxy = self.programs / "kube-proxy"
        self.machine.start("kube-proxy", proxy, "--config", folder / "proxy.json")

    def wait(self, api: Api) -> None:
        """Waits until the node is Ready and offers its GPUs."""
        path = f"/api/v1/nodes/{self.place.name}"

        def ready() -> bool:
            conditions = api.get(path)["status"].get("conditions", [])
            return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

        wait_for(f"node {self.place.name}", ready, seconds=90)
        if not self.kind.gpus:
            return
        # The kubelet keeps what it did not report itself, and forgets it when it starts again.
        amount = {"nvidia.com/gpu": str(self.kind.gpus)}

        def offered() -> bool:
            status = api.get(path)["status"]
            if status["capacity"].get("nvidia.com/gpu") != amount["nvidia.com/gpu"]:
                api.patch(f"{path}/status", {"status": {"capacity": amount}})
            return bool(status["allocatable"].get("nvidia.com/gpu") == amount["nvidia.com/gpu"])

        wait_for(f"GPUs of {self.place.name}", offered)

    def cut_power(self) -> None:
        """Ends the node and its containers at once; its disk stays."""
        self.machine.cut_power()
        cgroups.remove(self.place.cgroup)

    def _pod_network(self) -> object:
        subnet = [[{"subnet": self.place.pods}]]
        routes = [{"dst": "0.0.0.0/0"}]
        ipam = {"type": "host-local", "dataDir": "/run/ipam", "ranges": subnet, "routes": routes}
        bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True}
        return {"cniVersion": "1.0.0", "name": "pods", "plugins": [{**bridge, "ipam": ipam}]}

    def _containerd(self) -> str:
        # restrict_oom_score_adj: where root may not lower a score (no CAP_SYS_RESOURCE) the -998 of
        # a pod sandbox makes runc die with "can't get final child's PID from pipe".
        return f"""version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{images.PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{self.place.folder}/cni"
"""

    def _kubelet(self) -> object:
        cluster = self.place.cluster
        webhook, x509 = {"enabled": False}, {"clientCAFile": str(cluster.pki / "ca.crt")}
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": False}, "webhook": webhook, "x509": x509},
            "authorization": {"mode": "AlwaysAllow"},
            "address": self.place.address,
            "healthzPort": 0,
            "containerRuntimeEndpoint": f"unix://{_SOCKET}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.place.cgroup}",
            "failCgroupV1": False,
            "enforceNodeAllocatable": [],
            "clusterDNS": [cluster.control_plane],
            "clusterDomain": "cluster.local",
            "resolvConf": "/dev/null",
            "evictionHard": {"nodefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "volumePluginDir": "/run/plugins",
            "nodeStatusUpdateFrequency": "2s",
            "nodeLeaseDurationSeconds": _LEASE_SECONDS,
            "syncFrequency": "2s",
        }

    def _proxy(self) -> object:
        # the connection table is the whole kernel's
        keep: dict[str, object] = {"maxPerCore": 0, "min": 0}
        keep |= {"tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "hostnameOverride": self.place.name,
            "clientConnection": {"kubeconfig": str(self.place.cluster.kubeconfig)},
            "clusterCIDR": self.place.cluster.pods,
            "conntrack": keep,
            "healthzBindAddress": f"{self.place.address}:10256",
            "metricsBindAddress": "127.0.0.1:10249",
        }


def missing_packages() -> list[str]:
    """Debian packages that a container node needs and this machine lacks."""
    needed = {"containerd": "containerd", "runc": "runc", "iptables": "iptables"}
    found = [package for program, package in needed.items() if not shutil.which(program)]
    if not (CNI_PLUGINS / "bridge").exists():
        found.append("containernetworking-plugins")
    return found


def wait_all(nodes: Sequence[ContainerNode], api: Api) -> None:
    """Waits for every node."""
    for node in nodes:
        node.wait(api)
