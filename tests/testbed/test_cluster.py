"""The test cluster itself: it comes up, holds real groups, and goes away without a trace."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import Cluster, ClusterError, images
from testbed.layout import cache_dir
from testbed.machine import remains
from testbed.system import processes, run, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]

GROUP = """
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata: {name: g}
spec:
  leaderWorkerTemplate:
    size: 2
    workerTemplate:
      spec:
        automountServiceAccountToken: false
        terminationGracePeriodSeconds: 1
        containers:
        - name: vllm
          image: IMAGE
          command: [bash, -c]
          args:
          - |
            [ $LWS_WORKER_INDEX = 0 ] || more=--headless
            exec vllm serve org/model --served-model-name m --nnodes $LWS_GROUP_SIZE \
              --node-rank $LWS_WORKER_INDEX --master-addr $LWS_LEADER_ADDRESS $more
          readinessProbe:
            periodSeconds: 1
            exec:
              command: [bash, -c, '[ $LWS_WORKER_INDEX != 0 ] || echo > /dev/tcp/127.0.0.1/8000']
          securityContext:
            allowPrivilegeEscalation: false
            runAsUser: 1000
            capabilities: {drop: [ALL]}
            seccompProfile: {type: RuntimeDefault}
---
apiVersion: v1
kind: Service
metadata: {name: g-svc}
spec:
  selector:
    leaderworkerset.sigs.k8s.io/name: g
    leaderworkerset.sigs.k8s.io/worker-index: "0"
  ports: [{port: 8000}]
