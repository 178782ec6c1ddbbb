"""A real Kubernetes with the LeaderWorkerSet controller on one Linux machine, for tests.

from testbed import Cluster
cluster = Cluster("e2e")
cluster.up(nodes=2)
"""

from testbed.cluster import Cluster, Options
from testbed.errors import ClusterError, MissingError

__all__ = ["Cluster", "ClusterError", "MissingError", "Options"]
