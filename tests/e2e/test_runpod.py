"""From nothing to a report and back to nothing at RunPod; its API is a stand-in, and its pods are processes.

The launcher, the lease, the staging worker and vLLM's CPU build are real. Stand-ins: RunPod's cloud
(testbed/runpod.py), a hub with the tiny model, and the archive of the engine, which links to this machine's
CPU build instead of holding an environment of 10 GB.
"""

from __future__ import annotations

import io
import json
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

from testbed import ClusterError, engine, hub
from testbed.runpod import RunPod
from testbed.runpod_pods import Pods
from tests.e2e.place import run
from tests.helpers.cli import ROOT, checkout
from tests.helpers.shared import shared_dir
from tests.helpers.waiting import until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
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
    "interconnects": ["none"],
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
def rented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    built, shared = engine.engine_dir(), shared_dir()
    if not (built / "vllm").exists():
        pytest.skip("the CPU engine is not built: make e2e builds it")
    checkout(tmp_path / "here", monkeypatch)
    monkeypatch.chdir(tmp_path / "here")
    description = shared / "data/runpod-openapi-v2.json" if shared else None
    pods = Pods(tmp_path / "pods", {"/opt/vllm": built / "vllm"})
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
        path = f"/opt/vllm/{packages}\n".encode()
        pointer = tarfile.TarInfo(f"{packages}/engine.pth")
        pointer.size = len(path)
        tar.addfile(pointer, io.BytesIO(path))
        # The one package of the locked environment that the CPU build does without.
        tar.add(Path(google_crc32c.__file__).parent, f"{packages}/google_crc32c")


def test_from_nothing_to_a_report_and_back(rented: Account, tmp_path: Path) -> None:
    lay_engine(rented)
    begin = time.monotonic()

    def step(text: str) -> None:
        print(f"{time.monotonic() - begin:5.0f} s  {rented.spent():7.4f} USD  {text}")

    planned = rented.ask("plan")
    assert planned["offer"]["product"] == "CLUSTER"
    assert not rented.cloud.alive()
    step("plan: nothing is rented")

    asked = time.time()
    up = rented.ask("up", "--hours", "1")
    assert [pod["status"] for pod in up["pods"]] == ["RUNNING", "RUNNING"]
    assert up["until"] >= asked + 3600
    assert (rented.pods.volume(up["volume"]["id"]) / "models/test/tiny-r1").is_dir()
    assert len(rented.cloud.alive()) == 1, "the staging pod is gone"
    step(f"up: answers at {up['url']}")
    assert rented.ask("up", "--hours", "1")["pods"] == up["pods"]
    step("up again: nothing is rented twice")

    status = rented.ask("status")
    assert status["url"] == up["url"]
    until_then = rented.ask("renew", "--hours", "2")["until"]
    assert until_then > up["until"] + 3000
    step("renewed")

    runs = tmp_path / "runs"
    run("bench", RECIPE, "--url", up["url"], "--to", str(runs), "--scenario", "published",
        "--set", "capacity.usd_per_host_hour=32").ok()  # fmt: skip
    (found,) = runs.glob("*/run.json")
    assert json.loads(found.read_text())["points"]
    step("benchmark")
    run("report", str(found.parent), "--to", str(tmp_path / "report")).ok()
    assert "capacity.usd_per_host_hour" in (tmp_path / "report/report.md").read_text()
    both = run("compare", str(ROOT / "docs/example-report/run"), str(found.parent)).ok().out
    assert "local" in both
    assert "runpod-here" in both
    step("report, and a comparison with the same model on Kubernetes")

    leader, worker = (pod["id"] for pod in up["pods"])
    rented.pods.kill(worker)
    lost = time.monotonic()
    assert [pod["status"] for pod in rented.ask("status")["pods"]] == ["RUNNING", "EXITED"]
    again = run("runpod", "up", RECIPE, "--owner", OWNER)
    assert (again.code, f"pod {worker}, is EXITED" in again.err) == (1, True), again.err

    def noticed() -> bool:
        return any("phase=attempt" in line for _, line in rented.pods.hosts[leader].lines)

    until("the leader notices", noticed, 60)
    step(f"a lost host: status says so at once, its leader after {time.monotonic() - lost:.0f} s")

    secrets = [KEY, LEASE_KEY, rented.cloud.key]
    logs = "".join(path.read_text() for path in (rented.pods.folder / "pods").glob("*/log"))
    said = logs + "".join(path.read_text(errors="replace") for path in runs.rglob("*") if path.is_file())
    journal = (tmp_path / "state/manyhost/runpod.jsonl").read_text()
    assert not [secret for secret in secrets if secret in said + journal]

    down = rented.ask("down", "--volume")
    assert down["billed_usd"] > 0
    assert not rented.cloud.alive()
    assert not rented.cloud.things["network-volumes"]
    step("down: nothing is left")


def test_over_ray_until_the_lease_is_over(rented: Account) -> None:
    """Ray of the two members asks for a token, and nothing but the API and SSH is reached from outside."""
    lay_engine(rented)
    up = rented.ask("up", "--set", "engine.executor=ray")
    leader, worker = (pod["id"] for pod in up["pods"])
    assert set(rented.pods.hosts[leader].ports) == {8000, 22}, "more can be reached from outside"
    with pytest.raises(ClusterError, match=r"(?i)token"):  # a stranger, were there a way in
        rented.pods.run(worker, "/opt/engine/bin/ray", "status", "--address", "10.65.0.2:6379")
    (cluster,) = rented.cloud.things["clusters"]
    Api(rented.cloud.key, rented.cloud.url).rename("clusters", cluster, names.leased(STEM, time.time() - 120))
    until("the pods end themselves: nobody else is there", lambda: not rented.cloud.alive(), 90)
