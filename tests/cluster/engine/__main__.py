"""`python -m tests.cluster.engine`: build the local engine if it is missing; print its folder."""

import sys

from tests.cluster.engine import build
from tests.cluster.errors import ClusterError

try:
    print(build())
except ClusterError as error:
    print(f"local engine: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
