"""An account at RunPod's stand-in, and a folder with a recipe for it.

The launcher, the lease, the staging worker and vLLM's CPU build are real. Stand-ins: RunPod's cloud
(testbed/runpod.py), a hub with the tiny model, and the archive of the engine, which links to this machine's
CPU build instead of holding an environment of 10 GB.
"""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
import yaml
from manyhost.catalog import Catalog, resolve
from manyhost.render import Renderer
from manyhost.runpod import launch, names
from manyhost.runpod.api import Api
from manyhost.runpod.models import NewVolume

from testbed import engine, hub
from testbed.dynamo import dynamo_dir
from testbed.runpod import RunPod
from testbed.runpod_pods import Pods
from tests.e2e.place import run
from tests.helpers.cli import ROOT, checkout
from tests.helpers.shared import shared_dir

RECIPE, OWNER = "runpod-here/tiny-r1", "tests"
STEM = names.stem(OWNER, RECIPE)
KEY, LEASE_KEY, COMMIT = "a key of this test", "a lease of this test", "1" * 40
ENVIRONMENT = {
    "name": "runpod-here",
    "description": "RunPod's stand-in",
    "default_recipe": "tiny-r1",
    "host": {
        "machine_type": "a process", "architecture": "amd64", "gpu": "none", "gpus": 0, "gpu_memory_gib": 0,
        "memory_gib": 4, "shm_gib": 1, "local_ssd_gib": 0, "interface": "ens1",
    },
    "interconnects": ["none", "runpod"],
    "platform": {
        "kind": "runpod", "gpu_type_id": "NVIDIA H200", "image": "runpod/pytorch:1",
        "volume_path": "/workspace",
    },
}  # fmt: skip

# That of docs/example-report/run, which is of the same model on Kubernetes: the two can be compared.
LOAD = {"published": {"input": {"tokens": 512}, "output": {"tokens": 64}, "concurrency": [4], "requests": 24}}


class Account:
    """An account at RunPod, and a folder with a recipe for it."""

    def __init__(self, cloud: RunPod, pods: Pods) -> None:
        self.cloud, self.pods = cloud, pods

    def ask(self, *words: str) -> Any:
        """Run manyhost runpod and return its result."""
        verb, *rest = words
        return run("runpod", verb, RECIPE, *rest, "--owner", OWNER, "--output", "json").ok().output.result

    def spent(self) -> float:
        return sum(self.cloud.billed(identity) for identity in list(self.cloud.things["clusters"]))


@pytest.fixture
def rented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Account]:
    built, shared = engine.engine_dir(), shared_dir()
    if not (built / "vllm").exists():
        pytest.skip("the CPU engine is not built: make e2e builds it")
    checkout(tmp_path / "here", monkeypatch)
    monkeypatch.chdir(tmp_path / "here")
    description = shared / "data/runpod-openapi-v2.json" if shared else None
    pods = Pods(tmp_path / "pods", {"/opt/vllm": built / "vllm"})
    if request.node.get_closest_marker("dynamo"):
        pods.binds["/opt/dynamo"] = dynamo_dir()
    with hub.Hub() as models:
        weights = built / "model/tiny-r1"
        models.add("test/tiny-r1", weights).commit = COMMIT
        write_recipe(tmp_path / "here", sum(path.stat().st_size for path in weights.glob("*.safetensors")))
        monkeypatch.setattr(launch, "REQUIREMENTS", tmp_path / "locked")
        (tmp_path / "locked").mkdir()
        (tmp_path / "locked/v0.32.0-cpu.txt").write_text("# the CPU build of this machine\n")
        pods.reach.append(int(models.url.rpartition(":")[2]))
        secrets = {"manyhost_api": KEY, "manyhost_lease": LEASE_KEY}
        with RunPod(time.time, description, pods=pods, keys={LEASE_KEY: ""}, secrets=secrets) as cloud:
            cloud.limits.clear()
            for name, value in {
                "RUNPOD_API_KEY": cloud.key, "VLLM_API_KEY": KEY, "MANYHOST_RUNPOD_URL": cloud.url,
                "HF_ENDPOINT": models.url, "XDG_STATE_HOME": str(tmp_path / "state"),
            }.items():  # fmt: skip
                monkeypatch.setenv(name, value)
            yield Account(cloud, pods)


def write_recipe(folder: Path, size: int) -> None:
    recipe = yaml.safe_load((ROOT / "recipes/local/tiny-r1/recipe.yaml").read_text())
    for name in ("weights", "host_mounts"):
        del recipe[name]
    recipe["engine"].pop("command")
    recipe |= {"environment": "runpod-here", "model": "tiny-here"}
    model = yaml.safe_load((ROOT / "values/models/tiny-r1.yaml").read_text())
    model |= {"name": "tiny-here", "hub_id": "test/tiny-r1", "revision": COMMIT, "weights_bytes": size}
    for name, document in (
        ("values/environments/runpod-here.yaml", ENVIRONMENT),
        ("values/models/tiny-here.yaml", model),
        (f"recipes/{RECIPE}/recipe.yaml", recipe),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(document))
    (folder / f"recipes/{RECIPE}/benchmark.yaml").write_text(yaml.safe_dump({"scenarios": LOAD}))


def lay_engine(rented: Account) -> None:
    """Put the archive of the engine on the volume, as an earlier staging would have."""
    catalog = Catalog()
    plan = Renderer(catalog).plan(resolve(catalog, RECIPE))
    body = NewVolume(name=STEM, size=100, data_center="US-KS-2")
    made = Api(rented.cloud.key, rented.cloud.url).make_volume(body)
    archive = rented.pods.volume(made.id) / launch.engine_archive(plan).removeprefix("/workspace/")
    archive.parent.mkdir(parents=True)
    packages = "lib/python3.11/site-packages"
    with tarfile.open(archive, "w") as tar:
        for name in ("bin", "pyvenv.cfg"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"/opt/vllm/{name}"
            tar.addfile(link)
        path = f"/opt/vllm/{packages}\n/opt/dynamo/site\n".encode()
        pointer = tarfile.TarInfo(f"{packages}/engine.pth")
        pointer.size = len(path)
        tar.addfile(pointer, io.BytesIO(path))
        # The one package of the locked environment that the CPU build does without.
        tar.add(Path(google_crc32c.__file__).parent, f"{packages}/google_crc32c")
