"""`python -m testbed up|down|status`."""

from __future__ import annotations

import argparse
import sys
import time

from testbed import Cluster, ClusterError, images


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m testbed",
        description="A real Kubernetes with the LeaderWorkerSet controller on this machine.",
    )
    parser.add_argument("verb", choices=["up", "down", "status", "build"])
    parser.add_argument("--name", default="manyhost", help="clusters of different names coexist")
    parser.add_argument("--nodes", type=int, default=2, help="container nodes (default 2)")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that each claims to have")
    parser.add_argument("--gpu-hosts", action="store_true", help="add A3 Mega hosts (kwok)")
    parser.add_argument("--image", action="append", default=[], help="docker archive; repeatable")
    parser.add_argument("--standin", action="store_true", help="import the stand-in images")
    return parser.parse_args()


def main() -> int:
    """Runs one verb; returns the exit code."""
    args, begin = _parse(), time.monotonic()
    try:
        cluster = Cluster(args.name)
        if args.verb == "build":
            print(cluster.programs)
        elif args.verb == "down":
            cluster.down()
            print(f"cluster {args.name} is down ({time.monotonic() - begin:.1f} s)")
        elif args.verb == "status":
            healthy = cluster.healthy()
            state = "up" if healthy else "not healthy" if cluster.options() else "down"
            print(f"cluster {args.name}: {state}")
            return 0 if healthy else 4
        else:
            _up(cluster, args, begin)
    except ClusterError as error:
        print(f"manyhost test cluster: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _up(cluster: Cluster, args: argparse.Namespace, begin: float) -> None:
    archives = list(args.image)
    if args.standin:
        archives += [images.standin(cluster.programs), images.standin_host(cluster.programs)]
    started = cluster.up(nodes=args.nodes, gpus=args.gpus, gpu_hosts=args.gpu_hosts, images=archives)
    said = f"is up ({time.monotonic() - begin:.1f} s)" if started else "is already up and healthy"
    print(f"cluster {args.name} {said}\nexport KUBECONFIG={cluster.kubeconfig}")


if __name__ == "__main__":
    sys.exit(main())
