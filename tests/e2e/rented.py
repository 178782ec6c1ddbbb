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
from manyhost.benchmark.tools import lock
from manyhost.catalog import Catalog, resolve
from manyhost.render import Renderer
from manyhost.runpod import launch, names
from manyhost.runpod.api import Api
from manyhost.runpod.models import NewVolume

from testbed import engine, hub, wheels
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

# 1.6.1 pairs with vLLM 0.31.0; what stands in for that here is the next version's CPU build.
PAIR = {"dynamo": "1.6.1", "vllm": "v0.32.0", "nixl": "1.4.1", "sidecar": True}

# That of docs/example-report/run, which is of the same model on Kubernetes: the two can be compared.
LOAD = {"published": {"input": {"tokens": 512}, "output": {"tokens": 64}, "concurrency": [4], "requests": 24}}


class Account:
    """An account at RunPod, a folder with a recipe for it, and the hub that has its model."""

    def __init__(self, cloud: RunPod, pods: Pods, models: hub.Hub) -> None:
        self.cloud, self.pods, self.models = cloud, pods, models

    def ask(self, *words: str) -> Any:
        """Run manyhost runpod and return its result."""
        verb, *rest = words
        return run("runpod", verb, RECIPE, *rest, "--owner", OWNER, "--output", "json").ok().output.result

    def spent(self) -> float:
        """Return what hosts have cost so far, USD; those of a cluster are billed with it."""
        things = [*self.cloud.things["clusters"].items(), *self.cloud.things["pods"].items()]
        return sum(self.cloud.billed(identity) for identity, thing in things if "cluster" not in thing)


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
            yield Account(cloud, pods, models)


def write_recipe(folder: Path, size: int) -> None:
    recipe = _tiny_recipe() | {"environment": "runpod-here", "model": "tiny-here"}
    model = {"name": "tiny-here", "hub_id": "test/tiny-r1", "revision": COMMIT, "weights_bytes": size}
    _write(folder, "values/environments/runpod-here.yaml", ENVIRONMENT)
    _write(folder, "values/models/tiny-here.yaml", _tiny_model() | model)
    _write(folder, f"recipes/{RECIPE}/recipe.yaml", recipe)
    _write(folder, f"recipes/{RECIPE}/benchmark.yaml", {"scenarios": LOAD})


def lay_experiment(rented: Account, folder: Path, owner: str) -> None:
    """Let the recipes of runpod-h200 and their model be of a size for this machine, under their names.

    Args:
        rented: The account.
        folder: Of the checkout.
        owner: Whose volumes get the engine.
    """
    model = yaml.safe_load((ROOT / "values/models/deepseek-r1-671b.yaml").read_text())
    kept = {name: model[name] for name in ("name", "hub_id", "revision", "served_name")}
    weights = engine.engine_dir() / "model/tiny-r1"
    rented.models.add(kept["hub_id"], weights).commit = kept["revision"]
    size = sum(path.stat().st_size for path in weights.glob("*.safetensors"))
    _write(folder, f"values/models/{kept['name']}.yaml", _tiny_model() | kept | {"weights_bytes": size})
    own = {"name": "runpod-h200", "default_recipe": "single-host", "interconnects": ["runpod"]}
    _write(folder, "values/environments/runpod-h200.yaml", ENVIRONMENT | own)
    for path in sorted((ROOT / "recipes/runpod-h200").glob("*/recipe.yaml")):
        real, recipe = yaml.safe_load(path.read_text()), _tiny_recipe()
        layout = ("description", "environment", "model", "routing", "roles")
        recipe |= {name: real[name] for name in layout if name in real}
        recipe["engine"]["executor"] = real["engine"]["executor"]
        recipe["parallelism"]["pipeline"] = real["parallelism"]["pipeline"]
        if "routing" in real:
            recipe["variables"]["VLLM_RUST_FRONTEND_PATH"] = "/opt/dynamo/vllm-rs"
        name = f"runpod-h200/{path.parent.name}"
        _write(folder, f"recipes/{name}/recipe.yaml", recipe)
        _write(folder, f"recipes/{name}/benchmark.yaml", {"scenarios": LOAD})
    pair_dynamo(folder)
    for path in (folder / "recipes/runpod-h200").iterdir():
        lay_engine(rented, f"runpod-h200/{path.name}", owner)


def lay_wheels(rented: Account, tool: str) -> None:
    """Let pods find the distributions of a load generator in a folder, in place of the package registry."""
    settings = rented.pods.folder / "pip.conf"
    settings.write_text("[install]\nno-index = true\nfind-links = /opt/wheels\n")
    rented.pods.binds |= {"/etc/pip.conf": settings, "/opt/wheels": wheels.downloaded(lock(tool))}


def pair_dynamo(folder: Path) -> None:
    """Let Dynamo pair with what stands in for its version of vLLM here, the next one's CPU build."""
    path = folder / "values/dynamo.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"pairs": [PAIR]}))


def _tiny_recipe() -> dict[str, Any]:
    recipe: dict[str, Any] = yaml.safe_load((ROOT / "recipes/local/tiny-r1/recipe.yaml").read_text())
    for name in ("weights", "host_mounts"):
        del recipe[name]
    recipe["engine"].pop("command")
    return recipe


def _tiny_model() -> dict[str, Any]:
    model: dict[str, Any] = yaml.safe_load((ROOT / "values/models/tiny-r1.yaml").read_text())
    return model


def _write(folder: Path, name: str, document: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document))


def lay_engine(rented: Account, recipe: str = RECIPE, owner: str = OWNER) -> None:
    """Put the archive of the engine on the volume, as an earlier staging would have."""
    catalog = Catalog()
    plan = Renderer(catalog).plan(resolve(catalog, recipe))
    body = NewVolume(name=names.stem(owner, recipe), size=100, data_center="US-KS-2")
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
