"""What RunPod is asked for: what travels with a pod, and what never does."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import tarfile
from functools import cache
from pathlib import Path

import msgspec
import pytest
from manyhost.catalog import Catalog, resolve
from manyhost.errors import Failed, InvalidInput
from manyhost.plan import Plan
from manyhost.render import Renderer
from manyhost.render.launch import arguments, variables
from manyhost.runpod import launch, names
from manyhost.runpod.launch import Terms
from manyhost.runpod.models import Cpu, NewCluster, NewPod

from tests.helpers.cli import ROOT

CHARTS = ROOT / "charts"
UNTIL = 1795700000.0
DUMP = "import json, os; print(json.dumps({**os.environ}))"
TERMS = Terms(name=names.leased("manyhost--a--b", UNTIL), until=UNTIL, volume="v1", data_center="US-KS-2")


@cache
def plan(recipe: str, *assignments: str) -> Plan:
    catalog = Catalog(ROOT)
    return Renderer(catalog).plan(resolve(catalog, recipe, assignments=list(assignments)))


def unpacked(body: NewPod | NewCluster) -> dict[str, bytes]:
    data = base64.b64decode(body.env["MANYHOST_BOOT"])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {item.name: tar.extractfile(item).read() for item in tar}  # type: ignore[union-attr]


@pytest.mark.parametrize("recipe", ["single-host", "two-host-mp", "two-host-ray"])
def test_pods_get_launcher_flags_and_settings_of_the_plan(recipe: str, tmp_path: Path) -> None:
    made = plan(f"runpod-h200/{recipe}")
    body = launch.serving(made, TERMS, CHARTS)
    files = unpacked(body)
    for name in ("launch.sh", "probe.sh", "manyhost_run.py", "manyhost_leader.py"):
        assert files[f"launcher/{name}"] == (CHARTS / "llm-multihost/launcher" / name).read_bytes()
    (role,) = made.roles
    assert files["arguments"].decode().split("\0")[:-1] == arguments(made, role)
    (tmp_path / "settings.env").write_bytes(files["settings.env"])
    read = subprocess.run(
        ["bash", "-c", f"set -a; . ./settings.env; exec python3 -c '{DUMP}'"],
        cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=True,
    )  # fmt: skip
    seen = json.loads(read.stdout)
    wanted = variables(made)
    if recipe == "single-host":  # an ordinary pod has no ens1
        for name in ("GLOO_SOCKET_IFNAME", "MANYHOST_INTERFACE", "NCCL_SOCKET_IFNAME"):
            del wanted[name]
            assert name not in seen
    assert {name: seen[name] for name in wanted} == wanted
    assert seen["MANYHOST_GROUP"] == "manyhost--a--b"


def test_two_hosts_are_a_cluster_and_one_is_a_pod() -> None:
    two = launch.serving(plan("runpod-h200/two-host-mp"), TERMS, CHARTS)
    assert isinstance(two, NewCluster)
    assert (two.compute.pod_count, two.compute.gpu_count_per_pod) == (2, 8)
    one = launch.serving(plan("runpod-h200/single-host"), TERMS, CHARTS)
    assert isinstance(one, NewPod)
    assert one.gpu
    assert (one.gpu.count, one.gpu.min_cuda_version) == (8, "13.0")
    for body in (one, two):
        assert body.ports == ["8000/tcp", "22/tcp"]
        assert body.mounts
        assert [(m.volume_id, m.path) for m in body.mounts.network] == [("v1", "/workspace")]


def test_the_same_plan_makes_the_same_request_and_another_one_another_generation() -> None:
    made = plan("runpod-h200/two-host-mp")
    one, two = (msgspec.json.encode(launch.serving(made, TERMS, CHARTS)) for _ in range(2))
    assert one == two
    later = msgspec.structs.replace(
        TERMS, name=names.leased("manyhost--a--b", UNTIL + 3600), until=UNTIL + 3600
    )
    assert unpacked(launch.serving(made, later, CHARTS)) == unpacked(launch.serving(made, TERMS, CHARTS))
    other = plan("runpod-h200/two-host-mp", "context=64000")
    lines = unpacked(launch.serving(made, TERMS, CHARTS))["settings.env"].split(b"\n")
    (generation,) = (line for line in lines if b"GENERATION" in line)
    assert generation not in unpacked(launch.serving(other, TERMS, CHARTS))["settings.env"]


def test_secrets_are_named_and_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNPOD_API_KEY", "VLLM_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "hunter2")
    made = plan("runpod-h200/two-host-mp")
    stage = launch.stage_pod(made, TERMS, CHARTS, Cpu(id="cpu5c", vcpu_count=4))
    for body in (launch.serving(made, TERMS, CHARTS), stage):
        assert b"hunter2" not in msgspec.json.encode(body) + b"".join(unpacked(body).values())
    assert stage.env["HF_TOKEN"] == "{{ RUNPOD_SECRET_manyhost_hf }}"
    serving = launch.serving(made, TERMS, CHARTS).env
    assert serving["VLLM_API_KEY"] == "{{ RUNPOD_SECRET_manyhost_api }}"
    assert serving["MANYHOST_LEASE_KEY"] == "{{ RUNPOD_SECRET_manyhost_lease }}"
    unleased = msgspec.structs.replace(TERMS, until=0.0)
    assert "MANYHOST_LEASE_KEY" not in launch.serving(made, unleased, CHARTS).env


def test_the_volume_has_room_for_weights_and_engine() -> None:
    assert launch.volume(plan("runpod-h200/single-host"), "n", "US-KS-2").size == 1000


def test_what_cannot_be_started_is_refused() -> None:
    with pytest.raises(InvalidInput, match="is not locked for RunPod"):
        launch.stage_pod(
            plan("runpod-h200/single-host", "engine.version=v0.20.2"),
            TERMS,
            CHARTS,
            Cpu(id="cpu5c", vcpu_count=4),
        )
    with pytest.raises(InvalidInput, match="is not on RunPod"):
        launch.serving(plan("a3ultra/deepseek-r1-671b"), TERMS, CHARTS)
    with pytest.raises(Failed, match="a variable holds"):
        launch.archive({"much": bytes(str(list(range(200_000))), "ascii")})


@pytest.mark.parametrize("key", ["engine.image=a/b", "engine.tag=v1", "weights.source=bucket"])
def test_settings_that_mean_nothing_there_are_refused(key: str) -> None:
    with pytest.raises(InvalidInput, match=r"comes? from the network volume"):
        plan("runpod-h200/single-host", key)


def test_names_carry_owner_release_and_lease() -> None:
    stem = names.stem("ann-b", "runpod-h200/two-host-mp")
    assert stem == "manyhost--ann-b--runpod-h200-two-host-mp"
    name = names.leased(stem, UNTIL)
    assert names.parts(name) == (stem, -(-UNTIL // 60) * 60)
    assert names.parts(stem) == (stem, None)
    assert names.ours(name)
    assert names.ours(name, "ann-b")
    for other in ("ann", "ann.b", "Ann-B", "安"):
        assert not names.ours(name, other)
    assert len({names.stem(owner, "r") for owner in ("ann-b", "ann.b", "Ann B", "安", "娜")}) == 5
