"""What a staging Job runs: python3 -m manyhost.weights.worker MODEL REVISION TARGET.

Each worker of an indexed Job takes its part of the files (JOB_COMPLETION_INDEX); the one that finds all of
them proven writes the manifest. Ended at any point, it goes on when it is started again.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from manyhost.errors import InvalidInput, ManyhostError, NotReady
from manyhost.weights.bucket import Bucket
from manyhost.weights.folder import Folder
from manyhost.weights.hub import Hub, is_commit
from manyhost.weights.stage import Part, Staged, stage
from manyhost.weights.store import open_store
from manyhost.weights.target import Target


def open_target(address: str) -> Target:
    """Open gs://BUCKET/FOLDER or a folder.

    Raises:
        InvalidInput: It is neither.
        NotReady: There are no credentials for a bucket.
    """
    if address.startswith("gs://"):
        return Bucket(open_store(), address)
    path = Path(address)
    if not path.is_absolute():
        raise InvalidInput(
            f"{address[:200]} is neither gs://BUCKET/FOLDER nor an absolute path", where="--to"
        )
    return Folder(path)


def summary(done: Staged) -> str:
    """Return what a run has done as one line."""
    rate = done.downloaded_bytes / max(done.seconds, 0.001) / 1e6
    text = (
        f"{done.where}: {done.files} files, {done.bytes / 1e9:.3f} GB; downloaded {done.downloaded_files} "
        f"({done.downloaded_bytes / 1e9:.3f} GB, {rate:.0f} MB/s), found right {done.adopted_files}, "
        f"{done.seconds:.1f} s"
    )
    return text if done.complete else f"{text}; other workers are at the rest"


def main(arguments: list[str]) -> int:
    """Stage a model, or this worker's part of it, and return the exit code (manyhost.errors)."""
    parser = argparse.ArgumentParser(prog="manyhost.weights.worker", description=__doc__)
    parser.add_argument("model", help="name on the hub")
    parser.add_argument("revision", help="commit")
    parser.add_argument("target", help="gs://BUCKET/FOLDER or an absolute path")
    parser.add_argument("--streams", type=int, default=8, help="files at once")
    parser.add_argument("--workers", type=int, default=1, help="workers of the Job")
    parser.add_argument("--bytes", type=int, default=0, help="what the planner reckons with")
    given = parser.parse_args(arguments)
    try:
        if not is_commit(given.revision):
            raise InvalidInput(f"{given.revision[:80]} is no commit", where="revision")
        hub = Hub()
        done = stage(
            hub,
            hub.snapshot(given.model, given.revision),
            open_target(given.target),
            workers=given.streams,
            part=Part(int(os.environ.get("JOB_COMPLETION_INDEX", "0")), given.workers),
            expected_bytes=given.bytes,
            report=_say,
        )
    except ImportError as error:
        _say(f"error: {error.name} is not in this image: it needs huggingface_hub and google-cloud-storage")
        return NotReady.exit_code
    except ManyhostError as error:
        for each in (error, *error.more):
            _say(f"error: {each}")
        return error.exit_code
    _say(summary(done))
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"manyhost: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
