"""Runs staging again and again in processes that a test can kill; started once, since imports are slow.

Each line on stdin is JSON: hub, and target, an address of `stage` or the URL of an S3 endpoint. For each it
forks, prints the child's process id, and when the child has ended its wait status.
"""

from __future__ import annotations

import json
import os
import sys
import traceback

import botocore.session  # noqa: F401  here, and not in every child
import google.cloud.storage  # noqa: F401
import google_crc32c  # noqa: F401
import huggingface_hub.hf_api  # noqa: F401
from manyhost.weights.hub import Hub
from manyhost.weights.stage import stage
from manyhost.weights.transfer import Patience
from manyhost.weights.worker import open_target

from tests.helpers.volume import open_volume


def run(hub_url: str, target: str) -> None:
    hub = Hub(hub_url)
    quick = Patience(window_seconds=5, first_wait_seconds=0.05)
    opened = open_volume(target, quick) if target.startswith("http://") else open_target(target)
    done = stage(hub, hub.snapshot("test/m", "main"), opened, workers=4, patience=quick)
    assert done.complete


def main() -> None:
    for line in sys.stdin:
        wanted = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                run(wanted["hub"], wanted["target"])
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main()