""".replace("IMAGE", images.STANDIN_HOST)


def traces(name: str) -> dict[str, list[str]]:
    """Everything on this machine that tells of the cluster `name`.

    Other clusters may come and go meanwhile, so what carries no name is looked at only where no
    kubelet but ours runs.
    """
    state = str(cache_dir() / "clusters" / name)
    mine = {pid: words for pid, words in processes() if any(state in w for w in words)}
    kinds = ("pid", "net", "mnt", "uts")
    spaces = {str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for pid in mine for kind in kinds}
    spaces -= {str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in kinds}
    notes = Path(state) / "state.json"
    known = {json.loads(notes.read_text())["index"]} if notes.exists() else set()
    indexes = SEEN.setdefault(name, set())
    indexes |= known | remains(Path(state))[1]
    links = [f"mh{n}" for n in indexes]
    return {
        "processes": sorted(" ".join(words) for words in mine.values()),
        "namespaces": sorted(spaces),
        "mounts": [m for m in Path("/proc/mounts").read_text().splitlines() if state in m],
        "links": [f.name for f in Path("/sys/class/net").iterdir() if f.name.partition("-")[0] in links],
        "routes": [r for r in run("ip", "route").splitlines() if r.split(" dev ")[1].split()[0] in links],
        "cgroups": [
            str(c / f"manyhost-{n}") for n in indexes for c in hierarchies() if (c / f"manyhost-{n}").exists()
        ],
        "state": [state] if Path(state).exists() else [],
        "shared": [] if foreign_kubelet() else shared(),
    }


SEEN: dict[str, set[int]] = {}  # the indexes that a cluster had, also once it is gone


def hierarchies() -> list[Path]:
    top = Path("/sys/fs/cgroup")
    return [top, *(p for p in top.iterdir() if p.is_dir())]


def foreign_kubelet() -> bool:
    ours = str(cache_dir() / "cluster-")
    return any(Path(words[0]).name == "kubelet" and not words[0].startswith(ours) for _, words in processes())


def shared() -> list[str]:
    """What the whole machine shares and a kubelet, containerd or kube-proxy usually changes."""
    sysctls = [
        "vm/overcommit_memory",
        "vm/panic_on_oom",
        "kernel/panic",
        "kernel/panic_on_oops",
        "kernel/keys/root_maxkeys",
        "kernel/keys/root_maxbytes",
        "kernel/hostname",
        "net/ipv4/ip_forward",
        "net/netfilter/nf_conntrack_max",
    ]
    settings = [Path("/proc/sys") / s for s in sysctls]
    folders = [
        "/var/lib/cni",
        "/var/lib/kubelet",
        "/var/lib/containerd",
        "/var/log/pods",
        "/var/log/containers",
        "/run/netns",
        "/run/containerd",
        "/etc/cni",
    ]
    found = [f"{s} {s.read_text().strip()}" for s in settings if s.exists()]
    found += [f"{f} {sorted(p.name for p in Path(f).iterdir())}" for f in folders if Path(f).is_dir()]
    rules = run("iptables-save").splitlines() if shutil.which("iptables-save") else []
    return found + [r for r in rules if r.startswith("-A")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = Cluster("test-cluster")
    archives = [images.standin(found.programs), images.standin_host(found.programs)]
    found.up(nodes=2, gpus=0, images=archives)
    yield found
    found.down()


def leader_pods(cluster: Cluster) -> dict[str, str]:
    text = cluster.kubectl("get", "pods", "-o", "json")
    return {p["metadata"]["name"]: p["metadata"]["uid"] for p in json.loads(text)["items"]}


def test_a_group_over_two_nodes_answers(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", "-", stdin=GROUP)
    cluster.kubectl("wait", "lws/g", "--for=condition=Available", "--timeout=60s")
    ask = "import urllib.request as u; print(u.urlopen('http://g-svc:8000/v1/models').read())"
    assert '"id":"m"' in cluster.kubectl("exec", "g-0", "--", "python3", "-c", ask)
    # by DNS and routes between the nodes, as an unprivileged user
    log = cluster.kubectl("logs", "g-0-1")
    assert "worker joined" in log
    assert "uid=1000" in log


def test_the_api_server_comes_back_with_everything(cluster: Cluster) -> None:
    before = leader_pods(cluster)
    cluster.stop_api_server()
    with pytest.raises(ClusterError):
        cluster.kubectl("get", "pods", "--request-timeout=2s")
    assert not cluster.healthy()
    cluster.start_api_server()
    wait_for("health", cluster.healthy, seconds=60)
    assert leader_pods(cluster) == before


def test_up_again_says_so_and_another_shape_is_refused(cluster: Cluster) -> None:
    assert cluster.up(nodes=2) is False
    with pytest.raises(ClusterError, match="take it down first"):
        cluster.up(nodes=1)


def test_a_node_without_power_is_noticed_and_returns(cluster: Cluster) -> None:
    cluster.kill_node("host-2")
    wait_for("NotReady", lambda: " NotReady " in cluster.kubectl("get", "nodes"), seconds=60)
    cluster.restore_node("host-2")
    wait_for("health", cluster.healthy, seconds=60)
    cluster.kubectl("wait", "lws/g", "--for=condition=Available", "--timeout=120s")


def test_nobody_may_do_nothing(cluster: Cluster) -> None:
    config = str(cluster.kubeconfig_for_nobody())
    kubectl = cluster.programs / "kubectl"
    done = subprocess.run(
        [kubectl, "--kubeconfig", config, "get", "pods"], capture_output=True, text=True, check=False
    )
    assert "forbidden" in done.stderr.lower()


def test_nothing_leaves_the_cluster(cluster: Cluster) -> None:
    """Pods reach each other and the control plane, and no other network."""
    ask = "import socket; socket.create_connection(('192.0.2.1', 80), 3)"
    with pytest.raises(ClusterError):
        cluster.kubectl("exec", "g-0", "--", "python3", "-c", ask)


def test_two_clusters_run_side_by_side_and_leave_alone(cluster: Cluster) -> None:
    before = traces("test-other")
    other = Cluster("test-other")
    try:
        other.up(nodes=1, gpus=8, images=[images.standin(other.programs)])
        assert cluster.healthy()
        assert "g-0" in cluster.kubectl("get", "pods")
        assert "g-0" not in other.kubectl("get", "pods")
        gpus = "jsonpath={.items[*].status.allocatable.nvidia\\.com/gpu}"
        assert other.kubectl("get", "nodes", "-o", gpus) == "8"
        there = traces("test-other")
        assert all(there[kind] for kind in ("processes", "namespaces", "links", "routes", "cgroups"))
    finally:
        other.down()
    assert traces("test-other") == before
    other.down()  # twice is safe
    assert cluster.healthy()
    with urllib.request.urlopen(_leader(cluster) + "/health", timeout=5) as reply:
        assert reply.status == 200


def _leader(cluster: Cluster) -> str:
    address = cluster.kubectl("get", "pod", "g-0", "-o", "jsonpath={.status.podIP}")
    return f"http://{address}:8000"


@pytest.mark.parametrize("moment", [0.3, 2.0, 6.0])
def test_a_killed_start_is_cleaned_up(moment: float) -> None:
    name = "test-crash"
    before = traces(name)
    command = [sys.executable, "-m", "testbed", "up", "--name", name, "--nodes", "1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as start:
        wait_for("a beginning", (cache_dir() / "clusters" / name / "state.json").exists)
        time.sleep(moment)
        start.send_signal(signal.SIGKILL)
    crashed = Cluster(name)
    traces(name)  # takes note of the index
    if moment == 2.0:  # what is left must be found without the notes, too
        (crashed.state / "state.json").unlink()
    crashed.down()
    assert traces(name) == before
    crashed.down()
    assert traces(name) == before
