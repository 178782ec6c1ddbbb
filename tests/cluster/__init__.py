"""A real Kubernetes with the LeaderWorkerSet controller on one Linux machine, for tests.

from tests.cluster import Cluster
cluster = Cluster("e2e")
cluster.up(nodes=2)
"""

from tests.cluster.cluster import Cluster, Options
from tests.cluster.errors import ClusterError, MissingError

__all__ = ["Cluster", "ClusterError", "MissingError", "Options"]
