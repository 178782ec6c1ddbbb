"""doctor and status on a large cluster, beside the same questions asked with kubectl.

    python benchmarks/cluster.py [--nodes 1000] [--pods 5000] [--groups 100]

Starts a cluster of its own without container nodes; kwok plays the hosts and their pods.
Prints one table and exits 1 when a goal (3 s, 150 MB) is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.cluster import Cluster, ClusterError, gpu_hosts  # noqa: E402

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


def fill(cluster: Cluster, nodes: int, pods: int) -> None:
    """Make the nodes and pods, 16 requests at a time."""

    def create(path: str, item: dict[str, Any]) -> None:
        for attempt in range(5):
            try:
                cluster.api.call("POST", path, item)
                return
            except (ClusterError, OSError):
                if attempt == 4:
                    raise
                time.sleep(1)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: create("/api/v1/nodes", node(n)), range(nodes)))
        list(pool.map(lambda n: create("/api/v1/namespaces/default/pods", pod(n, nodes)), range(pods)))


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
    cluster.up(nodes=0, gpu_hosts=True)
    try:
        begin = time.monotonic()
        fill(cluster, args.nodes, args.pods)
        print(f"{args.nodes} nodes and {args.pods} pods made in {time.monotonic() - begin:.0f} s")
        kubeconfig, kubectl = cluster.kubeconfig, str(cluster.programs / "kubectl")
        begin = time.monotonic()
        deployed = subprocess.run(
            [
                MANYHOST,
                "deploy",
                "a3mega",
                "--set",
                f"groups={args.groups}",
                "--timeout",
                "600",
                "--output",
                "json",
            ],
            env={**os.environ, "KUBECONFIG": str(kubeconfig)},
            capture_output=True,
            text=True,
            check=False,
        )
        print(
            f"{args.groups} groups deployed in {time.monotonic() - begin:.0f} s (exit {deployed.returncode})"
        )
        name = "leaderworkerset.sigs.k8s.io/name=deepseek-r1-671b"
        rows = {
            "manyhost doctor": (MANYHOST, "doctor", "a3mega", "--skip", "image", "--release", "next"),
            "manyhost status": (MANYHOST, "status", "a3mega"),
            "kubectl get nodes": (kubectl, "get", "nodes", "-o", "json"),
            "kubectl get pods -A": (kubectl, "get", "pods", "-A", "-o", "json"),
            "kubectl get pods -l": (kubectl, "get", "pods", "-l", name, "-o", "json"),
        }
        results = {label: best(*command, kubeconfig=kubeconfig) for label, command in rows.items()}
    finally:
        cluster.down()
    missed = False
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
