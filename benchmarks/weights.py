"""Staging against plain copies by the same clients: a ratio of throughputs, and memory (80 %, 500 MB).

    python benchmarks/weights.py [--shards 5000] [--shard-bytes 100000] [--big-bytes 5000000000]
                                 [--object-bytes 200000000] [FOLDER]

Plain copies are huggingface_hub's snapshot_download into a folder, and for a bucket the same followed by
Cloud Storage's transfer_manager: what somebody does without manyhost. Hub and bucket are the test stand-ins
on this machine, so that no network hides what a program costs. Every run is a process of its own; both ways
alternate. Exits 1 when a goal is missed.

The emulated bucket hashes an object from its start again at each chunk that comes (fake-gcs-server v1.56.1,
uploadFileContent). So a big object is smaller there, and both ways send chunks of one size.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from manyhost.weights.bucket import CHUNK  # noqa: E402

from testbed import gcs, hub  # noqa: E402

GOAL_RATIO, GOAL_MB = 0.8, 500.0
STAGE = """
from manyhost.weights.hub import Hub
from manyhost.weights.stage import stage
from manyhost.weights.worker import open_target
hub = Hub()
assert stage(hub, hub.snapshot(model, "main"), open_target(target), workers=8).complete
"""
PLAIN_FOLDER = """
from huggingface_hub import snapshot_download
snapshot_download(model, local_dir=target, max_workers=8)
"""
PLAIN_BUCKET = """
import pathlib, tempfile
from huggingface_hub import snapshot_download
from google.cloud.storage import transfer_manager
from manyhost.weights.store import open_store
with tempfile.TemporaryDirectory(dir=scratch) as folder:
    snapshot_download(model, local_dir=folder, max_workers=8)
    files = [p for p in pathlib.Path(folder).rglob("*") if p.is_file() and ".cache" not in p.parts]
    names = [str(p.relative_to(folder)) for p in files]
    bucket, _, prefix = target.removeprefix("gs://").partition("/")
    done = transfer_manager.upload_many_from_filenames(
        open_store().client.bucket(bucket), names, source_directory=folder, blob_name_prefix=prefix + "/",
        blob_constructor_kwargs={"chunk_size": chunk}, max_workers=8, worker_type="thread",
        raise_exception=True)
"""
TAIL = """
import json, resource
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([used.ru_maxrss / 1024, used.ru_utime + used.ru_stime]))
"""


class Run(NamedTuple):
    """One process: seconds, seconds of CPU, and peak memory in MB."""

    seconds: float
    cpu: float
    mb: float


def run(code: str, model: str, target: str, environment: dict[str, str], scratch: Path) -> Run:
    head = f"model, target, scratch, chunk = {model!r}, {target!r}, {str(scratch)!r}, {CHUNK}\n"
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", head + code + TAIL],
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    mb, cpu = json.loads(done.stdout.splitlines()[-1])
    return Run(time.monotonic() - started, cpu, mb)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default=None)
    parser.add_argument("--shards", type=int, default=5000)
    parser.add_argument("--shard-bytes", type=int, default=100_000)
    parser.add_argument("--big-bytes", type=int, default=5_000_000_000)
    parser.add_argument("--object-bytes", type=int, default=200_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        hub.write_model(folder / "many", shards=given.shards, shard_bytes=given.shard_bytes)
        hub.write_model(folder / "big", shards=1, shard_bytes=given.big_bytes)
        hub.write_model(folder / "object", shards=1, shard_bytes=given.object_bytes)
        models = [str(folder / name) for name in ("many", "big", "object")]
        command = [sys.executable, "-m", "testbed.hub", *models]
        server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert server.stdout
        url = server.stdout.readline().strip()
        try:
            met = []
            for model, kind in (
                ("many", "folder"),
                ("many", "bucket"),
                ("big", "folder"),
                ("object", "bucket"),
            ):
                plain = PLAIN_FOLDER if kind == "folder" else PLAIN_BUCKET
                size = sum(path.stat().st_size for path in (folder / model).rglob("*"))
                met.append(measure(folder, f"test/{model}", kind, plain, size, url, given.repeats))
        finally:
            server.kill()
            server.wait()
    return 0 if all(met) else 1


def measure(folder: Path, model: str, kind: str, plain: str, size: int, url: str, repeats: int) -> bool:
    """Print a line of the table; say whether the goals are met."""
    runs: dict[str, list[Run]] = {"stage": [], "plain": []}
    for _ in range(repeats):
        for way, code in (("stage", STAGE), ("plain", plain)):
            out = folder / "out"
            shutil.rmtree(out, ignore_errors=True)
            (out / "bucket").mkdir(parents=True)
            environment = {"HF_ENDPOINT": url, "HF_HOME": str(folder / "home")}
            if kind == "folder":
                runs[way].append(run(code, model, str(out / "m"), environment, folder))
                continue
            with gcs.Gcs(out) as emulator:
                environment["STORAGE_EMULATOR_HOST"] = emulator.url
                runs[way].append(run(code, model, "gs://bucket/m", environment, folder))
    ratio = statistics.median(
        p.seconds / s.seconds for s, p in zip(runs["stage"], runs["plain"], strict=True)
    )
    memory = max(each.mb for each in runs["stage"])
    texts = [
        f"{way} {min(r.seconds for r in found):6.1f} s (CPU {min(r.cpu for r in found):5.1f} s, "
        f"{max(r.mb for r in found):4.0f} MB)"
        for way, found in runs.items()
    ]
    print(f"{model:11} {kind:6} {size / 1e9:5.2f} GB  {'  '.join(texts)}  {ratio:5.0%} of plain", flush=True)
    return ratio >= GOAL_RATIO and memory < GOAL_MB


if __name__ == "__main__":
    sys.exit(main())
