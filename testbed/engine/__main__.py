"""`python -m testbed.engine`: build the local engine if it is missing; print its folder."""

import sys

from testbed.engine import build
from testbed.errors import ClusterError

try:
    print(build())
except ClusterError as error:
    print(f"local engine: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
