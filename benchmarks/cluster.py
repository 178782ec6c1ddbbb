"""doctor and status on a large cluster, beside the same questions asked with kubectl.

    python benchmarks/cluster.py [--nodes 1000] [--pods 5000] [--groups 100]

Starts a cluster of its own without container nodes; kwok plays the hosts and their pods.
Prints one table and exits 1 when a goal (3 s, 150 MB) is missed, or a command has something to say.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manyhost.cluster.connection import Connection

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from testbed import Cluster, gpu_hosts  # noqa: E402
from testbed.system import wait_for  # noqa: E402

CREATORS = 8
GOAL_SECONDS, GOAL_MB = 3.0, 150.0
ROUNDS = 3
MANYHOST = str(Path(sys.executable).with_name("manyhost"))


def _environment(kubeconfig: Path) -> dict[str, str]:
    """Installed programs have their bytecode: what the first round writes, the others use."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return environment | {"KUBECONFIG": str(kubeconfig), "MANYHOST_LOCAL": ""}


def node(number: int) -> dict[str, Any]:
    item = gpu_hosts.node(f"bench-{number:04}", number=number)
    item["metadata"]["labels"]["manyhost.dev/bench"] = "true"
    return item


def pod(number: int, nodes: int) -> dict[str, Any]:
    """A small pod of somebody else, bound to a node already."""
    container = {"name": "c", "image": "busy:1", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"busy-{number:05}", "namespace": "default"},
        "spec": {"nodeName": f"bench-{number % nodes:04}", "containers": [container]},
    }


def create(connection: Connection, path: str, items: Iterable[dict[str, Any]]) -> None:
    """Make objects, some requests at a time over connections that stay open."""
    with ThreadPoolExecutor(CREATORS) as pool:
        list(pool.map(lambda item: connection.create(path, item), items))


def nodes_ready(connection: Connection) -> bool:
    nodes = connection.pages("/api/v1/nodes", dict[str, Any])
    ready = {"type": "Ready", "status": "True"}
    return all(
        any(ready.items() <= condition.items() for condition in node["status"].get("conditions", []))
        for node in nodes
    )


def pods_run(connection: Connection) -> bool:
    waiting = connection.get("/api/v1/pods", query={"fieldSelector": "status.phase=Pending", "limit": 1})
    return not waiting["items"]


def daemon_sets_complete(cluster: Cluster) -> bool:
    return all(gpu_hosts.daemon_set_complete(cluster.api, name) for name in gpu_hosts.DAEMON_SETS)


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Print how long a step took."""
    begin = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - begin:.0f} s", flush=True)


def fill(cluster: Cluster, nodes: int, pods: int, groups: int) -> None:
    """Make everything. In a process of its own: the kernel counts the memory of a process that starts
    another one as the other's too (ru_maxrss outlives exec), so this one must stay small.
    """
    from manyhost.cluster.connection import connect

    os.environ["KUBECONFIG"] = str(cluster.kubeconfig)
    connection = connect()
    # Nodes first: each that comes would make the DaemonSets' controller count all of them again.
    daemon_sets = [item for item in gpu_hosts.system_objects() if item["kind"] == "DaemonSet"]
    for item in daemon_sets:
        cluster.api.delete(item)
    with step(f"{nodes} nodes ready"):
        create(connection, "/api/v1/nodes", (node(n) for n in range(nodes)))
        wait_for("nodes", lambda: nodes_ready(connection), seconds=300, pause=1)
    with step("DaemonSets complete"):
        for item in daemon_sets:
            cluster.api.apply(item)
        wait_for("DaemonSets", lambda: daemon_sets_complete(cluster), seconds=300, pause=1)
    with step(f"{pods} pods run"):
        busy = (pod(n, nodes) for n in range(pods))
        create(connection, "/api/v1/namespaces/default/pods", busy)
        wait_for("pods", lambda: pods_run(connection), seconds=300, pause=1)
    with step(f"{groups} groups deployed"):
        wanted = ("--set", f"groups={groups}", "--timeout", "600")
        subprocess.run(
            [MANYHOST, "deploy", "a3mega", *wanted], env=_environment(cluster.kubeconfig), check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
    found = (len(list(connection.pages(f"/api/v1/{kind}", dict[str, Any], metadata=True)))
             for kind in ("nodes", "pods"))  # fmt: skip
    print("the cluster has {} nodes and {} pods".format(*found))


def timed(*command: str, kubeconfig: Path) -> tuple[float, float, int]:
    """Run a program; return its wall seconds, its largest resident set in MB, and its exit code."""
    begin = time.monotonic()
    process = subprocess.Popen(
        command,
        env=_environment(kubeconfig),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return time.monotonic() - begin, usage.ru_maxrss / 1024, process.returncode


def best(*command: str, kubeconfig: Path) -> tuple[float, float, int]:
    return min(timed(*command, kubeconfig=kubeconfig) for _ in range(ROUNDS))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--pods", type=int, default=5000)
    parser.add_argument("--groups", type=int, default=100)
    args = parser.parse_args()
    cluster = Cluster("bench")
    with step("cluster started"):
        cluster.up(nodes=0, gpu_hosts=True)
    try:
        kubeconfig, kubectl = cluster.kubeconfig, str(cluster.programs / "kubectl")
        filling = multiprocessing.Process(target=fill, args=(cluster, args.nodes, args.pods, args.groups))
        filling.start()
        filling.join()
        if filling.exitcode:
            return 1
        name = "leaderworkerset.sigs.k8s.io/name=deepseek-r1-671b"
        rows = {
            "manyhost doctor": (MANYHOST, "doctor", "a3mega", "--skip", "image", "--release", "next"),
            "manyhost status": (MANYHOST, "status", "a3mega"),
            "kubectl get nodes": (kubectl, "get", "nodes", "-o", "json"),
            "kubectl get pods -A": (kubectl, "get", "pods", "-A", "-o", "json"),
            "kubectl get pods -l": (kubectl, "get", "pods", "-l", name, "-o", "json"),
        }
        results = {label: best(*command, kubeconfig=kubeconfig) for label, command in rows.items()}
        missed = False
        for label, command in rows.items():
            if results[label][2]:
                missed = True
                done = subprocess.run(
                    command, env=_environment(kubeconfig), capture_output=True, text=True, check=False
                )
                print(f"{label} ends with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    finally:
        cluster.down()
    print(f"{'':<22}{'seconds':>9}{'MB':>8}  exit")
    for label, (seconds, megabytes, code) in results.items():
        goal = label.startswith("manyhost")
        late = goal and (seconds > GOAL_SECONDS or megabytes > GOAL_MB)
        missed = missed or late
        print(f"{label:<22}{seconds:>9.2f}{megabytes:>8.0f}  {code}{'  goal missed' if late else ''}")
    print(json.dumps({label: [round(s, 2), round(m), c] for label, (s, m, c) in results.items()}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
