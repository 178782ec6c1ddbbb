"""etcd, the API server, its controllers and the cluster DNS, on a machine of their own."""

from __future__ import annotations

import signal
from pathlib import Path

from testbed.api import Api
from testbed.layout import API_PORT, MAX_NODES, SERVICES, Layout
from testbed.machine import Machine
from testbed.system import kill, wait_for

NAME = "control-plane"
_ETCD = "http://127.0.0.1:2379"
_ISSUER = "https://kubernetes.default.svc"


class ControlPlane:
    """The control plane of one cluster."""

    def __init__(self, cluster: Layout, programs: Path) -> None:
        self.cluster, self.programs = cluster, programs
        self.machine = Machine(cluster, NAME, cluster.control_plane)

    def boot(self) -> None:
        """Starts the machine and everything on it but the API server's clients."""
        nodes = [self.cluster.node(n) for n in range(1, MAX_NODES + 1)]
        self.machine.boot(self.programs / "pause", {n.pods: n.address for n in nodes})
        peer = "http://127.0.0.1:2380"
        self.machine.start(
            *("etcd", self.programs / "etcd", "--data-dir", self.machine.folder / "etcd"),
            *("--listen-client-urls", _ETCD, "--advertise-client-urls", _ETCD),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"default={peer}", "--unsafe-no-fsync"),
        )
        self.start_api_server()

    def start_api_server(self) -> None:
        """Starts the API server, without waiting."""
        pki, address = self.cluster.pki, self.cluster.control_plane
        crt, key = pki / "webhook/tls.crt", pki / "webhook/tls.key"
        self.machine.start(
            *("kube-apiserver", self.programs / "kube-apiserver"),
            *("--etcd-servers", _ETCD, "--bind-address", address, "--advertise-address", address),
            *("--secure-port", str(API_PORT), "--cert-dir", pki),
            *("--tls-cert-file", crt, "--tls-private-key-file", key),
            *("--client-ca-file", pki / "ca.crt", "--token-auth-file", pki / "tokens.csv"),
            *("--kubelet-client-certificate", crt, "--kubelet-client-key", key),
            # else logs and exec ask a name server for the node's name
            *("--kubelet-preferred-address-types", "InternalIP"),
            *("--authorization-mode", "RBAC", "--service-cluster-ip-range", SERVICES),
            *("--service-account-issuer", _ISSUER, "--service-account-key-file", pki / "sa.key"),
            *("--service-account-signing-key-file", pki / "sa.key", "--allow-privileged"),
            *("--default-not-ready-toleration-seconds", "10"),
            *("--default-unreachable-toleration-seconds", "10", "--profiling=false"),
        )

    def stop_api_server(self) -> None:
        """Kills the API server; told to stop, it would linger and keep its port."""
        kill(self.machine.pids(self.programs / "kube-apiserver"), how=signal.SIGKILL)

    def wait(self) -> Api:
        """Waits until the API server serves, and returns access to it."""
        api = Api(self.cluster)
        wait_for("API server", lambda: api.call("GET", "/readyz"), seconds=90)
        return api

    def start_controllers(self) -> None:
        """Starts the controllers, the scheduler and the DNS, which need the API server."""
        access = ("--kubeconfig", self.cluster.kubeconfig, "--leader-elect=false")
        local = ("--bind-address", "127.0.0.1", "--profiling=false")
        pki = self.cluster.pki
        self.machine.start(
            *("kube-controller-manager", self.programs / "kube-controller-manager", *access),
            *("--service-account-private-key-file", pki / "sa.key", *local),
            *("--root-ca-file", pki / "ca.crt", "--use-service-account-credentials"),
            # a lost node is noticed and its pods leave in seconds, not minutes
            *("--node-monitor-grace-period", "20s", "--node-monitor-period", "2s"),
            *("--kube-api-qps", "200", "--kube-api-burst", "400"),
            # With it a DaemonSet that many nodes join at once is left for minutes with an old status: the
            # controller fails on what it has not read back yet, and its retries come ever later.
            *("--feature-gates", "StaleControllerConsistencyDaemonSet=false"),
        )
        limits = ("--kube-api-qps", "200", "--kube-api-burst", "400")
        scheduler = self.programs / "kube-scheduler"
        self.machine.start("kube-scheduler", scheduler, *access, *local, *limits)
        corefile = self.machine.folder / "Corefile"
        corefile.write_text(
            f".:53 {{\n  bind {self.cluster.control_plane}\n  errors\n"
            f"  kubernetes cluster.local in-addr.arpa {{\n"
            f"    kubeconfig {self.cluster.kubeconfig}\n    ttl 1\n  }}\n  cache 1\n}}\n"
        )
        self.machine.start("dns", self.programs / "dns", "-conf", corefile)
